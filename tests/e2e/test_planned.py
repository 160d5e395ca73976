"""What `sluice plan` prints is what the cluster runs: its pools, on the GPU classes it chose."""

import os
import sys

import openai
import yaml
from kube import services
from kube.commands import run
from kube.site import Site

PLAN = (
    *("plan", "--yaml", "--rounds=0", "--slo=ttft=0.5s,tpot=100ms", "--gpus=L4=0.7/h:2,A100=3.7/h:2"),
    *("--trace=synthetic:isl=1024,osl=64", "--rate=1"),
)


def test_a_plan_is_applied_as_it_is_printed_and_serves(own_site: Site) -> None:
    """A100s of the second node compute prompts, L4s of any node the answers; only the model's place is added."""
    site = own_site
    printed = run([sys.executable, "-m", "sluice.cli.main", *PLAN], deadline_s=60, environment=dict(os.environ))
    service = yaml.safe_load(printed)
    assert [pool["gpuClasses"] for pool in service["spec"]["pools"].values()] == [["a100-80g"], ["l4"]]
    service["spec"]["model"]["emulated"] = {"shape": service["spec"]["model"]["name"]}
    place = {"kubernetes.io/hostname": site.own.nodes[-1].name}
    site.api.apply(services.l4())
    site.api.apply(services.gpu_class("a100-80g", selector=place, memory_gib=80, price_per_hour=3.7))
    site.api.apply(service)
    name = service["metadata"]["name"]
    try:
        site.wait_settled(name)
        site.wait_answers(name)
        prefill, decode = service["spec"]["pools"]
        assert [pod["spec"]["nodeName"] for pod in site.worker_pods(name, pool=prefill)] == [*place.values()]
        assert len(site.worker_pods(name, pool=decode)) == 1
        client = openai.OpenAI(base_url=f"{site.url(name)}/v1", api_key="none", max_retries=0, timeout=30)
        said = client.completions.create(model="Llama-3.1-8B", prompt="37+48=", max_tokens=5)
        assert said.usage.completion_tokens == 5
    finally:
        site.api.delete(site.service_path(name))
