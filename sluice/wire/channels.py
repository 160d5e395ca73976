"""gRPC channels and servers with the limits and keepalives Sluice uses everywhere."""

from typing import Final

import grpc

MESSAGE_BYTES_MAX: Final = 32 * 1024 * 1024

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.keepalive_time_ms", 2_000),
    ("grpc.keepalive_timeout_ms", 2_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)
_CLIENT_OPTIONS: Final = (
    *_OPTIONS,
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # A restarted peer on the same port must get a fresh connection, never a shared stale one.
    ("grpc.use_local_subchannel_pool", 1),
)
_SERVER_OPTIONS: Final = (
    *_OPTIONS,
    ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.so_reuseport", 0),  # a port in use is an error, not a second listener
)


def connect(address: str) -> grpc.aio.Channel:
    """A channel to host:port; dials lazily and again after failures."""
    return grpc.aio.insecure_channel(address, options=_CLIENT_OPTIONS)


def make_server() -> grpc.aio.Server:
    """A server without services or ports yet."""
    return grpc.aio.server(options=_SERVER_OPTIONS)
