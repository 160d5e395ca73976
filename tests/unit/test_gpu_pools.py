"""`--gpu` words: which emulated workers they ask for, and how a mistake is answered."""

import pytest

from sluice.capacity.catalogue import CLASSES, class_of_device, gpu_class, parse_prices
from sluice.cli.gpu_pools import emulated_workers
from sluice.errors import ConfigError


def test_words_name_classes_degrees_roles_and_counts() -> None:
    workers = emulated_workers(["H100:2p", "a100x2:1p+2d,L4:1m"], shape="Llama-3.1-8B", prices={"H100": 2.0})
    assert [(worker.name, worker.role) for worker in workers] == [
        ("h100-prefill-0", "prefill"),
        ("h100-prefill-1", "prefill"),
        ("a100-80gx2-prefill-0", "prefill"),
        ("a100-80gx2-decode-0", "decode"),
        ("a100-80gx2-decode-1", "decode"),
        ("l4-mixed-0", "mixed"),
    ]
    assert (workers[0].gpu.price_per_h, workers[2].gpu.tensor_parallel) == (2.0, 2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["B9000:1p"], "GPU class 'B9000' is not known; use one of: H200, H100"),
        (["H100"], "--gpu: 'H100' is no pool; write H100:2p"),
        (["H100:2x"], "--gpu: '2x' in 'H100:2x' is no number of replicas"),
        (["H100x0:2p"], "'H100x0:2p' is no pool"),
        (["H100:65m"], "more than 64 workers"),
        (["H100:0m"], "'0m' in 'H100:0m' is no number of replicas"),
        ([""], "has 0 replicas"),
        (["L4:1e"], "do not see pictures"),
        (["L4:1em"], "do not see pictures"),
    ],
)
def test_a_word_that_is_wrong_is_named_with_what_would_do(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        emulated_workers(words, shape="Llama-3.1-8B", prices={})


def test_a_model_that_does_not_fit_is_refused_before_anything_starts() -> None:
    with pytest.raises(ConfigError, match=r"Llama-3.1-70B \(141 GB of weights\) does not fit 1 H100 \(80 GB\)"):
        emulated_workers(["H100:1p"], shape="Llama-3.1-70B", prices={})
    assert len(emulated_workers(["H100x4:1p"], shape="Llama-3.1-70B", prices={})) == 1


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("NVIDIA H200", "H200"),
        ("NVIDIA H20", "H20"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA A100-SXM4-80GB", "A100-80G"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA A10G", "A10G"),
        ("NVIDIA GeForce RTX 4090", "RTX-4090"),
    ],
)
def test_a_device_is_known_by_its_drivers_name(device: str, name: str) -> None:
    found = class_of_device(device)
    assert found is not None
    assert found.name == name


def test_a_device_of_no_class_is_none() -> None:
    assert class_of_device("cpu") is None


def test_prices_replace_the_catalogues_and_mistakes_are_named() -> None:
    prices = parse_prices("h100=7.5/h, L4=0.5")
    assert gpu_class("H100", prices).price_per_h == 7.5
    assert gpu_class("A100", prices) == CLASSES["A100-80G"]
    with pytest.raises(ConfigError, match="'L4' has no"):
        parse_prices("L4")
    with pytest.raises(ConfigError, match="'L4=cheap' has no number"):
        parse_prices("L4=cheap")
    with pytest.raises(ConfigError, match="above 0"):
        gpu_class("L4", {"L4": -1.0})
