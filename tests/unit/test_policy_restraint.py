"""What a policy may change, and when: bounds, rests, hysteresis; whatever it wishes."""

from collections import Counter
from itertools import product

import pytest
from fleet_tables import fleet_of
from hypothesis import given
from hypothesis import strategies as st

from sluice.domain.ids import SequenceId
from sluice.domain.role import Role
from sluice.policy.fleet_table import ROLE_BITS, FleetTable
from sluice.policy.policy import Flip, Move
from sluice.policy.restraint import Held, InMotion, Restraint, RestraintLimits

P, D, M = Role.PREFILL, Role.DECODE, Role.MIXED
LIMITS = RestraintLimits(moves_max=3, worker_moves_max=2)


def fleet(*roles: Role) -> FleetTable:
    return fleet_of(*((role, {}) for role in roles))


def wish(sequence: int, to: int) -> Move:
    return Move(sequence=SequenceId(sequence), to=to, why="test")


def at(slot: int, *, target: int | None = None, can_move: bool = True, context_tokens: int = 100) -> InMotion:
    return InMotion(slot=slot, context_tokens=context_tokens, target=target, can_move=can_move)


def ask(restraint: Restraint, table: FleetTable, wishes: list[Move], known: dict[int, InMotion],
        *, under_way: tuple[InMotion, ...] = (), now_s: float = 100.0) -> list[Held | None]:  # fmt: skip
    restraint.look(table, now_s=now_s)
    sequences = {SequenceId(number): one for number, one in known.items()}
    return restraint.moves(wishes, table, sequences, under_way=under_way, now_s=now_s)


def test_a_sequence_moves_once_at_a_time_and_then_rests() -> None:
    restraint, table = Restraint(LIMITS), fleet(D, D, D)
    assert ask(restraint, table, [wish(1, 1), wish(1, 2)], {1: at(0)}) == [None, Held.UNFIT]
    moving = at(0, target=1, can_move=False)
    assert ask(restraint, table, [wish(1, 2)], {1: moving}, under_way=(moving,), now_s=100.1) == [Held.UNFIT]
    assert ask(restraint, table, [wish(1, 0)], {1: at(1)}, now_s=102.9) == [Held.RESTING]
    assert ask(restraint, table, [wish(1, 0)], {1: at(1)}, now_s=103.1) == [None]


@pytest.mark.parametrize("to", [-1, 0, 1, 2, 3, 4])
def test_a_move_goes_only_where_it_can_be_decoded(to: int) -> None:
    table = fleet_of((D, {}), (P, {}), (D, {"free_blocks": 6}), (D, {"is_ready": 0}))
    assert ask(Restraint(LIMITS), table, [wish(1, to)], {1: at(0)}) == [Held.UNFIT]


def test_a_link_known_to_be_bad_is_not_moved_over() -> None:
    table = fleet(D, D)
    table.severed[0] = frozenset({1})
    assert ask(Restraint(LIMITS), table, [wish(1, 1)], {1: at(0)}) == [Held.UNFIT]


def test_a_worker_that_failed_it_is_no_target() -> None:
    barred = InMotion(slot=0, context_tokens=100, target=None, can_move=True, barred=frozenset({1}))
    assert ask(Restraint(LIMITS), fleet(D, D, D), [wish(1, 1)], {1: barred}) == [Held.UNFIT]
    assert ask(Restraint(LIMITS), fleet(D, D, D), [wish(1, 2)], {1: barred}) == [None]


def test_few_moves_are_under_way_at_a_time_of_a_worker_and_in_all() -> None:
    table = fleet(D, D, D, D, D, D)
    known = {number: at(number % 3) for number in range(6)}
    away = [wish(0, 3), wish(3, 4), wish(1, 3), wish(2, 3), wish(4, 5)]
    assert ask(Restraint(LIMITS), table, away, known) == [None, None, None, Held.BUSY, Held.BUSY]
    drained = (at(0, target=3), at(0, target=4))
    assert ask(Restraint(LIMITS), table, [wish(0, 5), wish(1, 5)], known, under_way=drained) == [Held.BUSY, None]
    assert ask(Restraint(RestraintLimits(moves_max=0)), table, [wish(0, 3)], known) == [Held.OFF]


SLOTS = st.integers(-1, 5)


