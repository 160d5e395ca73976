"""A request's class comes from its service tier, its objectives from the settings."""

import math

import pytest

from sluice.config.router import ClassConfig, SloConfig
from sluice.domain.slo import Urgency
from sluice.errors import InvalidRequestError
from sluice.router.slo_classes import SloClasses

CLASSES = SloClasses(
    SloConfig(ttft_s=2.0, tpot_s=0.2, batch=ClassConfig(ttft_s=9.0, tpot_s=3.0, miss_cost=0.5, give_up_s=7.0))
)


@pytest.mark.parametrize(
    ("tier", "urgency"),
    [
        ("", Urgency.STANDARD),
        ("auto", Urgency.STANDARD),
        ("default", Urgency.STANDARD),
        ("standard", Urgency.STANDARD),
        ("priority", Urgency.INTERACTIVE),
        ("interactive", Urgency.INTERACTIVE),
        ("flex", Urgency.BATCH),
        ("batch", Urgency.BATCH),
    ],
)
def test_service_tiers_are_names_of_classes(tier: str, urgency: Urgency) -> None:
    assert CLASSES.named(tier).urgency is urgency


def test_objectives_are_the_settings_and_zero_means_nobody_gives_up() -> None:
    standard, batch = CLASSES.named(""), CLASSES.named("batch")
    assert (standard.ttft_s, standard.tpot_s, standard.give_up_s) == (2.0, 0.2, math.inf)
    assert (batch.ttft_s, batch.miss_cost, batch.give_up_s) == (9.0, 0.5, 7.0)


def test_an_unknown_tier_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InvalidRequestError, match=r"service_tier.*'gold'.*interactive, standard, batch, auto"):
        CLASSES.named("gold")
