"""A ModelService that cannot be run is refused with the field and the remedy; one that can gets its defaults."""

from typing import Any

import pytest
from operator_trial import model_service

from sluice.errors import RefusedSpecError
from sluice.operator.accept import accept, gpu_classes, parse
from sluice.operator.manifest import Manifest, digest
from sluice.operator.resources.gpu_class import GPUClassSpec
from sluice.operator.resources.model_service import ModelServiceSpec


def gpu(**spec: Any) -> GPUClassSpec:
    whole = {"nodeSelector": {"gpu": "x"}, "memoryGib": 80, "pricePerHour": 2, **spec}
    return parse(GPUClassSpec, whole)


CLASSES = {
    "h100": gpu(pricePerHour=4),
    "a100": gpu(pricePerHour=2),
    "mi300": gpu(pricePerHour=3, resource="amd.com/gpu"),
}
NVIDIA = {name: CLASSES[name] for name in ("h100", "a100")}


def body(name: str = "demo", status: Manifest | None = None, **spec: Any) -> Manifest:
    made = model_service(name, **spec)
    made["metadata"]["uid"] = "u"
    return {**made, "status": status or {}}


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"pools": {"decode": {"replicas": {"min": 3, "max": 2}}}}, "spec.pools.decode.replicas: has a max below its"),
        ({"pools": {"fast": {}}}, "give it `role: prefill`"),
        ({"pools": {"prefill": {}}}, "no pool that decodes; add `decode: {}`"),
        ({"pools": {"decode": {"gpuClasses": ["b200"]}}}, "there is no GPUClass 'b200' (there are: a100, h100, mi300)"),
        ({"pools": {"mixed": {"gpuClasses": ["h100", "mi300"]}}}, "mixes amd.com/gpu, nvidia.com/gpu"),
        ({"pools": {"mixed": {"gpuClasses": []}, "a" * 16: {"role": "decode"}}}, "use at most 15 of a-z"),
        ({"pools": {"router": {"role": "mixed", "gpuClasses": []}}}, "is the routers' name"),
        ({"model": {"pvc": {"claim": "a"}, "hostPath": {"path": "/b"}}}, "spec.model: names several sources; keep one"),
        (
            {"pools": {"mixed": {"gpuClasses": ["a100"], "engine": {"kvMemoryMib": 99_999}}}},
            "spec.pools.mixed.engine.kvMemoryMib: GPUClass 'a100' holds 80 GiB; give KV less",
        ),
        ({"modle": {}}, "spec.modle: is not a known field; remove it"),
        ({"drain": {"deadlineSeconds": "soon"}}, "spec.drain.deadlineSeconds: input should be a valid number"),
        ({"routers": {"replicas": 0}}, "spec.routers.replicas: input should be greater than or equal to 1"),
        ({"pools": {"mixed": {"tensorParallel": 2}}}, "spec.pools.mixed.tensorParallel: input should be less than"),
        ({"pools": {}}, "spec.pools: dictionary should have at least 1 item"),
        (
            {"model": {"emulated": {"shape": "GPT-5", "gpu": "L4"}}, "pools": {"mixed": {"gpuClasses": []}}},
            "spec.model.emulated.shape: model shape 'GPT-5' is not known; use",
        ),
        (
            {"model": {"emulated": {"shape": "OPT-13B"}}, "pools": {"mixed": {"gpuClasses": ["mi300"]}}},
            "spec.model.emulated.gpu: for pool mixed: GPU class 'mi300' is not known; use one of",
        ),
    ],
)
def test_a_refusal_names_the_field_and_the_remedy(spec: dict[str, Any], said: str) -> None:
    with pytest.raises(RefusedSpecError) as refused:
        accept(body(**spec), CLASSES)
    assert said in str(refused.value)


def test_every_problem_is_told_at_once_but_not_without_end() -> None:
    pools = {f"p{index}": {} for index in range(9)}
    with pytest.raises(RefusedSpecError) as refused:
        accept(body(pools={**pools, "mixed": {"replicas": {"min": 2, "max": 1}}}), {})
    assert "spec.pools.mixed.replicas" in str(refused.value)
    many = {f"d{index}": {"role": "decode", "gpuClasses": ["no"]} for index in range(9)}
    with pytest.raises(RefusedSpecError, match="and 4 more"):
        accept(body(pools=many), {})


