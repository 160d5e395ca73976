"""The CRDs in the chart are the typed models, and old servers can read them."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from sluice.operator import crd_yaml
from sluice.operator.resources.model_service import ModelServiceSpec
from sluice.operator.resources.service_status import LinkStatus

FORBIDDEN_IN_STRUCTURAL = {"$ref", "anyOf", "allOf", "oneOf", "title", "$defs", "const", "exclusiveMinimum value"}


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for item in value.values():
            yield from nodes(item)
    elif isinstance(value, list):
        for item in value:
            yield from nodes(item)


@pytest.mark.parametrize("with_rules", [False, True])
@pytest.mark.parametrize("one", crd_yaml.DEFINITIONS, ids=lambda one: one.plural)
def test_the_crds_in_the_chart_are_printed_from_the_models(one: crd_yaml.Definition, with_rules: bool) -> None:
    path = crd_yaml.FOLDERS[with_rules] / f"{one.plural}.yaml"
    stored = path.read_text(encoding="utf-8")
    assert stored == crd_yaml.rendered(one, with_rules=with_rules), "run: python -m sluice.operator.crd_yaml"


@pytest.mark.parametrize("one", crd_yaml.DEFINITIONS, ids=lambda one: one.plural)
def test_the_plain_crds_hold_nothing_an_old_server_refuses(one: crd_yaml.Definition) -> None:
    text = crd_yaml.rendered(one, with_rules=False)
    assert "x-kubernetes-validations" not in text
    for node in nodes(crd_yaml.resource_schema(one, with_rules=False)):
        assert not FORBIDDEN_IN_STRUCTURAL & node.keys() or "properties" in node
        if "exclusiveMinimum" in node and not isinstance(node["exclusiveMinimum"], dict):
            assert node["exclusiveMinimum"] is True, "a boolean in this version of OpenAPI"
        if "type" in node and isinstance(node["type"], str) and node["type"] == "object":
            assert not isinstance(node.get("additionalProperties"), bool)


def test_every_rule_of_the_models_stands_in_the_crd_with_rules() -> None:
    text = yaml.safe_dump(crd_yaml.definition(crd_yaml.DEFINITIONS[0], with_rules=True))
    found = [node["rule"] for node in nodes(yaml.safe_load(text)) if "rule" in node]
    assert {rule.cel for rule in ModelServiceSpec.rules} <= set(found)
    assert len(found) == 5


def test_the_schema_states_every_default_that_parsing_gives() -> None:
    schema = crd_yaml.part_schema(ModelServiceSpec, with_rules=False)
    filled = json.loads(ModelServiceSpec().model_dump_json(by_alias=True, exclude_none=True))
    assert (
        filled["drain"]["deadlineSeconds"] == schema["properties"]["drain"]["properties"]["deadlineSeconds"]["default"]
    )


def test_what_is_not_given_is_filled_in_wherever_parsing_does_but_for_pools() -> None:
    """Pools that nobody wrote would stay beside those that somebody applies later."""
    schema = crd_yaml.part_schema(ModelServiceSpec, with_rules=False)["properties"]
    assert {name for name, one in schema.items() if one.get("default") != {}} == {"pools", "scaling"}
    pool = schema["pools"]["additionalProperties"]["properties"]
    assert pool["replicas"]["default"] == pool["engine"]["default"] == {}


def test_workers_are_scaled_through_the_scale_subresource() -> None:
    pool = next(one for one in crd_yaml.DEFINITIONS if one.is_scalable)
    (version,) = crd_yaml.definition(pool, with_rules=False)["spec"]["versions"]
    assert version["subresources"]["scale"]["specReplicasPath"] == ".spec.replicas"


def test_a_link_without_an_error_has_none_rather_than_an_empty_one() -> None:
    """Kubernetes 1.20 takes an applied "" for null, and refused the whole status for it."""
    link = LinkStatus.model_validate({"from": "a", "to": "b", "transport": "tcp", "gbPerSecond": 1.0})
    assert "lastError" not in link.model_dump(by_alias=True, exclude_none=True)
