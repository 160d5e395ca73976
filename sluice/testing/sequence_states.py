"""Sequences and engine runs for tests: short ways to say "this prompt, these settings, go on until idle".

Works with anything that satisfies `engine/contract.py`: the real engine, fakes, emulators. No torch.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

from sluice.domain.block_hash import extend_chain, root_hash
from sluice.domain.ids import Epoch, RequestId, RouterId, SequenceId
from sluice.domain.sampling import SamplingParams
from sluice.domain.sequence import SequenceState
from sluice.engine.contract import Engine, StepReport, TokenOut

STEPS_MAX: Final = 5_000
ROOT: Final = root_hash(model_fingerprint="test", salt="")


def sequence_state(
    sequence: int, prompt: Sequence[int], *, outputs: Sequence[int] = (), max_tokens: int = 16, **sampling: Any
) -> SequenceState:
    """A sequence as a router would send it. Greedy and deaf to end-of-text unless `sampling` says otherwise."""
    settings = {"temperature": 0.0, "ignore_eos": True, "max_tokens": max_tokens, **sampling}
    return SequenceState(
        sequence=SequenceId(sequence),
        request=RequestId(f"request-{sequence}"),
        router=RouterId("router"),
        epoch=Epoch(1),
        tokens=(*prompt, *outputs),
        prompt_tokens=len(prompt),
        unit_hashes=tuple(extend_chain(ROOT, prompt)),
        root=ROOT,
        sampling=SamplingParams(**settings),
    )


def run_until_idle(engine: Engine, *, after_step: Callable[[StepReport], None] | None = None) -> list[TokenOut]:
    """Step while there is work; all tokens in order. Fails if the engine does not come to rest."""
    tokens: list[TokenOut] = []
    for _ in range(STEPS_MAX):
        if not engine.has_work():
            return tokens
        report = engine.step()
        tokens += report.tokens
        if after_step is not None:
            after_step(report)
    message = f"the engine still has work after {STEPS_MAX} steps"
    raise AssertionError(message)


def outputs_of(tokens: Sequence[TokenOut], sequence: int) -> list[int]:
    """The tokens of one sequence, in the order they came."""
    return [out.token for out in tokens if out.sequence == sequence]
