"""Decides which workers serve a sequence: a prefill and a decode worker, or one for both phases.

filters -> scorers -> picker, once per phase. Two workers are used only when that pays: both
roles are there, the decode worker lacks enough of the prompt, and there is more than one token
to decode. Whatever roles are connected, a sequence is served if any worker can take it.
Pure: snapshots and a seed in, a Decision with its reason out; the caller sends it and keeps
the books. Next: `admission.py` for when no worker has room.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sluice.domain.ids import WorkerId
from sluice.domain.role import Role
from sluice.policy.filters import RequestFacts, why_not
from sluice.policy.picker import Candidate, pick
from sluice.policy.scorers import DECODE_PREFIX_WEIGHT, decode_score, prefill_score, prefix_score, whole_score
from sluice.policy.view import WorkerView


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementRules:
    """Tunable limits of the decision."""

    disaggregate_tokens_min: int = 64  # uncached prompt tokens below which one worker does all


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Where a sequence runs. `decode` equals `prefill` when one worker does all.

    `candidates` are all that were scored, for whoever asks why; `reason` is one readable line.
    """

    prefill: WorkerView
    decode: WorkerView
    cached_tokens: int  # expected at the worker that prefills
    candidates: tuple[Candidate, ...]
    reason: str

    @property
    def is_split(self) -> bool:
        """Whether a handoff is needed."""
        return self.prefill.slot != self.decode.slot


@dataclass(frozen=True, slots=True, kw_only=True)
class NoPlace:
    """No worker can take the sequence now, and the reason each one was left out."""

    reasons: Mapping[WorkerId, str]

    @property
    def is_busy(self) -> bool:
        """Whether waiting may help: some worker is only full."""
        return "full" in self.reasons.values()

    def __str__(self) -> str:
        return ", ".join(f"{worker}: {reason}" for worker, reason in self.reasons.items()) or "no worker is connected"


def place(
    facts: RequestFacts,
    views: Sequence[WorkerView],
    cached_tokens: Mapping[int, int],
    *,
    rules: PlacementRules,
    seed: int,
) -> Decision | NoPlace:
    """Choose workers for one sequence. `cached_tokens` is PrefixIndex.match() of its prompt."""
    fit: dict[Role, list[WorkerView]] = {Role.PREFILL: [], Role.DECODE: [], Role.MIXED: []}
    refusals: dict[WorkerId, str] = {}
    for view in views:
        refusal = why_not(view, facts)
        if refusal:
            refusals[view.info.worker] = refusal
        else:
            fit[view.info.role].append(view)
    prefill, decode, mixed = fit[Role.PREFILL], fit[Role.DECODE], fit[Role.MIXED]
    if not (prefill or decode or mixed):
        return NoPlace(reasons=refusals)
    scored = _Scored(facts=facts, cached_tokens=cached_tokens, seed=seed)
    if not mixed and prefill and decode:
        return _split_or_one(scored, prefill, decode, rules)
    if not mixed or not (prefill or decode):
        return scored.one(mixed or decode or prefill, "only role available")
    if prefill and decode:
        return _better(scored.one(mixed, "mixed worker is better"), _split_or_one(scored, prefill, decode, rules))
    if prefill:
        return _better(scored.one(mixed, "mixed worker is better"), _split_or_one(scored, prefill, mixed, rules))
    return _better(scored.one(mixed, "mixed worker is better"), _split_or_one(scored, mixed, decode, rules))


