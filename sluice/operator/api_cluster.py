"""The Cluster of a real API server, over HTTP. The only file that knows paths, media types and status codes.

Lists are read in pages; every call has a deadline; a refused token is read anew once. Keeps no state
but its connections. Next: `reconcile.py`.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

import aiohttp
import orjson

from sluice.errors import ClusterApiError
from sluice.operator import names
from sluice.operator.connection import Connection
from sluice.operator.manifest import Kind, LiveObject, Manifest, Ref, ref_of

CALL_S_MAX: Final = 30.0
PAGE_OBJECTS: Final = 500
CONNECTIONS_MAX: Final = 32

JSON: Final = "application/json"
APPLY: Final = "application/apply-patch+yaml"
MERGE: Final = "application/merge-patch+json"


class ApiCluster:
    """One server. Made on the event loop that uses it; the caller closes it."""

    def __init__(self, connect: Callable[[], Connection]) -> None:
        """`connect` reads the credentials; it is called again when the server refuses them."""
        self._connect = connect
        self._connection = connect()
        connector = aiohttp.TCPConnector(limit=CONNECTIONS_MAX)
        self._session = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=CALL_S_MAX))

    async def close(self) -> None:
        """End the connections."""
        await self._session.close()

    async def groups(self) -> frozenset[str]:
        """Every group and version the server offers, for example "policy/v1"."""
        answer = await self._json("GET", "/apis")
        return frozenset(version["groupVersion"] for group in answer["groups"] for version in group["versions"])

    async def find(
        self, kind: Kind, *, namespace: str = "", labels: Mapping[str, str] | None = None
    ) -> list[LiveObject]:
        """See Cluster."""
        query = {"limit": str(PAGE_OBJECTS)}
        if labels:
            query["labelSelector"] = ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
        objects: list[LiveObject] = []
        while True:
            page = await self._json("GET", path_of(kind, namespace=namespace), query=query)
            # Items of a list do not say what they are.
            own = {"apiVersion": page["apiVersion"], "kind": page["kind"].removesuffix("List")}
            objects += [{**own, **item} for item in page.get("items") or ()]
            query["continue"] = page["metadata"].get("continue", "")
            if not query["continue"]:
                return objects

    async def get(self, ref: Ref) -> LiveObject | None:
        """See Cluster."""
        try:
            found: LiveObject = await self._json("GET", _path(ref))
        except ClusterApiError as error:
            if error.http_status == 404:
                return None
            raise
        return found

    async def create(self, manifest: Manifest) -> None:
        """See Cluster."""
        ref = ref_of(manifest)
        path = path_of(ref.kind, namespace=ref.namespace)
        try:
            await self._json("POST", path, query={"fieldManager": names.CREATE_MANAGER}, body=manifest)
        except ClusterApiError as error:
            if error.http_status != 409:
                raise

    async def apply(self, manifest: Manifest) -> None:
        """See Cluster."""
        await self._apply(_path(ref_of(manifest)), manifest)

    async def apply_status(self, manifest: Manifest) -> None:
        """See Cluster."""
        try:
            await self._apply(f"{_path(ref_of(manifest))}/status", manifest)
        except ClusterApiError as error:
            if error.http_status != 404:
                raise

    async def patch(self, ref: Ref, change: Manifest) -> None:
        """See Cluster."""
        query = {"fieldManager": names.FIELD_MANAGER}
        try:
            await self._json("PATCH", _path(ref), query=query, body=change, media_type=MERGE)
        except ClusterApiError as error:
            if error.http_status != 404:
                raise

    async def delete(self, ref: Ref) -> None:
        """See Cluster."""
        try:
            await self._json("DELETE", _path(ref), query={"propagationPolicy": "Background"})
        except ClusterApiError as error:
            if error.http_status != 404:
                raise

    async def replace(self, manifest: Manifest) -> bool:
        """See Cluster."""
        try:
            await self._json("PUT", _path(ref_of(manifest)), body=manifest)
        except ClusterApiError as error:
            if error.http_status in {404, 409}:
                return False
            raise
        return True

    async def _apply(self, path: str, manifest: Manifest) -> None:
        query = {"fieldManager": names.FIELD_MANAGER, "force": "true"}
        await self._json("PATCH", path, query=query, body=manifest, media_type=APPLY)

    async def _json(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Manifest | None = None,
        media_type: str = JSON,
    ) -> Any:  # noqa: ANN401 - JSON is what it is
        """One call. Raises ClusterApiError with the server's own words."""
        data = None if body is None else orjson.dumps(body)
        for is_last in (False, True):
            try:
                async with self._session.request(
                    method,
                    self._connection.server + path,
                    params=query,
                    data=data,
                    headers={**self._connection.headers, "Content-Type": media_type, "Accept": JSON},
                    ssl=self._connection.tls if self._connection.tls is not None else True,
                ) as reply:
                    text = await reply.read()
                    if reply.status == 401 and not is_last:
                        self._connection = await asyncio.to_thread(self._connect)
                        continue
                    if reply.status >= 400:
                        raise ClusterApiError(_refusal(method, path, text), http_status=reply.status)
                    return orjson.loads(text)
            except (aiohttp.ClientError, TimeoutError) as error:
                what = str(error) or type(error).__name__
                raise ClusterApiError(f"{method} {path}: the API server does not answer ({what})") from error
        raise AssertionError("the last try returns or raises")


def path_of(kind: Kind, *, namespace: str) -> str:
    """The URL path of a kind's objects, in one namespace or (namespace "") in all."""
    facts = kind.value
    root = f"/apis/{facts.api_version}" if facts.group else f"/api/{facts.api_version}"
    inside = f"/namespaces/{namespace}" if namespace and facts.is_namespaced else ""
    return f"{root}{inside}/{facts.plural}"


def _path(ref: Ref) -> str:
    return f"{path_of(ref.kind, namespace=ref.namespace)}/{ref.name}"


def _refusal(method: str, path: str, text: bytes) -> str:
    try:
        message = orjson.loads(text)["message"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        message = text[:200].decode("utf-8", "replace")
    return f"{method} {path}: {message}"
