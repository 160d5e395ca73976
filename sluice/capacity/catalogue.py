"""The GPU classes Sluice knows by name: datasheet numbers, their source beside them, and prices.

Prices are dollars per hour and GPU, and the first thing to replace by your own: the four of Mélange
(arXiv 2404.14527, section 5) where it names the class, else an on-demand cloud list price of late 2024,
rounded. Never a performance claim: what a class reaches is measured or estimated in `step_model.py`'s models.
Next: `roofline.py`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from sluice.capacity.gpu_class import GpuClass
from sluice.errors import ConfigError

GB: Final = 10**9
T: Final = 1e12

ETHERNET_25G: Final = 25e9 / 8
ETHERNET_100G: Final = 100e9 / 8
FABRIC_200G: Final = 200e9 / 8
FABRIC_400G: Final = 400e9 / 8

PRICE_MAX: Final = 1000.0  # dollars per hour; beyond it somebody mistook the unit


def _gpu(  # noqa: PLR0917 - the columns of the table below, in its order
    name: str, memory_gb: float, tflops: float, gb_per_s: float, link: float, price: float, idle_w: float, peak_w: float
) -> GpuClass:
    return GpuClass(
        name=name,
        memory_bytes=round(memory_gb * GB),
        flop_per_s=tflops * T,
        memory_bytes_per_s=gb_per_s * GB,
        link_bytes_per_s=link,
        price_per_h=price,
        idle_w=idle_w,
        peak_w=peak_w,
    )


# Memory (GB), dense BF16 tensor TFLOP/s, memory GB/s and board power are NVIDIA's datasheets of each
# product (sparsity figures halved); A10G is the cloud variant of A10 and RTX 4090 counts FP32 accumulation.
# The link is what such machines are commonly sold with, per GPU; idle power is a usual reading, not a promise.
_CLASSES: Final = (
    _gpu("H200", 141, 989, 4800, FABRIC_400G, 10.60, 75, 700),
    _gpu("H100", 80, 989, 3350, FABRIC_400G, 7.516, 70, 700),
    _gpu("H20", 96, 148, 4000, FABRIC_200G, 4.00, 65, 400),
    _gpu("A100-80G", 80, 312, 2039, FABRIC_200G, 3.67, 55, 400),
    _gpu("A100-40G", 40, 312, 1555, FABRIC_200G, 2.74, 50, 400),
    _gpu("RTX-PRO-6000", 96, 503.8, 1792, ETHERNET_100G, 2.50, 30, 600),
    _gpu("RTX-4090", 24, 165.2, 1008, ETHERNET_25G, 0.60, 25, 450),
    _gpu("RTX-A6000", 48, 154.8, 768, ETHERNET_25G, 0.80, 25, 300),
    _gpu("L40S", 48, 362, 864, ETHERNET_100G, 1.86, 35, 350),
    _gpu("L4", 24, 121, 300, ETHERNET_25G, 0.70, 16, 72),
    _gpu("A10G", 24, 70, 600, ETHERNET_25G, 1.01, 20, 300),
    _gpu("A40", 48, 149.7, 696, ETHERNET_100G, 1.28, 30, 300),
    _gpu("A30", 24, 165, 933, ETHERNET_100G, 1.10, 28, 165),
    _gpu("V100", 16, 125, 900, ETHERNET_25G, 3.06, 40, 300),
)
CLASSES: Final[Mapping[str, GpuClass]] = {gpu.name: gpu for gpu in _CLASSES}

_ALIASES: Final = {"A100": "A100-80G", "RTX4090": "RTX-4090", "RTXPRO6000": "RTX-PRO-6000", "A6000": "RTX-A6000"}
_BY_PLAIN_NAME: Final = {
    name.replace("-", "").upper(): gpu
    for name, gpu in [*CLASSES.items(), *((alias, CLASSES[name]) for alias, name in _ALIASES.items())]
}


def gpu_class(name: str, prices: Mapping[str, float] | None = None) -> GpuClass:
    """The class called `name` (case, `-`, `_` and blanks do not matter), at `prices[name]` if that is given.

    Raises ConfigError listing the known classes, or naming a price that is none.
    """
    gpu = _BY_PLAIN_NAME.get(_plain(name))
    if gpu is None:
        raise ConfigError(f"GPU class '{name}' is not known; use one of: {', '.join(CLASSES)}")
    for priced, price_per_h in (prices or {}).items():
        if _BY_PLAIN_NAME.get(_plain(priced)) == gpu:
            if not 0 < price_per_h <= PRICE_MAX:
                raise ConfigError(f"price of {priced}: is {price_per_h}; use dollars per hour, above 0 to {PRICE_MAX}")
            gpu = replace(gpu, price_per_h=price_per_h)
    return gpu


def class_of_device(device: str) -> GpuClass | None:
    """The class of a device as its driver names it ("NVIDIA H100 80GB HBM3"), or None if it is none of ours."""
    plain = _plain(device)
    names = [name for name in _BY_PLAIN_NAME if name in plain]
    return _BY_PLAIN_NAME[max(names, key=len)] if names else None


def parse_prices(text: str) -> dict[str, float]:
    """`H100=7.5,L4=0.7` as dollars per hour by class name. Raises ConfigError naming the part that is wrong."""
    prices: dict[str, float] = {}
    for part in _parts(text):
        name, equals, price = part.partition("=")
        try:
            prices[gpu_class(name).name] = float(price.removesuffix("/h"))
        except ValueError as error:
            raise ConfigError(f"prices: '{part}' has no number of dollars per hour; write H100=7.5") from error
        if not equals:
            raise ConfigError(f"prices: '{part}' has no price; write H100=7.5")
    return prices


def _parts(text: str) -> Iterable[str]:
    return (part.strip() for part in text.split(",") if part.strip())


def _plain(name: str) -> str:
    return name.replace("-", "").replace("_", "").replace(" ", "").upper()
