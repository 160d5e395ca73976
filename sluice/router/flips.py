"""Changes of role, step by step: a worker is emptied if it must be, told its role, awaited.

    begin --its work may stay--------------------------> TURNING --says the role, admits work--> done
      '-- else --> EMPTYING --drained--> told its role --^   '--not in time--> failed
                      '--not in time: it admits work again --> failed        (any) gone --> failed

To or from encode a worker has to load the other half of the model: it is gone while it does, and what joins under its
name is another incarnation.

People, operators and policies ask for them. Two routers may ask one worker at once: it takes the role it is
told first, and the flip of whoever was slower has failed. Owns what is under way; never waits: the dispatcher
steps it with every heartbeat. Evacuation moves the sequences. Next: `evacuation.py`.
"""

import asyncio
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final, assert_never

from sluice.domain.ids import WorkerId
from sluice.domain.role import Lifecycle, Role
from sluice.errors import InvalidRequestError, OverloadedError
from sluice.router.fleet import Fleet, Member
from sluice.wire.gen import sluice_pb2 as pb

TURN_S_MAX: Final = 10.0
"""For an emptied worker to take its role."""

LOAD_S_MAX: Final = 300.0
"""For an emptied worker to come back with the other half of the model."""

EMPTY_MARGIN_S: Final = 5.0
"""Beyond the drain's own deadline before a flip is given up."""

_log = logging.getLogger(__name__)


class Stage(Enum):
    """Where a flip is."""

    EMPTYING = auto()
    TURNING = auto()
    DONE = auto()
    FAILED = auto()


@dataclass(slots=True, eq=False)
class RoleChange:
    """One worker's flip. `problem` says why it failed."""

    member: Member
    before: Role
    role: Role
    why: str
    stage: Stage
    ends_s: float  # of this stage; 0.0: as long as it takes
    is_across: bool = False  # the other half of the model has to be loaded
    problem: str = ""
    was_draining: bool = False  # as far as its heartbeats have told
    over: asyncio.Event = field(default_factory=asyncio.Event)

    def end(self, stage: Stage, problem: str = "") -> None:
        """It is done, or has failed."""
        self.stage, self.problem = stage, problem
        self.over.set()


