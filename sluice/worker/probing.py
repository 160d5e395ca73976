"""Probes the links to peers: a canary's KV over the real transport, and the peer's next token over that KV.

    our engine: canary held --Reserve, push (several times, timed), Commit--> peer attaches, answers one token
    GB/s at or above the floor, and its token is ours?  the link may be used

Everything is released at once, on both sides. What a result means, and when to look again, is decided
by `kv_transfer/pairs.py`. Never touches requests. Next: `canary.py`.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import replace
from typing import Final

import grpc

from sluice.domain.ids import BootId, WorkerId
from sluice.domain.load import LinkLoad
from sluice.domain.role import Lifecycle, Role
from sluice.domain.sequence import SequenceState
from sluice.engine.contract import KvExtent
from sluice.errors import ReservationRefusedError, SluiceError, TransferError
from sluice.kv_transfer.link_stats import PeerStats
from sluice.kv_transfer.pairs import Finding, PairTable, PeerRole, Probe
from sluice.wire.gen import sluice_pb2 as pb
from sluice.wire.status import explain
from sluice.worker.canary import PROMPT_TOKENS, Canary
from sluice.worker.live import Hearer
from sluice.worker.outbound import Outbound, Surroundings, Wanted
from sluice.worker.push_progress import PushProgress
from sluice.worker.successions import Successions
from sluice.worker.written import WRITTEN

log = logging.getLogger(__name__)

ROOM_TOKENS_MAX: Final = 1024
REPEATS_MAX: Final = 16  # pushes of the same bytes in one measurement
MEASUREMENTS_MAX: Final = 3  # the fastest counts: a link is as good as its best, the rest is noise
SLOW_S_MIN: Final = 0.02  # a measurement shorter than this says nothing about speed
RESERVE_S_MAX: Final = 3.0
PUSHES_S_MAX: Final = 10.0
CANARY_AGAIN_S: Final = 1.0
LOOK_S_MAX: Final = 5.0


class Prober:
    """Keeps this worker's links probed. Implements `worker.stages.Fabric`."""

    def __init__(
        self, around: Surroundings, canary: Canary, *, on_replaced: Callable[[BootId], None] = lambda _: None
    ) -> None:
        """`on_replaced` hears of incarnations of other workers that have ended: newer ones have joined."""
        self._around = around
        self._canary = canary
        self._successions: Successions[Hearer] = Successions()
        self._on_replaced = on_replaced
        self._pairs = PairTable(probe_every_s=around.settings.probe_every_s)
        self._told: dict[Hearer, dict[BootId, pb.PeerRow]] = {}
        self._targets: dict[BootId, pb.DecodeTarget] = {}
        self._attempts: dict[BootId, Attempt] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._last_unready: tuple[str, ...] = ()
        self._is_told = False  # some router has said who the peers are, if only that there are none

    # ---------------------------------------------------------------- what the shell says and asks

    def follow(self, link: Hearer, peers: pb.Peers) -> None:
        self._is_told = True
        self._told[link] = {BootId(row.target.boot): row for row in peers.peers}
        named = {WorkerId(row.target.worker): BootId(row.target.boot) for row in peers.peers}
        for boot in self._successions.hear(link, named):
            self._on_replaced(boot)
        self._follow_all()

    def forget(self, link: Hearer) -> None:
        is_known = self._told.pop(link, None) is not None
        self._successions.forget(link)
        if is_known and self._told:  # the last router's word stays: somebody will come back
            self._follow_all()

    def suspect(self, boot: BootId) -> None:
        self._pairs.suspect(boot, now_s=self._now_s())
        self._wake.set()

    def heard(self) -> None:
        self._pairs.heard(now_s=self._now_s())
        self._announce()

    def unready(self, role: Role) -> list[str]:
        if self._canary.problem:
            return [self._canary.problem]
        if not self._is_told:
            return ["no router has said yet who the peers are"]
        return self._pairs.unready(role, now_s=self._now_s())

    def links(self, carried: Iterable[PeerStats]) -> tuple[LinkLoad, ...]:
        """Every link that is known, with what it has `carried`, for people and routers."""
        stats = {one.boot: one for one in carried}
        now_s = self._now_s()
        rows = []
        for boot in dict.fromkeys((*self._pairs.pairs, *stats)):
            pair, done = self._pairs.pairs.get(boot), stats.get(boot)
            if done is None and (pair is None or not pair.peer.is_target):
                continue
            done = done or PeerStats(worker=pair.peer.worker if pair else WorkerId(""), boot=boot)
            rows.append(
                LinkLoad(
                    peer=done.worker,
                    transport=done.transport,
                    pushes=done.pushes_done,
                    failed=done.pushes_failed,
                    moved_bytes=done.bytes_done,
                    gb_per_s=done.gigabytes_per_s,
                    last_error=done.last_error,
                    peer_boot=boot,
                    problem=pair.problem if pair is not None and pair.is_bad else "",
                    probe_gb_per_s=pair.gb_per_s if pair is not None else 0.0,
                    probe_age_s=None if pair is None or pair.probed_s is None else now_s - pair.probed_s,
                )
            )
        return tuple(rows)

    def open_transfers(self) -> list[Outbound]:
        """Transfers whose leases must be renewed."""
        return [attempt.outbound for attempt in self._attempts.values()]

    # ---------------------------------------------------------------- its life

    async def run(self) -> None:
        """Answer the canary, then probe what is due, until cancelled."""
        await self._canary.answer_alone()
        while self._canary.problem:
            log.error("%s", self._canary.problem)
            await asyncio.sleep(CANARY_AGAIN_S)
            await self._canary.answer_alone()
        self._announce()
        while True:
            self._wake.clear()
            if self._around.shell.standing.lifecycle is Lifecycle.READY:
                for boot in self._pairs.due(now_s=self._now_s()):
                    target = self._targets[boot]
                    self._spawn(self._probe(boot, target), name=f"probe {target.worker}")
            self._announce()
            try:
                async with asyncio.timeout(self._pause_s()):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def close(self) -> None:
        """Give up the probes under way and wait until their memory is safe."""
        for attempt in self._attempts.values():
            attempt.give_up()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _pause_s(self) -> float:
        due_s = self._pairs.next_due_s()
        return LOOK_S_MAX if due_s is None else min(max(due_s - self._now_s(), 0.05), LOOK_S_MAX)

    async def _probe(self, boot: BootId, target: pb.DecodeTarget) -> None:
        attempt = self._attempts[boot] = Attempt(self._around, self._canary)
        try:
            probe = await attempt.run(target)
            self._around.metrics.probed(probe.finding.value)
            if probe.problem:
                log.info("probe of %s: %s", target.worker, probe.problem)
            self._pairs.ended(boot, probe, now_s=self._now_s())
            self._announce()
            await attempt.clean_up()
        finally:
            del self._attempts[boot]
            self._pairs.released(boot)
            self._wake.set()

    def _follow_all(self) -> None:
        rows = {boot: row for told in self._told.values() for boot, row in told.items()}
        self._targets = {boot: row.target for boot, row in rows.items()}
        peers = {boot: PeerRole(WorkerId(row.target.worker), Role(row.role)) for boot, row in rows.items()}
        self._pairs.follow(peers, now_s=self._now_s())
        self._wake.set()
        self._announce()

    def _announce(self) -> None:
        """Routers hear at once when this worker becomes ready, or stops being so."""
        unready = tuple(self.unready(self._around.shell.info.role))
        if bool(unready) != bool(self._last_unready):
            log.info("ready" if not unready else f"not ready: {'; '.join(unready)}")
            self._around.shell.beat()
        self._last_unready = unready
        self._around.metrics.unusable_links.set(sum(pair.is_bad for pair in self._pairs.pairs.values()))

    def _spawn(self, work: Coroutine[None, None, None], *, name: str) -> None:
        self._tasks.add(task := asyncio.create_task(work, name=name))
        task.add_done_callback(self._on_done)

    def _on_done(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s broke", task.get_name(), exc_info=error)

    def _now_s(self) -> float:
        return self._around.shell.now_s()


class Attempt:
    """One probe of one peer: `run`, then `clean_up`."""

    def __init__(self, around: Surroundings, canary: Canary) -> None:
        self._around = around
        self._canary = canary
        self._changed = asyncio.Event()
        self._held: SequenceState | None = None
        self._is_given_up = False
        self._is_attached = False
        self.outbound = self._fresh_outbound()

    def _fresh_outbound(self) -> Outbound:
        return Outbound(self._around, parent="", on_change=self._changed.set, reserve_s_max=RESERVE_S_MAX)

    def give_up(self) -> None:
        """The worker stops."""
        self._is_given_up = True
        self._changed.set()

    async def run(self, target: pb.DecodeTarget) -> Probe:
        """Measure the link and have the canary answered over it. Never raises what a peer or link can cause."""
        try:
            self._held, extent = await self._canary.hold()
        except SluiceError as error:  # our own engine is too busy, or at fault: that says nothing about the link
            return Probe(finding=Finding.DECLINED, problem=explain(error))
        try:
            return await self._try(target, self._held, extent)
        except ReservationRefusedError as error:
            return Probe(finding=Finding.DECLINED, problem=f"declined: {error}")
        except (SluiceError, grpc.RpcError) as error:
            return Probe(finding=Finding.FAILED, problem=explain(error))

    async def clean_up(self) -> None:
        """Wait until nothing of the probe is written or read any more, and let go of it on both sides."""
        self.outbound.pushes.abandon()
        await self.outbound.pushes.wait_ended()
        if not self._is_attached:
            await self.outbound.drop("the probe is over")
        if self._held is not None:
            await self._canary.let_go(self._held.sequence)

    async def _try(self, target: pb.DecodeTarget, state: SequenceState, extent: KvExtent) -> Probe:
        room_tokens = await self._reserve(target, state)
        gb_per_s, is_slow = await self._measure(extent, room_tokens)
        reply = await self.outbound.commit(
            state, blocks=extent.blocks, computed=PROMPT_TOKENS, parked=False, is_canary=True
        )
        self._is_attached = reply.attached
        if not reply.attached:
            raise TransferError(f"canary refused: {reply.refusal}")
        if reply.canary_token != self._canary.tokens[1]:
            raise TransferError(f"canary: token {reply.canary_token} there, {self._canary.tokens[1]} here")
        if is_slow:
            floor = self._around.settings.floor_gb_per_s
            problem = f"{gb_per_s:.3g} GB/s over {self.outbound.transport}, below the floor of {floor:g}"
            return Probe(finding=Finding.SLOW, gb_per_s=gb_per_s, problem=problem)
        return Probe(finding=Finding.GOOD, gb_per_s=gb_per_s)

    async def _reserve(self, target: pb.DecodeTarget, state: SequenceState) -> int:
        """Blocks to measure with, or one; returns for how many tokens. Raises as `Outbound.reserve`."""
        geometry = self._around.geometry
        wide = min(ROOM_TOKENS_MAX, self._around.shell.info.sequence_tokens_max - 1)
        wide_bytes = self._around.settings.probe_mib * 1024 * 1024
        blocks = max(1, min(wide // geometry.block_tokens, wide_bytes // (geometry.region_bytes // geometry.blocks)))
        wanted = Wanted(
            sequence=state.sequence,
            epoch=state.epoch,
            tokens=blocks * geometry.block_tokens,
            unit_hashes=(),
            root=state.root,
            is_canary=True,
        )
        try:
            await self.outbound.reserve(target, wanted)
        except ReservationRefusedError:
            if blocks == 1:
                raise
            wanted, self.outbound = replace(wanted, tokens=geometry.block_tokens), self._fresh_outbound()
            await self.outbound.reserve(target, wanted)
        return wanted.tokens

    async def _measure(self, extent: KvExtent, room_tokens: int) -> tuple[float, bool]:
        """The best of a few measurements, in GB/s, and whether all were too slow. Raises TransferError."""
        best = 0.0
        for _ in range(MEASUREMENTS_MAX):
            moved_bytes = self.outbound.pushes.moved_bytes
            started_s = self._around.shell.now_s()
            await self._push(extent, room_tokens)
            seconds = max(self._around.shell.now_s() - started_s, 1e-9)
            best = max(best, (self.outbound.pushes.moved_bytes - moved_bytes) / seconds / 1e9)
            if best >= self._around.settings.floor_gb_per_s or seconds < SLOW_S_MIN:
                return best, False
        return best, True

    async def _push(self, extent: KvExtent, room_tokens: int) -> None:
        """Push the canary's block into every block of the room, as often as a measurement needs; wait for all of it."""
        geometry, wanted_bytes = self._around.geometry, self._around.settings.probe_mib * 1024 * 1024
        start_bytes = self.outbound.pushes.moved_bytes
        for _ in range(REPEATS_MAX):
            progress = PushProgress(groups=geometry.groups, block_tokens=geometry.block_tokens)
            progress.start_over(cached_tokens=self.outbound.cached_tokens)
            progress.seal(end=room_tokens)
            source = extent.blocks[:1] * (room_tokens // geometry.block_tokens)
            self.outbound.push(progress, blocks=source, fence=WRITTEN)
            if self.outbound.pushes.moved_bytes - start_bytes >= wanted_bytes:
                break
        deadline_s = self._around.shell.now_s() + PUSHES_S_MAX
        while True:
            if why := self.outbound.failed_push():
                raise TransferError(why)
            left_s = deadline_s - self._around.shell.now_s()
            if self._is_given_up or left_s <= 0:
                raise TransferError(f"the probe's bytes did not arrive within {PUSHES_S_MAX:g} s")
            if not self.outbound.pushes:
                return
            self._changed.clear()
            try:
                async with asyncio.timeout(left_s):
                    await self._changed.wait()
            except TimeoutError:
                continue
