"""What the operator asks of a cluster. Two implementations: `api_cluster.py` and the one tests use.

Never decides. Next: `reconcile.py`, who calls it.
"""

from collections.abc import Mapping
from typing import Protocol

from sluice.operator.manifest import Kind, LiveObject, Manifest, Ref


class Cluster(Protocol):
    """A Kubernetes API server. Every call may raise ClusterApiError."""

    async def find(
        self, kind: Kind, *, namespace: str = "", labels: Mapping[str, str] | None = None
    ) -> list[LiveObject]:
        """Objects of a kind that carry all `labels`; namespace "" means all of them."""
        ...

    async def get(self, ref: Ref) -> LiveObject | None:
        """One object; None if there is none."""
        ...

    async def create(self, manifest: Manifest) -> None:
        """Make an object whose fields then belong to whoever changes them. One that exists is left alone."""
        ...

    async def apply(self, manifest: Manifest) -> None:
        """Server-side apply, conflicts won: afterwards every field stated here stands as stated."""
        ...

    async def apply_status(self, manifest: Manifest) -> None:
        """The same for the status subresource. An object that is gone is left gone."""
        ...

    async def patch(self, ref: Ref, change: Manifest) -> None:
        """JSON merge patch: null removes a field. An object that is gone is left gone."""
        ...

    async def delete(self, ref: Ref) -> None:
        """Delete an object and what it owns; one that is gone already is no error."""
        ...

    async def replace(self, manifest: Manifest) -> bool:
        """Write an object whole if its resourceVersion still holds; False if somebody was faster."""
        ...
