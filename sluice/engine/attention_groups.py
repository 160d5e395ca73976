"""Which sequences of a step share one attention call: a choice between padding and calls.

A call takes sequences padded to the longest; a decode of 4,000 tokens beside one of 40 would
waste most of the work, while one call per sequence would be a Python loop. Decides by sorting
and cutting. Pure: plain numbers in, ranges out. Next: `input_builder.py`.
"""

from collections.abc import Sequence


def cut(shapes: Sequence[tuple[int, int]], *, call_pairs: int) -> list[int]:
    """Ends of the groups over `shapes` = (queries, keys) per sequence, sorted in falling order.

    A group of n sequences computes n * (its most queries) * (its most keys) pairs. Sequences join
    the open group while all its padding costs less than `call_pairs`, the pairs that could be
    computed in the time one more call takes.
    """
    ends: list[int] = []
    start = queries_most = keys_most = real = 0
    for index, (queries, keys) in enumerate(shapes):
        grown = (max(queries_most, queries), max(keys_most, keys))
        padding = (index - start + 1) * grown[0] * grown[1] - (real + queries * keys)
        if index > start and padding > call_pairs:
            ends.append(index)
            start, real, grown = index, 0, (queries, keys)
        queries_most, keys_most = grown
        real += queries * keys
    if shapes:
        ends.append(len(shapes))
    return ends
