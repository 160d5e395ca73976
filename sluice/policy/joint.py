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

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from heapq import nsmallest
from typing import Final

import numpy as np

from sluice.policy.fit import Fit, fit
from sluice.policy.fleet_table import PREFILL_BIT, FleetTable, FloatColumn, IntColumn
from sluice.policy.hotspot import HotspotDetector
from sluice.policy.policy import Ask, Candidate, Flip, Move, Placed, Running, Unplaced
from sluice.policy.rebalance import HOT_MIN, Decoders, wished_moves
from sluice.policy.residents import Residents
from sluice.policy.role_change import wished_flip
from sluice.policy.worth import Weights, Worth, latency_only, steps_now, weigh

PAIRED: Final = 3
"""Workers of each phase that are weighed against each other."""

SORTED: Final = 64
"""So many costs are sorted faster than searched."""

EXPLAINED: Final = 3
HANDOFF_S: Final = 0.005
"""What a handoff takes whatever its length: reservation, commit, one step."""

SPLIT_TOKENS_MIN: Final = 64
"""On idle workers of a role each, fewer tokens to compute than this are not worth a handoff."""

ALIKE: Final = 1.25
"""Workers whose speeds differ by less are taken for equals."""

SPREAD: Final = 1e-9
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


_Way = tuple[float, int, int, float, float]
"""Cost of a pair, its prefill and decode slots; within the cost the handoff, and a worker of another role."""


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
        worth = counted = weigh(ask, fleet, cached, self._residents, self._weights)
        latency = self._weights.latency
        if _are_alike(fleet, found) and self._residents.are_of_one_class:
            # Equals that wait for the same: nothing beats the shortest queue times the smallest batch.
            counted, latency = latency_only(worth), 1.0
            found = self._without_hotspot(found, cached_tokens)
        pairs = _pairs(ask, found, counted, latency)
        ways = nsmallest(EXPLAINED, self._ways(ask, fleet, counted, pairs, cached, latency))
        best = ways[0]
        candidates = tuple(_candidate(ask, worth, counted, way, latency) for way in ways)
        refused = _refused(ask, candidates, missed=_missed(worth, best))
        if refused:
            return refused
        _, prefill, decode, _, _ = best
        self._residents.placed(ask.slo, prefill=prefill, decode=decode, prompt_s=worth.work_s.item(prefill))
        self._hotspots.chose(prefill, cached_tokens)
        matched = int(cached.item(prefill))
        return Placed(
            prefill=prefill,
            decode=decode,
            cached_tokens=matched,
            reason=_reason(fleet, candidates[0], cached_tokens=matched, weighed=len(pairs)),
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

    def _ways(  # noqa: PLR0917 - one call, a step of place()
        self,
        ask: Ask,
        fleet: FleetTable,
        worth: Worth,
        pairs: Sequence[tuple[int, int]],
        cached: FloatColumn,
        latency: float,
    ) -> Iterator[_Way]:
        """What each pair costs. Numbers, not columns: there are few of them."""
        slo = ask.slo
        # A worker that is there to decode computes a prompt itself where that is less than a handoff costs.
        off_role_token = latency * HANDOFF_S / (slo.tpot_s * max(1, self._split_tokens_min))
        wait_cost = latency / slo.tpot_s + slo.miss_cost / (slo.ttft_s + ask.output_tokens_expected * slo.tpot_s)
        workers = _workers({slot for pair in pairs for slot in pair}, fleet, worth, cached)
        kv_token_bytes, tokens, seed = fleet.kv_token_bytes, ask.prompt_tokens, ask.seed % 101 * 7
        for prefill, decode in pairs:
            prompt, late, ahead, _, _, source_beside, source_cached, source_link, role_bits = workers[prefill]
            _, _, _, output, slow, beside, target_cached, target_link, _ = workers[decode]
            link = 0.0
            if prefill != decode:
                if fleet.severed and not fleet.can_send(prefill, decode):
                    continue
                # The second token waits for what of the prompt's KV the decode worker lacks.
                speed = min(target_link, source_link)
                moved = (tokens - target_cached) * kv_token_bytes
                link = wait_cost * (HANDOFF_S + (moved / speed if speed > 0.0 else 0.0))
            # Misses of one request count once: what is late anyway cannot be missed again by being slow.
            cost = prompt + output - late * min(slow / slo.miss_cost, 1.0) + link
            # A prompt slows those that decode beside it, so its worker's sequences count as well.
            cost += latency * ahead * (max(beside, source_beside))
            off_role = 0.0 if role_bits & PREFILL_BIT else off_role_token * (tokens - source_cached)
            # A sliver by seed, so that equals are not always the first.
            sliver = (prefill * 31 + decode * 17 + seed) % 101 * SPREAD
            yield cost + off_role + sliver, prefill, decode, link, off_role


def _workers(
    chosen: AbstractSet[int], fleet: FleetTable, worth: Worth, cached: FloatColumn
) -> dict[int, tuple[float, float, float, float, float, float, float, float, int]]:
    """What counts of each that is weighed, by slot: from Worth `prompt`, `late`, `ahead`, `output`, `slow`, `beside`;
    tokens of the prompt that are cached, speed of the link, bits of the role."""
    prompt, late, ahead, output = worth.prompt.item, worth.late.item, worth.ahead.item, worth.output.item
    slow, beside, cached_at = worth.slow.item, worth.beside.item, cached.item
    link, role = fleet.link_bytes_per_s.item, fleet.role_bits.item
    return {
        at: (prompt(at), late(at), ahead(at), output(at), slow(at), beside(at), cached_at(at), link(at), role(at))
        for at in chosen
    }


def _are_alike(fleet: FleetTable, found: Fit) -> bool:
    """Whether all who fit do both phases, at about the same speed."""
    slots = found.decode
    if len(found.prefill) != len(slots) or not np.array_equal(found.prefill, slots):
        return False
    return all(
        column.max() <= ALIKE * column.min() for column in (fleet.prefill_token_s.take(slots), fleet.base_s.take(slots))
    )


def _missed(worth: Worth, way: _Way) -> float:
    """The misses this way is expected to cost: its own and of those it slows."""
    _, prefill, decode, _, _ = way
    late, slow = worth.late.item(prefill), worth.slow.item(decode)
    return late + slow + worth.prompt_harm.item(prefill) + worth.output_harm.item(decode)


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


def _candidate(ask: Ask, worth: Worth, counted: Worth, way: _Way, latency: float) -> Candidate:
    """For the record: times from `worth`, terms from what of it `counted`."""
    cost, prefill, decode, link, off_role = way
    beside = max(worth.beside.item(prefill), worth.beside.item(decode))
    return Candidate(
        prefill=prefill,
        decode=decode,
        ttft_s=worth.ttft_s.item(prefill) + ask.waited_s,
        tpot_s=worth.tpot_s.item(decode),
        cost=cost,
        terms={
            "latency": latency * worth.ahead.item(prefill) * beside,
            "late": counted.late.item(prefill),
            "slow": counted.slow.item(decode),
            "harm": counted.prompt_harm.item(prefill) + counted.output_harm.item(decode),
            "memory": counted.memory.item(decode),
            "link": link,
            "off role": off_role,
            "price": counted.prompt_price.item(prefill) + counted.output_price.item(decode),
        },
    )


def _cached(ask: Ask, fleet: FleetTable, cached_tokens: Mapping[int, int]) -> FloatColumn:
    """By slot; the last token of a prompt is always computed."""
    column = np.zeros(fleet.rows)
    for slot, tokens in cached_tokens.items():
        if slot < fleet.rows:
            column[slot] = min(tokens, ask.prompt_tokens - 1)
    return column


def _pairs(ask: Ask, found: Fit, worth: Worth, latency: float) -> list[tuple[int, int]]:
    """Which pairs are weighed: the best of each phase crossed, and the best workers for both."""
    if ask.resident is not None:
        return [(ask.resident, decode) for decode in found.decode.tolist()]
    ahead, beside = worth.ahead * latency, worth.beside
    alone = [(slot, slot) for slot in _best(found.decode, worth.prompt + worth.output + ahead * beside)]
    if not len(found.prefill):
        return alone
    # Each phase beside a middling other one.
    beside_mean, ahead_mean = _mean(beside, found.decode), _mean(ahead, found.prefill)
    prefill = _best(found.prefill, worth.prompt + ahead * np.maximum(beside, beside_mean))
    decode = _best(found.decode, worth.output + beside * ahead_mean)
    return alone + [(source, target) for source in prefill for target in decode if source != target]


def _mean(column: FloatColumn, slots: IntColumn) -> float:
    return float(np.add.reduce(column.take(slots))) / len(slots)


def _best(slots: IntColumn, costs: FloatColumn) -> list[int]:
    """The `PAIRED` cheapest, the cheapest first; `costs` are of all rows."""
    of_slots = costs.take(slots)
    if len(slots) <= SORTED:
        return [slots.item(at) for at in of_slots.argsort()[:PAIRED]]
    best = []
    for _ in range(PAIRED):  # faster than partitioning a thousand
        at = of_slots.argmin()
        best.append(slots.item(at))
        of_slots[at] = np.inf
    return best


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
