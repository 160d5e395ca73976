"""Sluice's own policy: where to compute the prompt and where to decode, in one choice.

Minimises expected misses: of the newcomer (TTFT and TPOT, with the spread of the predictions, times
what a miss costs its class) and of the sequences it would slow; then memory, the transfer and the
price of the seconds it takes (`worth.py`). Where nobody is near an objective what is left is latency,
as LMETRIC weighs it (OSDI 2026): the prompts before it times the sequences beside it, here in each
worker's own seconds. One worker for both phases is a pair like any
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

from sluice.policy.fit import Fit, fit
from sluice.policy.fleet_table import PREFILL_BIT, FleetTable, FloatColumn, IntColumn
from sluice.policy.policy import Ask, Candidate, Flip, Move, Placed, Running, Unplaced
from sluice.policy.worth import Weights, Worth, weigh

PAIRED: Final = 4
"""Workers of each phase that are weighed against each other."""

EXPLAINED: Final = 3
SHARE_WINDOW_S: Final = 10.0
"""How long a prompt counts towards its worker's share of time spent on prompts."""

HANDOFF_S: Final = 0.005
"""What a handoff takes whatever its length: reservation, commit, one step."""

SPLIT_TOKENS_MIN: Final = 64
"""On idle workers of a role each, fewer tokens to compute than this are not worth a handoff."""

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


class Joint:
    """See the module."""

    name = "joint"

    def __init__(self, weights: Weights | None = None, *, split_tokens_min: int = SPLIT_TOKENS_MIN) -> None:
        self._weights = weights or Weights()
        self._split_tokens_min = split_tokens_min
        self._prompt_s = np.zeros(0)  # by slot: seconds of prompts placed lately, fading
        self._faded_s = 0.0

    def place(
        self, ask: Ask, fleet: FleetTable, cached_tokens: Mapping[int, int], *, now_s: float
    ) -> Placed | Unplaced:
        """See Policy."""
        found = fit(ask, fleet)
        if isinstance(found, Unplaced):
            return found
        cached = _cached(ask, fleet, cached_tokens)
        worth = weigh(ask, fleet, cached, self._shares(fleet, now_s), self._weights)
        prompt, output, latency = worth.prompt, worth.output, self._weights.latency
        pairs = _pairs(ask, found, worth, latency)
        prefill, decode = pairs
        link = self._link(ask, fleet, pairs, cached)
        late, slow = worth.late[prefill], worth.slow[decode]
        # Misses of one request count once: what is late anyway cannot be missed again by being slow.
        total = prompt[prefill] + output[decode] + link - np.minimum(late * slow, late)
        # A prompt slows those that decode beside it, so its worker's sequences count as well.
        total += latency * worth.ahead[prefill] * np.maximum(worth.beside[prefill], worth.beside[decode])
        # A worker that is there to decode computes a prompt itself where that is less than a handoff costs.
        per_token = self._weights.latency * HANDOFF_S / (ask.slo.tpot_s * max(1, self._split_tokens_min))
        off_role = per_token * (fleet.role_bits[prefill] & PREFILL_BIT == 0) * (ask.prompt_tokens - cached[prefill])
        total += off_role
        if fleet.severed:
            both = zip(prefill.tolist(), decode.tolist(), strict=True)
            total[[not fleet.can_send(source, target) for source, target in both]] = np.inf
        # A sliver by seed, so that equals are not always the first.
        total += (prefill * 31 + decode * 17 + ask.seed % 101 * 7) % 101 * SPREAD
        order = total.argsort()[:EXPLAINED].tolist()
        by, to = prefill.item(order[0]), decode.item(order[0])
        candidates = tuple(
            _candidate(
                worth,
                (prefill.item(at), decode.item(at)),
                cost=total.item(at),
                link=link.item(at),
                off_role=off_role.item(at),
                latency=latency,
                waited_s=ask.waited_s,
            )
            for at in order
        )
        ttft_s = candidates[0].ttft_s
        if ttft_s > ask.slo.give_up_s and ask.resident is None:
            return Unplaced(
                reason=f"the first token would take {ttft_s:.3g} s, the limit is {ask.slo.give_up_s:g} s",
                is_final=True,
                retry_after_s=max(1.0, ttft_s - ask.slo.ttft_s),
                binding="ttft",
                candidates=candidates,
            )
        self._prompt_s[by] += worth.work_s.item(by)
        matched = int(cached.item(by))
        return Placed(
            prefill=by,
            decode=to,
            cached_tokens=matched,
            reason=_reason(fleet, candidates[0], cached_tokens=matched, weighed=len(total)),
            binding=_binding(candidates),
            candidates=candidates,
        )

    def tend(self, fleet: FleetTable, running: Sequence[Running], *, now_s: float) -> Sequence[Move | Flip]:
        """Nothing moves: drains and operators do that."""
        return ()

    def _shares(self, fleet: FleetTable, now_s: float) -> FloatColumn:
        """The part of its time each worker spent on prompts lately."""
        if len(self._prompt_s) < fleet.rows:
            self._prompt_s = np.concatenate([self._prompt_s, np.zeros(2 * fleet.rows - len(self._prompt_s))])
        if now_s > self._faded_s:
            self._prompt_s *= math.exp(-(now_s - self._faded_s) / SHARE_WINDOW_S)
            self._faded_s = now_s
        shares: FloatColumn = self._prompt_s[: fleet.rows] / SHARE_WINDOW_S
        return shares

    def _link(
        self, ask: Ask, fleet: FleetTable, pairs: tuple[IntColumn, IntColumn], cached: FloatColumn
    ) -> FloatColumn:
        """The second token waits for what of the prompt's KV the decode worker lacks."""
        prefill, decode = pairs
        link = np.minimum(fleet.link_bytes_per_s[prefill], fleet.link_bytes_per_s[decode])
        is_split = prefill != decode
        is_known = is_split * (link > 0.0)
        moved = (ask.prompt_tokens - cached[decode]) * (is_known * float(fleet.kv_token_bytes))
        wait_s = moved / (link + (1.0 - is_known)) + HANDOFF_S * is_split
        slo = ask.slo
        whole_s = slo.ttft_s + ask.output_tokens_expected * slo.tpot_s
        waits: FloatColumn = wait_s * (self._weights.latency / slo.tpot_s + slo.miss_cost / whole_s)
        return waits


