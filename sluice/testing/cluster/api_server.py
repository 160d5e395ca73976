"""The cluster in memory as an API server over HTTP: enough of it for kopf to watch and for the operator to write.

Discovery, lists with label selectors, watches from now on, create, three kinds of patch, replace, delete. No
authentication, no schemas, no admission. Next: `fake_cluster.py`, which holds the objects.
"""

import asyncio
from typing import Any, Final

import orjson
from aiohttp import web

from sluice.errors import ClusterApiError
from sluice.operator.manifest import KIND_NAMES, Kind, Manifest, Ref
from sluice.testing.cluster.fake_cluster import FakeCluster

WATCH_QUEUE_MAX: Final = 100_000
EMPTY: Final = {"/apis/apiextensions.k8s.io/v1": "customresourcedefinitions", "/api/v1": "namespaces"}
"""What kopf wants to watch and the operator never reads: always empty here."""

VERBS: Final = ["get", "list", "watch", "create", "patch", "update", "delete"]


class ApiServer:
    """Serves one FakeCluster. The caller runs `application`."""

    def __init__(self, cluster: FakeCluster) -> None:
        self.cluster = cluster
        self._watches: list[tuple[Kind | None, str, asyncio.Queue[tuple[str, Manifest]]]] = []
        cluster.on_change = self._changed

    def application(self) -> web.Application:
        """The routes."""
        app = web.Application(client_max_size=16 * 1024 * 1024)
        app.router.add_get("/version", _answer_version)
        app.router.add_get("/api", _answer_core)
        app.router.add_get("/apis", _answer_groups)
        for root in sorted({*EMPTY, *(_root(kind) for kind in Kind)}):
            app.router.add_get(root, self._resources)
            app.router.add_route("*", f"{root}/{{tail:.+}}", self._serve)
        return app

    async def _resources(self, request: web.Request) -> web.Response:
        return _json(_resource_list(request.path))

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        roots = {*EMPTY, *(_root(kind) for kind in Kind)}
        root = next(one for one in roots if request.path.startswith(f"{one}/"))
        parts = request.match_info["tail"].split("/")
        namespace = ""
        if parts[0] == "namespaces" and len(parts) > 2:
            namespace, parts = parts[1], parts[2:]
        kind = next((one for one in Kind if _root(one) == root and one.value.plural == parts[0]), None)
        if kind is None:
            if "watch" in request.query:
                return await self._watch(request, None, "")
            return _json({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": []})
        try:
            if len(parts) == 1:
                return await self._collection(request, kind, namespace)
            return await self._object(request, Ref(kind, namespace, parts[1]), is_status=parts[2:] == ["status"])
        except ClusterApiError as error:
            return _json({"message": str(error)}, status=503)

    async def _collection(self, request: web.Request, kind: Kind, namespace: str) -> web.StreamResponse:
        if request.method == "POST":
            manifest = orjson.loads(await request.read())
            await self.cluster.create(manifest)
            return _json(manifest, status=201)
        if request.query.get("watch") in {"true", "1"}:
            return await self._watch(request, kind, namespace)
        selector = request.query.get("labelSelector", "")
        labels = dict(pair.split("=", 1) for pair in selector.split(",") if "=" in pair)
        items = await self.cluster.find(kind, namespace=namespace, labels=labels)
        name = KIND_NAMES[kind]
        head = {"kind": f"{name}List", "apiVersion": kind.value.api_version, "metadata": {"resourceVersion": "1"}}
        return _json({**head, "items": items})

    async def _object(self, request: web.Request, ref: Ref, *, is_status: bool) -> web.Response:
        body = orjson.loads(await request.read()) if request.can_read_body else {}
        match request.method, request.content_type:
            case "PATCH", "application/apply-patch+yaml":
                await (self.cluster.apply_status if is_status else self.cluster.apply)(body)
            case "PATCH", _:
                await self.cluster.patch(ref, body)
            case "PUT", _:
                if not await self.cluster.replace(body):
                    return _json({"message": "the object has been modified"}, status=409)
            case "DELETE", _:
                await self.cluster.delete(ref)
                return _json({"kind": "Status", "status": "Success"})
        live = self.cluster.objects.get(ref)
        if live is None:
            return _json({"message": f"{ref} not found"}, status=404)
        return _json(live)

    async def _watch(self, request: web.Request, kind: Kind | None, namespace: str) -> web.StreamResponse:
        queue: asyncio.Queue[tuple[str, Manifest]] = asyncio.Queue(WATCH_QUEUE_MAX)
        watch = (kind, namespace, queue)
        self._watches.append(watch)
        stream = web.StreamResponse(headers={"Content-Type": "application/json"})
        try:
            await stream.prepare(request)
            while True:
                what, live = await queue.get()
                await stream.write(orjson.dumps({"type": what, "object": live}) + b"\n")
        except ConnectionResetError:
            return stream
        finally:
            self._watches.remove(watch)

    def _changed(self, what: str, live: Manifest) -> None:
        for kind, namespace, queue in self._watches:
            if kind is None:
                continue
            of_kind = (kind.value.api_version, KIND_NAMES[kind]) == (live["apiVersion"], live["kind"])
            if of_kind and namespace in {"", live["metadata"].get("namespace", "")}:
                queue.put_nowait((what, live))


def _root(kind: Kind) -> str:
    version = kind.value.api_version
    return f"/apis/{version}" if kind.value.group else f"/api/{version}"


def _groups() -> Manifest:
    groups: dict[str, list[str]] = {}
    for kind in Kind:
        if kind.value.group:
            groups.setdefault(kind.value.group, [])
            if kind.value.api_version not in groups[kind.value.group]:
                groups[kind.value.group].append(kind.value.api_version)
    groups["apiextensions.k8s.io"] = ["apiextensions.k8s.io/v1"]
    found = []
    for group, versions in groups.items():
        offered = [{"groupVersion": one, "version": one.rpartition("/")[2]} for one in versions]
        found.append({"name": group, "versions": offered, "preferredVersion": offered[0]})
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": found}


def _resource_list(root: str) -> Manifest:
    resources = [
        {
            "name": kind.value.plural,
            "singularName": KIND_NAMES[kind].lower(),
            "namespaced": kind.value.is_namespaced,
            "kind": KIND_NAMES[kind],
            "verbs": VERBS,
        }
        for kind in Kind
        if _root(kind) == root
    ]
    if root in EMPTY:
        plural = EMPTY[root]
        one = {"name": plural, "singularName": plural, "namespaced": False, "kind": plural, "verbs": VERBS}
        resources.append(one)
    version = root.removeprefix("/apis/").removeprefix("/api/")
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": resources}


async def _answer_version(_: web.Request) -> web.Response:
    return _json({"major": "1", "minor": "30", "gitVersion": "v1.30.0"})


async def _answer_core(_: web.Request) -> web.Response:
    return _json({"kind": "APIVersions", "versions": ["v1"]})


async def _answer_groups(_: web.Request) -> web.Response:
    return _json(_groups())


def _json(value: Any, *, status: int = 200) -> web.Response:  # noqa: ANN401 - JSON
    return web.Response(body=orjson.dumps(value), status=status, content_type="application/json")