@pytest.mark.parametrize("name", ["1model", "Model", "m" * 31, "m.x"])
def test_a_name_that_cannot_name_its_objects_is_refused(name: str) -> None:
    with pytest.raises(RefusedSpecError, match=r"metadata.name"):
        accept(body(name), {})


def test_without_gpu_classes_workers_run_on_cpus() -> None:
    service = accept(body(), {})
    assert all(pool.classes == () for pool in service.pools)


def test_a_pool_that_names_no_class_takes_the_cheapest_first() -> None:
    service = accept(body(), NVIDIA)
    assert [one.name for one in service.pools[0].classes] == ["a100", "h100"]
    assert service.pools[0].price_per_hour == 2


def test_a_pool_keeps_its_own_order_of_classes() -> None:
    service = accept(body(pools={"mixed": {"gpuClasses": ["h100", "a100"]}}), NVIDIA)
    assert [one.name for one in service.pools[0].classes] == ["h100", "a100"]


def test_the_model_may_get_another_name_and_no_other_source() -> None:
    first = accept(body(model={"pvc": {"claim": "a"}}), {})
    status = {"model": first.model_mark}
    assert accept(body(status=status, model={"pvc": {"claim": "a"}, "name": "x"}), {}).model_name == "x"
    with pytest.raises(RefusedSpecError, match="make another ModelService"):
        accept(body(status=status, model={"pvc": {"claim": "b"}}), {})


def test_an_emulated_model_takes_the_time_of_the_named_gpu_or_of_each_pools_first() -> None:
    pools = {"prefill": {"gpuClasses": ["a100"]}, "decode": {"gpuClasses": ["h100"]}}
    shape = {"shape": "llama-3.1-8b"}
    own = accept(body(model={"emulated": shape}, pools=pools), CLASSES)
    assert {pool.name: own.emulated_gpu(pool) for pool in own.pools} == {"prefill": "a100", "decode": "h100"}
    named = accept(body(model={"emulated": {**shape, "gpu": "L4"}}, pools=pools), CLASSES)
    assert {named.emulated_gpu(pool) for pool in named.pools} == {"L4"}


def test_the_mark_of_a_model_says_nothing_of_fields_that_are_not_given() -> None:
    """A later version's new field would otherwise look like another model, and every service be refused."""
    assert accept(body(), NVIDIA).model_mark == digest({}, chars=8)


def test_who_only_encodes_is_not_told_to_encode_too() -> None:
    pools = {"encode": {"gpuClasses": [], "encodes": True}, "mixed": {"gpuClasses": []}}
    with pytest.raises(RefusedSpecError, match=r"spec\.pools\.encode\.encodes: workers of the role encode do nothing"):
        accept(body(pools=pools), CLASSES)


def test_an_emulated_model_has_no_encode_pool() -> None:
    pools = {"encode": {"gpuClasses": []}, "mixed": {"gpuClasses": []}}
    with pytest.raises(RefusedSpecError, match=r"spec\.pools\.encode: an emulated model sees no images"):
        accept(body(model={"emulated": {"shape": "OPT-13B", "gpu": "L4"}}, pools=pools), CLASSES)
    beside = {"mixed": {"gpuClasses": [], "encodes": True}}
    with pytest.raises(RefusedSpecError, match=r"spec\.pools\.mixed\.encodes: an emulated model sees no images"):
        accept(body(model={"emulated": {"shape": "OPT-13B", "gpu": "L4"}}, pools=beside), CLASSES)


def test_a_broken_gpu_class_is_left_out_with_its_reason() -> None:
    objects = [
        {"metadata": {"name": "good"}, "spec": {"nodeSelector": {"a": "b"}, "memoryGib": 1, "pricePerHour": 1}},
        {"metadata": {"name": "bad"}, "spec": {"nodeSelector": {}, "memoryGib": -1, "pricePerHour": 1}},
    ]
    usable, broken = gpu_classes(objects)
    assert list(usable) == ["good"]
    assert "spec.memoryGib" in broken["bad"]


def test_defaults_hold_without_a_server_that_fills_them_in() -> None:
    spec = ModelServiceSpec()
    assert set(spec.pools) == {"prefill", "decode"}
    assert spec.scaling is None
    assert list(spec.broken_rules("spec")) == []
