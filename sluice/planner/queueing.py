"""How full a server may be so that waiting stays within its allowance. Formulas only.

Two approximations, both of steady state; the replay of a plan is what finally checks them.
Next: `throughput.py`, which uses them.
"""

import math
from statistics import NormalDist
from typing import Final

UTILISATION_MAX: Final = 0.95  # above it any estimate of waiting is fiction
_HALVINGS: Final = 40


def utilisation_max(*, service_s: float, slack_s: float, miss_share: float) -> float:
    """The highest utilisation at which at most `miss_share` of arrivals wait longer than `slack_s`.

    Poisson arrivals, constant service, one server (M/D/1, as DistServe's analysis, OSDI 2024,
    section 3.1): mean wait `u s / (2 (1 - u))`. The tail is taken as exponential with the decay of
    heavy traffic, `P(wait > t) = u exp(-2 (1 - u) t / s)` (Kingman 1961). 0 where `slack_s` is negative.
    """
    if slack_s < 0:
        return 0.0
    low, high = 0.0, UTILISATION_MAX
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        late = middle * math.exp(-2 * (1 - middle) * slack_s / service_s)
        low, high = (middle, high) if late <= miss_share else (low, middle)
    return low


def occupancy_mean(places: int, *, miss_share: float) -> float:
    """The mean number of sequences at which `places` are enough except for `miss_share` of the time.

    Numbers in service are Poisson when none waits (M/G/inf), so the mean m keeps `m + z sqrt(m)` within
    `places`: square-root staffing (Halfin and Whitt 1981), z the normal quantile.
    """
    z = NormalDist().inv_cdf(1 - miss_share)
    root = (-z + math.sqrt(z * z + 4 * places)) / 2
    return root * root
