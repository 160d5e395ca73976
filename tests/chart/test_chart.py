"""The chart without a cluster: Helm's own lint and rendering, refused values, and what it shares with the code."""

import json
import re
from pathlib import Path
from typing import Any

import helm_python as helm
import pytest
import yaml

from sluice.config import load
from sluice.config.operator import OperatorConfig
from sluice.operator import permissions, permissions_yaml
from sluice.telemetry import metric_table

CHART = Path(__file__).parents[2] / "charts" / "sluice"
PROMETHEUS = re.compile(r"\bsluice_[a-z_]+\b")
SUFFIXES = ("_total", "_bucket", "_sum", "_count")
LINT_ERROR = 3


@pytest.fixture(scope="module")
def chart() -> Any:
    loaded = helm.chart.Chart.load(str(CHART))
    yield loaded
    loaded.close()


def render(chart: Any, values: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """Every object of a rendered release called `sluice` in the namespace `sluice-system`."""
    files = chart.render(values or {}, name="sluice", namespace="sluice-system")
    texts = [text for path, text in files.items() if path.endswith(".yaml")]
    return [document for text in texts for document in yaml.safe_load_all(text) if document]


def one(objects: list[dict[str, Any]], kind: str, name: str = "sluice-operator") -> dict[str, Any]:
    (found,) = [each for each in objects if each["kind"] == kind and each["metadata"]["name"] == name]
    return found


@pytest.mark.parametrize("version", ["v1.20.2", "v1.25.0", "v1.36.0"])
def test_helm_finds_nothing_wrong(version: str) -> None:
    report = helm.lint(str(CHART), strict=True, kube_version=version)
    assert report["errors"] == []
    assert [message for message in report["messages"] if message["severity"] >= LINT_ERROR] == []


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"images": {"worker": {"tag": "a b"}}}, "tag"),
        ({"operator": {"replicas": -1}}, "replicas"),
        ({"operator": {"replicas": "two"}}, "replicas"),
        ({"operator": {"logLevel": "loud"}}, "logLevel"),
        ({"operator": {"resources": {"limits": {"memory": "much"}}}}, "memory"),
        ({"images": {"pullPolicy": "Sometimes"}}, "pullPolicy"),
        ({"namespaces": ["Not A Name"]}, "namespaces"),
        ({"nameSpaces": []}, "nameSpaces"),
        ({"monitoring": {"dashboard": {"enable": True}}}, "enable"),
    ],
)
def test_a_wrong_value_is_refused_by_name(chart: Any, values: dict[str, Any], named: str) -> None:
    with pytest.raises(helm.HelmValuesError, match=named):
        chart.validate_schema(values)


def test_the_defaults_pass_their_own_schema(chart: Any) -> None:
    chart.validate_schema({})


