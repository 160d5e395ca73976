"""Every way of serving a request that is worth weighing, and the cheapest few: who computes the prompt, who decodes.

The best workers of each phase are paired, not all, and the best for both: a thousand workers cost little
more than thirty. To the terms of `worth.py` a pair adds the transfer between the two, and the sequences
beside the prompt. Pure. Next: `joint.py`.
"""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from sluice.policy.compiled import compiled
from sluice.policy.fit import Fit
from sluice.policy.fleet_table import PREFILL_BIT, FleetTable, FloatColumn, IntColumn
from sluice.policy.policy import Ask
from sluice.policy.worth import Worth

Matrix = npt.NDArray[np.float64]
IntMatrix = npt.NDArray[np.int64]

PAIRED: Final = 3
"""Workers of each phase that are weighed against each other."""

EXPLAINED: Final = 3
"""The cheapest ways, kept for the record."""

HANDOFF_S: Final = 0.005
"""What a handoff takes whatever its length: reservation, commit, one step."""

FULL: Final = 100.0
"""Of a full pool where only latency counts besides: more than any queue there is."""

SPREAD: Final = 1e-9
"""Equals are told apart by a sliver, by seed, so that it is not always the first."""

NOT_SEVERED: Final[IntColumn] = np.zeros(0, dtype=np.int64)


class Way(NamedTuple):
    """A pair of workers, slots as floats, and what serving the request there costs; first what is compared."""

    cost: float
    prefill: float
    decode: float
    ttft_s: float  # from now
    tpot_s: float
    missed: float  # the misses it is expected to cost: its own and of those it slows
    latency: float  # the terms of the cost
    late: float
    slow: float
    harm: float
    memory: float
    link: float
    off_role: float
    price: float


class _Rules(NamedTuple):
    """What the loop is told of the request and the policy."""

    prompt_tokens: float
    kv_token_bytes: float
    miss_cost: float
    latency: float  # the weight of latency
    is_latency_all: bool  # nothing else counts, but for KV pools that run full
    wait_cost: float  # of a second between the first token and the second
    off_role_token: float  # of a prompt token computed by a worker that is there to decode
    prefill_bit: int  # of roles
    resident: int  # the slot that has the KV already; -1: none
    seed: int


def cheapest(
    ask: Ask,
    fleet: FleetTable,
    found: Fit,
    worth: Worth,
    cached: FloatColumn,
    *,
    latency: float,
    is_latency_all: bool,
    split_tokens_min: int,
) -> tuple[list[Way], int]:
    """The cheapest ways, the best first, and how many were weighed."""
    slo = ask.slo
    rules = _Rules(
        prompt_tokens=float(ask.prompt_tokens),
        kv_token_bytes=float(fleet.kv_token_bytes),
        miss_cost=slo.miss_cost,
        latency=latency,
        is_latency_all=is_latency_all,
        wait_cost=latency / slo.tpot_s + slo.miss_cost / (slo.ttft_s + ask.output_tokens_expected * slo.tpot_s),
        # A worker that is there to decode computes a prompt itself where that is less than a handoff costs.
        off_role_token=latency * HANDOFF_S / (slo.tpot_s * max(1, split_tokens_min)),
        prefill_bit=PREFILL_BIT,
        resident=-1 if ask.resident is None else ask.resident,
        seed=ask.seed % 101 * 7,
    )
    severed = NOT_SEVERED
    if fleet.severed:
        links = [source * fleet.rows + target for source, targets in fleet.severed.items() for target in targets]
        severed = np.array(links, dtype=np.int64)
    best = np.empty((EXPLAINED + 1, len(Way._fields)))  # the last line is where a way is weighed
    weighed = _search(
        rules, found.prefill, found.decode, worth, cached, fleet.link_bytes_per_s, fleet.role_bits, severed, best
    )
    return [Way(*line) for line in best[: min(weighed, EXPLAINED)].tolist()], weighed


@compiled
def _search(  # noqa: PLR0917 - columns, all of which count
    rules: _Rules,
    prefill: IntColumn,
    decode: IntColumn,
    worth: Worth,
    cached: FloatColumn,
    link_bytes_per_s: FloatColumn,
    role_bits: IntColumn,
    severed: IntColumn,
    best: Matrix,
) -> int:
    """Fill `best`, a Way a line, the cheapest first; returns how many ways were weighed."""
    pairs = np.empty((max(len(decode), PAIRED * (PAIRED + 1)), 2), dtype=np.int64)
    count = _pairs(rules, prefill, decode, worth, pairs)
    weighed = 0
    for at in range(count):
        first, then = pairs[at, 0], pairs[at, 1]
        is_cut = False
        for link in severed:
            is_cut = is_cut or (first != then and link == first * len(worth.prompt) + then)
        if not is_cut:
            _weigh_way(rules, first, then, worth, cached, link_bytes_per_s, role_bits, best[EXPLAINED])
            _sort_in(best, weighed)
            weighed += 1
    return weighed


