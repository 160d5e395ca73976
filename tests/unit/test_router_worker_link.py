"""A worker that does not read is cut off; closing wakes the writer."""

import asyncio

from sluice.router.worker_link import OUTGOING_MESSAGES_MAX, WorkerLink
from sluice.wire.gen import sluice_pb2 as pb


def cancel(sequence: int) -> pb.RouterMessage:
    return pb.RouterMessage(cancel=pb.Cancel(sequence=sequence))


async def test_messages_are_written_in_order_until_the_link_is_closed() -> None:
    link, written = WorkerLink(), list[int]()

    async def write(message: pb.RouterMessage) -> None:
        written.append(message.cancel.sequence)

    writer = asyncio.create_task(link.write_all(write))
    for sequence in range(3):
        link.send(cancel(sequence))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    link.close("done")
    await writer
    assert written == [0, 1, 2]


async def test_a_worker_that_does_not_read_is_cut_off() -> None:
    link = WorkerLink()
    for sequence in range(OUTGOING_MESSAGES_MAX + 1):
        link.send(cancel(sequence))
    assert link.closed_because == "the worker does not read its messages"


async def test_the_first_reason_is_kept() -> None:
    link = WorkerLink()
    link.close("first")
    link.close("second")
    link.send(cancel(1))
    assert link.closed_because == "first"
