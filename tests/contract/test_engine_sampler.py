"""Tokens are drawn from exactly the distribution asked for, and never depend on the rest of the batch."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from sluice.engine.sampler import Choice, choose
from sluice.engine.sequence import LiveSequence
from sluice.testing.sequence_states import sequence_state

torch.set_num_threads(1)
VOCABULARY = 12
EOS = (2,)


def live(*, outputs: Sequence[int] = (), prompt: Sequence[int] = (1, 5), **sampling: Any) -> LiveSequence:
    settings = {"max_tokens": 100_000, **sampling}
    state = sequence_state(1, prompt, outputs=outputs, **settings)
    return LiveSequence(accepted=state, arrival=0, due_s=0.0, hold=False, block_tokens=16)


def logits_of(seed: int = 0) -> torch.Tensor:
    return torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(seed)) * 2


def one(logits: torch.Tensor, **settings: Any) -> Choice:
    return choose(logits[None].clone(), [live(**settings)], eos_token_ids=EOS)[0]


def counts(logits: torch.Tensor, draws: int, **settings: Any) -> torch.Tensor:
    """How often each token is drawn over many seeds."""
    sequences = [
        live(temperature=settings.get("temperature", 1.0), seed=seed, **without(settings)) for seed in range(draws)
    ]
    choices = choose(logits.expand(draws, -1).clone(), sequences, eos_token_ids=EOS)
    return torch.bincount(torch.tensor([choice.token for choice in choices]), minlength=VOCABULARY)


def without(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name != "temperature"}


def expected_distribution(logits: torch.Tensor, **settings: Any) -> torch.Tensor:
    """Written the obvious way: sort, walk, keep."""
    scores = logits.double() / settings.get("temperature", 1.0)
    order = sorted(range(VOCABULARY), key=lambda token: -float(scores[token]))
    kept = order[: settings.get("top_k") or VOCABULARY]
    total = sum(float(scores[token].exp()) for token in kept)
    likelihood = {token: float(scores[token].exp()) / total for token in kept}
    nucleus, mass = [], 0.0
    for token in kept:
        if mass >= settings.get("top_p", 1.0):
            break
        nucleus.append(token)
        mass += likelihood[token]
    best = likelihood[order[0]]
    final = {token: likelihood[token] for token in nucleus if likelihood[token] >= settings.get("min_p", 0.0) * best}
    distribution = torch.zeros(VOCABULARY, dtype=torch.float64)
    for token, value in final.items():
        distribution[token] = value / sum(final.values())
    return distribution


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"temperature": 0.6},
        {"temperature": 1.7, "top_k": 4},
        {"top_p": 0.7},
        {"min_p": 0.2},
        {"temperature": 1.3, "top_k": 7, "top_p": 0.9, "min_p": 0.05},
        {"top_k": 1},
    ],
    ids=str,
)
def test_draws_follow_the_distribution_asked_for(settings: dict[str, Any]) -> None:
    """Chi-square at 0.1 % over at most 11 degrees of freedom: critical value 31.3."""
    draws, logits = 6_000, logits_of(3)
    expected = expected_distribution(logits, **settings) * draws
    observed = counts(logits, draws, **settings)
    assert observed[expected == 0].sum() == 0
    likely = expected > 0
    assert float(((observed - expected)[likely] ** 2 / expected[likely]).sum()) < 31.3


def test_a_row_draws_the_same_token_in_any_batch() -> None:
    settings = [
        {"temperature": 0.9, "seed": 1},
        {"temperature": 1.5, "seed": 2, "top_k": 3},
        {"temperature": 0.0},
        {"temperature": 1.1, "seed": 3, "top_p": 0.8},
        {"temperature": 0.7, "seed": 4, "min_p": 0.1, "repetition_penalty": 1.3, "outputs": (3, 3, 4)},
        {"temperature": 1.0, "seed": 2**64 - 1, "logit_bias": ((3, 4.0),)},
    ]
    rows = torch.stack([logits_of(seed) for seed in range(len(settings))])
    alone = [one(rows[at], **each).token for at, each in enumerate(settings)]
    for order in (range(6), reversed(range(6)), [3, 0, 5]):
        picked = list(order)
        together = choose(rows[picked].clone(), [live(**settings[at]) for at in picked], eos_token_ids=EOS)
        assert [choice.token for choice in together] == [alone[at] for at in picked]


def test_the_draw_depends_on_the_output_index_and_the_seed() -> None:
    logits = torch.zeros(VOCABULARY)
    by_index = {one(logits, temperature=1.0, outputs=[3] * count).token for count in range(30)}
    by_seed = {one(logits, temperature=1.0, seed=seed).token for seed in range(30)}
    assert min(len(by_index), len(by_seed)) > 6


def test_greedy_takes_the_first_of_the_likeliest() -> None:
    logits = torch.zeros(VOCABULARY)
    logits[[4, 9]] = 1.0
    assert one(logits).token == 4


def test_penalties_change_logits_as_published() -> None:
    logits = torch.linspace(-3, 3, VOCABULARY)
    choice = one(
        logits,
        prompt=(0, 11),
        outputs=(11, 10, 10),
        repetition_penalty=2.0,
        presence_penalty=0.5,
        frequency_penalty=0.25,
        top_logprobs=VOCABULARY,
    )
    expected = logits.clone()
    expected[0] *= 2.0  # negative, in the prompt
    expected[11] = expected[11] / 2.0 - 0.5 - 0.25
    expected[10] = expected[10] / 2.0 - 0.5 - 2 * 0.25
    assert choice.logprobs is not None
    got = torch.zeros(VOCABULARY)
    for token, value in choice.logprobs.top:
        got[token] = value
    torch.testing.assert_close(got, expected.log_softmax(0))


def test_a_bias_of_a_hundred_forces_and_of_minus_a_hundred_forbids() -> None:
    logits = logits_of()
    likeliest = int(logits.argmax())
    assert one(logits, logit_bias=((3, 100.0),)).token == 3
    assert one(logits, logit_bias=((likeliest, -100.0),)).token != likeliest


def test_ending_tokens_are_not_chosen_before_min_tokens() -> None:
    logits = torch.zeros(VOCABULARY)
    logits[2], logits[4] = 9.0, 8.0
    early = {"min_tokens": 2, "stop_token_ids": (4, 4000), "ignore_eos": False}
    assert one(logits, **early).token == 0
    assert one(logits, outputs=(6, 6), **early).token == 2
    assert one(logits, temperature=1.0, seed=5, **early).token not in {2, 4}


def test_logprobs_are_of_the_distribution_before_temperature_and_truncation() -> None:
    logits = logits_of()
    choice = one(logits, temperature=0.3, top_k=2, seed=9, top_logprobs=3)
    expected = logits.log_softmax(0)
    assert choice.logprobs is not None
    assert choice.logprobs.chosen == pytest.approx(float(expected[choice.token]), abs=1e-5)
    values, tokens = expected.topk(3)
    assert [token for token, _ in choice.logprobs.top] == tokens.tolist()
    assert [value for _, value in choice.logprobs.top] == pytest.approx(values.tolist(), abs=1e-5)


def test_logprobs_come_only_to_those_who_asked() -> None:
    rows = torch.stack([logits_of(0), logits_of(1), logits_of(2)])
    sequences = [live(), live(top_logprobs=0), live(top_logprobs=2)]
    plain, chosen_only, two = choose(rows, sequences, eos_token_ids=EOS)
    assert plain.logprobs is None
    assert chosen_only.logprobs is not None
    assert chosen_only.logprobs.top == ()
    assert two.logprobs is not None
    assert len(two.logprobs.top) == 2


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_one_row_that_is_not_finite_is_named_and_spoils_no_other(poison: float) -> None:
    rows = torch.stack([logits_of(0), logits_of(1), logits_of(2)])
    rows[1, 5] = poison
    settings = [{"temperature": 0.0}, {"temperature": 1.0}, {"temperature": 1.0, "top_p": 0.5, "top_logprobs": 1}]
    choices = choose(rows.clone(), [live(**each) for each in settings], eos_token_ids=EOS)
    assert [choice.is_valid for choice in choices] == [True, False, True]
    assert choices[0].token == int(rows[0].argmax())
    assert choices[2] == one(rows[2], **settings[2])
