"""Fixtures of whole platforms; `tests/support/in_process.py` makes them."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
import torch
from in_process import Platform, StartPlatform, WorkerPlan, make_model, start


@pytest.fixture(scope="session")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One random model for the whole run."""
    torch.set_num_threads(1)
    return make_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def start_platform(model_path: Path) -> StartPlatform:
    """Start a router and workers with that model."""

    def start_with_model(
        plans: Sequence[WorkerPlan], *, routers: int = 1, router_grace_s: float = 30.0
    ) -> AbstractAsyncContextManager[Platform]:
        return start(plans, model_path, routers=routers, router_grace_s=router_grace_s)

    return start_with_model
