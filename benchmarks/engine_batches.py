"""Runs whole batches through one of our engines, for benchmarks that time it beside peers. No benchmark itself."""

from collections.abc import Callable

from sluice.domain.block_hash import extend_chain, root_hash
from sluice.domain.ids import Epoch, RequestId, RouterId, SequenceId
from sluice.domain.sampling import SamplingParams
from sluice.domain.sequence import SequenceState
from sluice.engine.engine import PagedEngine

Prompts = list[list[int]]
Runner = Callable[[Prompts, int], None]
"""Continues every prompt by that many tokens."""


def runner_of(engine: PagedEngine) -> Runner:
    """Greedy continuations, whatever the model says of an end."""
    root = root_hash(model_fingerprint=engine.facts.fingerprint, salt="")
    count = 0

    def run(prompts: Prompts, tokens: int) -> None:
        nonlocal count
        for prompt in prompts:
            count += 1
            state = SequenceState(
                sequence=SequenceId(count),
                request=RequestId(str(count)),
                router=RouterId("benchmark"),
                epoch=Epoch(1),
                tokens=tuple(prompt),
                prompt_tokens=len(prompt),
                unit_hashes=tuple(extend_chain(root, prompt)),
                root=root,
                sampling=SamplingParams(max_tokens=tokens, temperature=0.0, ignore_eos=True),
            )
            engine.add(state, hold=False)
        while engine.has_work():
            engine.step()

    return run
