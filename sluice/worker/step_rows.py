"""What a worker says of its sequences, as messages: tokens in columns, and failures. Decides nothing.

Next: `shell.py`, who says it to whom.
"""

from sluice.domain.ids import Epoch, SequenceId
from sluice.engine.contract import TokenOut
from sluice.errors import InvalidRequestError, SluiceError
from sluice.wire.gen import sluice_pb2 as pb
from sluice.worker.live import Live


def add_row(message: pb.StepTokens, out: TokenOut, *, epoch: Epoch) -> None:
    """Append one token to the columns of a step, as said under `epoch`."""
    row = len(message.token)
    message.sequence.append(out.sequence)
    message.epoch.append(epoch)
    message.index.append(out.index)
    message.token.append(out.token)
    if out.finish is not None:
        message.finish.add(row=row, reason=out.finish.value)
    if out.logprobs is not None:
        tops = out.logprobs.top
        values = pb.TokenLogprobs(
            token=out.token,
            logprob=out.logprobs.chosen,
            top_tokens=[token for token, _ in tops],
            top_logprobs=[value for _, value in tops],
        )
        message.logprobs.add(row=row, logprobs=values)


def rows_from(live: Live, *, next_index: int) -> pb.WorkerMessage:
    """All its output tokens from `next_index` on, said again under its present epoch."""
    tokens = live.now().tokens[live.state.prompt_tokens + next_index :]
    step = pb.StepTokens(
        sequence=[live.state.sequence] * len(tokens),
        epoch=[live.epoch] * len(tokens),
        index=range(next_index, next_index + len(tokens)),
        token=tokens,
    )
    if live.finish is not None and tokens:
        step.finish.add(row=len(tokens) - 1, reason=live.finish.value)
    return pb.WorkerMessage(tokens=step)


def failure(sequence: SequenceId, epoch: Epoch, error: SluiceError, *, is_unstarted: bool = False) -> pb.WorkerMessage:
    """The message that says a sequence cannot go on here, or begin, and whose fault it is."""
    field = error.field if isinstance(error, InvalidRequestError) else ""
    failed = pb.SequenceFailed(sequence=sequence, epoch=epoch, code=error.code.value, message=str(error), field=field)
    failed.unstarted = is_unstarted
    return pb.WorkerMessage(failed=failed)
