"""Classes beside each other: a newcomer is weighed by what it does to those there, each by its own objective."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fleet_tables import fleet_of

from sluice.domain.role import Role
from sluice.domain.slo import SloClass, Urgency
from sluice.policy.fleet_table import FloatColumn
from sluice.policy.joint import Joint
from sluice.policy.policy import Ask, Placed, Unplaced
from sluice.policy.residents import CLASSES_MAX, WINDOW_S, Residents
from sluice.policy.worth import Weights, weigh

M = Role.MIXED
TIGHT = SloClass(name="tight", urgency=Urgency.INTERACTIVE, ttft_s=0.5, tpot_s=0.02)
LOOSE = SloClass(name="loose", urgency=Urgency.BATCH, ttft_s=60.0, tpot_s=1.0)
ASK = Ask(prompt_tokens=500, output_tokens_max=400, slo=LOOSE, seed=3)
FEW: dict[str, Any] = {"running": 10, "context_tokens": 30_000, "base_s": 0.016}
BUSY: dict[str, Any] = {"running": 40, "context_tokens": 30_000}  # steps of 18 ms


def taught(classes: list[SloClass]) -> Joint:
    """A policy that placed sequences of each class where only that worker was left: number i at worker i."""
    policy = Joint()
    for slot, slo in enumerate(classes):
        others = frozenset(range(len(classes))) - {slot}
        for seed in range(20):
            ask = replace(ASK, prompt_tokens=10, slo=slo, seed=seed, excluded=others)
            answer = policy.place(ask, fleet_of(*[(M, {})] * len(classes)), {}, now_s=0.0)
            assert isinstance(answer, Placed)
            assert answer.decode == slot
    return policy


def test_a_loose_newcomer_keeps_away_from_those_it_would_make_late() -> None:
    fleet = fleet_of((M, BUSY), (M, BUSY | {"running": 44}))
    for seed in range(10):
        answer = taught([TIGHT, LOOSE]).place(replace(ASK, seed=seed), fleet, {}, now_s=0.0)
        assert isinstance(answer, Placed)
        assert answer.decode == 1
    answer = taught([LOOSE, TIGHT]).place(ASK, fleet, {}, now_s=0.0)
    assert isinstance(answer, Placed)
    assert answer.decode == 0


def test_whoever_is_there_unseen_counts_as_of_the_newcomers_class() -> None:
    tight, crowd = replace(ASK, slo=TIGHT), fleet_of((M, FEW), (M, {"base_s": 0.03}))
    answer = Joint().place(tight, crowd, {}, now_s=0.0)
    assert isinstance(answer, Placed)
    assert answer.decode == 0
    assert answer.candidates[0].terms["harm"] > 0.01
    assert Joint().place(ASK, crowd, {}, now_s=0.0).candidates[0].terms["harm"] < 1e-3  # type: ignore[union-attr]


def harm(residents: Residents, slo: SloClass, *, workers: int = 1) -> FloatColumn:
    """To ten sequences at each worker, when a prompt makes steps take 0.1 s that took a hundredth of that."""
    there = {"running": 10, "base_s": 0.001, "prefill_token_s": 0.1, "decode_s": 0.0, "error": 0.14}
    ask = Ask(prompt_tokens=100, output_tokens_max=100, output_tokens_expected=100.0, slo=slo)
    fleet = fleet_of(*[(M, there)] * workers)
    return weigh(ask, fleet, np.zeros(workers), residents, Weights()).prompt_harm


def test_what_was_placed_long_ago_says_nothing_any_more() -> None:
    residents = Residents()
    residents.fade(rows=1, now_s=0.0)
    residents.placed(TIGHT, prefill=0, decode=0, prompt_s=5.0)
    assert residents.prompt_share(1)[0] == pytest.approx(5.0 / WINDOW_S)
    residents.fade(rows=1, now_s=3 * WINDOW_S)
    assert residents.prompt_share(1)[0] == pytest.approx(5.0 / WINDOW_S * 0.0498, rel=0.01)
    residents.fade(rows=1, now_s=40 * WINDOW_S)
    # Steps of 0.1 s: too slow for the tight class, which was there, and not for the loose one, which comes.
    assert harm(residents, LOOSE)[0] == pytest.approx(0.0, abs=1e-3)
    assert harm(residents, TIGHT)[0] == pytest.approx(10.0, rel=1e-2)


def test_more_classes_than_are_told_apart_do_no_harm() -> None:
    residents = Residents()
    residents.fade(rows=2, now_s=0.0)
    for number in range(CLASSES_MAX + 3):
        residents.placed(replace(LOOSE, tpot_s=1.0 + number), prefill=0, decode=1, prompt_s=0.1)
    assert harm(residents, TIGHT, workers=2)[1] == pytest.approx(0.0, abs=1e-3)


def test_a_class_that_allows_it_is_refused_when_it_would_spoil_more_than_it_is_worth() -> None:
    # The only worker is at the TPOT of forty others, and the newcomer's prompt is long.
    fleet = fleet_of((M, {"running": 40, "context_tokens": 20_000, "queued_tokens": 500}))
    ask = replace(ASK, prompt_tokens=15_000, output_tokens_expected=50.0)
    patient = taught([TIGHT]).place(ask, fleet, {}, now_s=0.0)
    assert isinstance(patient, Placed)
    assert patient.candidates[0].cost > 1.0
    refused = taught([TIGHT]).place(replace(ask, slo=replace(LOOSE, refuse_above=1.0)), fleet, {}, now_s=0.0)
    assert isinstance(refused, Unplaced)
    assert refused.is_final
    assert refused.retry_after_s >= 1.0
    assert "missed objectives" in refused.reason
