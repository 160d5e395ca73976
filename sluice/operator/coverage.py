"""Decides whether a worker may go: whether others could take its requests, or who would have to help. Pure.

A worker's requests can move only to ready workers of the same fingerprint that admit their phase.
Where nobody does, one of them is made mixed first: it keeps what it runs and takes the rest.
An encode worker may always go: images are looked at in one step, and what waits for the next encoder waits at the
router. It never takes another role, for it holds another half of the model.
Next: `pool_plan.py`, which asks.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from sluice.domain.role import Role
from sluice.operator.observation import Member, Stage

PHASES: Final = {
    Role.ENCODE: frozenset({Role.ENCODE}),
    Role.PREFILL: frozenset({Role.PREFILL}),
    Role.DECODE: frozenset({Role.DECODE}),
    Role.MIXED: frozenset({Role.PREFILL, Role.DECODE}),
}
"""What a role admits, as the pure roles it stands for."""


@dataclass(frozen=True, slots=True)
class Covered:
    """The others can take its requests."""


@dataclass(frozen=True, slots=True)
class NeedsHelp:
    """They can, once this one is mixed."""

    helper: Member


@dataclass(frozen=True, slots=True)
class Alone:
    """Nobody can: its requests would have to end where they are."""


Verdict = Covered | NeedsHelp | Alone


def may_go(leaver: Member, others: Iterable[Member]) -> Verdict:
    """Whether `others` could take over from `leaver`; those that go themselves must not be among them."""
    if leaver.stage not in {Stage.READY, Stage.DRAINING} or leaver.role in {None, Role.ENCODE}:
        return Covered()  # it serves nobody, or nobody for long
    assert leaver.role is not None
    peers = [
        other
        for other in others
        if other.pod != leaver.pod
        and other.stage is Stage.READY
        and other.role not in {None, Role.ENCODE}
        and other.flip_to is None
        and other.fingerprint == leaver.fingerprint
    ]
    missing = PHASES[leaver.role] - phases_of(peers)
    if not missing:
        return Covered()
    # Another node than the leaver's pool would empty next is better, then the least busy.
    helpers = sorted(peers, key=lambda peer: (peer.node_goes, peer.sequences, peer.pod))
    return NeedsHelp(helpers[0]) if helpers else Alone()


def token_phases(roles: Iterable[Role]) -> frozenset[Role]:
    """What a service must do for text, of what its roles do: without encoders only requests with images wait."""
    return frozenset[Role]().union(*(PHASES[role] for role in roles)) - PHASES[Role.ENCODE]


def phases_of(members: Iterable[Member]) -> frozenset[Role]:
    """The phases that these admit, taken together."""
    admitted = (PHASES[member.role] for member in members if member.role is not None)
    return frozenset().union(*admitted)
