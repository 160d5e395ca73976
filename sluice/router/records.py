"""What became of the latest sequences: one record each, bounded, for people who ask.

Written by `flow.py` and `dispatcher.py`, read by Admin.GetRequests. Decides nothing.
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from sluice.domain.ids import RequestId, SequenceId
from sluice.wire.gen import sluice_pb2 as pb

MOVES_KEPT: Final = 32


@dataclass(frozen=True, slots=True)
class MoveBegun:
    """A migration that may yet be refused or fail."""

    at_s: float
    source: str
    target: str
    why: str


@dataclass(slots=True, kw_only=True)
class Record:
    """One sequence's life so far. Times are the router's clock, 0.0 until they happen."""

    sequence: SequenceId
    request: RequestId
    choice: int
    prompt_tokens: int
    accepted_s: float
    state: str = "queued"
    finish_reason: str = ""
    prefill_worker: str = ""
    decode_worker: str = ""
    decision: str = ""
    cached_tokens: int = 0
    output_tokens: int = 0
    placed_s: float = 0.0
    first_token_s: float = 0.0
    last_token_s: float = 0.0
    handoff_s: float = 0.0
    finished_s: float = 0.0
    itl_max_s: float = 0.0
    transport: str = ""
    kv_bytes: int = 0
    transfer_s: float = 0.0
    exposed_s: float = 0.0
    epoch: int = 0
    move: MoveBegun | None = None  # the latest
    migrations: int = 0
    moves: list[pb.MoveRow] = field(default_factory=list)
    images: int = 0
    images_cached: int = 0  # showings of an image that some encode worker had, or was making, already
    images_bytes: int = 0
    images_s: float = 0.0  # from the prompt's start to the arrival of its last image
    encoders: list[str] = field(default_factory=list)
    shown: list[pb.ShownRow] = field(default_factory=list)  # by part of the images of the prompt

    def handed_off(self, report: pb.HandoffReport, *, now_s: float) -> None:
        """A handoff committed, maybe long after the sequence ended."""
        self.handoff_s = now_s
        self.transport = report.transport
        self.kv_bytes = report.bytes
        self.transfer_s = report.transfer_s
        self.exposed_s = report.exposed_s
        self.cached_tokens = max(self.cached_tokens, report.cached_tokens)

    def moved(self, report: pb.MigrationReport, *, source: str, why: str, now_s: float) -> None:
        """A migration is complete: the target takes over."""
        self.migrations += 1
        move = self._move(source=source, how="migrated", why=why, now_s=now_s)
        move.to_worker, move.bytes, move.frozen_s = report.target_worker, report.bytes, report.frozen_s

    def restarted(self, *, source: str, why: str, now_s: float) -> None:
        """Its worker is out; another one will compute it again from the tokens so far."""
        self._move(source=source, how="recomputed", why=why, now_s=now_s)

    def _move(self, *, source: str, how: str, why: str, now_s: float) -> pb.MoveRow:
        at_s = now_s - self.accepted_s
        move = pb.MoveRow(at_s=at_s, from_worker=source, how=how, why=why, at_token=self.output_tokens)
        self.moves.append(move)
        del self.moves[:-MOVES_KEPT]
        return move

    @property
    def ttft_s(self) -> float:
        """Seconds from acceptance to the first token; 0 before it."""
        return self.first_token_s - self.accepted_s if self.first_token_s else 0.0

    @property
    def tpot_s(self) -> float:
        """Mean seconds per token after the first; 0 before the second."""
        if self.output_tokens < 2:
            return 0.0
        return (self.last_token_s - self.first_token_s) / (self.output_tokens - 1)

    def to_wire(self, *, now_s: float) -> pb.RequestRow:
        """The record as clients of Admin see it: seconds since acceptance."""

        def since(at_s: float) -> float:
            return at_s - self.accepted_s if at_s else 0.0

        return pb.RequestRow(
            request_id=self.request,
            choice=self.choice,
            state=self.state,
            finish_reason=self.finish_reason,
            prefill_worker=self.prefill_worker,
            decode_worker=self.decode_worker,
            decision=self.decision,
            prompt_tokens=self.prompt_tokens,
            cached_tokens=self.cached_tokens,
            output_tokens=self.output_tokens,
            placed_s=since(self.placed_s),
            first_token_s=since(self.first_token_s),
            handoff_s=since(self.handoff_s),
            finished_s=since(self.finished_s),
            tpot_s=self.tpot_s,
            itl_max_s=self.itl_max_s,
            transport=self.transport,
            kv_bytes=self.kv_bytes,
            transfer_s=self.transfer_s,
            exposed_s=self.exposed_s,
            age_s=now_s - self.accepted_s,
            epoch=self.epoch,
            migrations=self.migrations,
            frozen_s=self.moves[-1].frozen_s if self.moves else 0.0,
            moves=self.moves,
            images=self.images,
            images_cached=self.images_cached,
            images_bytes=self.images_bytes,
            images_s=self.images_s,
            encoders=self.encoders,
            shown=self.shown,
        )


class Records:
    """The latest `records_max` records; older ones are forgotten, running or not."""

    def __init__(self, records_max: int) -> None:
        self._records_max = records_max
        self._records: OrderedDict[SequenceId, Record] = OrderedDict()

    def __len__(self) -> int:
        return len(self._records)

    def add(self, record: Record) -> None:
        """Remember a new sequence."""
        self._records[record.sequence] = record
        if len(self._records) > self._records_max:
            self._records.popitem(last=False)

    def get(self, sequence: SequenceId) -> Record | None:
        """The record of a sequence, if it is still remembered."""
        return self._records.get(sequence)

    def latest(self, *, request: RequestId | None, limit: int) -> Iterator[Record]:
        """Newest first: of one request, or of all."""
        left = limit
        for record in reversed(self._records.values()):
            if left == 0:
                return
            if request is None or record.request == request:
                left -= 1
                yield record
