"""Everything that passes between processes: ordered streams and single calls, with every mishap of a network.

A path is one direction between two processes and may be cut for a while; what is sent over a cut
path waits, as in TCP, until the cut ends or a keepalive gives the connection up. Messages are
bytes: they are serialised and parsed as on a real wire. Next: `channel.py`, what gRPC's users see.
"""

import random
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass, field
from typing import Final

from sluice.testing.simulation.virtual_loop import Process, VirtualLoop
from sluice.testing.simulation.weather import Weather

KEEPALIVE_S: Final = 4.0
"""After this long without an answer gRPC gives a connection up: `wire/channels.py`, time plus timeout."""
RESET_S_MAX: Final = 0.1
"""How long a killed process's peers wait for its kernel to reset their connections."""

PEER: Final = "peer"
FLEET: Final = "fleet"


@dataclass(eq=False)
class Connection:
    """Something open between two processes that both must be told about when it breaks."""

    ends: tuple[Process, Process]
    on_broken: Callable[[Process, str], None]  # whose end, and why
    is_broken: set[str] = field(default_factory=set)  # names of the ends that know


@dataclass
class Network:
    """All paths. Faults call `cut`, `crashed`, `paused`; channels call the rest."""

    loop: VirtualLoop
    rng: random.Random
    weather: Weather
    log: Callable[[str], None]
    services: dict[tuple[str, str], tuple[Process, object]] = field(default_factory=dict)  # (address, kind)
    slow_bytes_per_s: dict[tuple[str, str], float] = field(
        default_factory=dict
    )  # of paths whose fabric has fallen back
    _cut_until_s: dict[tuple[str, str], float] = field(default_factory=dict)
    _connections: dict[Connection, None] = field(default_factory=dict)

    # ---------------------------------------------------------------- processes come and go

    def listen(self, address: str, kind: str, process: Process, service: object) -> None:
        """From now on `process` answers at `address`; a dead predecessor is replaced."""
        self.services[address, kind] = (process, service)

    def find(self, address: str, kind: str) -> tuple[Process, object] | None:
        """Who answers there, if anybody who lives does."""
        found = self.services.get((address, kind))
        return found if found is not None and found[0].is_alive else None

    def connected(self, connection: Connection) -> None:
        """Remember it until it ends."""
        self._connections[connection] = None

    def ended(self, connection: Connection) -> None:
        """Both ends are done with it."""
        self._connections.pop(connection, None)

    def crashed(self, process: Process, *, is_silent: bool) -> None:
        """A process is gone; with `is_silent` its machine is too, and nobody resets its connections."""
        for connection in [c for c in self._connections if process in c.ends]:
            other = connection.ends[connection.ends[0] is process]
            after_s = KEEPALIVE_S + self.rng.random() if is_silent else self.rng.random() * RESET_S_MAX
            self._break_later(connection, other, after_s, "the peer's process is gone")

    def paused(self, process: Process, pause_s: float) -> None:
        """A process stands still: whoever is connected to it gives up after a while."""
        if pause_s > KEEPALIVE_S:
            for connection in [c for c in self._connections if process in c.ends]:
                for end in connection.ends:
                    self._break_later(connection, end, KEEPALIVE_S + self.rng.random(), "keepalive timed out")

    def cut(self, source: Process, target: Process, for_s: float) -> None:
        """Nothing passes from `source` to `target` for a while; the other direction is not touched."""
        path = (source.name, target.name)
        until_s = self.loop.time() + for_s
        self._cut_until_s[path] = max(until_s, self._cut_until_s.get(path, 0.0))
        if for_s > KEEPALIVE_S:
            for connection in [c for c in self._connections if set(c.ends) == {source, target}]:
                for end in connection.ends:
                    self._break_later(connection, end, KEEPALIVE_S + 2 * self.rng.random(), "keepalive timed out")

    def heal(self) -> None:
        """Every path works from now on, at full speed."""
        self._cut_until_s.clear()
        self.slow_bytes_per_s.clear()

    def break_some(self, odds: float) -> None:
        """Reset connections at random; the two ends hear of it at different times."""
        for connection in list(self._connections):
            if self.rng.random() < odds:
                self.log(f"connection {connection.ends[0].name} - {connection.ends[1].name} breaks")
                for end in connection.ends:
                    self._break_later(connection, end, self.rng.random() * 2.0, "connection reset")

    def _break_later(self, connection: Connection, end: Process, after_s: float, why: str) -> None:
        self.loop.call_later(after_s, self.break_end, connection, end, why, context=Context())

    def break_end(self, connection: Connection, end: Process, why: str) -> None:
        """One end learns that the connection is broken."""
        if connection in self._connections and end.name not in connection.is_broken:
            connection.is_broken.add(end.name)
            if len(connection.is_broken) == 2:
                self.ended(connection)
            connection.on_broken(end, why)

    # ---------------------------------------------------------------- messages

    def arrival_s(self, source: Process, target: Process) -> float:
        """When something sent now arrives; later than every cut."""
        weather, rng = self.weather, self.rng
        delay_s = weather.delay_s + weather.jitter_s * rng.random()
        if rng.random() < weather.spike:
            delay_s += weather.spike_s * rng.random()
        start_s = max(self.loop.time(), self._cut_until_s.get((source.name, target.name), 0.0))
        return start_s + delay_s

    def on_wire_s(self, source: Process, target: Process, total_bytes: int) -> float:
        """How long bytes of KV take beyond a message: nothing to speak of, but where the fabric has fallen back."""
        rate = self.slow_bytes_per_s.get((source.name, target.name))
        return 0.0 if rate is None else total_bytes / rate

    def later(self, at_s: float, function: Callable[..., object], *args: object) -> None:
        """Call a function of nobody's at a time."""
        self.loop.call_at(at_s, function, *args, context=Context())
