"""Where a replica's step model comes from: a profile that was measured, else the roofline.

A profile is a folder of measured operators (`importers/llmservingsim.py`) or a JSON file that
`sluice profile` wrote (`profile_file.py`). Reads files and decides nothing else. Next: `roofline.py`.
"""

from pathlib import Path

from sluice.capacity import profile_file
from sluice.capacity.gpu_class import GpuClass
from sluice.capacity.importers import llmservingsim
from sluice.capacity.model_shape import ModelShape
from sluice.capacity.roofline import Roofline, kv_tokens
from sluice.capacity.step_model import StepModel
from sluice.errors import ConfigError


def step_model(gpu: GpuClass, shape: ModelShape, *, tensor_parallel: int = 1, profile: str = "") -> StepModel:
    """The step model of one replica. Raises ConfigError where the model does not fit or the profile is broken."""
    if kv_tokens(gpu, shape, tensor_parallel=tensor_parallel) <= 0:
        need, have = shape.weight_bytes / 1e9, tensor_parallel * gpu.memory_bytes / 1e9
        raise ConfigError(
            f"{shape.name} ({need:.0f} GB of weights) does not fit {tensor_parallel} {gpu.name} ({have:.0f} GB);"
            " use more GPUs a replica, a bigger class or a smaller model"
        )
    if not profile:
        return Roofline(gpu=gpu, shape=shape, tensor_parallel=tensor_parallel)
    path = Path(profile)
    if path.is_dir():
        return llmservingsim.read_profile(path, shape)
    return profile_file.read(path).curve
