"""Runs steps on a model: builds the inputs, calls the module, chooses tokens. All tensors of a step are here.

Decides nothing about which sequences run: `scheduler.py` does. Next: `input_builder.py`, `attention.py`,
`sampler.py`.
"""

from collections.abc import Callable, Sequence

import torch

from sluice.clock import Clock
from sluice.domain.ids import BlockId
from sluice.domain.kv import KvGeometry
from sluice.engine.contract import EngineLimits, GroupListener, KvSpan, ModelFacts
from sluice.engine.engine import PagedEngine
from sluice.engine.fence import fence_on
from sluice.engine.input_builder import InputBuilder
from sluice.engine.kv_cache import KvCache
from sluice.engine.language_forward import language_logits
from sluice.engine.model_loader import LoadedModel
from sluice.engine.runner import Sampled
from sluice.engine.sampler import choose
from sluice.engine.step_inputs import StepContext, StepInputs
from sluice.engine.step_plan import StepPlan
from sluice.errors import ConfigError


class TorchRunner:
    """One loaded model on one KV pool. Satisfies `runner.ModelRunner`."""

    def __init__(self, model: LoadedModel, cache: KvCache) -> None:
        self.cache = cache
        self._model = model
        windows = tuple(dict.fromkeys(model.windows))
        self._inputs = InputBuilder(
            cache=cache, dtype=model.module.dtype, windows=windows, image_shape=model.image_shape
        )

    @property
    def facts(self) -> ModelFacts:
        return self._model.facts

    @property
    def kv_address(self) -> int:
        return self.cache.address

    @property
    def kv_device(self) -> str:
        return str(self.cache.device)

    def run(self, plan: StepPlan, listener: GroupListener | None) -> Sequence[Sampled]:
        return self._run(self._inputs.build(plan), listener)

    def scrub(self, blocks: list[BlockId]) -> None:
        self.cache.scrub(blocks)
        self._inputs.forget_kept()

    def expect(self, tokens: int) -> Callable[[], bool]:
        return self._inputs.expect(tokens)

    def rest(self) -> None:
        """Nothing to do: a device idles by itself."""

    @torch.inference_mode()
    def _run(self, inputs: StepInputs, listener: GroupListener | None) -> Sequence[Sampled]:
        """One forward pass and one choice per sampled sequence."""
        context = StepContext(
            cache=self.cache,
            write_rows=inputs.write_rows,
            groups=inputs.groups,
            on_group=self._announcer(inputs.held_spans, listener),
        )
        logits = self._logits(inputs, context)
        if not inputs.sampled:
            return ()
        choices = choose(logits[0], inputs.sampled, eos_token_ids=self._model.facts.eos_token_ids)
        return [Sampled(*pair) for pair in zip(inputs.sampled, choices, strict=True)]

    def _logits(self, inputs: StepInputs, context: StepContext) -> torch.Tensor:
        """[1, sampled, vocabulary]."""
        if self._model.family is not None:
            return language_logits(self._model.module, self._model.family, inputs, context)
        output = self._model.module(
            input_ids=inputs.token_ids,
            position_ids=inputs.positions,
            use_cache=False,
            logits_to_keep=inputs.sample_rows,
            step=context,
        )
        logits: torch.Tensor = output.logits
        return logits

    def _announcer(self, spans: tuple[KvSpan, ...], listener: GroupListener | None) -> Callable[[int], None] | None:
        """What attention calls when a layer group is written, if somebody listens and something is held."""
        if listener is None or not spans:
            return None
        device = self.cache.device
        return lambda group: listener(group, spans, fence_on(device))


def build_engine(
    model: LoadedModel,
    *,
    geometry: KvGeometry,
    limits: EngineLimits,
    kv_buffer: memoryview | None = None,
    clock: Clock | None = None,
) -> PagedEngine:
    """An engine over `kv_buffer`, writable main memory of exactly `geometry.region_bytes`, or over its own memory.

    `limits.sequence_tokens_max` is lowered to what the model and the pool can hold. Raises
    ConfigError for limits that contradict each other or a geometry of another model.
    """
    facts = model.facts
    if (geometry.layers, geometry.heads, geometry.head_dim) != (facts.layers, facts.kv_heads, facts.head_dim):
        raise ConfigError("kv geometry: is of another model; make it with geometry_for()")
    if geometry.dtype != facts.dtype:
        raise ConfigError(f"kv geometry: dtype {geometry.dtype} differs from the model's {facts.dtype}")
    cache = KvCache(geometry=geometry, buffer=kv_buffer, device=model.module.device)
    return PagedEngine(TorchRunner(model, cache), geometry=geometry, limits=limits, clock=clock)
