"""The full definitions on a newer API server: it takes them, enforces their rules, and says what is wrong.

Kubernetes 1.20, on which the end-to-end tests run, knows no validation rules. `make definitions` runs this.
Next: `tests/support/kube/newer_server.py`.
"""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kube import newer_server
from kube.api import Api, ApiError, Document
from kube.commands import UnfitError
from kube.newer_server import DEFINITIONS, NewerServer
from kube.places import Places, cache_root
from kube.processes import wait_until

from sluice.operator import crd_yaml
from sluice.operator.resources.part import Part

pytestmark = pytest.mark.timeout(3600)
VERSION = "sluice.dev/v1alpha1"
GROUP = f"/apis/{VERSION}"
SERVICES = f"{GROUP}/namespaces/default/modelservices"
POOLS = f"{GROUP}/namespaces/default/workerpools"
STRICT = {"fieldValidation": "Strict"}
GOLDEN = Path(__file__).parents[1] / "operator" / "golden"
INVALID = 422
GPU = {"nodeSelector": {"a": "b"}, "memoryGib": 24, "pricePerHour": 0.7}
BROKEN_RULES: dict[str, Document] = {
    "names several sources; keep one of": {"model": {"pvc": {"claim": "a"}, "hostPath": {"path": "/x"}}},
    "has a max below its min; raise max or lower min": {"pools": {"mixed": {"replicas": {"min": 3, "max": 2}}}},
    "has no pool that decodes; add": {"pools": {"prefill": {}, "eyes": {"role": "encode"}}},
    "has a pool without `role` whose name is no role": {"pools": {"fast": {}, "mixed": {}}},
}
FIXED = "cannot be changed; make another ModelService"
BAD_FIELDS: dict[str, tuple[Document, str]] = {
    "an unknown role": ({"pools": {"a": {"role": "chef"}}}, "Unsupported value"),
    "a negative minimum": ({"pools": {"mixed": {"replicas": {"min": -1}}}}, "greater than or equal to 0"),
    "a word for a number": ({"drain": {"deadlineSeconds": "soon"}}, "must be of type number"),
    "a quantity without a unit": ({"routers": {"memory": "much"}}, "should match"),
    "no pool at all": ({"pools": {}}, "at least 1"),
}


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """A newer server that has no definition yet."""
    try:
        programs = newer_server.build(Places(cache_root()))
    except UnfitError as error:
        pytest.skip(str(error))
    server = NewerServer(programs, tmp_path_factory.mktemp("server"))
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture(scope="module")
def api(bare: Api) -> Api:
    """A newer server that has taken every definition, first as an old server gets it, then with its rules.

    As the chart does to a cluster that is upgraded.
    """
    for with_rules in (False, True):
        for path in sorted(crd_yaml.FOLDERS[with_rules].glob("*.yaml")):
            establish(bare, yaml.safe_load(path.read_text(encoding="utf-8")))
    return bare


def establish(api: Api, definition: Document) -> None:
    """Apply a definition and wait until the server serves it: without a word of warning or doubt."""
    made = api.apply(definition)
    path = f"{DEFINITIONS}/{made['metadata']['name']}"

    def is_served() -> bool:
        told = api.get(path).get("status", {}).get("conditions") or []
        conditions = {one["type"]: one["status"] for one in told}
        assert conditions.get("NonStructuralSchema", "False") == "False"
        return conditions.get("Established") == "True" and conditions.get("NamesAccepted") == "True"

    wait_until(is_served, deadline_s=30, what=f"{path} is established")


def service(name: str, spec: Document) -> Document:
    metadata = {"name": name, "namespace": "default"}
    return {"apiVersion": VERSION, "kind": "ModelService", "metadata": metadata, "spec": spec}


def create(api: Api, path: str, body: Document) -> Document:
    return api.call("POST", path, body=body, query=STRICT)


def is_enforced(api: Api) -> bool:
    """Whether the rules of the second definitions are served already: a moment after they were taken."""
    try:
        api.call("POST", SERVICES, body=service("probe", {"pools": {"fast": {}}}), query={"dryRun": "All"})
    except ApiError as error:
        return error.status == INVALID
    return False


def test_every_rule_of_the_models_has_a_bad_object_here() -> None:
    messages = {rule.message for part in parts(Part) for rule in part.rules}
    tried = [*BROKEN_RULES, FIXED]
    assert [message for message in messages if not any(words in message for words in tried)] == []
    assert len(messages) == len(tried)


