"""Socket options of the tcp backend: a dead link is an error within seconds, not minutes.

Keep-alive probes find a dead idle peer; TCP_USER_TIMEOUT bounds unacknowledged data, which
keep-alive does not cover. A stopped peer's kernel still answers: deadlines cover that
(`tcp_link.py`).
"""

import socket
from typing import Final

USER_TIMEOUT_S: Final = 5
KEEPALIVE_IDLE_S: Final = 2
KEEPALIVE_INTERVAL_S: Final = 1
KEEPALIVE_PROBES: Final = 3


def tune(connection: socket.socket) -> None:
    """Set our options on a connected socket."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_S * 1000)
