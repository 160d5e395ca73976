"""One handoff, as two tables: the worker that pushes the KV cache, and the one that receives it.

This file decides; it never acts. It reads no clock and touches no network: the prefill worker
feeds a Sender, the decode worker a Receiver, and each carries out the effects it gets back, in
order. A missing row raises. docs/handoff.md is drawn from these tables by `diagram.py`.

    sender    RESERVING -> PUSHING -> COMMITTING -> DONE
               |     |        |            |
        refused|     |    ABANDONING       |
               |     `----> FAILED <-------'      the router places the sequence anew
           UNPLACED --> RESERVING again, or RESUMED here

    receiver  RESERVED --commit--> ATTACHED
                 |  `--commit of a migration--> PARKED --granted--> ATTACHED
                 `--> QUARANTINED --writes stopped--> FREED

Why FAILED ends it, and REFUSED does not: after a failure the target may have taken the sequence
over without our knowing, so nobody goes on under this epoch. Our blocks are free before the
router hears of it, and still cached: the next owner can be this worker again at little cost.
Why ABANDONING, CANCELLING and QUARANTINED exist: a push in flight may still read our blocks or
write the receiver's. No block is reused until the transport says that nothing runs (law L4).
Feed nothing to a handoff that has ended. Next: `mover.py` for the pushes, `lease.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeAlias

from sluice.domain.transitions import following


class SenderState(Enum):
    """Where a handoff is, seen by the worker that prefills."""

    RESERVING = "reserving"  # asked the target for blocks; prefill computes meanwhile
    PUSHING = "pushing"  # finished layer groups are pushed while later ones compute
    COMMITTING = "committing"  # every byte is there; asked the target to take over
    ABANDONING = "abandoning"  # gave up this target; pushes may still run
    CANCELLING = "cancelling"  # gave up the sequence; pushes may still run
    UNPLACED = "unplaced"  # refused, so surely not taken over; the router names another target, or nobody
    DONE = "done"  # the target owns the sequence
    RESUMED = "resumed"  # it decodes here after all
    FAILED = "failed"  # nobody owns it under this epoch; the router grants the next one
    CANCELLED = "cancelled"  # it is over


class SenderEvent(Enum):
    """What may happen to a sender."""

    RESERVE_GRANTED = "reserve granted"
    RESERVE_REFUSED = "reserve refused"
    RESERVE_LOST = "reserve lost"  # no answer: the target may or may not hold blocks for us
    PUSHES_DONE = "pushes done"  # prefill is over and every push of it is terminal and DONE
    PUSH_FAILED = "push failed"  # one failed or is late, or the target is known to be gone
    WRITES_STOPPED = "writes stopped"  # after giving up: every push is terminal
    COMMIT_ACCEPTED = "commit accepted"
    COMMIT_REFUSED = "commit refused"
    COMMIT_LOST = "commit lost"  # no answer, retries included: the target may have taken over
    LEASE_LOST = "lease lost"
    TARGET_NAMED = "target named"
    RESUME_HERE = "resume here"
    CANCELLED = "cancelled"  # by the client, or the first token already ended the sequence


class SenderEffect(Enum):
    """What the prefill worker must do."""

    ASK_RESERVATION = "ask reservation"
    START_PUSHES = "start pushes"
    STOP_PUSHES = "stop pushes"  # abandon those in flight, start no more
    SEND_COMMIT = "send commit"
    DROP_RESERVATION = "drop reservation"  # tell the target that we write no more; best effort
    RELEASE_BLOCKS = "release blocks"
    RESUME = "resume"
    REPORT_COMMITTED = "report committed"
    REPORT_REFUSED = "report refused"
    REPORT_FAILED = "report failed"  # the router grants the next epoch before anyone goes on


class ReceiverState(Enum):
    """Where a handoff is, seen by the worker that will decode."""

    RESERVED = "reserved"  # blocks held, grant open, writes may run
    PARKED = "parked"  # all of a migrating sequence is here; it is not ours before the router says so
    QUARANTINED = "quarantined"  # given up, grant closed, writes may still run
    ATTACHED = "attached"  # the sequence decodes here
    FREED = "freed"  # blocks are back in the pool
    LOST = "lost"  # blocks never become safe: only a restart frees them


class ReceiverEvent(Enum):
    """What may happen to a receiver."""

    COMMITTED = "committed"  # by the sender, in time, with a matching proof and the current epoch
    PARKED = "parked"  # the same for a migration: complete, but the router has not granted it
    GRANTED = "granted"  # by the router: the sequence is ours under the next epoch
    COMMIT_INVALID = "commit invalid"  # anything else that calls itself a commit
    SENDER_STOPPED = "sender stopped"  # it gave up, and none of its writes runs any more
    SENDER_GAVE_UP = "sender gave up"  # it gave up; writes may still run
    LEASE_EXPIRED = "lease expired"
    CANCELLED = "cancelled"
    WRITES_STOPPED = "writes stopped"  # the transport says so, or the sending process is known dead
    BOUND_REACHED = "bound reached"  # too much of the pool is in quarantine, or for too long


class ReceiverEffect(Enum):
    """What the decode worker must do."""

    CLOSE_GRANT = "close grant"  # then ask the transport until it is safe: WRITES_STOPPED
    END_LEASE = "end lease"
    ENTER_BATCH = "enter batch"
    REFUSE_COMMIT = "refuse commit"
    FREE_BLOCKS = "free blocks"
    RESTART_WORKER = "restart worker"


SenderRow: TypeAlias = tuple[SenderState, tuple[SenderEffect, ...]]
ReceiverRow: TypeAlias = tuple[ReceiverState, tuple[ReceiverEffect, ...]]

_S, _SE, _SX = SenderState, SenderEvent, SenderEffect
_FAIL: Final = (_SX.RELEASE_BLOCKS, _SX.REPORT_FAILED)

SENDER: Final[Mapping[tuple[SenderState, SenderEvent], SenderRow]] = {
    (_S.RESERVING, _SE.RESERVE_GRANTED): (_S.PUSHING, (_SX.START_PUSHES,)),
    (_S.RESERVING, _SE.RESERVE_REFUSED): (_S.UNPLACED, (_SX.REPORT_REFUSED,)),
    (_S.RESERVING, _SE.RESERVE_LOST): (_S.FAILED, (_SX.DROP_RESERVATION, *_FAIL)),
    (_S.RESERVING, _SE.CANCELLED): (_S.CANCELLED, (_SX.DROP_RESERVATION, _SX.RELEASE_BLOCKS)),
    (_S.PUSHING, _SE.PUSHES_DONE): (_S.COMMITTING, (_SX.SEND_COMMIT,)),
    (_S.PUSHING, _SE.PUSH_FAILED): (_S.ABANDONING, (_SX.STOP_PUSHES,)),
    (_S.PUSHING, _SE.LEASE_LOST): (_S.ABANDONING, (_SX.STOP_PUSHES,)),
    (_S.PUSHING, _SE.CANCELLED): (_S.CANCELLING, (_SX.STOP_PUSHES,)),
    # No push runs while committing, so nothing needs to be waited for.
    (_S.COMMITTING, _SE.COMMIT_ACCEPTED): (_S.DONE, (_SX.RELEASE_BLOCKS, _SX.REPORT_COMMITTED)),
    (_S.COMMITTING, _SE.COMMIT_REFUSED): (_S.FAILED, (_SX.DROP_RESERVATION, *_FAIL)),
    (_S.COMMITTING, _SE.COMMIT_LOST): (_S.FAILED, (_SX.DROP_RESERVATION, *_FAIL)),
    (_S.COMMITTING, _SE.LEASE_LOST): (_S.COMMITTING, ()),  # the answer to the commit decides
    (_S.COMMITTING, _SE.CANCELLED): (_S.CANCELLED, (_SX.DROP_RESERVATION, _SX.RELEASE_BLOCKS)),
    # The last bytes may land, or another push fail, after we gave up: it changes nothing.
    (_S.ABANDONING, _SE.PUSHES_DONE): (_S.ABANDONING, ()),
    (_S.ABANDONING, _SE.PUSH_FAILED): (_S.ABANDONING, ()),
    (_S.ABANDONING, _SE.LEASE_LOST): (_S.ABANDONING, ()),
    (_S.ABANDONING, _SE.CANCELLED): (_S.CANCELLING, ()),
    (_S.ABANDONING, _SE.WRITES_STOPPED): (_S.FAILED, (_SX.DROP_RESERVATION, *_FAIL)),
    (_S.CANCELLING, _SE.PUSHES_DONE): (_S.CANCELLING, ()),
    (_S.CANCELLING, _SE.PUSH_FAILED): (_S.CANCELLING, ()),
    (_S.CANCELLING, _SE.LEASE_LOST): (_S.CANCELLING, ()),
    (_S.CANCELLING, _SE.CANCELLED): (_S.CANCELLING, ()),
    (_S.CANCELLING, _SE.WRITES_STOPPED): (_S.CANCELLED, (_SX.DROP_RESERVATION, _SX.RELEASE_BLOCKS)),
    (_S.UNPLACED, _SE.TARGET_NAMED): (_S.RESERVING, (_SX.ASK_RESERVATION,)),
    (_S.UNPLACED, _SE.RESUME_HERE): (_S.RESUMED, (_SX.RESUME,)),
    (_S.UNPLACED, _SE.CANCELLED): (_S.CANCELLED, (_SX.RELEASE_BLOCKS,)),
}

_R, _RE, _RX = ReceiverState, ReceiverEvent, ReceiverEffect
_LET_GO: Final = (_RX.CLOSE_GRANT, _RX.END_LEASE)

RECEIVER: Final[Mapping[tuple[ReceiverState, ReceiverEvent], ReceiverRow]] = {
    # A commit says that the sender's pushes are terminal: no write runs any more.
    (_R.RESERVED, _RE.COMMITTED): (_R.ATTACHED, (*_LET_GO, _RX.ENTER_BATCH)),
    (_R.RESERVED, _RE.PARKED): (_R.PARKED, (_RX.CLOSE_GRANT,)),
    (_R.RESERVED, _RE.COMMIT_INVALID): (_R.QUARANTINED, (*_LET_GO, _RX.REFUSE_COMMIT)),
    (_R.RESERVED, _RE.SENDER_STOPPED): (_R.FREED, (*_LET_GO, _RX.FREE_BLOCKS)),
    (_R.RESERVED, _RE.SENDER_GAVE_UP): (_R.QUARANTINED, _LET_GO),
    (_R.RESERVED, _RE.LEASE_EXPIRED): (_R.QUARANTINED, _LET_GO),
    (_R.RESERVED, _RE.CANCELLED): (_R.QUARANTINED, _LET_GO),
    # Nothing writes any more: whatever ends the wait may free the blocks at once.
    (_R.PARKED, _RE.GRANTED): (_R.ATTACHED, (_RX.END_LEASE, _RX.ENTER_BATCH)),
    (_R.PARKED, _RE.SENDER_STOPPED): (_R.FREED, (_RX.END_LEASE, _RX.FREE_BLOCKS)),
    (_R.PARKED, _RE.SENDER_GAVE_UP): (_R.FREED, (_RX.END_LEASE, _RX.FREE_BLOCKS)),
    (_R.PARKED, _RE.LEASE_EXPIRED): (_R.FREED, (_RX.END_LEASE, _RX.FREE_BLOCKS)),
    (_R.PARKED, _RE.CANCELLED): (_R.FREED, (_RX.END_LEASE, _RX.FREE_BLOCKS)),
    (_R.QUARANTINED, _RE.COMMITTED): (_R.QUARANTINED, (_RX.REFUSE_COMMIT,)),
    (_R.QUARANTINED, _RE.COMMIT_INVALID): (_R.QUARANTINED, (_RX.REFUSE_COMMIT,)),
    (_R.QUARANTINED, _RE.SENDER_STOPPED): (_R.FREED, (_RX.FREE_BLOCKS,)),
    (_R.QUARANTINED, _RE.SENDER_GAVE_UP): (_R.QUARANTINED, ()),
    (_R.QUARANTINED, _RE.CANCELLED): (_R.QUARANTINED, ()),
    (_R.QUARANTINED, _RE.WRITES_STOPPED): (_R.FREED, (_RX.FREE_BLOCKS,)),
    (_R.QUARANTINED, _RE.BOUND_REACHED): (_R.LOST, (_RX.RESTART_WORKER,)),
}

SENDER_ENDS: Final = frozenset({_S.DONE, _S.RESUMED, _S.FAILED, _S.CANCELLED})
RECEIVER_ENDS: Final = frozenset({_R.ATTACHED, _R.FREED, _R.LOST})


@dataclass(slots=True)
class Sender:
    """The current state of one handoff at the prefill worker."""

    state: SenderState = SenderState.RESERVING

    @property
    def has_ended(self) -> bool:
        """Whether nothing may be fed to it any more."""
        return self.state in SENDER_ENDS

    def on(self, event: SenderEvent) -> tuple[SenderEffect, ...]:
        """Apply `event`; returns what to do now, in order. Raises IllegalTransitionError."""
        self.state, effects = following(SENDER, self.state, event)
        return effects


@dataclass(slots=True)
class Receiver:
    """The current state of one handoff at the decode worker."""

    state: ReceiverState = ReceiverState.RESERVED

    @property
    def has_ended(self) -> bool:
        """Whether nothing may be fed to it any more."""
        return self.state in RECEIVER_ENDS

    def on(self, event: ReceiverEvent) -> tuple[ReceiverEffect, ...]:
        """Apply `event`; returns what to do now, in order. Raises IllegalTransitionError."""
        self.state, effects = following(RECEIVER, self.state, event)
        return effects