def parts(part: type[Part]) -> Iterator[type[Part]]:
    for one in part.__subclasses__():
        yield one
        yield from parts(one)


def test_a_five_line_service_is_taken_and_filled_in(api: Api) -> None:
    wait_until(lambda: is_enforced(api), deadline_s=30, what="rules are enforced")
    made = create(api, SERVICES, service("demo", {"model": {}}))
    assert made["spec"]["drain"]["deadlineSeconds"] > 0


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.input.yaml")), ids=lambda path: path.name.partition(".")[0])
def test_good_resources_are_taken_with_every_field_they_have(api: Api, path: Path) -> None:
    for body in yaml.safe_load_all(path.read_text(encoding="utf-8")):
        one = copy.deepcopy(body)
        one["metadata"] = {"name": f"{path.name.partition('.')[0].replace('_', '-')}-{body['metadata']['name']}"}
        plural = next(known.plural for known in crd_yaml.DEFINITIONS if known.kind == body["kind"])
        create(api, f"{GROUP}/gpuclasses" if plural == "gpuclasses" else SERVICES, one)


@pytest.mark.parametrize("words", BROKEN_RULES)
def test_a_broken_rule_is_refused_in_its_own_words(api: Api, words: str) -> None:
    with pytest.raises(ApiError, match=words) as refused:
        create(api, SERVICES, service("bad", BROKEN_RULES[words]))
    assert refused.value.status == INVALID


@pytest.mark.parametrize("case", BAD_FIELDS)
def test_a_bad_field_is_refused_by_the_schema(api: Api, case: str) -> None:
    spec, words = BAD_FIELDS[case]
    with pytest.raises(ApiError, match=words) as refused:
        create(api, SERVICES, service("bad", spec))
    assert refused.value.status == INVALID


def test_an_unknown_field_is_named(api: Api) -> None:
    with pytest.raises(ApiError, match="replicsa"):
        create(api, SERVICES, service("bad", {"model": {}, "pools": {"mixed": {"replicsa": {}}}}))


def test_the_model_of_a_service_cannot_be_changed(api: Api) -> None:
    create(api, SERVICES, service("fixed", {"model": {"hostPath": {"path": "/a"}}}))
    with pytest.raises(ApiError, match=FIXED):
        api.merge(f"{SERVICES}/fixed", {"spec": {"model": {"hostPath": {"path": "/b"}}}})
    with pytest.raises(ApiError, match=FIXED):
        api.merge(f"{SERVICES}/fixed", {"spec": {"model": None}})


@pytest.mark.parametrize("spec", [{}, {"model": {}}, {"model": {"hostPath": {"path": "/a"}}}], ids=str)
def test_everything_else_of_a_service_can_be_changed(api: Api, spec: Document) -> None:
    name = f"edited-{len(str(spec))}"
    create(api, SERVICES, service(name, spec))
    changed = {"drain": {"deadlineSeconds": 9}, "pools": {"mixed": {}}}
    assert api.merge(f"{SERVICES}/{name}", {"spec": changed})["spec"]["drain"]["deadlineSeconds"] == 9


@pytest.mark.parametrize("wrong", [{"nodeSelector": {}}, {"memoryGib": 0}, {"resource": "gpu"}, {"pricePerHour": -1}])
def test_a_gpu_class_that_makes_no_sense_is_refused(api: Api, wrong: dict[str, Any]) -> None:
    body = {"apiVersion": VERSION, "kind": "GPUClass", "metadata": {"name": "g"}, "spec": {**GPU, **wrong}}
    with pytest.raises(ApiError, match=next(iter(wrong))) as refused:
        create(api, f"{GROUP}/gpuclasses", body)
    assert refused.value.status == INVALID


def test_a_pool_is_scaled_through_its_scale(api: Api) -> None:
    pool = {
        "apiVersion": VERSION,
        "kind": "WorkerPool",
        "metadata": {"name": "demo-decode"},
        "spec": {"service": "demo", "pool": "decode", "replicas": 1},
    }
    create(api, POOLS, pool)
    api.merge(f"{POOLS}/demo-decode/scale", {"spec": {"replicas": 3}})
    assert api.get(f"{POOLS}/demo-decode")["spec"]["replicas"] == 3
