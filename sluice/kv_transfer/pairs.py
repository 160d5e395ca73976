"""Decides which links to other workers may be used: when each is probed, what a probe's result means, who is ready.

    UNTRIED --good--> USABLE --bad--> USABLE, probed again soon --bad, bad--> SLOW | FAILING
       |                 ^                                                        |
       `--bad--> SLOW | FAILING                       `------------good-----------'

One bad probe of a good link may be noise, so it takes three in a row; a link that never was good is
believed bad at once. A peer that declines a probe (full, draining) has said nothing about the link.
Law L10: a prefill worker whose links to all decode workers are bad, and a decode worker that no
prefill worker has reached lately, say that they are not ready. Pure. Next: `worker/probing.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Final

from sluice.domain.ids import BootId, WorkerId
from sluice.domain.role import Role

RETRY_S_MIN: Final = 0.5
RETRY_S_MAX: Final = 8.0
DECLINED_RETRY_S: Final = 1.0
BAD_PROBES_MAX: Final = 3
UNTRIED_GRACE_S: Final = 3.0
"""A ready worker stays so for this long while the only peers it has are new and not yet probed."""
UNHEARD_PROBES_MAX: Final = 3.0
NAMED_MAX: Final = 3


class PairState(Enum):
    """What is known of the way to one incarnation of a peer."""

    UNTRIED = "not probed yet"
    USABLE = "usable"
    SLOW = "slow"
    FAILING = "failing"


class Finding(Enum):
    """What one probe found."""

    GOOD = "good"
    SLOW = "slow"  # bytes arrive and are right, below the floor
    FAILED = "failed"  # cannot be reached, or what arrives is wrong
    DECLINED = "declined"  # the peer is there and takes nothing now


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """The result of one probe; `gb_per_s` is 0 when nothing was measured, `problem` empty when it was good."""

    finding: Finding
    gb_per_s: float = 0.0
    problem: str = ""


@dataclass(frozen=True, slots=True)
class PeerRole:
    """Who an incarnation is and what work it admits."""

    worker: WorkerId
    role: Role

    @property
    def is_target(self) -> bool:
        """Whether KV is sent there at all."""
        return self.role is not Role.PREFILL


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """The way from this worker to one peer."""

    peer: PeerRole
    known_s: float
    due_s: float
    state: PairState = PairState.UNTRIED
    problem: str = ""
    gb_per_s: float = 0.0
    probed_s: float | None = None
    bad_probes: int = 0  # in a row

    @property
    def is_bad(self) -> bool:
        """Whether nothing should be sent this way."""
        return self.state in {PairState.SLOW, PairState.FAILING}


@dataclass(slots=True, kw_only=True)
class PairTable:
    """The links of one worker, by the peer's incarnation."""

    probe_every_s: float
    pairs: dict[BootId, Pair] = field(default_factory=dict)
    _running: set[BootId] = field(default_factory=set)
    _usable_s: float | None = None  # when some link was last seen usable
    _heard_s: float | None = None  # when some peer's probe last ended well here

    def follow(self, peers: Mapping[BootId, PeerRole], *, now_s: float) -> None:
        """From now on these are the peers. Those known keep what is known of them."""
        pairs = {}
        for boot, peer in peers.items():
            known = self.pairs.get(boot) or Pair(peer=peer, known_s=now_s, due_s=now_s)
            pairs[boot] = replace(known, peer=peer)
        self.pairs = pairs

    def due(self, *, now_s: float) -> list[BootId]:
        """Links to probe now; each is named once, until `released`."""
        found = [boot for boot, pair in self.pairs.items() if self._waits(boot, pair) and pair.due_s <= now_s]
        self._running.update(found)
        return found

    def next_due_s(self) -> float | None:
        """When the next probe is due; None while there is nothing to wait for."""
        return min((pair.due_s for boot, pair in self.pairs.items() if self._waits(boot, pair)), default=None)

    def ended(self, boot: BootId, probe: Probe, *, now_s: float) -> None:
        """A probe has told something. Peers gone meanwhile are ignored."""
        if (pair := self.pairs.get(boot)) is not None:
            self.pairs[boot] = self._after(pair, probe, now_s=now_s)
            if self.pairs[boot].state is PairState.USABLE:
                self._usable_s = now_s

    def released(self, boot: BootId) -> None:
        """Nothing of the last probe is left: the next may begin."""
        self._running.discard(boot)

    def suspect(self, boot: BootId, *, now_s: float) -> None:
        """Something that was sent this way failed: look again now."""
        if (pair := self.pairs.get(boot)) is not None:
            self.pairs[boot] = replace(pair, due_s=min(pair.due_s, now_s))

    def heard(self, *, now_s: float) -> None:
        """A peer's probe has ended well here."""
        self._heard_s = now_s

    def unready(self, role: Role, *, now_s: float) -> list[str]:
        """Why a worker of this role cannot do its part; empty if it can, or if nobody is there to do it with."""
        match role:
            case Role.PREFILL | Role.ENCODE:
                return self._unready_to_send(now_s=now_s)
            case Role.DECODE:
                return self._unready_to_receive(now_s=now_s)
            case Role.MIXED:
                return []

    def _unready_to_send(self, *, now_s: float) -> list[str]:
        targets = [pair for pair in self.pairs.values() if pair.peer.is_target]
        if not targets or any(pair.state is PairState.USABLE for pair in targets):
            return []
        is_new = any(p.state is PairState.UNTRIED and now_s < p.known_s + UNTRIED_GRACE_S for p in targets)
        if is_new and self._usable_s is not None:
            return []
        problems = [f"{pair.peer.worker}: {pair.problem or pair.state.value}" for pair in targets[:NAMED_MAX]]
        more = f", and {len(targets) - NAMED_MAX} more" if len(targets) > NAMED_MAX else ""
        return [f"no worker to send to can be reached ({'; '.join(problems)}{more})"]

    def _unready_to_receive(self, *, now_s: float) -> list[str]:
        sources = [pair.peer.worker for pair in self.pairs.values() if not pair.peer.is_target]
        patience_s = UNHEARD_PROBES_MAX * self.probe_every_s
        if not sources or (self._heard_s is not None and now_s <= self._heard_s + patience_s):
            return []
        return [f"no prefill worker has reached this worker ({', '.join(sources[:NAMED_MAX])})"]

    def _waits(self, boot: BootId, pair: Pair) -> bool:
        return pair.peer.is_target and boot not in self._running

    def _after(self, pair: Pair, probe: Probe, *, now_s: float) -> Pair:
        if probe.finding is Finding.DECLINED:
            return replace(pair, due_s=now_s + DECLINED_RETRY_S)
        measured = replace(pair, probed_s=now_s, gb_per_s=probe.gb_per_s)
        if probe.finding is Finding.GOOD:
            due_s = now_s + self.probe_every_s
            return replace(measured, state=PairState.USABLE, problem="", bad_probes=0, due_s=due_s)
        bad_probes = pair.bad_probes + 1
        pause_s = min(RETRY_S_MIN * 2.0 ** min(bad_probes - 1, 16), RETRY_S_MAX, self.probe_every_s)
        retried = replace(measured, bad_probes=bad_probes, due_s=now_s + pause_s)
        if pair.state is PairState.USABLE and bad_probes < BAD_PROBES_MAX:
            return retried
        state = PairState.SLOW if probe.finding is Finding.SLOW else PairState.FAILING
        return replace(retried, state=state, problem=probe.problem)