@given(
    roles=st.lists(st.sampled_from(list(Role)), min_size=1, max_size=5),
    where=st.lists(st.tuples(st.integers(0, 4), SLOTS, st.booleans()), max_size=8),
    looks=st.lists(st.lists(st.tuples(st.integers(0, 9), SLOTS), max_size=8), max_size=5),
)
def test_no_wishes_lead_past_a_bound(
    roles: list[Role], where: list[tuple[int, int, bool]], looks: list[list[tuple[int, int]]]
) -> None:
    restraint, table = Restraint(LIMITS), fleet(*roles)
    known = {number: at(slot % len(roles), can_move=can_move) for number, (slot, _, can_move) in enumerate(where)}
    last_s: dict[int, float] = {}
    for number, wishes in enumerate(looks):
        now_s = 100.0 + number
        moves = [wish(sequence, to) for sequence, to in wishes]
        begun = [move for move, held in zip(moves, ask(restraint, table, moves, known, now_s=now_s), strict=True)
                 if held is None]  # fmt: skip
        assert len(begun) <= LIMITS.moves_max
        assert len({move.sequence for move in begun}) == len(begun)
        ends = Counter(slot for move in begun for slot in (known[int(move.sequence)].slot, move.to))
        assert all(count <= LIMITS.worker_moves_max for count in ends.values())
        for move in begun:
            assert known[int(move.sequence)].can_move
            assert now_s - last_s.get(int(move.sequence), 0.0) >= LIMITS.move_rest_s
            last_s[int(move.sequence)] = now_s


def flip_at(restraint: Restraint, table: FleetTable, wanted: Flip, now_s: float, flipping: set[int]) -> Held | None:
    restraint.look(table, now_s=now_s)
    return restraint.flip(wanted, table, flipping=flipping, now_s=now_s)


def test_a_role_changes_only_when_the_wish_has_lasted() -> None:
    restraint, table = Restraint(), fleet(P, P, D)
    wanted = Flip(slot=0, role=D, why="test")
    told = [flip_at(restraint, table, wanted, 100.0 + 0.1 * look, set()) for look in range(6)]
    assert told == [Held.WAVERING] * 5 + [None]
    assert flip_at(restraint, table, wanted, 101.5, set()) is Held.WAVERING, "the wish was over in between"


def test_a_worker_keeps_a_new_role_for_a_while_whoever_gave_it() -> None:
    restraint, table = Restraint(RestraintLimits(flip_wished_s=0.0)), fleet(P, P, D, D)
    restraint.look(table, now_s=100.0)
    table.role_bits[0] = ROLE_BITS[D]
    back = Flip(slot=0, role=P, why="test")
    assert flip_at(restraint, table, back, 100.1, set()) is Held.RESTING
    assert flip_at(restraint, table, back, 115.0, set()) is Held.RESTING
    assert flip_at(restraint, table, back, 115.2, set()) is None


@pytest.mark.parametrize(("roles", "to"), list(product(product([P, D, M], repeat=3), [P, D, M])))
def test_a_flip_never_takes_a_phase_from_the_fleet(roles: tuple[Role, ...], to: Role) -> None:
    restraint, table = Restraint(RestraintLimits(flip_wished_s=0.0)), fleet(*roles)
    held = flip_at(restraint, table, Flip(slot=0, role=to, why="test"), 100.0, set())
    if roles[0] is to:
        assert held is Held.UNFIT
    elif to is M:
        assert held is None
    else:
        rest = set(roles[1:])
        assert held is (None if M in rest or rest == {P, D} else Held.NEEDED)


def test_one_role_changes_at_a_time_and_none_where_the_settings_say_so() -> None:
    table, wanted = fleet(P, P, D, D), Flip(slot=0, role=D, why="test")
    for limits, flipping, held in ((RestraintLimits(flip_wished_s=0.0), {2}, Held.BUSY),
                                   (RestraintLimits(flip_wished_s=0.0, flips_max=2), {2}, None),
                                   (RestraintLimits(flip_wished_s=0.0, flips_max=2), {0}, Held.BUSY),
                                   (RestraintLimits(flips_max=0), set[int](), Held.OFF)):  # fmt: skip
        assert flip_at(Restraint(limits), table, wanted, 100.0, flipping) is held
