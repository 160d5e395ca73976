"""An encode worker whose vision tower takes a given time for each image: sleeps for what its tiny tower does not need.

Started by `images.py` with a worker's settings file and the milliseconds of an image. Everything but the tower's
speed is the real process: transports, engine thread, batches, cache. It shows what a platform does with a tower's
time on a machine that has fewer cores than towers.
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import uvloop

from sluice.cli import vision_engine, worker_process
from sluice.config import load
from sluice.config.worker import WorkerConfig
from sluice.engine.vision.encoder import VisionEncoder
from sluice.engine.vision.preprocessor import PreparedImage


def main() -> None:
    """Serve until SIGTERM."""
    config = load.load(Path(sys.argv[1]), WorkerConfig)
    image_s = float(sys.argv[2]) / 1e3
    encode = VisionEncoder.encode

    def paced(encoder: VisionEncoder, images: Sequence[PreparedImage]) -> list[torch.Tensor]:
        ends_s = time.monotonic() + image_s * len(images)
        made = encode(encoder, images)
        time.sleep(max(0.0, ends_s - time.monotonic()))
        return made

    VisionEncoder.encode = paced  # type: ignore[method-assign]  # the tower's time is what this process is about
    uvloop.run(worker_process.serve([config], vision_engine.build_engine))


if __name__ == "__main__":
    main()
