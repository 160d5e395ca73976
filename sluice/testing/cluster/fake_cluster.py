"""An API server in memory: objects, versions, label lists, server-side apply, garbage collection. Counts every call.

Fields that a manager applied and applies no more are removed, as the real server does; lists are replaced whole.
It can crash its caller after any write. Never schedules or starts anything: `small_world.py` does.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import orjson

from sluice.errors import ClusterApiError
from sluice.operator.manifest import Kind, LiveObject, Manifest, Ref, ref_of, timestamp


class CrashError(Exception):
    """The process that called died right after its write."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call, in the words of RBAC."""

    verb: str
    group: str
    resource: str


READS = frozenset({"get", "list", "watch"})


@dataclass(slots=True)
class FakeCluster:
    """See `operator/cluster.py` for what the calls promise."""

    wall_s: Callable[[], float] = lambda: 0.0
    objects: dict[Ref, Manifest] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    writes: list[str] = field(default_factory=list)
    crash_after_writes: int | None = None
    is_down: bool = False
    on_change: Callable[[str, Manifest], None] | None = None  # what watches hear: ADDED, MODIFIED, DELETED
    _places: dict[tuple[Kind, str], dict[Ref, None]] = field(default_factory=dict)  # in the order they were made
    _applied: dict[tuple[Ref, str], Manifest] = field(default_factory=dict)
    _versions: "count[int]" = field(default_factory=lambda: count(1))

    # ------------------------------------------------------------ Cluster

    async def find(
        self, kind: Kind, *, namespace: str = "", labels: Mapping[str, str] | None = None
    ) -> list[LiveObject]:
        """See Cluster."""
        self._read("list", kind)
        refs = (
            self._places.get((kind, namespace), {}) if namespace else [ref for ref in self.objects if ref.kind is kind]
        )
        return [_copy(self.objects[ref]) for ref in refs if _matches(self.objects[ref], labels or {})]

    async def get(self, ref: Ref) -> LiveObject | None:
        """See Cluster."""
        self._read("get", ref.kind)
        found: LiveObject | None = _copy(self.objects.get(ref))
        return found

    async def create(self, manifest: Manifest) -> None:
        """See Cluster."""
        ref = ref_of(manifest)
        self._call("create", ref.kind)
        if ref not in self.objects:
            self.put(manifest)
        self._wrote("create", ref)

    async def apply(self, manifest: Manifest) -> None:
        """See Cluster."""
        ref = ref_of(manifest)
        self._call("patch", ref.kind)
        if ref not in self.objects:
            self._call("create", ref.kind)  # applying what does not exist needs both
        self._apply(ref, manifest, "")
        self._wrote("apply", ref)

    async def apply_status(self, manifest: Manifest) -> None:
        """See Cluster."""
        ref = ref_of(manifest)
        self._call("patch", ref.kind, "/status")
        if ref in self.objects:
            self._apply(ref, {"status": manifest["status"]}, "status")
        self._wrote("status", ref)

    async def patch(self, ref: Ref, change: Manifest) -> None:
        """See Cluster."""
        self._call("patch", ref.kind)
        if ref in self.objects:
            self._store(ref, _merge_patched(self.objects[ref], change))
        self._wrote("patch", ref)

    async def delete(self, ref: Ref) -> None:
        """See Cluster. Pods leave when the world lets them."""
        self._call("delete", ref.kind)
        self.remove(ref)
        self._wrote("delete", ref)

    async def replace(self, manifest: Manifest) -> bool:
        """See Cluster."""
        ref = ref_of(manifest)
        self._call("update", ref.kind)
        live = self.objects.get(ref)
        version = manifest["metadata"].get("resourceVersion")
        if live is None or live["metadata"]["resourceVersion"] != version:
            return False
        self._store(ref, {**live, **_copy(manifest), "metadata": live["metadata"]})
        self._wrote("update", ref)
        return True

    # ------------------------------------------------------------ for tests and the world

    def put(self, manifest: Manifest) -> Ref:
        """Make an object as a user or a controller would; not counted as a call."""
        ref = ref_of(manifest)
        metadata = manifest["metadata"]
        made = {"uid": f"uid-{next(self._versions)}", "generation": 1, "creationTimestamp": timestamp(self.wall_s())}
        self._store(ref, {**_copy(manifest), "metadata": {**made, **_copy(metadata)}})
        return ref

    def edit(self, ref: Ref, change: Manifest) -> None:
        """Change an object as a user or a controller would."""
        self._store(ref, _merge_patched(self.objects[ref], change))

    def remove(self, ref: Ref) -> None:
        """Delete an object and all it owns; a pod with a grace period is only marked."""
        live = self.objects.get(ref)
        if live is None:
            return
        if ref.kind is Kind.POD and not live["metadata"].get("deletionTimestamp"):
            self.edit(ref, {"metadata": {"deletionTimestamp": timestamp(self.wall_s())}})
        elif ref.kind is not Kind.POD:
            self.drop(ref)

    def drop(self, ref: Ref) -> None:
        """An object is gone now."""
        live = self.objects.pop(ref)
        del self._places[ref.kind, ref.namespace][ref]
        self._tell("DELETED", live)
        uid = live["metadata"]["uid"]
        owned = [
            child
            for child, one in self.objects.items()
            if any(owner["uid"] == uid for owner in one["metadata"].get("ownerReferences", ()))
        ]
        for child in owned:
            self.remove(child)

    def of(self, kind: Kind) -> list[Manifest]:
        """Every object of a kind."""
        return [live for ref, live in sorted(self.objects.items(), key=lambda item: item[0].name) if ref.kind is kind]

    # ------------------------------------------------------------ inside

    def _apply(self, ref: Ref, manifest: Manifest, part: str) -> None:
        before = self._applied.get((ref, part), {})
        self._applied[ref, part] = _copy(manifest)
        live = self.objects.get(ref)
        if live is None:
            self.put(manifest)
            return
        self._store(ref, _merged(_without(live, before, manifest), manifest))

    def _store(self, ref: Ref, new: Manifest) -> None:
        old = self.objects.get(ref)
        if old is not None and _same(old, new):
            return
        metadata = new["metadata"]
        generation = metadata.get("generation", 1)
        if old is not None and old.get("spec") != new.get("spec"):
            generation += 1
        new = {
            **new,
            "metadata": {**metadata, "generation": generation, "resourceVersion": str(next(self._versions))},
        }
        self.objects[ref] = new
        self._places.setdefault((ref.kind, ref.namespace), {})[ref] = None
        self._tell("ADDED" if old is None else "MODIFIED", new)

    def _tell(self, what: str, live: Manifest) -> None:
        if self.on_change is not None:
            self.on_change(what, live)

    def _read(self, verb: str, kind: Kind) -> None:
        self._call(verb, kind)

    def _call(self, verb: str, kind: Kind, part: str = "") -> None:
        if self.is_down:
            raise ClusterApiError("the API server does not answer")
        self.calls.append(Call(verb, kind.value.group, kind.value.plural + part))

    def _wrote(self, verb: str, ref: Ref) -> None:
        self.writes.append(f"{verb} {ref.kind.value.plural} {ref.name}")
        if self.crash_after_writes is not None:
            self.crash_after_writes -= 1
            if self.crash_after_writes < 0:
                self.crash_after_writes = None
                raise CrashError(self.writes[-1])


