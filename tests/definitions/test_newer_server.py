"""The full definitions on a newer API server: it takes them, enforces their rules, and says what is wrong.

Kubernetes 1.20, on which the other tests run, knows no validation rules. `make definitions` runs this.
Next: `tests/support/kube/newer_server.py`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kube import newer_server
from kube.api import ApiError
from kube.commands import UnfitError
from kube.newer_server import NewerServer
from kube.places import Places, cache_root
from kube.processes import wait_until

from sluice.operator import crd_yaml

pytestmark = pytest.mark.timeout(3600)
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
SERVICES = "/apis/sluice.dev/v1alpha1/namespaces/default/modelservices"
STRICT = "?fieldValidation=Strict"
INVALID = 422
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "two sources": ({"model": {"pvc": {"claim": "a"}, "hostPath": {"path": "/x"}}}, "keep one of"),
    "max below min": ({"model": {}, "pools": {"mixed": {"replicas": {"min": 3, "max": 2}}}}, "max below its min"),
    "nobody decodes": ({"model": {}, "pools": {"prefill": {}}}, "no pool that decodes"),
    "a pool without a role": ({"model": {}, "pools": {"fast": {}}}, "whose name is no role"),
    "an unknown role": ({"model": {}, "pools": {"a": {"role": "chef"}}}, "Unsupported value"),
    "a negative minimum": ({"model": {}, "pools": {"mixed": {"replicas": {"min": -1}}}}, "greater than or equal to 0"),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NewerServer]:
    """A server that has taken every definition, rules included."""
    try:
        programs = newer_server.build(Places(cache_root()))
    except UnfitError as error:
        pytest.skip(str(error))
    made = NewerServer(programs, tmp_path_factory.mktemp("server"))
    try:
        made.start()
        for path in sorted(crd_yaml.FOLDERS[True].glob("*.yaml")):
            establish(made, path)
        yield made
    finally:
        made.stop()


def establish(server: NewerServer, path: Path) -> None:
    definition = yaml.safe_load(path.read_text(encoding="utf-8"))
    server.call("POST", DEFINITIONS + STRICT, definition)

    def is_established() -> bool:
        found = server.call("GET", f"{DEFINITIONS}/{definition['metadata']['name']}")
        conditions = found.get("status", {}).get("conditions", [])
        return any(one["type"] == "Established" and one["status"] == "True" for one in conditions)

    wait_until(is_established, deadline_s=30, what=f"{path.name} is established")


def service(name: str, spec: dict[str, Any]) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "default"}
    return {"apiVersion": "sluice.dev/v1alpha1", "kind": "ModelService", "metadata": metadata, "spec": spec}


def test_a_five_line_service_is_taken_and_filled_in(server: NewerServer) -> None:
    made = server.call("POST", SERVICES + STRICT, service("demo", {"model": {}}))
    assert made["spec"]["drain"]["deadlineSeconds"] > 0


@pytest.mark.parametrize("case", BAD)
def test_a_bad_spec_never_gets_in_and_the_answer_says_why(server: NewerServer, case: str) -> None:
    spec, words = BAD[case]
    with pytest.raises(ApiError, match=words) as refused:
        server.call("POST", SERVICES + STRICT, service("bad", spec))
    assert refused.value.status == INVALID


def test_an_unknown_field_is_named(server: NewerServer) -> None:
    with pytest.raises(ApiError, match="replicsa"):
        server.call("POST", SERVICES + STRICT, service("bad", {"model": {}, "pools": {"mixed": {"replicsa": {}}}}))


def test_the_model_of_a_service_cannot_be_changed(server: NewerServer) -> None:
    made = server.call("POST", SERVICES + STRICT, service("fixed", {"model": {"hostPath": {"path": "/a"}}}))
    made["spec"]["model"]["hostPath"]["path"] = "/b"
    with pytest.raises(ApiError, match="cannot be changed; make another ModelService"):
        server.call("PUT", f"{SERVICES}/fixed", made)
