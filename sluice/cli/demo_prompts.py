"""What the demo asks: questions whose answers can be checked, drawn from a seed.

Pure. Any model can be asked; only the demo model is expected to be right. Next: `demo.py`.
"""

import random
from dataclasses import dataclass
from typing import Final

COUNT_TOKENS: Final = 160  # 80 numbers, each with a space


@dataclass(frozen=True, slots=True)
class Question:
    """One request of the demo: what is shown of it, what is sent, what a right answer contains."""

    title: str
    shown: str
    prompt: str
    expected: str
    max_tokens: int


def questions(seed: int) -> list[Question]:
    """A long recall, a short sum, a long count, and the same recall list again with another key."""
    rng = random.Random(seed)  # noqa: S311 - a demo needs no secrets
    keys = rng.sample(range(100, 1000), 160)
    pairs = [(key, rng.randrange(100, 1000)) for key in keys]
    listed = " ".join(f"k{key}={value}" for key, value in pairs)
    first, second = rng.sample(pairs, 2)
    left, right = rng.randrange(10, 100), rng.randrange(10, 100)
    start = rng.randrange(20, 60)
    return [
        _recall("recall one of 160 keys", listed, pairs, first),
        Question("add two numbers", f"{left}+{right}=?", f"{left}+{right}=?", str(left + right), 16),
        Question(
            "a long answer",
            f"count from {start}",
            f"count from {start}",
            " ".join(str(number) for number in range(start, start + 80)),
            COUNT_TOKENS,
        ),
        _recall("the same list, another key", listed, pairs, second),
    ]


def _recall(title: str, listed: str, pairs: list[tuple[int, int]], asked: tuple[int, int]) -> Question:
    key, value = asked
    opening = " ".join(f"k{key}={value}" for key, value in pairs[:3])
    return Question(title, f"{opening} … ({len(pairs)} pairs) … k{key}?", f"{listed}\nk{key}?", str(value), 16)


def is_right(question: Question, answer: str) -> bool:
    """Whether the answer says what was expected, apart from spaces around it."""
    return " ".join(answer.split()).startswith(question.expected)
