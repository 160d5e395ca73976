"""Moves KV with NIXL over UCX: device memory, NVLink, RDMA. The only file that knows NIXL.

One-sided writes: the receiver's code never runs, so nobody checks grants and revoke() can never
promise anything. UCX cannot cancel: bytes land after a request is released, even bytes written to
the source later. So a push here ends only when UCX says so; abandon() and disconnect() merely stop
caring. A stopped peer never ends a push: the caller's deadline and the quarantine bound do.

Settings, with the reason each has: the progress thread sleeps 1 ms between events (it spins a core
otherwise); TCP_USER_TIMEOUT turns a cut link into an error in seconds; two SYNs bound connecting;
256 KiB segments help many small ranges; strict locking, because two threads do call. The bindings are used
directly: their Python wrapper cannot set the progress thread's pause. Never fork after register();
the region must stay mapped until the process ends, for a peer may write to it until then.
Next: `transport.py`.
"""

import importlib
import struct
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sluice.clock import Clock, SystemClock
from sluice.domain.ids import BootId
from sluice.errors import TransferError, TransportUnavailableError
from sluice.kv_transfer.byte_copy import is_inside
from sluice.kv_transfer.transport import Descriptors, PeerInfo, Push, PushResult, PushState, Region

CUDA_MAJORS: Final = (13, 12)
PROGRESS_PAUSE_US: Final = 1000
ENGINE_CONFIG: Final = (
    "TCP_USER_TIMEOUT=5s,TCP_KEEPIDLE=2s,TCP_KEEPINTVL=1s,TCP_KEEPCNT=3,"
    "KEEPALIVE_INTERVAL=2s,TCP_SYN_CNT=2,TCP_TX_SEG_SIZE=256k,TCP_RX_SEG_SIZE=256k"
)
INFO_HEAD: Final = struct.Struct("<Qi")  # address and GPU of the region; the agent's metadata follows
MAIN_MEMORY: Final = -1  # in place of a GPU's number

_keep_alive: Final[list[Any]] = []
"""Agents closed with pushes in flight: destroying one would free memory that UCX still uses."""


@dataclass(slots=True, kw_only=True)
class _Peer:
    """A peer whose metadata is loaded."""

    address: int
    gpu: int
    region_bytes: int
    is_broken: bool = False


@dataclass(slots=True, kw_only=True, eq=False)
class _Transfer:
    """A posted write and the handles that live as long as it does."""

    push: Push
    since_s: float
    request: int
    lists: list[int]


