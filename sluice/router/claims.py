"""Finds what is left on workers of a request whose client has come back: to this router after another's death.

    client --same body, last event id--> router --Claim--> every worker
                                                <--Copies-- its sequences of that request
           <--------- the rest --------- router --Adopt--> the worker with the best copy

Asking changes nothing on a worker; only the adoption does (`flow.py`). What nobody has is
computed again from the request's body. Never waits longer than ASK_S_MAX.
Next: `worker/claims.py` for who answers.
"""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from sluice.domain.ids import RequestId
from sluice.domain.role import FinishReason
from sluice.domain.sequence import SequenceState
from sluice.errors import InvalidRequestError
from sluice.router import orders
from sluice.router.fleet import Fleet, Member
from sluice.router.job import Job
from sluice.wire import convert
from sluice.wire.gen import sluice_pb2 as pb

ASK_S_MAX: Final = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """A sequence as a worker has it. `finish` is why it ended, if it has."""

    member: Member
    state: SequenceState
    finish: FinishReason | None

    @property
    def output(self) -> tuple[int, ...]:
        """The tokens chosen so far."""
        return self.state.tokens[self.state.prompt_tokens :]


@dataclass(slots=True, eq=False)
class _Asking:
    """One question to all workers, and who has not answered yet."""

    request: RequestId
    missing: set[Member]
    answered: "asyncio.Future[None]"
    found: list[Copy] = field(default_factory=list)

    def answer(self, member: Member, copies: Iterable[Copy]) -> None:
        """One of them has answered, or will not."""
        self.found += copies
        self.missing.discard(member)
        if not self.missing and not self.answered.done():
            self.answered.set_result(None)


class Claims:
    """The questions of one router."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._open: set[_Asking] = set()

    async def ask(self, job: Job) -> Mapping[int, Copy]:
        """The best copy of each choice that some worker has; copies that are not taken are cancelled.

        Raises InvalidRequestError if the earlier request of that id had another body.
        """
        members = set(self._fleet)
        asking = _Asking(job.request, members, asyncio.get_running_loop().create_future())
        self._open.add(asking)
        try:
            for member in self._fleet:
                member.link.send(orders.claim(job.request))
            if members:
                await asyncio.wait({asking.answered}, timeout=ASK_S_MAX)
        finally:
            self._open.discard(asking)
        return _choose(job, asking.found)

    def on_answer(self, member: Member, message: pb.Copies) -> None:
        """A worker says what it has. Raises InvalidRequestError if it makes no sense."""
        copies = [
            Copy(
                member=member,
                state=convert.state_from_wire(copy.state),
                finish=FinishReason(copy.finish) if copy.finish else None,
            )
            for copy in message.copies
        ]
        for asking in list(self._open):
            if asking.request == message.request and member in asking.missing:
                asking.answer(member, copies)

    def on_lost(self, member: Member) -> None:
        """A worker is gone, and what it had with it."""
        for asking in list(self._open):
            asking.found = [copy for copy in asking.found if copy.member is not member]
            asking.answer(member, ())


def _choose(job: Job, found: Iterable[Copy]) -> Mapping[int, Copy]:
    chosen: dict[int, Copy] = {}
    for copy in sorted(found, key=lambda copy: (copy.state.epoch, len(copy.state.tokens)), reverse=True):
        _check(job, copy.state)
        # Log-probabilities of earlier tokens are kept nowhere: such a request is computed again.
        # Nor does anybody bring the images of a lost router's prompt, if it was still to be computed.
        is_blind = bool(copy.state.images) and not copy.output
        if copy.state.choice in chosen or job.sampling.top_logprobs is not None or is_blind:
            copy.member.cancel(copy.state.sequence, copy.state.epoch)
        else:
            chosen[copy.state.choice] = copy
    return chosen


def _check(job: Job, state: SequenceState) -> None:
    """Raises InvalidRequestError unless the sequence is what this very request would have started."""
    if state.choice < job.choices:
        prompt = job.prompts[state.choice // job.n]
        is_prompt = (prompt.root, prompt.tokens) == (state.root, state.tokens[: state.prompt_tokens])
        if is_prompt and job.sampling_of(state.choice) == state.sampling:
            return
    problem = "is of a request with another body or tenant"
    raise InvalidRequestError(field="last-event-id", problem=problem, remedy="send the very same request again")
