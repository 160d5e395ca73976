"""Where a fleet's step times come from: datasheet estimates, or measured profiles given by class.

    roofline                                   every class, from its datasheet
    RTX-PRO-6000=llmservingsim:perf/RTXPRO6000/meta-llama/Llama-3.1-8B/bf16/tp1
    A100=distserve:profiler-a100-80g.distserve.json
    H100=splitwise:perf_model.csv@h100-80gb
    L4=measured:l4.json                        what `sluice profile` wrote

Decides nothing. Next: `sluice/capacity/importers`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from sluice.capacity import profile_file
from sluice.capacity.catalogue import gpu_class
from sluice.capacity.gpu_class import GpuClass
from sluice.capacity.importers import distserve, llmservingsim, splitwise
from sluice.capacity.model_shape import ModelShape
from sluice.capacity.operator_table import AllReduce
from sluice.capacity.roofline import Roofline
from sluice.capacity.step_model import StepModel
from sluice.errors import ConfigError

KINDS: Final = ("llmservingsim", "distserve", "splitwise", "measured")
LINK_LATENCY_S: Final = 1e-5  # of one hop between GPUs of one host


class StepSource:
    """Step models by GPU class."""

    def __init__(self, profiles: Sequence[str] = ()) -> None:
        """`profiles` are `CLASS=KIND:PATH`. Raises ConfigError naming one that is not."""
        self._profiles: dict[str, tuple[str, str]] = {}
        for text in profiles:
            name, _, where = text.partition("=")
            kind, _, path = where.partition(":")
            if kind not in KINDS or not path:
                raise ConfigError(f"--profile: '{text}' is no CLASS=KIND:PATH with a KIND of {', '.join(KINDS)}")
            self._profiles[gpu_class(name).name] = (kind, path)

    def model(self, gpu: GpuClass, shape: ModelShape, *, tensor_parallel: int) -> StepModel:
        """Step times of one replica. Raises ConfigError where a profile cannot be read or lacks the model."""
        profile = self._profiles.get(gpu.name)
        if profile is None:
            return Roofline(gpu=gpu, shape=shape, tensor_parallel=tensor_parallel)
        kind, path = profile
        if kind == "measured":
            return profile_file.read(Path(path)).curve
        if kind == "distserve":
            return distserve.read_profile(Path(path), model=shape.name, tensor_parallel=tensor_parallel)
        if kind == "splitwise":
            file, _, hardware = path.partition("@")
            return splitwise.read_profile(
                Path(file), model=shape.name, hardware=hardware or "h100-80gb", tensor_parallel=tensor_parallel
            )
        reduce = AllReduce(ranks=tensor_parallel, latency_s=LINK_LATENCY_S, bytes_per_s=gpu.link_bytes_per_s)
        return llmservingsim.read_profile(Path(path), shape, all_reduce=reduce)
