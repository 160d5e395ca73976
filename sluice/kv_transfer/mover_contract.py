"""What a worker asks of whoever moves its KV. `mover.py` does it on a thread, simulation in virtual time.

Receiver and sender in one: `allow`, `revoke` and `end_grant` are the receiver's half. A push's
future ends when the push is terminal, never earlier, and never raises. Next: `mover.py`.
"""

from concurrent.futures import Future
from typing import Protocol

from sluice.domain.ids import BootId
from sluice.kv_transfer.mover_commands import Fence
from sluice.kv_transfer.transport import Descriptors, PeerInfo, Push, PushResult


class KvMover(Protocol):
    """Moves KV for one worker; `mover.Mover` documents each method."""

    @property
    def quarantined_bytes(self) -> int: ...

    def local_infos(self) -> tuple[tuple[str, bytes], ...]: ...

    def connect(self, peer: PeerInfo) -> "Future[str]": ...

    def disconnect(self, boot: BootId) -> None: ...

    def push(self, push: Push, fence: Fence) -> "Future[PushResult]": ...

    def abandon(self, push: int) -> None: ...

    def allow(self, *, grant: bytes, ranges: Descriptors, lease_s: float) -> None: ...

    def renew(self, grant: bytes, *, lease_s: float) -> None: ...

    def revoke(self, grant: bytes) -> bool: ...

    def end_grant(self, grant: bytes) -> None: ...