def _matches(live: LiveObject, labels: Mapping[str, str]) -> bool:
    own = live["metadata"].get("labels") or {}
    return all(own.get(key) == value for key, value in labels.items())


def _same(old: Manifest, new: Manifest) -> bool:
    def bare(one: Manifest) -> Manifest:
        metadata = {key: value for key, value in one["metadata"].items() if key != "resourceVersion"}
        return {**one, "metadata": metadata}

    return bare(old) == bare(new)


def _merged(live: Any, wanted: Any) -> Any:  # noqa: ANN401 - JSON
    if isinstance(live, dict) and isinstance(wanted, dict):
        return {**live, **{key: _merged(live.get(key), value) for key, value in wanted.items()}}
    return _copy(wanted)


def _without(live: Any, before: Any, now: Any) -> Any:  # noqa: ANN401 - JSON
    """`live` less the fields stated `before` and not `now`."""
    if not (isinstance(live, dict) and isinstance(before, dict) and isinstance(now, dict)):
        return live
    kept = {key: value for key, value in live.items() if key not in before or key in now}
    return {key: _without(value, before.get(key), now.get(key)) for key, value in kept.items()}


def _merge_patched(live: Any, change: Any) -> Any:  # noqa: ANN401 - JSON
    if not isinstance(change, dict):
        return _copy(change)
    patched = dict(live) if isinstance(live, dict) else {}
    for key, value in change.items():
        if value is None:
            patched.pop(key, None)
        else:
            patched[key] = _merge_patched(patched.get(key), value)
    return patched


def _copy(value: Any) -> Any:  # noqa: ANN401 - JSON
    return orjson.loads(orjson.dumps(value))
