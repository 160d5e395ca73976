"""What the builders make of a ModelService, written out in full: tests/operator/golden shows every manifest.

`SLUICE_REWRITE_GOLDEN=1 python -m pytest tests/operator` writes them anew; read the difference.
"""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from sluice.capacity import profile_file
from sluice.capacity.step_model import StepShape
from sluice.config import load
from sluice.config.operator import OperatorConfig
from sluice.config.router import RouterConfig
from sluice.config.telemetry import TelemetryConfig
from sluice.config.worker import WorkerConfig
from sluice.operator.accept import accept, gpu_classes
from sluice.operator.builders import pod_parts
from sluice.operator.builders.gpu_profile import PROFILE_FILE
from sluice.operator.builders.service_objects import owned, service_objects, worker_pool
from sluice.operator.builders.worker_workload import pool_template, worker_config_map, worker_deployment
from sluice.operator.manifest import Kind, covers, marked

GOLDEN = Path(__file__).parent / "golden"
CASES = sorted(path.stem.removesuffix(".input") for path in GOLDEN.glob("*.input.yaml"))


def manifests(case: str) -> list[dict[str, Any]]:
    bodies = list(yaml.safe_load_all((GOLDEN / f"{case}.input.yaml").read_text(encoding="utf-8")))
    (body,) = [one for one in bodies if one["kind"] == "ModelService"]
    classes, _ = gpu_classes([one for one in bodies if one["kind"] == "GPUClass"])
    config = OperatorConfig(router_image="registry.example/sluice-control:1", worker_image="registry.example/sluice:1")
    service = accept(body, classes)
    budget = Kind.DISRUPTION_BUDGET
    replicas = {pool.name: pool.spec.replicas.min for pool in service.pools}
    built = service_objects(service, config, replicas=replicas, budget=budget)
    for pool in service.pools:
        template = pool_template(service, pool, config)
        built += [
            worker_pool(service, pool, replicas=replicas[pool.name]),
            owned(service, worker_config_map(service, template)),
            owned(service, worker_deployment(service, template, replicas=replicas[pool.name])),
        ]
    return built


class PlainDumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


@pytest.mark.parametrize("case", CASES)
def test_manifests_are_as_written_down(case: str) -> None:
    text = yaml.dump_all(manifests(case), Dumper=PlainDumper, sort_keys=False, width=120)
    path = GOLDEN / f"{case}.yaml"
    if os.environ.get("SLUICE_REWRITE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == text


@pytest.mark.parametrize("case", CASES)
def test_every_settings_file_is_one_the_processes_read(case: str) -> None:
    read = 0
    for manifest in manifests(case):
        for name, text in manifest.get("data", {}).items():
            if name == PROFILE_FILE:
                continue
            values = yaml.safe_load(text)
            section: type[RouterConfig | WorkerConfig] = RouterConfig if name == "router.yaml" else WorkerConfig
            own = {} if section is RouterConfig else {"worker": "a-pod"}
            load.parse({**values, **own}, section, source=name)
            read += 1
    assert read >= 2


def test_the_curves_of_a_class_reach_the_workers_of_its_pools_as_a_profile(tmp_path: Path) -> None:
    """Where a pool has several classes nobody knows yet on which one a pod will land."""
    settings = {one["metadata"]["labels"]["sluice.dev/pool"]: one["data"] for one in worker_config_maps("mixed_gpus")}
    assert PROFILE_FILE not in settings["prefill"]
    path = tmp_path / PROFILE_FILE
    path.write_text(settings["decode-cheap"][PROFILE_FILE], encoding="utf-8")
    profile = profile_file.read(path)
    assert (profile.gpu_class, profile.tensor_parallel) == ("a100", 1)
    alone, batch = StepShape(1000, 500_000.0, 1, 0, 0), StepShape(0, 0.0, 0, 50, 100_000)
    assert profile.curve.step_s(alone) == pytest.approx(0.009 + 0.06 + 0.001)
    assert profile.curve.step_s(batch) == pytest.approx(0.009 + 0.002 + 0.007)
    named = yaml.safe_load(settings["decode-cheap"]["worker.yaml"])["gpu"]["profile"]
    assert named == f"/etc/sluice/{PROFILE_FILE}"


def worker_config_maps(case: str) -> list[dict[str, Any]]:
    return [one for one in manifests(case) if "worker.yaml" in one.get("data", {})]


@pytest.mark.parametrize("case", CASES)
def test_every_port_names_its_protocol(case: str) -> None:
    """Server-side apply on Kubernetes 1.20 merges ports by number and protocol, and refuses one without."""
    for manifest in manifests(case):
        for ports in found(manifest, "ports"):
            assert all(port.get("protocol") == "TCP" for port in ports), manifest["metadata"]["name"]


@pytest.mark.parametrize("case", CASES)
def test_no_container_is_privileged_or_writes_its_image(case: str) -> None:
    for manifest in manifests(case):
        if manifest["kind"] != "Deployment":
            continue
        pod = manifest["spec"]["template"]["spec"]
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            assert container["securityContext"] == pod_parts.container_security()
            assert {"name": "USER", "value": "sluice"} in container.get("env", []) or container["name"] == "model"


@pytest.mark.parametrize("case", CASES)
def test_a_manifest_covers_itself_once_applied(case: str) -> None:
    for manifest in manifests(case):
        wanted = marked(manifest)
        live = {**wanted, "status": {}, "metadata": {**wanted["metadata"], "resourceVersion": "7"}}
        assert covers(live, wanted)


def test_how_loud_the_operator_is_makes_no_new_worker() -> None:
    """Its log level once stood in the workers' settings: `helm upgrade` with another one replaced every worker."""
    body = next(yaml.safe_load_all((GOLDEN / "five_lines.input.yaml").read_text(encoding="utf-8")))
    service = accept(body, {})
    loud = OperatorConfig(telemetry=TelemetryConfig(log_level="debug"))
    for pool in service.pools:
        assert pool_template(service, pool, loud).revision == pool_template(service, pool, OperatorConfig()).revision


def test_a_workers_grace_period_follows_from_the_drain_deadline() -> None:
    assert pod_parts.worker_grace_s(60.0) == 130
    assert pod_parts.worker_grace_s(0.5) == 11
    assert pod_parts.router_grace_s(60.0) == 75


@pytest.mark.parametrize(
    ("written", "kept"), [("1.5", "1500m"), ("1", "1"), ("2000m", "2"), ("250m", "250m"), ("0.25", "250m")]
)
def test_cpus_are_written_as_the_server_writes_them_back(written: str, kept: str) -> None:
    assert pod_parts.cpu_quantity(written) == kept


@pytest.mark.parametrize(
    ("written", "kept"), [("1024Mi", "1Gi"), ("512Mi", "512Mi"), ("2048Gi", "2Ti"), ("3Gi", "3Gi")]
)
def test_memory_is_written_as_the_server_writes_it_back(written: str, kept: str) -> None:
    assert pod_parts.memory_quantity(written) == kept


def found(value: Any, key: str) -> list[Any]:
    if isinstance(value, dict):
        here = [value[key]] if key in value else []
        return here + [hit for item in value.values() for hit in found(item, key)]
    return [hit for item in value for hit in found(item, key)] if isinstance(value, list) else []
