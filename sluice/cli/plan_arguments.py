"""The words of `sluice plan`: GPUs with prices and supplies, links, as typed values.

Every mistake is a ConfigError that names the option, the part that is wrong and how to write it. Reads
nothing. Next: `plan.py`.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from sluice.capacity import catalogue
from sluice.capacity.gpu_class import GpuClass
from sluice.errors import ConfigError

GPUS_MAX: Final = 100_000  # of one class
_BYTE_UNITS: Final = {"MB/s": 1e6, "GB/s": 1e9, "Gb/s": 1e9 / 8}
_NUMBER: Final = r"([0-9]+(?:\.[0-9]+)?)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Supply:
    """GPU classes at the prices given, and how many there are of those that are scarce."""

    classes: tuple[GpuClass, ...]
    gpus_max: Mapping[str, int]


def parse_gpus(text: str) -> Supply:
    """Classes from `H100=7.5/h:8,A100=3.7/h:16,L4`: price and supply may be left out (the catalogue's, no bound)."""
    classes: list[GpuClass] = []
    gpus_max: dict[str, int] = {}
    for part in _parts(text):
        match = re.fullmatch(rf"([A-Za-z0-9_-]+)(?:={_NUMBER}(?:/h)?)?(?::([0-9]+))?", part)
        if match is None:
            raise ConfigError(f"--gpus: '{part}' cannot be read; write NAME=PRICE/h:COUNT, such as H100=7.5/h:8")
        name, price, count = match.groups()
        gpu = catalogue.gpu_class(name, None if price is None else {name: float(price)})
        if any(each.name == gpu.name for each in classes):
            raise ConfigError(f"--gpus: {gpu.name} is there twice; name each class once")
        classes.append(gpu)
        if count is not None:
            if int(count) > GPUS_MAX:
                raise ConfigError(f"--gpus: {count} {name}; give at most {GPUS_MAX}, or no count for no bound")
            gpus_max[gpu.name] = int(count)
    if not classes:
        raise ConfigError("--gpus: names no class; write H100=7.5/h:8,A100=3.7/h:16")
    return Supply(classes=tuple(classes), gpus_max=gpus_max)


def parse_links(text: str, supply: Supply) -> dict[tuple[str, str], float]:
    """Bounds in bytes/s between classes, both ways, from `H100:L4=5GB/s`."""
    known = {gpu.name for gpu in supply.classes}
    trunks: dict[tuple[str, str], float] = {}
    for part in _parts(text):
        ends, _, speed = part.partition("=")
        match = re.fullmatch(rf"{_NUMBER}(MB/s|GB/s|Gb/s)", speed)
        names = [catalogue.gpu_class(name).name for name in ends.split(":")]
        if len(names) != 2 or match is None or not known.issuperset(names):
            raise ConfigError(
                f"--links: '{part}' cannot be read; write CLASS:CLASS=5GB/s with classes of --gpus: "
                f"{', '.join(sorted(known))}"
            )
        bytes_per_s = float(match[1]) * _BYTE_UNITS[match[2]]
        trunks[names[0], names[1]] = trunks[names[1], names[0]] = bytes_per_s
    return trunks


def _parts(text: str) -> Iterator[str]:
    return (part.strip() for part in text.split(",") if part.strip())
