"""What runs a step's plan: a model on a device, or something that stands in for one. No torch.

The engine decides what is computed and on which blocks; a runner writes that KV and chooses the
tokens that follow. Three exist: `torch_runner.py` runs a model,
`vision/vision_runner.py` a vision tower, `emulated_runner.py` a table of times.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from sluice.domain.ids import BlockId
from sluice.engine.contract import GroupListener, Logprobs, ModelFacts
from sluice.engine.sequence import LiveSequence
from sluice.engine.step_plan import StepPlan


@dataclass(frozen=True, slots=True)
class Choice:
    """The token chosen for one sequence; `is_valid` is false if the model gave nothing to choose by."""

    token: int
    logprobs: Logprobs | None
    is_valid: bool
    problem: str = "the model gave logits that are not finite"  # why it is not


@dataclass(frozen=True, slots=True)
class Sampled:
    """One sequence of a step that got a token."""

    sequence: LiveSequence
    choice: Choice


class ModelRunner(Protocol):
    """One model over one KV region. The engine's thread alone calls it."""

    @property
    def facts(self) -> ModelFacts:
        """What the model is."""
        ...

    @property
    def kv_address(self) -> int:
        """Where the KV region starts, on `kv_device`."""
        ...

    @property
    def kv_device(self) -> str:
        """ "cpu" or "cuda:0"."""
        ...

    def run(self, plan: StepPlan, listener: GroupListener | None) -> Sequence[Sampled]:
        """Write the KV of `plan`, which has work, and choose a token for each of its works that samples.

        Tells `listener` of every layer group of held sequences once it is written.
        """
        ...

    def scrub(self, blocks: list[BlockId]) -> None:
        """Zero `blocks`: they may hold what must not be read again."""
        ...

    def expect(self, tokens: int) -> Callable[[], bool]:
        """A sequence of so many tokens will decode here: get ready for it, without anybody waiting.

        Returns what says whether that is done, on any thread.
        """
        ...

    def rest(self) -> None:
        """The engine has nothing to do until it is asked for something."""
        ...
