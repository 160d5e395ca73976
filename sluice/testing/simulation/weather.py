"""How bad the world is in one run: odds and durations, drawn once per seed.

Values only. Next: `faults.py` for what happens to processes, `network.py` for messages.
"""

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """Odds are per event, times in seconds. The default is a quiet day."""

    delay_s: float = 0.001  # of a message, at least
    jitter_s: float = 0.001  # on top, at most
    spike: float = 0.0  # odds that a message takes up to `spike_s` longer
    spike_s: float = 0.5
    lose_request: float = 0.0  # a call between workers never arrives
    lose_reply: float = 0.0  # it is carried out, and nobody hears of it
    duplicate: float = 0.0  # it is carried out twice
    fail_push: float = 0.0
    late_push: float = 0.0  # a push takes up to `late_s`
    late_s: float = 20.0
    is_one_sided: bool = False  # pushes land whatever the receiver's code has revoked
    skew_s: float = 0.0  # processes' clocks differ by at most this
    drift: float = 0.0  # and run faster or slower by at most this fraction


CALM = Weather()


def draw(rng: random.Random) -> Weather:
    """A random day: each kind of trouble is there or not."""

    def maybe(value: float) -> float:
        return value * rng.random() if rng.random() < 0.4 else 0.0

    return Weather(
        delay_s=rng.choice([0.0002, 0.001, 0.005]),
        jitter_s=rng.choice([0.0, 0.001, 0.01, 0.05]),
        spike=maybe(0.1),
        spike_s=rng.choice([0.2, 1.0, 3.0]),
        lose_request=maybe(0.15),
        lose_reply=maybe(0.15),
        duplicate=maybe(0.15),
        fail_push=maybe(0.15),
        late_push=maybe(0.15),
        late_s=rng.choice([1.0, 5.0, 20.0]),
        is_one_sided=rng.random() < 0.3,
        skew_s=rng.choice([0.0, 30.0]),
        drift=rng.choice([0.0, 0.0, 0.1]),
    )
