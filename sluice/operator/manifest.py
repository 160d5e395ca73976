"""Kubernetes objects as values: what names one, when two agree, and the mark that tells a no-op from a change.

Pure. The only dictionaries that travel in this package are manifests and live objects. Next: `cluster.py`
for who sends them.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Final, TypeAlias

import orjson

from sluice.operator import names

Manifest: TypeAlias = dict[str, Any]
LiveObject: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class KindFacts:
    """Where a kind of object lives in the API."""

    api_version: str
    plural: str
    is_namespaced: bool = True

    @property
    def group(self) -> str:
        """The API group; empty for the core group."""
        return self.api_version.rpartition("/")[0]


class Kind(Enum):
    """Every kind of object the operator reads or writes."""

    MODEL_SERVICE = KindFacts(names.API_VERSION, "modelservices")
    WORKER_POOL = KindFacts(names.API_VERSION, "workerpools")
    GPU_CLASS = KindFacts(names.API_VERSION, "gpuclasses", is_namespaced=False)
    DEPLOYMENT = KindFacts("apps/v1", "deployments")
    SERVICE = KindFacts("v1", "services")
    CONFIG_MAP = KindFacts("v1", "configmaps")
    SERVICE_ACCOUNT = KindFacts("v1", "serviceaccounts")
    POD = KindFacts("v1", "pods")
    NODE = KindFacts("v1", "nodes", is_namespaced=False)
    EVENT = KindFacts("v1", "events")
    NETWORK_POLICY = KindFacts("networking.k8s.io/v1", "networkpolicies")
    DISRUPTION_BUDGET = KindFacts("policy/v1", "poddisruptionbudgets")
    DISRUPTION_BUDGET_BETA = KindFacts("policy/v1beta1", "poddisruptionbudgets")
    LEASE = KindFacts("coordination.k8s.io/v1", "leases")


KIND_NAMES: Final = {
    Kind.MODEL_SERVICE: "ModelService",
    Kind.WORKER_POOL: "WorkerPool",
    Kind.GPU_CLASS: "GPUClass",
    Kind.DEPLOYMENT: "Deployment",
    Kind.SERVICE: "Service",
    Kind.CONFIG_MAP: "ConfigMap",
    Kind.SERVICE_ACCOUNT: "ServiceAccount",
    Kind.POD: "Pod",
    Kind.NODE: "Node",
    Kind.EVENT: "Event",
    Kind.NETWORK_POLICY: "NetworkPolicy",
    Kind.DISRUPTION_BUDGET: "PodDisruptionBudget",
    Kind.DISRUPTION_BUDGET_BETA: "PodDisruptionBudget",
    Kind.LEASE: "Lease",
}


@dataclass(frozen=True, slots=True, order=True)
class Ref:
    """One object's place: kind's name, namespace ("" for the cluster's own) and name."""

    kind: Kind
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{KIND_NAMES[self.kind]} {self.namespace}/{self.name}" if self.namespace else self.name


def head(kind: Kind, name: str, *, namespace: str, labels: Mapping[str, str]) -> Manifest:
    """The first lines of every manifest."""
    return {
        "apiVersion": kind.value.api_version,
        "kind": KIND_NAMES[kind],
        "metadata": {"name": name, "namespace": namespace, "labels": dict(labels)},
    }


def kind_of(manifest: LiveObject) -> Kind:
    """Which kind a manifest is of. Raises KeyError for a kind the operator has nothing to do with."""
    wanted = (manifest["apiVersion"], manifest["kind"])
    return next(kind for kind in Kind if (kind.value.api_version, KIND_NAMES[kind]) == wanted)


def ref_of(manifest: LiveObject) -> Ref:
    """What a manifest or a live object is called."""
    metadata = manifest["metadata"]
    return Ref(kind_of(manifest), metadata.get("namespace", ""), metadata["name"])


def timestamp(wall_s: float) -> str:
    """Seconds since the Unix epoch as Kubernetes writes a time."""
    return datetime.fromtimestamp(wall_s, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def digest(value: object, *, chars: int = 16) -> str:
    """A hash that depends on the content alone: equal values have equal digests in every process."""
    text = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    return hashlib.blake2b(text, digest_size=16).hexdigest()[:chars]


def marked(manifest: Manifest) -> Manifest:
    """The manifest with the hash of itself on it. A field that is dropped later changes the hash."""
    metadata = manifest["metadata"]
    annotations = {**metadata.get("annotations", {}), names.ANNOTATION_APPLIED: digest(manifest)}
    return {**manifest, "metadata": {**metadata, "annotations": annotations}}


def covers(live: object, wanted: object) -> bool:
    """Whether every field that `wanted` states stands so in `live`; what others have added does not matter.

    Items of lists are matched by `name` where they have one, else by position.
    """
    match wanted:
        case Mapping():
            # The server does not keep what is empty.
            return isinstance(live, Mapping) and all(
                covers(live[key], value) if key in live else value in ({}, []) for key, value in wanted.items()
            )
        case str():
            return live == wanted
        case Sequence():
            return isinstance(live, Sequence) and not isinstance(live, str) and _covers_items(live, wanted)
        case _:
            return live == wanted


def _covers_items(live: Sequence[object], wanted: Sequence[object]) -> bool:
    if all(isinstance(item, Mapping) and "name" in item for item in wanted):
        by_name = {item["name"]: item for item in live if isinstance(item, Mapping) and "name" in item}
        return all(isinstance(item, Mapping) and covers(by_name.get(item["name"]), item) for item in wanted)
    return len(live) == len(wanted) and all(covers(have, want) for have, want in zip(live, wanted, strict=True))
