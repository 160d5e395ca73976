"""When requests come: renewal processes with a rate and a coefficient of variation. Pure but for the generator given.

Gamma and Weibull gaps are what ServeGen (arXiv 2505.09999) found in production; cv 1 is Poisson.
"""

import math

import numpy as np
import numpy.typing as npt

Column = npt.NDArray[np.float64]


def gamma(count: int, *, rate: float, cv: float, generator: np.random.Generator) -> Column:
    """`count` arrival times in seconds; gaps are Gamma-distributed with this coefficient of variation."""
    if cv <= 0.0:
        return np.arange(count) / rate
    shape = 1.0 / (cv * cv)
    gaps: Column = generator.gamma(shape, 1.0 / (rate * shape), count)
    times: Column = np.cumsum(gaps)
    return times


def weibull(count: int, *, rate: float, shape: float, generator: np.random.Generator) -> Column:
    """`count` arrival times in seconds; gaps are Weibull-distributed with this shape."""
    scale = 1.0 / (rate * math.gamma(1.0 + 1.0 / shape))
    times: Column = np.cumsum(generator.weibull(shape, count) * scale)
    return times
