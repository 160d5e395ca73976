"""`sluice demo --migrate`: one long answer streams while its request moves three times and its worker is killed.

Draws what happened from the router's own record; fails if a single token is not the expected one.
Next: `demo.py`, which calls `run`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import grpc
import openai
from rich.console import Console
from rich.text import Text

from sluice.cli.local_fleet import LocalFleet
from sluice.cli.record_call import is_finished, record_of
from sluice.wire.gen import sluice_pb2 as pb
from sluice.wire.gen import sluice_pb2_grpc as rpc

START: Final = 17
OUTPUT_TOKENS: Final = 500
MOVE_AT: Final = (40, 90, 140)  # words shown so far
KILL_AT: Final = 190
CALL_S_MAX: Final = 10.0
BAR_COLUMNS: Final = 40
STYLES: Final = ("green", "cyan", "magenta", "yellow")


@dataclass(slots=True)
class Stretch:
    """The request ran on `worker` from `start_s` to `end_s`, seconds since the router accepted it."""

    worker: str
    start_s: float
    end_s: float
    ended_by: str


def run(console: Console, fleet: LocalFleet) -> bool:
    """Stream, move, kill, draw; whether every number came, once, in order."""
    client = openai.OpenAI(base_url=fleet.url, api_key="none", max_retries=0, timeout=120.0)
    console.print(f"[dim]prompt[/dim]  count from {START}   [dim](asked twice: first undisturbed, then as shown)[/dim]")
    undisturbed = "".join(text for _, text in _ask(client, fleet))
    console.print("[dim]answer[/dim]  ", end="")
    request, answer = _stream(client, fleet, console)
    is_same = answer == undisturbed
    row = record_of(fleet.grpc_address, request, until=is_finished)
    console.print("\n")
    for line in timeline(row):
        console.print(line)
    console.print()
    events = f"{row.output_tokens} tokens, {row.migrations} migrations, 1 worker killed"
    if is_same:
        console.print(f"[bold green]✓ {events}: none lost, none repeated, none changed[/bold green]")
    else:
        console.print(f"[bold red]✗ {events}: the answer differs from the undisturbed one[/bold red]")
    console.print(f"[dim]largest pause between two tokens {row.itl_max_s * 1e3:.0f} ms (the kill), "
                  f"mean {row.tpot_s * 1e3:.1f} ms[/dim]\n")  # fmt: skip
    return is_same and row.migrations >= len(MOVE_AT)


def _stream(client: openai.OpenAI, fleet: LocalFleet, console: Console) -> tuple[str, str]:
    """Print the answer as it comes, moving and killing on the way; the request's id and the whole answer."""
    todo: list[tuple[int, Callable[[str], str]]] = [(at, lambda request: _move(fleet, request)) for at in MOVE_AT]
    todo.append((KILL_AT, lambda request: _kill(fleet, request)))
    parts: list[str] = []
    request = ""
    for request, text in _ask(client, fleet):
        parts.append(text)
        console.print(text, end="", markup=False, highlight=False)
        if todo and len("".join(parts).split()) >= todo[0][0]:
            did = todo.pop(0)[1](request)
            console.print(f" [bold yellow]<{did}>[/bold yellow]", end="")
    return request, "".join(parts)


def _ask(client: openai.OpenAI, fleet: LocalFleet) -> Iterator[tuple[str, str]]:
    """Stream the answer: the request's id and the next piece of text, again and again."""
    chunks = client.chat.completions.create(
        model=fleet.plan.model_name,
        messages=[{"role": "user", "content": f"count from {START}"}],
        max_tokens=OUTPUT_TOKENS,
        temperature=0,
        stream=True,
    )
    for chunk in chunks:
        yield chunk.id, "".join(choice.delta.content or "" for choice in chunk.choices)


def _move(fleet: LocalFleet, request: str) -> str:
    with grpc.insecure_channel(fleet.grpc_address) as channel:
        reply = rpc.AdminStub(channel).Migrate(pb.MigrateRequest(request_id=request), timeout=CALL_S_MAX)
    return f"move {reply.from_worker} → {reply.to_worker}"


def _kill(fleet: LocalFleet, request: str) -> str:
    worker = record_of(fleet.grpc_address, request, until=lambda _: True).decode_worker
    fleet.children[worker].kill()
    return f"kill -9 {worker}"


def stretches(row: pb.RequestRow) -> list[Stretch]:
    """Where the request ran, one after the other."""
    at_s, worker, found = row.first_token_s, row.decode_worker, list[Stretch]()
    for move in row.moves:
        how = "killed" if move.how == "recomputed" else f"moved, {move.frozen_s * 1e3:.0f} ms frozen"
        found.append(Stretch(move.from_worker, at_s, move.at_s, how))
        at_s, worker = move.at_s, move.to_worker or row.decode_worker
    return [*found, Stretch(worker, at_s, row.finished_s, "finished")]


def timeline(row: pb.RequestRow) -> list[Text]:
    """One bar per stretch on a common scale."""
    found = stretches(row)
    total_s = max(found[-1].end_s, 1e-9)
    colours = {worker: STYLES[i % len(STYLES)] for i, worker in enumerate(sorted({one.worker for one in found}))}
    lines = []
    for one in found:
        first = min(BAR_COLUMNS - 1, int(one.start_s / total_s * BAR_COLUMNS))
        last = max(first + 1, min(BAR_COLUMNS, round(one.end_s / total_s * BAR_COLUMNS)))
        bar = " " * first + "█" * (last - first) + " " * (BAR_COLUMNS - last)
        lines.append(Text.assemble(f"{one.worker:10}", (bar, colours[one.worker]), (f" {one.ended_by}", "dim")))
    return lines
