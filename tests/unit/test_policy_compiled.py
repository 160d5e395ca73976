"""What is compiled decides as what is written: the same placements with and without the compiler."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import pytest

from sluice.policy import compiled as module
from sluice.policy.compiled import compiled

PLACE = """
import json, random
from dataclasses import asdict, replace
from fleet_tables import fleet_of
from sluice.domain.role import Role
from sluice.domain.slo import STANDARD
from sluice.policy.policy import Ask, Placed
from sluice.policy.registry import make_policy

SLOS = (STANDARD, replace(STANDARD, tpot_s=0.02, ttft_s=0.5, miss_cost=3.0), replace(STANDARD, refuse_above=1.5))
ROLES = (Role.PREFILL, Role.DECODE, Role.MIXED)
answers = []
for seed in range(12):
    draw = random.Random(seed)
    count = draw.choice([1, 2, 5, 9, 80])
    same = seed % 3 == 0
    fleet = fleet_of(*[
        (Role.MIXED if same else draw.choice(ROLES), {
            "base_s": 0.01 if same else draw.choice([0.005, 0.01, 0.03]), "running": draw.randint(0, 30),
            "queued_tokens": draw.randint(0, 4000), "free_blocks": draw.randint(0, 900), "price_per_s": draw.random(),
        })
        for _ in range(count)
    ])
    fleet.severed = {0: frozenset({1, 2})} if seed % 4 == 0 and count > 2 else {}
    policy = make_policy("joint")
    for number in range(25):
        ask = Ask(prompt_tokens=draw.randint(1, 20_000), output_tokens_max=draw.choice([1, 500]), seed=number,
                  slo=SLOS[0] if same else draw.choice(SLOS), resident=draw.choice([None] * 9 + [0]))
        cached = {draw.randrange(count): draw.randint(1, 3000) for _ in range(draw.randint(0, 3))}
        answers.append(asdict(policy.place(ask, fleet, cached, now_s=number * 0.1)))
print(json.dumps(answers))
"""


def answers(**environment: str) -> list[dict[str, Any]]:
    command = [sys.executable, "-c", PLACE]
    paths = os.pathsep.join(sys.path)
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": paths, **environment}, capture_output=True, check=True, timeout=120
    )
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def test_compiled_placements_are_those_of_the_code_as_it_is_written() -> None:
    fast, plain = answers(), answers(NUMBA_DISABLE_JIT="1")
    assert len(fast) == len(plain) == 300
    for one, other in zip(fast, plain, strict=True):
        assert one.keys() == other.keys()
        assert [one.get("prefill"), one.get("decode"), one["binding"]] == [
            other.get("prefill"),
            other.get("decode"),
            other["binding"],
        ]
        for candidate, twin in zip(one["candidates"], other["candidates"], strict=True):
            assert candidate["terms"] == pytest.approx(twin["terms"])
            assert [candidate["cost"], candidate["ttft_s"], candidate["tpot_s"]] == pytest.approx(
                [twin["cost"], twin["ttft_s"], twin["tpot_s"]]
            )


def test_it_is_compiled_where_nothing_can_be_kept_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    njit = numba.njit

    def njit_on_a_disk_that_is_read_only(function: Callable[..., Any], *, cache: bool = False, **options: Any) -> Any:
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return njit(function, **options)

    monkeypatch.setattr(module.numba, "njit", njit_on_a_disk_that_is_read_only)

    def total(column: Any) -> float:
        found = 0.0
        for value in column:
            found += value
        return found

    made = compiled(total)
    assert made(np.arange(4.0)) == 6.0
    assert made is not total
