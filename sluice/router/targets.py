"""Asks the policy: where a sequence goes, where a running one could go on, and why one is refused.

What the policy may know of a sequence is put together here, and its answers are remembered for people who
ask. Changes nothing else: who asks carries out the answer. Next: `policy/policy.py`, `decisions.py`.
"""

from sluice.clock import Clock
from sluice.errors import NoWorkerError, OverloadedError, SluiceError
from sluice.policy.answer_length import AnswerLength
from sluice.policy.policy import Ask, Placed, Policy, Unplaced
from sluice.router.decisions import Decisions, Kind
from sluice.router.fleet import Fleet, Member
from sluice.router.flow import Flow


class Targets:
    """Chooses among the workers of one fleet."""

    def __init__(self, fleet: Fleet, policy: Policy, decisions: Decisions, clock: Clock) -> None:
        self._fleet = fleet
        self._policy = policy
        self._decisions = decisions
        self._answers = AnswerLength()
        self._clock = clock

    @property
    def policy_name(self) -> str:
        """Who is asked, as on the command line."""
        return self._policy.name

    def note_answer(self, tokens: int) -> None:
        """A sequence has its whole answer: later ones may be alike."""
        self._answers.note(tokens)

    def place(self, flow: Flow, *, now_s: float) -> Placed | Unplaced:
        """Who serves a waiting sequence, those excluded that failed it."""
        return self._ask(flow, kind=Kind.PLACED, resident=None, now_s=now_s)

    def elsewhere_for(self, flow: Flow) -> Member | None:
        """The best decode worker for it that does not run it now and has not failed it, if there is one."""
        owner = None if flow.owner is None else flow.owner.slot
        answer = self._ask(flow, kind=Kind.TARGET, resident=owner, now_s=self._clock.now_s())
        return self._fleet.at(answer.decode) if isinstance(answer, Placed) else None

    def barred_for(self, flow: Flow) -> frozenset[int]:
        """Slots that have failed it, or cannot take its images in."""
        return self._fleet.slots_of(flow.excluded) | self._blind_to(flow)

    def _blind_to(self, flow: Flow) -> frozenset[int]:
        """Workers that cannot take the flow's images in."""
        if not flow.prompt.images:
            return frozenset()
        return frozenset(member.slot for member in self._fleet.speakers if member.info.image_boot is None)

    def _ask(self, flow: Flow, *, kind: Kind, resident: int | None, now_s: float) -> Placed | Unplaced:
        job, left = flow.request.job, flow.sampling.max_tokens - len(flow.output)
        ask = Ask(
            prompt_tokens=flow.context_tokens,
            output_tokens_max=left,
            output_tokens_expected=self._answers.expected(tokens_max=left),
            slo=job.slo,
            waited_s=0.0 if flow.output else now_s - flow.record.accepted_s,
            tenant=job.tenant,
            excluded=self.barred_for(flow),
            resident=resident,
            seed=flow.sequence,
        )
        cached = self._fleet.index.match(flow.prompt.unit_hashes)
        table = self._fleet.table
        answer = self._policy.place(ask, table, cached, now_s=now_s)
        at_s = now_s - flow.record.accepted_s
        self._decisions.answered(job, flow.choice, answer, table, kind=kind, at_s=at_s)
        return answer


def refusal(answer: Unplaced) -> SluiceError:
    """What a client hears when no worker takes its request: later, or never."""
    if answer.retry_after_s > 0.0:
        return OverloadedError(answer.reason, retry_after_s=answer.retry_after_s)
    return NoWorkerError(f"no worker fits it: {answer.reason}")
