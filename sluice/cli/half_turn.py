"""A worker process asked for a role that its half of the model cannot do: it is to load the other half.

    set_role across halves --drained--> wanted --> the process takes itself apart, loads, joins again as another boot
                              `--not drained, or it may not--> ignored, with a line in the log

Only hears and says what is wanted; `worker_process.py` does it. Next: `router/flips.py`, who asks.
"""

import asyncio
import logging
from typing import Final

from sluice.domain.role import Lifecycle, Role
from sluice.wire.gen import sluice_pb2 as pb
from sluice.worker.router_link import RouterLink
from sluice.worker.shell import Shell

log: Final = logging.getLogger(__name__)


class HalfTurn:
    """One worker's wish to be loaded anew. One event loop."""

    def __init__(self, shell: Shell, *, why_never: str) -> None:
        """`why_never` says why this process cannot; empty: it can."""
        self._shell = shell
        self._why_never = why_never
        self.wanted: asyncio.Future[Role] = asyncio.get_running_loop().create_future()

    def take(self, link: RouterLink, message: pb.RouterMessage) -> bool:  # noqa: ARG002 - a Doorway's taker
        """Whether it asks for the other half, which is then wanted or refused."""
        if not message.HasField("set_role"):
            return False
        standing, role = self._shell.standing, Role(message.set_role.role)
        if (role is Role.ENCODE) is (standing.info.role is Role.ENCODE):
            return False
        if self._why_never:
            log.warning("this worker cannot become %s: %s", role.value, self._why_never)
        elif standing.lifecycle is not Lifecycle.DRAINED:
            log.warning("this worker is %s and cannot become %s", standing.lifecycle.value, role.value)
        elif not self.wanted.done():
            self.wanted.set_result(role)
        return True
