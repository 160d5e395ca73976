"""Drives an engine through trials, alone on this machine, and notes what each step held and how long it took.

Prompts are random token ids that no prefix cache knows. Decides nothing: `capacity/profile_grid.py` says
which trials, `capacity/curve_fit.py` what they mean. Next: `profile.py`.
"""

import random
from collections.abc import Iterable, Iterator

from sluice.capacity.profile_grid import Trial, trials
from sluice.capacity.step_model import StepShape
from sluice.domain.block_hash import extend_chain, root_hash
from sluice.domain.ids import Epoch, RequestId, RouterId, SequenceId
from sluice.domain.sampling import SamplingParams
from sluice.domain.sequence import SequenceState
from sluice.engine.engine import PagedEngine

Sample = tuple[StepShape, float]


def trials_for(engine: PagedEngine) -> list[Trial]:
    """The trials that fit this engine."""
    geometry, limits = engine.geometry, engine.limits
    return trials(
        kv_tokens_max=geometry.blocks * geometry.block_tokens,
        sequence_tokens_max=limits.sequence_tokens_max,
        batch_sequences_max=limits.batch_sequences_max,
    )


def drive(engine: PagedEngine, rounds: Iterable[Trial], rng: random.Random) -> Iterator[Sample]:
    """Run trial after trial on an idle engine; every step as it ends. The engine is idle after each trial."""
    number = 0
    for trial in rounds:
        for _ in range(trial.sequences):
            number += 1
            engine.add(_state(engine, number, trial, rng), hold=False)
        while engine.has_work():
            report = engine.step()
            if report.shape.prefill_tokens or report.shape.decodes:
                yield report.shape, report.seconds


def _state(engine: PagedEngine, number: int, trial: Trial, rng: random.Random) -> SequenceState:
    facts = engine.facts
    root = root_hash(model_fingerprint=facts.fingerprint, salt=f"profile {number}")
    ordinary = [token for token in (3, 5, 7) if token not in facts.eos_token_ids]
    low = min(ordinary)
    tokens = tuple(rng.randrange(low, facts.vocabulary) for _ in range(trial.prompt_tokens))
    return SequenceState(
        sequence=SequenceId(number),
        request=RequestId(f"profile-{number}"),
        router=RouterId("profile"),
        epoch=Epoch(1),
        tokens=tokens,
        prompt_tokens=len(tokens),
        unit_hashes=tuple(extend_chain(root, tokens)),
        root=root,
        sampling=SamplingParams(max_tokens=trial.outputs, temperature=0.0, ignore_eos=True),
    )
