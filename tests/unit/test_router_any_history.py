"""Whatever happens, in whatever order: the client gets each token once, in order, or an error.

Simulated workers follow the protocol while a seeded generator crashes them, delays their
messages, refuses and fails handoffs. Messages of one worker stay in order, as on a stream; those
of different workers overtake each other freely.
"""

import random
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sluice.domain.role import Role
from sluice.errors import NoWorkerError, WorkerLostError
from sluice.router.fleet import Member
from sluice.router.request import Request
from sluice.testing.dispatch_desk import Desk
from sluice.testing.tiny_tokenizer import make_model_directory
from sluice.text import tokenizer as tokenizer_file
from sluice.text.tokenizer import Tokenizer
from sluice.wire.gen import sluice_pb2 as pb

OUTPUT_TOKENS = 50  # what Desk.submit asks for
NAMES = {"p0": Role.PREFILL, "p1": Role.PREFILL, "d0": Role.DECODE, "d1": Role.DECODE, "m0": Role.MIXED}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return tokenizer_file.load(make_model_directory(Path(tmp_path_factory.mktemp("model"))))


def token_at(index: int) -> int:
    return 100 + index


@dataclass
class Sim:
    """One incarnation of a worker: sequences by id as (epoch, next index), and what it has said but not delivered."""

    member: Member
    running: dict[int, tuple[int, int]] = field(default_factory=dict)
    held: dict[int, pb.Start] = field(default_factory=dict)
    said: deque[pb.WorkerMessage] = field(default_factory=deque)


class History:
    """One random run."""

    def __init__(self, desk: Desk, seed: int) -> None:
        self.desk = desk
        self.dice = random.Random(seed)
        self.boots = 0
        self.sims: dict[str, Sim] = {}
        for name in NAMES:
            self.join(name)

    def join(self, name: str) -> None:
        self.boots += 1
        self.sims[name] = Sim(self.desk.join(name, NAMES[name], boot=f"{name}-{self.boots}"))

    def read(self, sim: Sim) -> None:
        """The worker reads what the router told it."""
        for message in self.desk.told(sim.member):
            match message.WhichOneof("body"):
                case "start":
                    start = message.start
                    number, index = start.state.sequence, len(start.state.tokens) - start.state.prompt_tokens
                    if start.HasField("target"):
                        sim.held[number] = start
                        self.emit(sim, number, start.state.epoch, index)
                    else:
                        sim.running[number] = (start.state.epoch, index)
                case "retarget":
                    start = sim.held.get(message.retarget.sequence)
                    if start is None or start.state.epoch != message.retarget.epoch:
                        continue
                    if message.retarget.HasField("target"):
                        start.target.CopyFrom(message.retarget.target)
                    else:
                        del sim.held[start.state.sequence]
                        index = len(start.state.tokens) - start.state.prompt_tokens + 1
                        sim.running[start.state.sequence] = (start.state.epoch, index)
                case "cancel":
                    number, epoch = message.cancel.sequence, message.cancel.epoch
                    if number in sim.running and sim.running[number][0] <= epoch:
                        del sim.running[number]
                    if number in sim.held and sim.held[number].state.epoch <= epoch:
                        del sim.held[number]

    def emit(self, sim: Sim, number: int, epoch: int, index: int) -> None:
        step = pb.StepTokens(sequence=[number], epoch=[epoch], index=[index], token=[token_at(index)])
        if index + 1 == OUTPUT_TOKENS:
            step.finish.append(pb.Finish(row=0, reason="length"))
            sim.running.pop(number, None)
            sim.held.pop(number, None)
        sim.said.append(pb.WorkerMessage(tokens=step))

    def hand_off(self, sim: Sim) -> None:
        number, start = self.dice.choice(list(sim.held.items()))
        target = next((s for s in self.sims.values() if s.member.info.boot == start.target.boot), None)
        outcomes = [pb.HANDOFF_COMMITTED] * 3 + [pb.HANDOFF_REFUSED, pb.HANDOFF_FAILED]
        outcome = self.dice.choice(outcomes) if target is not None else pb.HANDOFF_FAILED
        if outcome != pb.HANDOFF_REFUSED:
            del sim.held[number]
        # A failed commit may have been carried out all the same: only its answer was lost.
        is_carried_out = outcome == pb.HANDOFF_COMMITTED or (outcome == pb.HANDOFF_FAILED and self.dice.random() < 0.5)
        if target is not None and is_carried_out:
            index = len(start.state.tokens) - start.state.prompt_tokens + 1
            target.running[number] = (start.state.epoch, index)
        report = pb.HandoffReport(sequence=number, epoch=start.state.epoch, outcome=outcome)
        sim.said.append(pb.WorkerMessage(handoff=report))

    def act(self, *, crashes: float) -> None:
        """One random thing happens."""
        name = self.dice.choice(list(self.sims))
        sim = self.sims[name]
        choice = self.dice.random()
        if choice < crashes:
            self.desk.dispatcher.lose(sim.member, "crash")
            self.join(name)
        elif choice < 0.3:
            self.read(sim)
        elif choice < 0.6 and sim.running:
            number, (epoch, index) = self.dice.choice(list(sim.running.items()))
            sim.running[number] = (epoch, index + 1)
            self.emit(sim, number, epoch, index)
        elif choice < 0.7 and sim.held:
            self.hand_off(sim)
        elif sim.said:
            self.desk.dispatcher.on_message(sim.member, sim.said.popleft())


async def drain(request: Request, got: list[int]) -> bool:
    """Read what is there; True when the request is over. Raises its error."""
    if not request.outbox.unread_tokens and request.open_sequences and request.error is None:
        return False
    for piece in await request.outbox.take():
        assert piece.first_index == len(got), "no token lost or repeated"
        got += piece.tokens
        if piece.finish is not None:
            return True
    return False


@pytest.mark.parametrize("seed", range(60))
async def test_tokens_survive_any_history(tokenizer: Tokenizer, seed: int) -> None:
    desk = Desk(tokenizer)
    history = History(desk, seed)
    prompts = [tuple(range(50 + i, 50 + i + length)) for i, length in enumerate((40, 100, 200))]
    open_requests = {i: (desk.submit(prompt=prompt), list[int]()) for i, prompt in enumerate(prompts)}
    crashes = 0.004 * (seed % 5)
    for _ in range(20_000):
        history.act(crashes=crashes)
        for number, (request, got) in list(open_requests.items()):
            try:
                is_over = await drain(request, got)
            except (WorkerLostError, NoWorkerError):
                is_over = True
            else:
                if is_over:
                    assert got == [token_at(i) for i in range(OUTPUT_TOKENS)]
            if is_over:
                desk.dispatcher.release(request)
                del open_requests[number]
        if not open_requests:
            break
    assert not open_requests, "every request ends"
    assert desk.is_empty()
