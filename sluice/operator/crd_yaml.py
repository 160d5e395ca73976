"""Prints the CustomResourceDefinitions from the typed models, as structural schemas, in two renderings.

`python -m sluice.operator.crd_yaml` rewrites `charts/sluice/files/crds/` (no CEL: any server from Kubernetes 1.20
up takes them) and `charts/sluice/files/crds-with-rules/` (with CEL rules: 1.25 and later). A test compares
them. Decides nothing: fields, defaults and words are the models'. Next: `resources/model_service.py`.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import yaml
from pydantic.alias_generators import to_camel

from sluice.operator import names
from sluice.operator.resources.gpu_class import GPUClassSpec
from sluice.operator.resources.model_service import ModelServiceSpec
from sluice.operator.resources.part import Part
from sluice.operator.resources.service_status import ModelServiceStatus
from sluice.operator.resources.worker_pool import WorkerPoolSpec, WorkerPoolStatus

Schema: TypeAlias = dict[str, Any]

CHART: Final = Path(__file__).parents[2] / "charts" / "sluice"
FOLDERS: Final = {False: CHART / "files" / "crds", True: CHART / "files" / "crds-with-rules"}
KEPT: Final = ("type", "description", "default", "enum", "pattern", "format", "minimum", "maximum", "multipleOf")
SIZES: Final = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of `kubectl get`."""

    name: str
    type: str
    path: str
    wide: bool = False  # only with -o wide


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """One custom resource: its names and models."""

    kind: str
    plural: str
    short_names: tuple[str, ...]
    scope: str
    spec: type[Part]
    status: type[Part] | None
    columns: tuple[Column, ...]
    is_scalable: bool = False

    @property
    def name(self) -> str:
        """The CRD's own name."""
        return f"{self.plural}.{names.GROUP}"


AGE: Final = Column(name="Age", type="date", path=".metadata.creationTimestamp")
DEFINITIONS: Final = (
    Definition(
        kind="ModelService",
        plural="modelservices",
        short_names=("msvc",),
        scope="Namespaced",
        spec=ModelServiceSpec,
        status=ModelServiceStatus,
        columns=(
            Column(name="Workers", type="string", path=".status.workers"),
            Column(name="Available", type="string", path='.status.conditions[?(@.type=="Available")].status'),
            Column(name="Attainment %", type="number", path=".status.attainmentPercent"),
            Column(name="$/1M tokens", type="number", path=".status.dollarsPerMillionTokens"),
            AGE,
            Column(name="Endpoint", type="string", path=".status.endpoint", wide=True),
            Column(name="Reason", type="string", path='.status.conditions[?(@.type=="Available")].message', wide=True),
        ),
    ),
    Definition(
        kind="WorkerPool",
        plural="workerpools",
        short_names=("wpool",),
        scope="Namespaced",
        spec=WorkerPoolSpec,
        status=WorkerPoolStatus,
        columns=(
            Column(name="Service", type="string", path=".spec.service"),
            Column(name="Desired", type="integer", path=".spec.replicas"),
            Column(name="Ready", type="integer", path=".status.readyReplicas"),
            Column(name="Draining", type="integer", path=".status.drainingReplicas"),
            AGE,
        ),
        is_scalable=True,
    ),
    Definition(
        kind="GPUClass",
        plural="gpuclasses",
        short_names=("gpuc",),
        scope="Cluster",
        spec=GPUClassSpec,
        status=None,
        columns=(
            Column(name="Resource", type="string", path=".spec.resource"),
            Column(name="GiB", type="number", path=".spec.memoryGib"),
            Column(name="$/h", type="number", path=".spec.pricePerHour"),
            AGE,
        ),
    ),
)


def definition(one: Definition, *, with_rules: bool) -> Schema:
    """The CustomResourceDefinition of one resource."""
    version: Schema = {
        "name": names.VERSION,
        "served": True,
        "storage": True,
        "additionalPrinterColumns": [_column(column) for column in one.columns],
        "schema": {"openAPIV3Schema": resource_schema(one, with_rules=with_rules)},
    }
    subresources: Schema = {"status": {}} if one.status is not None else {}
    if one.is_scalable:
        subresources["scale"] = {
            "specReplicasPath": ".spec.replicas",
            "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": ".status.selector",
        }
    if subresources:
        version["subresources"] = subresources
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": one.name, "labels": {names.LABEL_PART_OF: "sluice"}},
        "spec": {
            "group": names.GROUP,
            "names": {
                "kind": one.kind,
                "listKind": f"{one.kind}List",
                "plural": one.plural,
                "singular": one.kind.lower(),
                "shortNames": list(one.short_names),
                "categories": ["sluice"],
            },
            "scope": one.scope,
            "versions": [version],
        },
    }


