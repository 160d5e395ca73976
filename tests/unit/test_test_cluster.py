"""The parts of the test cluster that decide something and need no cluster."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

from kube import archive, traffic
from kube.cluster import is_node_ready
from kube.dns import hosts_text
from kube.site import has_condition


def service(name: str, cluster_ip: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "blue"}, "spec": {"clusterIP": cluster_ip}}


def test_a_headless_service_has_the_addresses_of_its_pods_and_any_other_its_own() -> None:
    pods = {"metadata": {"name": "routers", "namespace": "blue"}, "subsets": [{"addresses": [{"ip": "10.0.0.7"}]}]}
    text = hosts_text([service("routers", "None"), service("api", "10.96.1.1"), service("gone", "None")], [pods])
    assert text == "10.0.0.7 routers.blue.svc.cluster.local\n10.96.1.1 api.blue.svc.cluster.local\n"


def test_a_condition_about_an_earlier_spec_says_nothing() -> None:
    status = {"observedGeneration": 1, "conditions": [{"type": "Available", "status": "True"}]}
    assert has_condition({"metadata": {"generation": 1}, "status": status}, "Available")
    assert not has_condition({"metadata": {"generation": 2}, "status": status}, "Available")
    assert not has_condition({"metadata": {"generation": 1}}, "Available")
    assert not is_node_ready({"status": {}})


def test_an_archive_leaves_out_the_layers_its_receiver_has(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="ascii")
    written = archive.write_layer(tmp_path / "layer", {"/a/file": tmp_path / "file"})
    known = archive.Layer("0" * 64, 5, None)
    target = tmp_path / "image.tar"
    settings = archive.Settings(entrypoint=("sluice",), user="10001")
    archive.write_archive(target, name="registry.local/a:1", layers=[known, written], settings=settings)
    with tarfile.open(target) as tar:
        names = tar.getnames()
        index = json.load(tar.extractfile("index.json") or io.BytesIO())
        manifest = json.load(tar.extractfile(f"blobs/sha256/{index['manifests'][0]['digest'][7:]}") or io.BytesIO())
    assert f"blobs/sha256/{written.digest}" in names
    assert f"blobs/sha256/{known.digest}" not in names
    assert [layer["digest"][7:] for layer in manifest["layers"]] == [known.digest, written.digest]


def test_requests_differ_and_run_to_their_last_token() -> None:
    made = traffic.bodies("m", count=60, tokens=9)
    assert len({json.dumps(body) for body in made}) == 60
    assert all(body["ignore_eos"] and body["max_tokens"] == 9 and body["stream"] for body in made)