def _candidate(
    worth: Worth,
    pair: tuple[int, int],
    *,
    cost: float,
    link: float,
    off_role: float,
    latency: float,
    waited_s: float,
) -> Candidate:
    prefill, decode = pair
    return Candidate(
        prefill=prefill,
        decode=decode,
        ttft_s=worth.ttft_s.item(prefill) + waited_s,
        tpot_s=worth.tpot_s.item(decode),
        cost=cost,
        terms={
            "latency": latency * worth.ahead.item(prefill) * max(worth.beside.item(prefill), worth.beside.item(decode)),
            "late": worth.late.item(prefill),
            "slow": worth.slow.item(decode),
            "harm": worth.prompt_harm.item(prefill) + worth.output_harm.item(decode),
            "memory": worth.memory.item(decode),
            "link": link,
            "off role": off_role,
            "price": worth.prompt_price.item(prefill) + worth.output_price.item(decode),
        },
    )


def _cached(ask: Ask, fleet: FleetTable, cached_tokens: Mapping[int, int]) -> FloatColumn:
    """By slot; the last token of a prompt is always computed."""
    column = np.zeros(fleet.rows)
    for slot, tokens in cached_tokens.items():
        if slot < fleet.rows:
            column[slot] = min(tokens, ask.prompt_tokens - 1)
    return column


def _pairs(ask: Ask, found: Fit, worth: Worth, latency: float) -> tuple[IntColumn, IntColumn]:
    """Which pairs are weighed: the best of each phase crossed, and the best workers for both."""
    if ask.resident is not None:
        return np.full(len(found.decode), ask.resident), found.decode
    prompt, output = worth.prompt, worth.output
    alone = _best(found.decode, prompt + output + latency * worth.ahead * worth.beside)
    if not len(found.prefill):
        return alone, alone
    # Each phase beside a middling other one.
    beside = np.maximum(worth.beside, float(worth.beside[found.decode].mean()))
    prefill = _best(found.prefill, prompt + latency * worth.ahead * beside)
    decode = _best(found.decode, output + (latency * float(worth.ahead[found.prefill].mean())) * worth.beside)
    return (
        np.concatenate([alone, prefill.repeat(len(decode))]),
        np.concatenate([alone, decode[np.arange(len(prefill) * len(decode)) % len(decode)]]),
    )


def _best(slots: IntColumn, costs: FloatColumn) -> IntColumn:
    """The `PAIRED` cheapest; `costs` are of all rows."""
    if len(slots) <= PAIRED:
        return slots
    best: IntColumn = slots[costs[slots].argpartition(PAIRED)[:PAIRED]]
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
