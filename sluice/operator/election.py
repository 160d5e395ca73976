"""Which of several operators acts: the one that holds the Lease. What to do with a Lease is decided purely.

Clocks of two machines are not compared: a holder is lost when *we* have seen no renewal for the lease's
duration. A write carries the version that was read, so of two that take a lease at once one fails.
Next: `handlers.py`, which acts only while it holds it.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum, auto
from typing import Final

from sluice.clock import Clock
from sluice.errors import ClusterApiError
from sluice.operator import names
from sluice.operator.cluster import Cluster
from sluice.operator.manifest import KIND_NAMES, Kind, LiveObject, Manifest, Ref

log = logging.getLogger(__name__)

RENEWALS: Final = 3
"""A holder renews so often within the lease's duration."""


class Move(Enum):
    """What to do about the lease now."""

    TAKE = auto()
    RENEW = auto()
    WAIT = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The lease as last read, and when it last changed as far as we have seen."""

    holder: str = ""
    renewed: str = ""
    since_s: float = 0.0

    def after(self, live: LiveObject | None, *, now_s: float) -> "Seen":
        """This, having read the lease again."""
        spec = (live or {}).get("spec") or {}
        holder, renewed = spec.get("holderIdentity") or "", spec.get("renewTime") or ""
        if (holder, renewed) == (self.holder, self.renewed):
            return self
        return Seen(holder=holder, renewed=renewed, since_s=now_s)


def move(seen: Seen, *, me: str, now_s: float, lease_s: float) -> Move:
    """Take a lease that nobody holds or whose holder has been silent for its whole duration."""
    if seen.holder == me:
        return Move.RENEW
    if not seen.holder or now_s - seen.since_s >= lease_s:
        return Move.TAKE
    return Move.WAIT


class Election:
    """Takes part until cancelled; `on_change` hears whether this operator acts."""

    def __init__(
        self,
        cluster: Cluster,
        clock: Clock,
        *,
        me: str,
        namespace: str,
        lease_s: float,
        on_change: Callable[[bool], None],
    ) -> None:
        self._cluster = cluster
        self._clock = clock
        self._me = me
        self._ref = Ref(Kind.LEASE, namespace, names.LEASE_NAME)
        self._lease_s = lease_s
        self._on_change = on_change
        self._seen = Seen()
        self._held_until_s: float | None = None

    @property
    def is_held(self) -> bool:
        """Whether this operator acts."""
        return self._held_until_s is not None

    async def run(self) -> None:
        """Take, renew, wait, until cancelled; then give the lease back."""
        try:
            while True:
                await self.step()
                await asyncio.sleep(self._lease_s / RENEWALS)
        finally:
            if self.is_held:
                await self._give_back()

    async def step(self) -> None:
        """One look at the lease. A server that does not answer costs the lease when it would have run out."""
        now_s = self._clock.now_s()
        try:
            live = await self._cluster.get(self._ref)
            self._seen = self._seen.after(live, now_s=now_s)
            what = move(self._seen, me=self._me, now_s=now_s, lease_s=self._lease_s)
            has_it = what is not Move.WAIT and await self._write(live)
        except ClusterApiError as error:
            log.warning("the lease cannot be renewed: %s", error)
            has_it = self._held_until_s is not None and now_s < self._held_until_s
            self._set(held_until_s=self._held_until_s if has_it else None)
            return
        self._set(held_until_s=now_s + self._lease_s if has_it else None)

    def _set(self, *, held_until_s: float | None) -> None:
        before, self._held_until_s = self.is_held, held_until_s
        if self.is_held is not before:
            log.info("%s %s", self._me, "acts now" if self.is_held else "stands by")
            self._on_change(self.is_held)

    async def _write(self, live: LiveObject | None) -> bool:
        manifest = self._manifest(self._me)
        if live is None:
            await self._cluster.create(manifest)
            made = await self._cluster.get(self._ref)
            return made is not None and made["spec"].get("holderIdentity") == self._me
        version = live["metadata"]["resourceVersion"]
        return await self._cluster.replace(
            {**manifest, "metadata": {**manifest["metadata"], "resourceVersion": version}}
        )

    async def _give_back(self) -> None:
        try:
            live = await self._cluster.get(self._ref)
            if live is not None and live["spec"].get("holderIdentity") == self._me:
                version = live["metadata"]["resourceVersion"]
                empty = self._manifest("")
                await self._cluster.replace({**empty, "metadata": {**empty["metadata"], "resourceVersion": version}})
        except ClusterApiError as error:
            log.info("the lease runs out by itself: %s", error)

    def _manifest(self, holder: str) -> Manifest:
        return {
            "apiVersion": Kind.LEASE.value.api_version,
            "kind": KIND_NAMES[Kind.LEASE],
            "metadata": {"name": self._ref.name, "namespace": self._ref.namespace},
            "spec": {
                "holderIdentity": holder,
                "leaseDurationSeconds": max(1, round(self._lease_s)),
                "renewTime": datetime.now(tz=UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            },
        }