class Flips:
    """Every flip of one router that is under way."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._under_way: dict[WorkerId, RoleChange] = {}

    def __iter__(self) -> Iterator[RoleChange]:
        return iter(self._under_way.values())

    def begin(self, member: Member, role: Role, *, deadline_s: float, why: str, now_s: float) -> RoleChange:
        """Give a worker another role; 0 for `deadline_s` is as long as emptying it takes.

        The same wish again is the same flip. Raises OverloadedError while it takes yet another role,
        InvalidRequestError to encode where the model reads text alone.
        """
        old = self._under_way.get(member.info.worker)
        if old is not None and (old.member is member or old.is_across):
            if old.role is role:
                return old
            raise OverloadedError(f"worker {member.name} is becoming {old.role.value}; try again", retry_after_s=1)
        if old is not None:
            old.end(Stage.FAILED, "it is gone")
        if member.info.role is role:
            same = RoleChange(member, role, role, why, Stage.DONE, 0.0)
            same.end(Stage.DONE)
            return same
        if role is Role.ENCODE and member.info.image_boot is None:
            problem = f"of worker {member.name} cannot become encode: its model reads text alone"
            raise InvalidRequestError(field="role", problem=problem, remedy="name another role")
        _log.info("worker %s: %s to %s, %s", member.name, member.info.role.value, role.value, why)
        is_across = Role.ENCODE in {member.info.role, role}
        flip = RoleChange(member, member.info.role, role, why, Stage.EMPTYING, 0.0, is_across=is_across)
        self._under_way[member.info.worker] = flip
        if not is_across and _keeps_its_work(member.info.role, role):
            self._turn(flip, now_s=now_s)
        else:
            flip.ends_s = now_s + deadline_s + EMPTY_MARGIN_S if deadline_s else 0.0
            member.link.send(pb.RouterMessage(drain=pb.Drain(deadline_s=deadline_s)))
        return flip

    def step(self, *, now_s: float) -> list[RoleChange]:
        """Go on where something has happened; returns those that are over now."""
        if not self._under_way:
            return []
        for flip in self._under_way.values():
            self._step(flip, now_s=now_s)
        over = [flip for flip in self._under_way.values() if flip.over.is_set()]
        for flip in over:
            del self._under_way[flip.member.info.worker]
            outcome = flip.problem or "done"
            _log.info("worker %s: change to %s: %s", flip.member.name, flip.role.value, outcome)
        return over

    def _step(self, flip: RoleChange, *, now_s: float) -> None:
        member = flip.member
        is_late = 0.0 < flip.ends_s <= now_s
        present = self._fleet.find(member.info.worker)
        if present is not member:
            _await_return(flip, present, is_late=is_late)
            return
        if problem := _overruled(flip):
            if flip.stage is Stage.EMPTYING:  # our drain may have come after the other's order: nobody else ends it
                member.link.send(pb.RouterMessage(drain=pb.Drain(resume=True)))
            flip.end(Stage.FAILED, problem)
            return
        flip.was_draining |= member.load.lifecycle is Lifecycle.DRAINING
        match flip.stage:
            case Stage.EMPTYING:
                if member.load.lifecycle is Lifecycle.DRAINED:
                    self._turn(flip, now_s=now_s)
                elif is_late:
                    member.link.send(pb.RouterMessage(drain=pb.Drain(resume=True)))
                    flip.end(Stage.FAILED, "it could not be emptied in time; it keeps its role")
            case Stage.TURNING:
                if member.info.role is flip.role and member.is_ready:
                    flip.end(Stage.DONE)
                elif is_late:
                    member.link.send(pb.RouterMessage(drain=pb.Drain(resume=True)))
                    flip.end(Stage.FAILED, f"it has not taken the role within {_turn_s(flip):.0f} s; see its log")
            case Stage.DONE | Stage.FAILED:
                pass
            case _:
                assert_never(flip.stage)

    def _turn(self, flip: RoleChange, *, now_s: float) -> None:
        flip.stage, flip.ends_s = Stage.TURNING, now_s + _turn_s(flip)
        order = pb.SetRole(role=flip.role.value, from_role=flip.before.value)
        flip.member.link.send(pb.RouterMessage(set_role=order))
        if not flip.is_across:
            flip.member.link.send(pb.RouterMessage(drain=pb.Drain(resume=True)))


def _overruled(flip: RoleChange) -> str:
    """What somebody else has done with the worker meanwhile, if anything."""
    member = flip.member
    if member.info.role not in {flip.before, flip.role}:
        return f"another router has made it {member.info.role.value}"
    if flip.stage is Stage.EMPTYING and flip.was_draining and member.load.lifecycle is Lifecycle.READY:
        return "somebody else let it admit work again; it keeps its role"
    return ""


def _await_return(flip: RoleChange, present: Member | None, *, is_late: bool) -> None:
    """It is gone, perhaps to take itself apart; `present` is what has joined under its name since."""
    if not (flip.is_across and flip.stage is Stage.TURNING):
        flip.end(Stage.FAILED, "it is gone")
    elif present is not None and present.info.role is not flip.role:
        flip.end(Stage.FAILED, f"it came back as {present.info.role.value}")
    elif present is not None and present.is_ready:
        flip.end(Stage.DONE)
    elif is_late:
        flip.end(Stage.FAILED, f"it has not come back within {_turn_s(flip):.0f} s; see its log")


def _turn_s(flip: RoleChange) -> float:
    return LOAD_S_MAX if flip.is_across else TURN_S_MAX


def _keeps_its_work(now: Role, then: Role) -> bool:
    """Whether what runs under a role may run under the other: prompts end, tokens go on where they are chosen."""
    return then is Role.MIXED or (now is Role.MIXED and then is Role.DECODE)
