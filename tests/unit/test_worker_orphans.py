"""Sequences of a lost router: kept for a grace time, handed to whoever claims them, under a higher epoch."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from sluice.domain.ids import Epoch, RequestId, RouterId, SequenceId
from sluice.domain.role import FinishReason
from sluice.testing.sequence_states import sequence_state
from sluice.wire.gen import sluice_pb2 as pb
from sluice.worker.claims import Claims
from sluice.worker.live import Live
from sluice.worker.orphans import ENDED_MAX, Orphans


class Ear:
    """A router's end of a link."""

    def __init__(self) -> None:
        self.heard: list[pb.WorkerMessage] = []

    def send(self, message: pb.WorkerMessage) -> None:
        self.heard.append(message)


class Desk:
    """Three sequences of router A: two of request `r`, one of another; 1 has chosen tokens 50 and 51 here."""

    def __init__(self) -> None:
        self.a, self.b = Ear(), Ear()
        self.live: dict[SequenceId, Live] = {}
        self.orphans = Orphans()
        self.stayed: list[tuple[int, int]] = []
        self.claims = Claims(
            self.live, self.orphans, stay=lambda sequence, epoch: self.stayed.append((sequence, epoch))
        )
        for number, request in ((1, "r"), (2, "r"), (3, "other")):
            state = replace(sequence_state(number, range(20, 40), outputs=[49]), request=RequestId(request))
            live = Live(state, self.a, RouterId("A"), state.epoch, is_handoff=number == 2)
            self.live[state.sequence] = live
        self.live[SequenceId(1)].output += [50, 51]

    def adopt(
        self, sequence: int = 1, *, epoch: int = 1, new_epoch: int = 1001, next_index: int = 1
    ) -> pb.WorkerMessage:
        order = pb.Adopt(sequence=sequence, epoch=epoch, new_epoch=new_epoch, router="B", next_index=next_index)
        self.claims.on_message(self.b, pb.RouterMessage(adopt=order))
        return self.b.heard.pop()


def test_a_claim_finds_what_runs_but_not_what_is_being_handed_off() -> None:
    desk = Desk()
    desk.claims.on_message(desk.b, pb.RouterMessage(claim=pb.Claim(request="r")))
    (copy,) = desk.b.heard[0].copies.copies
    assert (copy.state.sequence, copy.state.epoch, copy.finish) == (1, 1, "")
    assert list(copy.state.tokens[-3:]) == [49, 50, 51]


def test_an_adopted_sequence_speaks_to_its_new_router_and_the_old_one_is_told() -> None:
    desk = Desk()
    tokens = desk.adopt(next_index=1).tokens
    assert (list(tokens.token), list(tokens.index), set(tokens.epoch)) == ([50, 51], [1, 2], {1001})
    live = desk.live[SequenceId(1)]
    assert (live.link, live.router, live.epoch) == (desk.b, "B", 1001)
    assert (live.now().router, live.now().epoch, live.state.epoch) == ("B", 1001, 1)
    (failed,) = desk.a.heard
    assert (failed.failed.epoch, failed.failed.code) == (1, "cancelled")
    assert desk.stayed == [(1, 1)]


def test_an_adoption_that_comes_too_late_is_refused_under_the_epoch_it_named() -> None:
    for sequence, epoch, new_epoch in ((1, 2, 1002), (1, 0, 1000), (1, 1, 1), (2, 1, 1001), (9, 1, 1001)):
        desk = Desk()
        failed = desk.adopt(sequence, epoch=epoch, new_epoch=new_epoch).failed
        assert (failed.sequence, failed.epoch, failed.code) == (sequence, new_epoch, "unavailable")
        assert not desk.a.heard


def test_an_orphan_that_ends_is_kept_with_its_reason_and_all_its_tokens() -> None:
    desk = Desk()
    live = desk.live[SequenceId(1)]
    desk.orphans.take_in([live])
    live.output.append(52)
    del desk.live[SequenceId(1)]
    desk.orphans.end(live, FinishReason.LENGTH)
    desk.claims.on_message(desk.b, pb.RouterMessage(claim=pb.Claim(request="r")))
    (copy,) = desk.b.heard.pop().copies.copies
    assert (copy.finish, copy.state.tokens[-1]) == ("length", 52)
    assert len(desk.orphans) == 1
    tokens = desk.adopt(next_index=3).tokens
    assert len(desk.orphans) == 0
    assert (list(tokens.token), tokens.finish[0].reason) == ([52], "length")
    assert not desk.a.heard, "nobody was there"


def test_what_ends_under_a_living_router_is_not_kept() -> None:
    orphans, live = Orphans(), Desk().live[SequenceId(1)]
    orphans.end(live, FinishReason.STOP)
    assert not orphans.ended_of(RequestId("r"))


def test_a_router_that_is_back_has_heard_or_will_ask_again() -> None:
    desk = Desk()
    live = desk.live[SequenceId(1)]
    desk.orphans.take_in([live])
    desk.orphans.end(live, FinishReason.STOP)
    desk.orphans.forget_ended_of(RouterId("A"))
    assert desk.orphans.ended(SequenceId(1)) is None


def test_at_most_so_many_ended_orphans_are_kept() -> None:
    orphans, live = Orphans(), Desk().live[SequenceId(1)]
    for number in range(ENDED_MAX + 5):
        one = replace(live, state=replace(live.state, sequence=SequenceId(number)))
        orphans.take_in([one])
        orphans.end(one, FinishReason.STOP)
    assert len(orphans.ended_of(RequestId("r"))) == ENDED_MAX


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["lose", "end", "leave", "grace"])), max_size=40))
def test_after_every_grace_nothing_is_left(history: list[tuple[int, str]]) -> None:
    orphans, lives, losses = Orphans(), {}, []
    for number, what in history:
        live = lives.setdefault(
            number,
            Live(sequence_state(number, [1, 2]), Ear(), RouterId("A"), Epoch(1), is_handoff=False),
        )
        match what:
            case "lose":
                losses.append(orphans.take_in([live]))
            case "end":
                orphans.end(live, FinishReason.STOP)
            case "leave":
                orphans.leave(live.state.sequence)
            case _ if losses:
                orphans.expire(losses.pop())
    for loss in losses:
        orphans.expire(loss)
    assert not any(orphans.expire(loss) for loss in losses)
    assert not any(orphans.ended(SequenceId(number)) for number in lives)
