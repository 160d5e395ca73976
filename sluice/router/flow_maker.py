"""Makes the flows of a request: new ones, and ones that go on from what a worker has of an earlier router.

Gives sequences their ids, and keeps a record of each. Next: `flow.py`, `claims.py`.
"""

import hashlib

from sluice.domain.ids import RouterId, SequenceId
from sluice.router.choice_text import ChoiceText
from sluice.router.claims import Copy
from sluice.router.flow import Floor, Flow
from sluice.router.records import Record, Records
from sluice.router.request import Request
from sluice.text.tokenizer import Tokenizer


class FlowMaker:
    """The flows of one router."""

    def __init__(self, router: RouterId, tokenizer: Tokenizer, records: Records) -> None:
        self._tokenizer = tokenizer
        self._records = records
        # 32 bits of this incarnation's name, then a counter: unique among routers and restarts.
        self._next_sequence = int.from_bytes(hashlib.blake2b(router.encode(), digest_size=4).digest()) << 32

    def make(self, floor: Floor, request: Request, choice: int, copy: Copy | None, *, now_s: float) -> Flow:
        """A queued flow. With a copy it has that sequence's id; the caller has it adopted."""
        job = request.job
        prompt = job.prompts[choice // job.n]
        record = Record(
            sequence=self.new_sequence() if copy is None else copy.state.sequence,
            request=job.request,
            choice=choice,
            prompt_tokens=len(prompt.tokens),
            accepted_s=now_s - job.looked_s,  # the client waits for its pictures too
            images=len(prompt.pictures),
        )
        self._records.add(record)
        request.records.append(record)
        return Flow(
            floor,
            request,
            sequence=record.sequence,
            choice=choice,
            prompt=prompt,
            sampling=job.sampling_of(choice),
            text=ChoiceText(self._tokenizer, prompt=prompt.tokens, stops=job.stops, min_tokens=job.sampling.min_tokens),
            record=record,
        )

    def new_sequence(self) -> SequenceId:
        """An id that no other sequence has."""
        self._next_sequence += 1
        return SequenceId(self._next_sequence)