def resource_schema(one: Definition, *, with_rules: bool) -> Schema:
    """The whole resource: spec, and status where there is one."""
    properties: Schema = {"spec": part_schema(one.spec, with_rules=with_rules)}
    required = ["spec"]
    if one.status is not None:
        properties["status"] = part_schema(one.status, with_rules=False)
    description = (one.spec.__doc__ or "").strip()
    return {"type": "object", "description": description, "required": required, "properties": properties}


def part_schema(part: type[Part], *, with_rules: bool) -> Schema:
    """A model's structural schema: no references, titles, unions or null."""
    whole = part.model_json_schema(by_alias=True)
    return _structural(whole, whole.get("$defs", {}), _models(part), with_rules=with_rules)


def _structural(
    node: Mapping[str, Any], shared: Mapping[str, Schema], models: Mapping[str, type[Part]], *, with_rules: bool
) -> Schema:
    if "$ref" in node or "anyOf" in node or "allOf" in node:
        node = _resolved(node, shared)
    plain: Schema = {key: node[key] for key in KEPT if key in node and node[key] is not None}
    plain.update({key: node[key] for key in SIZES if key in node})
    if plain.get("default") == "":  # Kubernetes 1.20 takes an applied "" for null and refuses it; parsing gives it
        del plain["default"]
    if "const" in node:
        plain["enum"] = [node["const"]]
    for bound in ("minimum", "maximum"):
        exclusive = f"exclusive{bound.capitalize()}"
        if exclusive in node:
            plain |= {bound: node[exclusive], exclusive: True}
    if "items" in node:
        plain["items"] = _structural(node["items"], shared, models, with_rules=with_rules)
    if isinstance(node.get("additionalProperties"), Mapping):
        plain["additionalProperties"] = _structural(node["additionalProperties"], shared, models, with_rules=with_rules)
    if "properties" in node:
        plain["properties"] = {
            key: _structural(item, shared, models, with_rules=with_rules) for key, item in node["properties"].items()
        }
    if "required" in node:
        plain["required"] = node["required"]
    model = models.get(str(node.get("title")))
    if model is not None and node.get("type") == "object":
        _add_words_of(model, plain, with_rules=with_rules)
    plain.update({key: item for key, item in node.items() if key.startswith("x-kubernetes-")})
    return plain


def _add_words_of(model: type[Part], plain: Schema, *, with_rules: bool) -> None:
    """What a model says beside its fields' types: rules, and parts that are there though nobody gives them."""
    for name, field in model.model_fields.items():
        factory = field.default_factory
        if isinstance(factory, type) and issubclass(factory, Part):
            plain["properties"][field.alias or to_camel(name)]["default"] = {}  # the server fills in the part's own
    if model.rules and with_rules:
        plain["x-kubernetes-validations"] = [
            {"rule": rule.cel, "message": f"{rule.field}: {rule.message}" if rule.field else rule.message}
            for rule in model.rules
        ]


def _resolved(node: Mapping[str, Any], shared: Mapping[str, Schema]) -> Schema:
    """The node with its reference followed and its `| None` dropped; its own words win over the target's."""
    choices: Sequence[Mapping[str, Any]] = node.get("anyOf") or node.get("allOf") or [node]
    (target,) = [choice for choice in choices if choice.get("type") != "null"]
    if "$ref" in target:
        target = shared[target["$ref"].rpartition("/")[2]]
    own = {key: node[key] for key in ("description", "default") if node.get(key) is not None}
    return {**target, **own}


def _models(part: type[Part]) -> dict[str, type[Part]]:
    """Every model of the package by its schema title."""
    found: dict[str, type[Part]] = {}
    waiting = [Part]
    while waiting:
        current = waiting.pop()
        found[current.__name__] = current
        waiting.extend(current.__subclasses__())
    assert part.__name__ in found
    return found


def _column(column: Column) -> Schema:
    shown: Schema = {"name": column.name, "type": column.type, "jsonPath": column.path}
    return {**shown, "priority": 1} if column.wide else shown


def rendered(one: Definition, *, with_rules: bool) -> str:
    """The CRD as YAML text."""
    head = f"# {one.kind}: printed from sluice/operator/resources by `python -m sluice.operator.crd_yaml`.\n"
    return head + yaml.safe_dump(definition(one, with_rules=with_rules), sort_keys=False, width=120)


def main() -> None:
    """Rewrite the chart's CRDs."""
    argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args()
    for with_rules, folder in FOLDERS.items():
        folder.mkdir(parents=True, exist_ok=True)
        for one in DEFINITIONS:
            (folder / f"{one.plural}.yaml").write_text(rendered(one, with_rules=with_rules), encoding="utf-8")


if __name__ == "__main__":
    main()