def place_decode(
    facts: RequestFacts,
    views: Sequence[WorkerView],
    cached_tokens: Mapping[int, int],
    *,
    source: WorkerView | None,
    seed: int,
) -> WorkerView | None:
    """Another decode worker for a sequence that `source` has, if any worker has it; None: decode where it is."""
    fit = [view for view in views if view.info.role is not Role.PREFILL and not why_not(view, facts)]
    fit = [view for view in fit if source is None or source.can_send_to(view)]
    scored = _Scored(facts=facts, cached_tokens=cached_tokens, seed=seed)
    return pick(scored.decoders(fit), seed=seed).view if fit else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scored:
    """Scores views for one sequence."""

    facts: RequestFacts
    cached_tokens: Mapping[int, int]
    seed: int

    def prefillers(self, views: Sequence[WorkerView]) -> list[Candidate]:
        """For the prompt alone."""
        facts, cached_tokens = self.facts, self.cached_tokens
        candidates = []
        for view in views:
            cached = cached_tokens.get(view.slot, 0)
            load = prefill_score(view, facts, cached)
            candidates.append(Candidate(view, cached, prefix_score(facts, cached), load, load))
        return candidates

    def decoders(self, views: Sequence[WorkerView]) -> list[Candidate]:
        """For the output alone: the prompt's KV comes from elsewhere, less of it if some is cached."""
        facts, cached_tokens = self.facts, self.cached_tokens
        candidates = []
        for view in views:
            cached = cached_tokens.get(view.slot, 0)
            prefix, load = prefix_score(facts, cached), decode_score(view)
            candidates.append(Candidate(view, cached, prefix, load, load + DECODE_PREFIX_WEIGHT * prefix))
        return candidates

    def wholes(self, views: Sequence[WorkerView]) -> list[Candidate]:
        """For prompt and output."""
        facts, cached_tokens = self.facts, self.cached_tokens
        candidates = []
        for view in views:
            cached = cached_tokens.get(view.slot, 0)
            load = whole_score(view, facts, cached)
            candidates.append(Candidate(view, cached, prefix_score(facts, cached), load, load))
        return candidates

    def one(self, views: Sequence[WorkerView], why: str) -> Decision:
        candidates = self.wholes(views)
        best = pick(candidates, seed=self.seed)
        reason = f"one worker: {why}; {_terms(best)} of {len(candidates)}"
        return Decision(
            prefill=best.view,
            decode=best.view,
            cached_tokens=best.cached_tokens,
            candidates=tuple(candidates),
            reason=reason,
        )


def _split_or_one(
    scored: _Scored, prefill: Sequence[WorkerView], decode: Sequence[WorkerView], rules: PlacementRules
) -> Decision:
    facts = scored.facts
    if facts.output_tokens_max == 1:
        return scored.one(prefill, "one token to choose")
    reached = [to for to in decode if any(by.can_send_to(to) for by in prefill)]
    if not reached:
        return scored.one(decode, "no link between two is good")
    decoders = scored.decoders(reached)
    to = pick(decoders, seed=scored.seed)
    uncached = facts.prompt_tokens - min(to.cached_tokens, facts.prompt_tokens)
    if uncached < rules.disaggregate_tokens_min:
        reason = f"one worker: {uncached} uncached tokens < {rules.disaggregate_tokens_min}"
        return Decision(
            prefill=to.view,
            decode=to.view,
            cached_tokens=to.cached_tokens,
            candidates=tuple(decoders),
            reason=f"{reason}; {_terms(to)} of {len(decoders)}",
        )
    prefillers = scored.prefillers([by for by in prefill if by.can_send_to(to.view)])
    by = pick(prefillers, seed=scored.seed)
    return Decision(
        prefill=by.view,
        decode=to.view,
        cached_tokens=by.cached_tokens,
        candidates=(*prefillers, *decoders),
        reason=f"split: {uncached} uncached tokens; {_terms(by)} of {len(prefillers)}, {_terms(to)} of {len(decoders)}",
    )


def _better(one: Decision, other: Decision) -> Decision:
    """The decision whose weakest worker scores higher; one worker on a tie, for it moves nothing."""
    return other if _weakest(other) > _weakest(one) else one


def _weakest(decision: Decision) -> float:
    slots = {decision.prefill.slot, decision.decode.slot}
    return min(candidate.score for candidate in decision.candidates if candidate.view.slot in slots)


def _terms(candidate: Candidate) -> str:
    return f"{candidate.view.info.worker} (prefix {candidate.prefix:.2f}, score {candidate.score:.2f})"
