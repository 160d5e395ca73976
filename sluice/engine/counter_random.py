"""Random numbers without a generator's state: a pure function of (seed, output index).

Law L9: whoever knows a sequence's seed and how many tokens it has draws the next number, so
sampling survives migration, replay and any change of the batch. Never a torch generator, never
global state. The method is Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as
1, 2, 3", SC 2011): the key is the seed, the counter is the output index. Next: `sampler.py`.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

ROUNDS: Final = 10
MULTIPLIERS: Final = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
KEY_STEPS: Final = (np.uint64(0x9E3779B9), np.uint64(0xBB67AE85))
LOW_32: Final = np.uint64(0xFFFFFFFF)
SHIFT_32: Final = np.uint64(32)

Words = NDArray[np.uint64]
"""32-bit words, each in a 64-bit element so that products do not overflow."""


def uniforms(seeds: Words, indices: Words) -> NDArray[np.float64]:
    """One number in [0, 1) with 53 random bits per (seed, index) pair; arrays of equal length."""
    zero = np.zeros_like(indices)
    counter = (indices & LOW_32, indices >> SHIFT_32, zero, zero)
    high, low, _, _ = philox(counter, (seeds & LOW_32, seeds >> SHIFT_32))
    bits = ((high << SHIFT_32) | low) >> np.uint64(11)
    return bits.astype(np.float64) * 2.0**-53


def philox(counter: tuple[Words, Words, Words, Words], key: tuple[Words, Words]) -> tuple[Words, Words, Words, Words]:
    """Philox4x32-10: four random words per counter and key."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        product0, product1 = MULTIPLIERS[0] * c0, MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (
            (product1 >> SHIFT_32) ^ c1 ^ k0,
            product1 & LOW_32,
            (product0 >> SHIFT_32) ^ c3 ^ k1,
            product0 & LOW_32,
        )
        k0, k1 = (k0 + KEY_STEPS[0]) & LOW_32, (k1 + KEY_STEPS[1]) & LOW_32
    return c0, c1, c2, c3
