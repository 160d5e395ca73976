"""The KV tensors behind an engine, for tests that look at or copy them."""

from sluice.engine.engine import PagedEngine
from sluice.engine.kv_cache import KvCache
from sluice.engine.torch_runner import TorchRunner


def cache_of(engine: PagedEngine) -> KvCache:
    """The pool of an engine that runs a model."""
    runner = engine._runner
    assert isinstance(runner, TorchRunner)
    return runner.cache
