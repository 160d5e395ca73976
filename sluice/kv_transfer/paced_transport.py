"""A transport that is never faster than the link it stands for: for workers whose GPU is emulated.

The bytes go at once by the transport it wraps; the push counts as done when a link of the pair's speed
would have carried the KV that those bytes stand for. Where the real transport is slower, it is. The two
ends tell each other their speed with their connection data, so both must be paced. Next: `transport.py`.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from sluice.clock import Clock, SystemClock
from sluice.domain.ids import BootId
from sluice.errors import TransferError
from sluice.kv_transfer.transport import Descriptors, PeerInfo, Push, PushResult, PushState, Region, Transport

_SPEED: Final = struct.Struct("<d")  # bytes per second, before the wrapped transport's own connection data


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkModel:
    """One worker's way to others. `byte_scale` KV bytes of the emulated GPU stand behind one that really moves."""

    bytes_per_s: float  # one direction, of the slower end at most
    latency_s: float = 20e-6
    byte_scale: float = 1.0


@dataclass(slots=True)
class _Late:
    """A result that is not told before its time."""

    due_s: float
    result: PushResult


class PacedTransport:
    """Wraps one transport of an emulated worker. Pushes queue for the sender's one link."""

    def __init__(self, inner: Transport, link: LinkModel, *, clock: Clock | None = None) -> None:
        self._inner = inner
        self._link = link
        self._now_s: Callable[[], float] = (clock or SystemClock()).now_s
        self._speeds: dict[BootId, float] = {}
        self._free_s = 0.0  # when what is queued on the link will have gone
        self._due_s: dict[int, tuple[float, float]] = {}  # of pushes on their way: submitted, due
        self._late: list[_Late] = []

    @property
    def name(self) -> str:
        return self._inner.name

    def register(self, region: Region) -> None:
        self._inner.register(region)

    def local_info(self) -> bytes:
        return _SPEED.pack(self._link.bytes_per_s) + self._inner.local_info()

    def can_reach(self, peer: PeerInfo) -> bool:
        return self._speed_of(peer) is not None and self._inner.can_reach(self._unwrapped(peer))

    def connect(self, peer: PeerInfo) -> None:
        speed = self._speed_of(peer)
        if speed is None:
            raise TransferError(f"worker {peer.worker} does not tell the speed of its link; emulate all or none")
        self._inner.connect(self._unwrapped(peer))
        self._speeds[peer.boot] = min(speed, self._link.bytes_per_s)

    def disconnect(self, boot: BootId) -> None:
        self._speeds.pop(boot, None)
        self._inner.disconnect(boot)

    def submit(self, push: Push) -> None:
        now_s = self._now_s()
        speed = self._speeds.get(push.peer, self._link.bytes_per_s)
        moving_s = push.descriptors.total_bytes * self._link.byte_scale / speed
        self._free_s = max(now_s, self._free_s) + moving_s
        self._due_s[push.push] = (now_s, self._free_s + self._link.latency_s)
        self._inner.submit(push)

    def abandon(self, push: int) -> None:
        self._inner.abandon(push)

    def poll(self) -> list[PushResult]:
        now_s = self._now_s()
        for result in self._inner.poll():
            since_s, due_s = self._due_s.pop(result.push, (now_s, now_s))
            is_done = result.state is PushState.DONE
            took_s = max(result.seconds, due_s - since_s) if is_done else result.seconds
            self._late.append(_Late(due_s if is_done else now_s, replace(result, seconds=took_s)))
        told = [late.result for late in self._late if late.due_s <= now_s]
        if told:
            self._late = [late for late in self._late if late.due_s > now_s]
        return told

    def allow(self, *, grant: bytes, ranges: Descriptors, lease_s: float) -> None:
        self._inner.allow(grant=grant, ranges=ranges, lease_s=lease_s)

    def renew(self, grant: bytes, *, lease_s: float) -> None:
        self._inner.renew(grant, lease_s=lease_s)

    def revoke(self, grant: bytes) -> bool:
        return self._inner.revoke(grant)

    def close(self) -> None:
        self._inner.close()

    def _speed_of(self, peer: PeerInfo) -> float | None:
        """What the peer's link carries, or None if it is not paced."""
        info = dict(peer.infos).get(self.name)
        if info is None or len(info) < _SPEED.size:
            return None
        speed: float = _SPEED.unpack_from(info)[0]
        return speed if speed > 0.0 else None

    def _unwrapped(self, peer: PeerInfo) -> PeerInfo:
        infos = tuple((name, info[_SPEED.size :] if name == self.name else info) for name, info in peer.infos)
        return replace(peer, infos=infos)