def test_the_operator_may_do_nothing_but_its_work(chart: Any) -> None:
    pod = one(render(chart), "Deployment")["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in pod["containers"]:
        allowed = container["securityContext"]
        assert allowed["allowPrivilegeEscalation"] is False
        assert allowed["readOnlyRootFilesystem"] is True
        assert allowed["capabilities"] == {"drop": ["ALL"]}


def test_ports_name_their_protocol_since_old_servers_merge_by_it(chart: Any) -> None:
    for found in render(chart):
        for port in re.findall(r'\{[^{}]*"(?:containerPort|port)"[^{}]*\}', json.dumps(found)):
            assert '"protocol"' in port or '"scheme"' in port, found["metadata"]["name"]


def test_the_settings_file_is_one_the_operator_reads(chart: Any) -> None:
    values = {"images": {"worker": {"tag": "7"}, "pullSecrets": ["hub"]}}
    text = one(render(chart, values), "ConfigMap")["data"]["operator.yaml"]
    config = load.parse(yaml.safe_load(text), OperatorConfig, source="the chart")
    assert config.worker_image == "sluice-worker:7"
    assert config.router_image == "sluice-control:0.1.0"
    assert config.image_pull_secrets == ("hub",)
    assert config.lease_namespace == "sluice-system"


def test_a_changed_setting_restarts_the_operator(chart: Any) -> None:
    def mark(values: dict[str, Any]) -> str:
        template = one(render(chart, values), "Deployment")["spec"]["template"]
        return str(template["metadata"]["annotations"]["sluice.dev/settings"])

    assert mark({}) != mark({"operator": {"logLevel": "debug"}})
    assert mark({}) == mark({"networkPolicy": {"enabled": False}})


def test_permissions_are_printed_from_the_operators_list() -> None:
    assert permissions_yaml.TARGET.read_text(encoding="utf-8") == permissions_yaml.text(), (
        "run: python -m sluice.operator.permissions_yaml"
    )


def test_the_cluster_role_grants_the_operators_list_and_no_more(chart: Any) -> None:
    objects = render(chart)
    everywhere = [*permissions.CLUSTER_PERMISSIONS, *permissions.SERVICE_NAMESPACE_PERMISSIONS]
    assert one(objects, "ClusterRole")["rules"] == permissions_yaml.rules(everywhere)
    assert one(objects, "Role")["rules"] == permissions_yaml.rules(permissions.OWN_NAMESPACE_PERMISSIONS)


def test_listed_namespaces_replace_the_cluster_wide_grant(chart: Any) -> None:
    objects = render(chart, {"namespaces": ["blue", "green"]})
    everywhere = [*permissions.CLUSTER_PERMISSIONS, *permissions.NAMED_NAMESPACES_PERMISSIONS]
    assert one(objects, "ClusterRole")["rules"] == permissions_yaml.rules(everywhere)
    roles = [each for each in objects if each["kind"] == "Role" and each["metadata"]["namespace"] != "sluice-system"]
    assert [role["metadata"]["namespace"] for role in roles] == ["blue", "green"]
    wanted = permissions_yaml.rules(permissions.SERVICE_NAMESPACE_PERMISSIONS)
    assert all(role["rules"] == wanted for role in roles)
    arguments = one(objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]["args"]
    assert {"--namespace=blue", "--namespace=green"} <= set(arguments)
    assert "--all-namespaces" not in arguments


def test_definitions_stay_when_the_release_goes_and_can_be_left_out(chart: Any) -> None:
    definitions = [each for each in render(chart) if each["kind"] == "CustomResourceDefinition"]
    assert {each["spec"]["names"]["kind"] for each in definitions} == {"ModelService", "WorkerPool", "GPUClass"}
    assert all(each["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep" for each in definitions)
    without = render(chart, {"crds": {"install": False}})
    assert not [each for each in without if each["kind"] == "CustomResourceDefinition"]


def test_alerts_need_the_prometheus_operator_and_say_so(chart: Any) -> None:
    with pytest.raises(helm.HelmRenderError, match="install the Prometheus operator"):
        render(chart, {"monitoring": {"prometheusRule": {"enabled": True}}})


def test_the_dashboard_is_whole_json_in_a_config_map(chart: Any) -> None:
    objects = render(chart, {"monitoring": {"dashboard": {"enabled": True}}})
    dashboard = json.loads(one(objects, "ConfigMap", "sluice-dashboard")["data"]["sluice.json"])
    assert dashboard["uid"] == "sluice"


@pytest.mark.parametrize("path", ["dashboards/sluice.json", "files/alerts.yaml"])
def test_every_metric_shown_or_alerted_on_exists(path: str) -> None:
    known = {spec.name for spec in (*metric_table.ROUTER_METRICS, *metric_table.WORKER_METRICS)}
    for name in PROMETHEUS.findall((CHART / path).read_text(encoding="utf-8")):
        bare = next((name.removesuffix(suffix) for suffix in SUFFIXES if name.endswith(suffix)), name)
        assert bare in known, name


def test_the_notes_tell_the_next_command(chart: Any) -> None:
    files = chart.render({}, name="sluice", namespace="sluice-system")
    (notes,) = [text for path, text in files.items() if path.endswith("NOTES.txt")]
    assert "rollout status deployment/sluice-operator" in notes
    assert "kubectl apply -f -" in notes