class NixlTransport:
    """The NIXL backend of `transport.Transport`."""

    name = "nixl"

    def __init__(self, *, boot: BootId, cuda_major: int | None = None, clock: Clock | None = None) -> None:
        """Load NIXL for `cuda_major`, or whichever is installed. Raises TransportUnavailableError."""
        self._bind = _load(cuda_major)
        self._boot = boot
        self._clock = clock or SystemClock()
        self._agent: Any = None
        self._registered: Any = None
        self._region = Region(address=0, size_bytes=0, device="cpu", view=None)
        self._gpu = MAIN_MEMORY
        self._peers: dict[BootId, _Peer] = {}
        self._leaving: set[BootId] = set()  # disconnected, with writes still running
        self._active: list[_Transfer] = []
        self._results: list[PushResult] = []

    def register(self, region: Region) -> None:
        """Raises TransportUnavailableError if UCX cannot start or cannot register this memory."""
        config = self._bind.nixlAgentConfig()
        config.useProgThread = True
        config.pthrDelay = PROGRESS_PAUSE_US
        config.syncMode = self._bind.NIXL_THREAD_SYNC_STRICT
        self._region = region
        self._gpu = MAIN_MEMORY if region.device == "cpu" else int(region.device.partition(":")[2] or 0)
        try:
            self._agent = self._bind.nixlAgent(self._boot, config)
            backend = self._agent.createBackend("UCX", {"engine_config": ENGINE_CONFIG})
            place = [(region.address, region.size_bytes, max(self._gpu, 0), "")]
            self._registered = self._bind.nixlRegDList(self._segment(self._gpu), place)
            self._agent.registerMem(self._registered, [backend])
        except _errors(self._bind) as error:
            raise TransportUnavailableError(
                f"nixl: UCX cannot serve {region.size_bytes >> 20} MiB on {region.device} ({error}); "
                "for a GPU check that the driver and the nixl package have the same CUDA major version"
            ) from error

    def local_info(self) -> bytes:
        assert self._agent, "register() comes first"
        return INFO_HEAD.pack(self._region.address, self._gpu) + bytes(self._agent.getLocalMD())

    def can_reach(self, peer: PeerInfo) -> bool:
        """Whether the peer runs NIXL too: trying it takes a connect()."""
        return len(dict(peer.infos).get(self.name, b"")) > INFO_HEAD.size

    def connect(self, peer: PeerInfo) -> None:
        """Blocks up to about 7 s if the peer's host drops packets."""
        known = self._peers.get(peer.boot)
        if known and not known.is_broken and peer.boot not in self._leaving:
            return
        if any(transfer.push.peer == peer.boot for transfer in self._active):
            raise TransferError(f"nixl: writes to {peer.worker} ({peer.boot}) are still ending; try again")
        self._forget(peer.boot)
        info = dict(peer.infos).get(self.name, b"")
        if len(info) <= INFO_HEAD.size:
            raise TransferError(f"nixl: peer {peer.worker} sent no usable connection data")
        address, gpu = INFO_HEAD.unpack_from(info)
        try:
            name = bytes(self._agent.loadRemoteMD(info[INFO_HEAD.size :])).decode()
            if name == peer.boot:
                self._agent.makeConnection(name, [])
        except _errors(self._bind) as error:
            self._forget(peer.boot)
            raise TransferError(f"nixl: cannot connect to {peer.worker} ({peer.boot}): {error}") from error
        if name != peer.boot:
            self._forget(BootId(name))
            raise TransferError(f"nixl: {peer.worker} announced {peer.boot}, its agent is {name}")
        self._peers[peer.boot] = _Peer(address=address, gpu=gpu, region_bytes=peer.region_bytes)

    def disconnect(self, boot: BootId) -> None:
        """Pushes that run cannot be stopped: they end by themselves and poll() reports how."""
        if boot in self._peers:
            self._leaving.add(boot)
            self._let_leave()

    def submit(self, push: Push) -> None:
        since_s, peer, ranges = self._clock.now_s(), self._peers.get(push.peer), push.descriptors
        if peer is None or push.peer in self._leaving:
            self._settle(push, since_s, f"not connected to {push.peer}")
        elif not is_inside(ranges, source_bytes=self._region.size_bytes, target_bytes=peer.region_bytes):
            self._settle(push, since_s, "a range lies outside the region")
        elif not len(ranges):
            self._settle(push, since_s, "")
        else:
            self._post(push, since_s, peer)

    def abandon(self, push: int) -> None:
        """Changes nothing: UCX cannot stop a write; poll() says when it has ended."""

    def poll(self) -> list[PushResult]:
        for transfer in list(self._active):
            try:
                status = self._agent.getXferStatus(transfer.request)
            except _errors(self._bind) as error:
                self._end(transfer, f"nixl: {error}")
            else:
                if status == self._bind.NIXL_SUCCESS:
                    self._end(transfer, "")
        self._let_leave()
        results, self._results = self._results, []
        return results

    def allow(self, *, grant: bytes, ranges: Descriptors, lease_s: float) -> None:
        """Nothing enforces grants here: whoever has our connection data can write anywhere in the region."""

    def renew(self, grant: bytes, *, lease_s: float) -> None:
        """Nothing ends here by itself either."""

    def revoke(self, grant: bytes) -> bool:  # noqa: ARG002 - one-sided: there is nothing to look up
        """Never safe by itself: only the sender, or its death, says that its writes have stopped."""
        return False

    def close(self) -> None:
        if self._agent is None:
            return
        if self._active:
            _keep_alive.append((self._agent, self._active))
        else:
            for boot in list(self._peers):
                self._forget(boot)
            self._agent.deregisterMem(self._registered, [])
        self._agent = None

    def _segment(self, gpu: int) -> object:
        return self._bind.DRAM_SEG if gpu == MAIN_MEMORY else self._bind.VRAM_SEG

    def _post(self, push: Push, since_s: float, peer: _Peer) -> None:
        """Hand the write to UCX. Within a host the copy may happen here, without the interpreter lock."""
        ranges, agent, bind = push.descriptors, self._agent, self._bind
        lists: list[int] = []
        request: int | None = None
        indices = np.arange(len(ranges), dtype=np.int32)
        try:
            ours = _places(self._region.address + ranges.source, ranges.length, self._gpu)
            lists.append(
                agent.prepXferDlist(bind.NIXL_INIT_AGENT, bind.nixlXferDList(self._segment(self._gpu), ours), [])
            )
            theirs = _places(peer.address + ranges.target, ranges.length, peer.gpu)
            lists.append(agent.prepXferDlist(push.peer, bind.nixlXferDList(self._segment(peer.gpu), theirs), []))
            request = agent.makeXferReq(bind.NIXL_WRITE, lists[0], indices, lists[1], indices, b"", [])
            agent.postXferReq(request, b"")
        except _errors(bind) as error:
            peer.is_broken = True
            self._release(request, lists)
            self._settle(push, since_s, f"nixl: {error}")
        else:
            assert request is not None, "a posted write has a request"
            self._active.append(_Transfer(push=push, since_s=since_s, request=request, lists=lists))

    def _end(self, transfer: _Transfer, reason: str) -> None:
        self._active.remove(transfer)
        self._release(transfer.request, transfer.lists)
        peer = self._peers.get(transfer.push.peer)
        if reason and peer:
            peer.is_broken = True
        self._settle(transfer.push, transfer.since_s, reason)

    def _release(self, request: int | None, lists: list[int]) -> None:
        """Give handles of a terminal transfer back."""
        try:
            if request is not None:
                self._agent.releaseXferReq(request)
            for handle in lists:
                self._agent.releasedDlistH(handle)
        except _errors(self._bind):
            pass  # the link is down and took them along

    def _let_leave(self) -> None:
        """Forget the disconnected peers whose last write has ended."""
        busy = {transfer.push.peer for transfer in self._active}
        for boot in self._leaving - busy:
            self._forget(boot)

    def _forget(self, boot: BootId) -> None:
        self._peers.pop(boot, None)
        self._leaving.discard(boot)
        try:
            self._agent.invalidateRemoteMD(boot)
        except _errors(self._bind):
            pass  # it was never loaded, or the link took it along

    def _settle(self, push: Push, since_s: float, reason: str) -> None:
        """Record a terminal state; an empty reason means done."""
        state = PushState.FAILED if reason else PushState.DONE
        seconds = self._clock.now_s() - since_s
        self._results.append(PushResult(push=push.push, state=state, reason=reason, seconds=seconds))


def _places(addresses: NDArray[np.int64], lengths: NDArray[np.int64], gpu: int) -> NDArray[np.uint64]:
    """NIXL's table of ranges: [range][address, length, device]."""
    return np.column_stack([addresses, lengths, np.full(len(lengths), max(gpu, 0))]).astype(np.uint64)


def _load(cuda_major: int | None) -> ModuleType:
    """NIXL's bindings for a CUDA major version; without a GPU either will do."""
    reasons = []
    for major in CUDA_MAJORS if cuda_major is None else (cuda_major,):
        try:
            return importlib.import_module(f"nixl_cu{major}._bindings")
        except ImportError as error:
            reasons.append(str(error))
    raise TransportUnavailableError(f"nixl: {'; '.join(reasons)}; install it with `pip install 'sluice[nixl]'`")


def _errors(bind: ModuleType) -> tuple[type[Exception], ...]:
    """Every exception class of the bindings."""
    return tuple(value for name, value in vars(bind).items() if name.startswith("nixl") and name.endswith("Error"))
