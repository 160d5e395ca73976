"""Which worker a sequence could go on at: for refused handoffs, drains, and people who ask.

Asks the placement policy with what the fleet knows; changes nothing. Next: `policy/placement.py`.
"""

from collections.abc import Sequence

from sluice.policy import placement
from sluice.policy.view import WorkerView
from sluice.router.fleet import Fleet, Member
from sluice.router.flow import Flow


class Targets:
    """Chooses among the workers of one fleet."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def next_for(self, flow: Flow) -> Member | None:
        """Another decode worker than those that failed it, if there is one."""
        return self._best(flow, self._fleet.views())

    def elsewhere_for(self, flow: Flow) -> Member | None:
        """The best decode worker that does not run it now."""
        own = None if flow.owner is None else flow.owner.slot
        return self._best(flow, [view for view in self._fleet.views() if view.slot != own])

    def _best(self, flow: Flow, views: Sequence[WorkerView]) -> Member | None:
        cached = self._fleet.index.match(flow.prompt.unit_hashes)
        source = None if flow.owner is None else flow.owner.view()
        view = placement.place_decode(flow.facts(), views, cached, source=source, seed=flow.sequence)
        return None if view is None else self._fleet.at(view.slot)
