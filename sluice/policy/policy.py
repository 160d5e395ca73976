"""The one interface of every policy: where a request goes, and what to change while nothing arrives.

The router, the trace simulator and the fault simulation call the same objects. A policy may keep
state of its own (a counter, a detector), but reads no clock and draws no unseeded number.
Next: `fleet_table.py` for what it sees; each other file here is one policy with its source.
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Protocol

from sluice.domain.ids import SequenceId
from sluice.domain.role import Role
from sluice.domain.slo import STANDARD, SloClass
from sluice.policy.fleet_table import FleetTable


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What placement knows of a sequence. Never its text or tokens (law L8)."""

    prompt_tokens: int  # all tokens to have KV for before the next one is chosen
    output_tokens_max: int
    output_tokens_expected: float = 256.0  # the caller's best guess, for memory and cost
    slo: SloClass = STANDARD
    waited_s: float = 0.0  # since the router accepted it: counts against its TTFT
    tenant: str = ""
    excluded: AbstractSet[int] = frozenset()  # slots tried before, and failed
    resident: int | None = None  # a slot that has its KV: only where it decodes is to be chosen
    seed: int = 0  # breaks ties


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One way of serving a request that was weighed."""

    prefill: int  # slots; equal when one worker does all
    decode: int
    ttft_s: float  # predicted; NaN where the policy does not predict
    tpot_s: float
    cost: float  # what was minimised
    terms: Mapping[str, float]  # that the cost is made of, by name


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """The request goes here. `decode` equals `prefill` when one worker does all."""

    prefill: int
    decode: int
    cached_tokens: int  # expected at the worker that prefills
    reason: str  # one readable line
    binding: str = ""  # the constraint that decided: ttft, tpot, memory, link, price, role; "" if none bound
    candidates: Sequence[Candidate] = ()  # the best few, the chosen one first

    @property
    def is_split(self) -> bool:
        """Whether a handoff is needed."""
        return self.prefill != self.decode


@dataclass(frozen=True, slots=True, kw_only=True)
class Unplaced:
    """Nobody takes it now. `is_final`: waiting here cannot help; refuse it, to be tried again after `retry_after_s`.

    A `retry_after_s` of 0 says that trying again cannot help either.
    """

    reason: str
    is_final: bool = False
    retry_after_s: float = 1.0
    binding: str = ""  # as in Placed
    candidates: Sequence[Candidate] = ()  # the best few, though none is good enough


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """One sequence that runs, as a policy that moves sequences sees it."""

    sequence: SequenceId
    slot: int  # where it decodes
    context_tokens: int
    output_tokens: int
    slo: SloClass
    worst_gap_s: float  # largest gap between two of its tokens so far, the one that runs included
    is_moving: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """Migrate a running sequence."""

    sequence: SequenceId
    to: int
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Flip:
    """Give a worker another role."""

    slot: int
    role: Role
    why: str


class Policy(Protocol):
    """Who serves what, who moves."""

    @property
    def name(self) -> str:
        """As on the command line."""
        ...

    def place(
        self, ask: Ask, fleet: FleetTable, cached_tokens: Mapping[int, int], *, now_s: float
    ) -> Placed | Unplaced:
        """Choose workers for one sequence. `cached_tokens` is what prefix caches hold of it, by slot."""
        ...

    def tend(self, fleet: FleetTable, running: Sequence[Running], *, now_s: float) -> Sequence[Move | Flip]:
        """Called about every 100 ms: what to move or flip now. Most policies answer ()."""
        ...
