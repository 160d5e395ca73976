"""How every protocol table is read: what is not in the table is illegal.

The tables themselves stand with their protocols (`kv_transfer/handoff.py`, `kv_transfer/migration.py`,
`router/journey.py`, `router/showing.py`, `worker/lifecycle.py`). Pure.
"""

from collections.abc import Mapping
from enum import Enum
from typing import TypeVar

from sluice.errors import IllegalTransitionError

StateT = TypeVar("StateT", bound=Enum)
EventT = TypeVar("EventT", bound=Enum)
RowT = TypeVar("RowT")


def following(table: Mapping[tuple[StateT, EventT], RowT], state: StateT, event: EventT) -> RowT:
    """What the table says of `event` in `state`. Raises IllegalTransitionError when it says nothing."""
    row = table.get((state, event))
    if row is None:
        raise IllegalTransitionError(state=state.name, event=event.name)
    return row
