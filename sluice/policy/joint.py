"""Sluice's own policy: where to compute the prompt and where to decode, in one choice.

Minimises expected misses: of the newcomer (TTFT and TPOT, with the spread of the predictions, times
what a miss costs its class) and of the sequences it would slow, each by its own class (`residents.py`);
then memory, the transfer and the price of the seconds it takes (`worth.py`). That keeps loose classes away from
tight ones, and each phase on the GPUs that are good at it, without rules for either. Where nobody is near an
objective what is left is latency, as LMETRIC weighs it (OSDI 2026): the prompts before it times the
sequences beside it, here in each worker's own seconds. Among equal workers, and for requests of one class, nothing
was found to beat that rule: there it decides alone, its hotspot rule included. A class with a `refuse_above` is
refused early when serving it would cost that much more than missing it. One worker for both phases is a pair like any
other, with nothing to move: so whether to disaggregate is decided per request. The best few
workers of each phase are paired, not all: a thousand workers cost little more than thirty.

A worker's share of time spent on prompts is remembered from what was placed there: decoding beside many
prompts is slow, which is how roles emerge among mixed workers. Reads no clock: `now_s` is given.
Next: `worth.py`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from sluice.policy.compiled import compiled
from sluice.policy.fit import Fit, fit
from sluice.policy.fleet_table import FleetTable, FloatColumn, IntColumn
from sluice.policy.hotspot import HotspotDetector
from sluice.policy.policy import Ask, Candidate, Flip, Move, Placed, Running, Unplaced
from sluice.policy.rebalance import HOT_MIN, Decoders, wished_moves
from sluice.policy.residents import Residents
from sluice.policy.role_change import wished_flip
from sluice.policy.ways import Way, cheapest
from sluice.policy.worth import Weights, steps_now, weigh

SPLIT_TOKENS_MIN: Final = 64
"""On idle workers of a role each, fewer tokens to compute than this are not worth a handoff."""

ALIKE: Final = 1.25
"""Workers whose speeds differ by less are taken for equals."""

_BINDING: Final = {
    "latency": "ttft",
    "late": "ttft",
    "slow": "tpot",
    "harm": "tpot",
    "memory": "memory",
    "link": "link",
    "price": "price",
    "off role": "role",
}


class Joint:
    """See the module."""

    name = "joint"

    def __init__(self, weights: Weights | None = None, *, split_tokens_min: int = SPLIT_TOKENS_MIN) -> None:
        self._weights = weights or Weights()
        self._split_tokens_min = split_tokens_min
        self._residents = Residents()
        self._hotspots = HotspotDetector()

    def place(
        self, ask: Ask, fleet: FleetTable, cached_tokens: Mapping[int, int], *, now_s: float
    ) -> Placed | Unplaced:
        """See Policy."""
        found = fit(ask, fleet)
        if isinstance(found, Unplaced):
            return found
        cached = _cached(ask, fleet, cached_tokens)
        self._residents.fade(rows=fleet.rows, now_s=now_s)
        worth = weigh(ask, fleet, cached, self._residents, self._weights)
        # Equals that wait for the same: nothing beats the shortest queue times the smallest batch.
        is_latency_all = self._residents.are_of_one_class and _are_alike(
            found.prefill, found.decode, fleet.prefill_token_s, fleet.base_s
        )
        ways, weighed = cheapest(
            ask,
            fleet,
            self._without_hotspot(found, cached_tokens) if is_latency_all else found,
            worth,
            cached,
            latency=1.0 if is_latency_all else self._weights.latency,
            is_latency_all=is_latency_all,
            split_tokens_min=self._split_tokens_min,
        )
        candidates = tuple(_candidate(ask, way) for way in ways)
        refused = _refused(ask, candidates, missed=ways[0].missed)
        if refused:
            return refused
        best = candidates[0]
        self._residents.placed(
            ask.slo, prefill=best.prefill, decode=best.decode, prompt_s=worth.work_s.item(best.prefill)
        )
        self._hotspots.chose(best.prefill, cached_tokens)
        matched = int(cached.item(best.prefill))
        return Placed(
            prefill=best.prefill,
            decode=best.decode,
            cached_tokens=matched,
            reason=_reason(fleet, best, cached_tokens=matched, weighed=weighed),
            binding=_binding(candidates),
            candidates=candidates,
        )

    def tend(self, fleet: FleetTable, running: Sequence[Running], *, now_s: float) -> Sequence[Move | Flip]:
        """Moves that save misses, and a prefill worker that helps to decode. The running are looked at only where
        the placements say that misses are to be expected."""
        if not fleet.rows:
            return ()
        self._residents.fade(rows=fleet.rows, now_s=now_s)
        steps = steps_now(fleet)
        missed = self._residents.expected(steps.step_s, steepness=steps.steepness, sequences=steps.sequences)
        if (missed + steps.crowding).max() < HOT_MIN:
            return ()
        flips = wished_flip(fleet, steps, missed=missed, prompt_share=self._residents.prompt_share(fleet.rows))
        return [*wished_moves(Decoders(fleet, steps, running)), *flips]

    def _without_hotspot(self, found: Fit, cached_tokens: Mapping[int, int]) -> Fit:
        """As LMETRIC: those who hold too popular a prefix sit out one choice, so that it spreads."""
        barred = self._hotspots.barred(cached_tokens, workers=len(found.decode))
        if not barred:
            return found
        others = found.decode[~np.isin(found.decode, list(barred))]
        return Fit(prefill=others, decode=others) if len(others) else found


@compiled
def _are_alike(prefill: IntColumn, decode: IntColumn, prefill_token_s: FloatColumn, base_s: FloatColumn) -> bool:
    """Whether all who fit do both phases, at about the same speed."""
    if len(prefill) != len(decode):
        return False
    token_least_s, token_most_s, step_least_s, step_most_s = math.inf, 0.0, math.inf, 0.0
    for at, slot in enumerate(decode):
        if prefill[at] != slot:
            return False
        token_least_s, token_most_s = (
            min(token_least_s, prefill_token_s[slot]),
            max(token_most_s, prefill_token_s[slot]),
        )
        step_least_s, step_most_s = min(step_least_s, base_s[slot]), max(step_most_s, base_s[slot])
    return token_most_s <= ALIKE * token_least_s and step_most_s <= ALIKE * step_least_s


def _refused(ask: Ask, candidates: Sequence[Candidate], *, missed: float) -> Unplaced | None:
    """Early refusal, of classes that allow it: too late to be of use, or worth less than what it would spoil."""
    slo, best = ask.slo, candidates[0]
    if ask.resident is not None:
        return None
    if best.ttft_s > slo.give_up_s:
        why, binding = f"the first token would take {best.ttft_s:.3g} s, the limit is {slo.give_up_s:g} s", "ttft"
    elif missed > slo.refuse_above * slo.miss_cost:
        why = f"served, it would cost {missed:.2f} of missed objectives, refused {slo.miss_cost:g}"
        binding = _BINDING[max(best.terms, key=lambda name: best.terms[name])]
    else:
        return None
    retry_after_s = max(1.0, best.ttft_s - slo.ttft_s)
    return Unplaced(reason=why, is_final=True, retry_after_s=retry_after_s, binding=binding, candidates=candidates)


def _candidate(ask: Ask, way: Way) -> Candidate:
    """For the record."""
    return Candidate(
        prefill=int(way.prefill),
        decode=int(way.decode),
        ttft_s=way.ttft_s + ask.waited_s,
        tpot_s=way.tpot_s,
        cost=way.cost,
        terms={
            "latency": way.latency,
            "late": way.late,
            "slow": way.slow,
            "harm": way.harm,
            "memory": way.memory,
            "link": way.link,
            "off role": way.off_role,
            "price": way.price,
        },
    )


def _cached(ask: Ask, fleet: FleetTable, cached_tokens: Mapping[int, int]) -> FloatColumn:
    """By slot; the last token of a prompt is always computed."""
    column = np.zeros(fleet.rows)
    for slot, tokens in cached_tokens.items():
        if slot < fleet.rows:
            column[slot] = min(tokens, ask.prompt_tokens - 1)
    return column


def _reason(fleet: FleetTable, chosen: Candidate, *, cached_tokens: int, weighed: int) -> str:
    """One line for people."""
    prefill, decode = fleet.workers[chosen.prefill], fleet.workers[chosen.decode]
    where = f"split: {prefill} to {decode}" if chosen.prefill != chosen.decode else f"one worker: {prefill}"
    times = f"TTFT {1e3 * chosen.ttft_s:.0f} ms, TPOT {1e3 * chosen.tpot_s:.1f} ms"
    return f"{where}; {times}, {cached_tokens} cached, cost {chosen.cost:.3f} of {weighed}"


def _binding(candidates: Sequence[Candidate]) -> str:
    """What the runner-up lost by most; nothing where it lost by nothing."""
    if len(candidates) < 2:
        return ""
    chosen, other = candidates[0].terms, candidates[1].terms
    term = max(chosen, key=lambda name: other[name] - chosen[name])
    return _BINDING[term] if other[term] - chosen[term] > 1e-3 else ""
