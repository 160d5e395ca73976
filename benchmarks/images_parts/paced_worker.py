"""A worker whose steps take given times: sleeps for what its tiny model does not need, whichever half of it is loaded.

Started by `images.py` and `role_switch.py` with a worker's settings file and milliseconds: of an image in the tower,
of a step of the language model, of a sequence that decodes in it. Everything but speed is the real process:
transports, engine thread, batches, caches, changes of role. It shows what a platform does with a GPU's time on a
machine that has fewer cores than workers.
"""

import importlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import uvloop

from sluice.cli import worker_process
from sluice.cli.built_engine import BuiltEngine
from sluice.config import load
from sluice.config.worker import WorkerConfig
from sluice.engine.runner import GroupListener, Sampled
from sluice.engine.step_plan import StepPlan
from sluice.engine.torch_runner import TorchRunner
from sluice.engine.vision.encoder import VisionEncoder
from sluice.engine.vision.preprocessor import PreparedImage


def main() -> None:
    """Serve until SIGTERM."""
    config = load.load(Path(sys.argv[1]), WorkerConfig)
    image_s, step_s, sequence_s = (float(word) / 1e3 for word in sys.argv[2:5])
    encode, run = VisionEncoder.encode, TorchRunner.run

    def paced(encoder: VisionEncoder, images: Sequence[PreparedImage]) -> list[torch.Tensor]:
        ends_s = time.monotonic() + image_s * len(images)
        made = encode(encoder, images)
        time.sleep(max(0.0, ends_s - time.monotonic()))
        return made

    def paced_step(runner: TorchRunner, plan: StepPlan, listener: GroupListener | None) -> Sequence[Sampled]:
        ends_s = time.monotonic() + step_s + sequence_s * len(plan.decodes)
        sampled = run(runner, plan, listener)
        time.sleep(max(0.0, ends_s - time.monotonic()))
        return sampled

    VisionEncoder.encode = paced  # type: ignore[method-assign]  # the model's time is what this process is about
    TorchRunner.run = paced_step  # type: ignore[method-assign]
    uvloop.run(worker_process.serve([config], _build))


def _build(config: WorkerConfig) -> BuiltEngine:
    """The half of the model that the role needs."""
    name = "vision_engine" if config.role == "encode" else "model_engine"
    built: BuiltEngine = importlib.import_module(f"sluice.cli.{name}").build_engine(config)
    return built


if __name__ == "__main__":
    main()
