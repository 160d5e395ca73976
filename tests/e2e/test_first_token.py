"""From nothing to the first token: chart, five lines of YAML, the openai client inside the cluster and outside."""

import json
import os
import sys
import time
from pathlib import Path

import openai
from kube import traffic
from kube.commands import run
from kube.site import Site
from kube.traffic import Traffic, record

FIRST_TOKEN_S_MAX = 60.0
REAL_STREAMS = 24
REAL_TOKENS = 100
FIVE_LINES = """
apiVersion: sluice.dev/v1alpha1
kind: ModelService
metadata: {name: first}
spec:
  model: {}
"""
ASK = """
import openai
client = openai.OpenAI(base_url="http://first:8000/v1", api_key="none")
question = [{"role": "user", "content": "37+48=?"}]
print(client.chat.completions.create(model="first", messages=question).choices[0].message.content)
"""


def test_five_lines_of_yaml_serve_a_model_within_a_minute(bare_site: Site) -> None:
    started_s = time.monotonic()
    bare_site.install()
    installed_s = time.monotonic() - started_s
    bare_site.run_kubectl("apply", "-f", "-", text_in=FIVE_LINES)
    text = wait_first_token(bare_site)
    first_token_s = time.monotonic() - started_s
    print(f"\nchart installed after {installed_s:.1f} s, first token after {first_token_s:.1f} s")
    assert text
    assert first_token_s <= FIRST_TOKEN_S_MAX


def wait_first_token(site: Site) -> str:
    """The first token of a stream, as soon as the service gives one."""
    site.wait_exists("/api/v1/namespaces/default/services/first")
    client = openai.OpenAI(base_url=f"{site.url('first')}/v1", api_key="none", max_retries=0, timeout=10)
    end_s = time.monotonic() + FIRST_TOKEN_S_MAX
    while True:
        try:
            stream = client.completions.create(model="first", prompt="37+48=", stream=True)
            return next(chunk.choices[0].text for chunk in stream if chunk.choices)
        except openai.APIError:
            if time.monotonic() > end_s:
                raise
            time.sleep(0.2)


def test_clients_inside_and_outside_get_the_same_answer(site: Site) -> None:
    outside = openai.OpenAI(base_url=f"{site.url('first')}/v1", api_key="none")
    question = [{"role": "user", "content": "37+48=?"}]
    said = outside.chat.completions.create(model="first", messages=question).choices[0].message.content
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "asker"},
        "spec": {
            "restartPolicy": "Never",
            "containers": [{"name": "asker", "image": site.control_image, "command": ["python", "-c", ASK]}],
        },
    }
    site.run_kubectl("apply", "-f", "-", text_in=json.dumps(pod))
    site.wait_phase("asker", "Succeeded")
    assert site.run_kubectl("logs", "asker").strip() == said == "85"
    site.run_kubectl("delete", "pod", "asker", "--wait=false")


def test_kubectl_shows_what_there_is(site: Site) -> None:
    site.wait_settled("first")
    line = site.run_kubectl("get", "modelservices", "first", "--no-headers").split()
    assert line[:3] == ["first", "2/2", "True"]


async def test_real_kv_survives_the_change_of_every_worker(site: Site) -> None:
    """One prefill and one decode worker, each replaced under streams: flips, migrations and the model's own KV."""
    await site.apart(site.wait_settled, "first")
    requests = traffic.bodies("first", count=REAL_STREAMS, tokens=REAL_TOKENS)
    answers = await traffic.undisturbed(site.url("first"), requests)
    running = Traffic(site.url("first"), requests, answers)
    running.start()
    try:
        await running.wait_in_flight(REAL_STREAMS - 4)
        pools = {name: {"resources": {"cpu": "300m"}} for name in ("prefill", "decode")}
        await site.apart(site.api.merge, site.service_path("first"), {"spec": {"pools": pools}})
        await site.apart(site.wait_settled, "first")
        report = await running.finish()
    finally:
        await running.abandon()
    record("rolling update of the five-line service, a real model", report)
    assert (report.wrong, report.resumed, report.refusals.total()) == ([], 0, 0)


def test_status_shows_it_to_a_person(site: Site) -> None:
    """As a plugin: kubectl runs the `kubectl-sluice` that is installed with Sluice."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "KUBECONFIG": str(site.api.kubeconfig)}
    shown = run([site.kubectl, "sluice", "status", "first"], deadline_s=30, environment=environment)
    for words in ("default/first  workers 2/2", " running, ", " queued, ", " moved in 5 min"):
        assert words in shown
    assert "KV links, the slowest" in shown


def test_a_deleted_service_is_gone_at_once(site: Site) -> None:
    """What it owned follows while other tests run: `test_end.py` looks for the rest."""
    site.run_kubectl("delete", "modelservice", "first", "--timeout=60s")
