"""`sluice status` shows a person what the operator has written: pools, requests, moves, objectives, KV links."""

from typing import Any

from rich.console import Console

from sluice.cli.status import look, shown
from sluice.errors import ClusterApiError
from sluice.operator.manifest import LiveObject

LINK = {"from": "demo-prefill-1", "to": "demo-decode-1", "transport": "tcp", "gbPerSecond": 0.8, "failed": 0}


def said(**status: Any) -> str:
    service = {"metadata": {"namespace": "models", "name": "demo"}, "status": {"workers": "2/2", **status}}
    console = Console(width=160)
    with console.capture() as captured:
        console.print(shown([service]))
    return captured.get()


def test_requests_moves_and_objectives_stand_in_the_first_line() -> None:
    counts = {"running": 12, "queued": 3, "moved": 5, "attainmentPercent": 99.5, "dollarsPerMillionTokens": 0.4}
    (line, *_) = said(**counts).splitlines()
    assert line.startswith(
        "models/demo  workers 2/2, 12 running, 3 queued, 5 moved in 5 min, 99.5 % meet their objectives, $0.4 per"
    )


def test_counts_that_nobody_has_are_left_out() -> None:
    assert "running" not in said()


def test_the_slowest_link_is_named() -> None:
    assert "2 KV links, the slowest 0.8 GB/s: demo-prefill-1 to demo-decode-1 over tcp" in said(
        kvFabric=[LINK, {**LINK, "to": "demo-decode-2", "gbPerSecond": 2.0}]
    )


def test_links_that_fail_say_why() -> None:
    failing = {**LINK, "failed": 4, "lastError": "connection refused"}
    assert "demo-decode-1 over tcp: 4 pushes failed; connection refused" in said(kvFabric=[LINK, failing])


async def test_a_watch_outlives_an_api_server_that_is_away() -> None:
    async def away() -> list[LiveObject]:
        raise ClusterApiError("the API server does not answer")

    console = Console(width=160)
    with console.capture() as captured:
        console.print(await look(away))
    assert captured.get() == "the API server does not answer; asking again\n"