@compiled
def _pairs(rules: _Rules, prefill: IntColumn, decode: IntColumn, worth: Worth, pairs: IntMatrix) -> int:
    """Fill `pairs`: the best for both, then the best of each phase crossed; returns how many they are."""
    if rules.resident >= 0:
        for at in range(len(decode)):
            pairs[at, 0], pairs[at, 1] = rules.resident, decode[at]
        return len(decode)
    beside_mean, ahead_mean = 0.0, 0.0
    for slot in decode:
        beside_mean += worth.beside[slot] / len(decode)
    for slot in prefill:
        ahead_mean += rules.latency * worth.ahead[slot] / len(prefill)
    # Each phase beside a middling other one.
    costs, sources, targets = np.empty(len(worth.prompt)), np.empty(PAIRED, np.int64), np.empty(PAIRED, np.int64)
    for slot in decode:
        prompt, output, ahead = _phases(rules, worth, slot)
        costs[slot] = prompt + output + ahead * worth.beside[slot]
    count = _lowest(costs, decode, targets)
    for at in range(count):
        pairs[at, 0], pairs[at, 1] = targets[at], targets[at]
    for slot in decode:
        _, output, _ = _phases(rules, worth, slot)
        costs[slot] = output + worth.beside[slot] * ahead_mean
    of_targets = _lowest(costs, decode, targets)
    for slot in prefill:
        prompt, _, ahead = _phases(rules, worth, slot)
        costs[slot] = prompt + ahead * max(worth.beside[slot], beside_mean)
    for first in range(_lowest(costs, prefill, sources)):
        for then in range(of_targets):
            if sources[first] != targets[then]:
                pairs[count, 0], pairs[count, 1] = sources[first], targets[then]
                count += 1
    return count


@compiled
def _lowest(costs: FloatColumn, slots: IntColumn, chosen: IntColumn) -> int:
    """Fill `chosen` with the cheapest of `slots`, the cheapest and the first of equals first; how many they are."""
    count = 0
    for slot in slots:
        if count < len(chosen):
            count += 1
        elif costs[slot] >= costs[chosen[count - 1]]:
            continue
        at = count - 1
        while at > 0 and costs[slot] < costs[chosen[at - 1]]:
            chosen[at] = chosen[at - 1]
            at -= 1
        chosen[at] = slot
    return count


@compiled
def _phases(rules: _Rules, worth: Worth, slot: int) -> tuple[float, float, float]:
    """What the prompt costs there, the output, and the prompts before it, weighted."""
    ahead = rules.latency * worth.ahead[slot]
    if rules.is_latency_all:
        return 0.0, worth.memory[slot] * FULL, ahead
    return worth.prompt[slot], worth.output[slot], ahead


@compiled
def _weigh_way(  # noqa: PLR0917 - columns, all of which count
    rules: _Rules,
    prefill: int,
    decode: int,
    worth: Worth,
    cached: FloatColumn,
    link_bytes_per_s: FloatColumn,
    role_bits: IntColumn,
    way: FloatColumn,
) -> None:
    """Fill `way`, the fields of Way, for one pair."""
    prompt, _, ahead = _phases(rules, worth, prefill)
    _, output, _ = _phases(rules, worth, decode)
    late, slow, memory = worth.late[prefill], worth.slow[decode], worth.memory[decode]
    harm = worth.prompt_harm[prefill] + worth.output_harm[decode]
    price = worth.prompt_price[prefill] + worth.output_price[decode]
    missed = late + slow + harm
    if rules.is_latency_all:
        late, slow, harm, price, memory = 0.0, 0.0, 0.0, 0.0, memory * FULL
    link = 0.0
    if prefill != decode:
        # The second token waits for what of the prompt's KV the decode worker lacks.
        speed = min(link_bytes_per_s[decode], link_bytes_per_s[prefill])
        moved_bytes = (rules.prompt_tokens - cached[decode]) * rules.kv_token_bytes
        link = rules.wait_cost * (HANDOFF_S + (moved_bytes / speed if speed > 0.0 else 0.0))
    off_role = 0.0
    if not role_bits[prefill] & rules.prefill_bit:
        off_role = rules.off_role_token * (rules.prompt_tokens - cached[prefill])
    # A prompt slows those that decode beside it, so its worker's sequences count as well.
    latency = ahead * max(worth.beside[decode], worth.beside[prefill])
    # Misses of one request count once: what is late anyway cannot be missed again by being slow.
    cost = prompt + output - late * min(slow / rules.miss_cost, 1.0) + link + latency + off_role
    way[0] = cost + (prefill * 31 + decode * 17 + rules.seed) % 101 * SPREAD
    way[1], way[2] = prefill, decode
    way[3], way[4], way[5] = worth.ttft_s[prefill], worth.tpot_s[decode], missed
    way[6], way[7], way[8], way[9] = latency, late, slow, harm
    way[10], way[11], way[12], way[13] = memory, link, off_role, price


@compiled
def _sort_in(best: Matrix, count: int) -> None:
    """Bring the last line of `best` to where it belongs among the `count` before it, if it does."""
    last = len(best) - 1
    at = min(count, last)
    while at > 0 and best[last, 0] < best[at - 1, 0]:
        at -= 1
    if at == last:
        return
    for line in range(min(count, last - 1), at, -1):
        for field in range(best.shape[1]):
            best[line, field] = best[line - 1, field]
    for field in range(best.shape[1]):
        best[at, field] = best[last, field]
