"""`sluice demo`: a small platform, a few requests through the `openai` client, and where each one ran."""

import argparse
import time
from typing import Final

import grpc
import openai
from rich.console import Console
from rich.text import Text

from sluice.cli import demo_migrate, demo_pictures
from sluice.cli.demo_prompts import Question, is_right, questions
from sluice.cli.demo_report import draw
from sluice.cli.fleet_options import DEMO_MODEL, add_fleet_arguments, plan_from
from sluice.cli.get import worker_columns
from sluice.cli.local_fleet import LocalFleet
from sluice.cli.record_call import is_complete, record_of
from sluice.cli.tables import show
from sluice.cli.up import interrupt_once, start_with_progress
from sluice.errors import ConfigError
from sluice.wire.gen import sluice_pb2 as pb
from sluice.wire.gen import sluice_pb2_grpc as rpc

REQUEST_S_MAX: Final = 120.0
RECORD_S_MAX: Final = 5.0
WIDTH_MAX: Final = 110
ENCODERS: Final = 2
VISION_NAME: Final = "sluice-demo-vision"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `sluice demo`."""
    add_fleet_arguments(parser, prefill=1, decode=2)
    parser.add_argument("--migrate", action="store_true", help="move a running request about and kill its worker")
    parser.add_argument("--images", action="store_true", help="show two pictures to a model that sees, twice")
    parser.add_argument("--seed", type=int, default=7, help="draws the questions (%(default)s)")


def run(arguments: argparse.Namespace) -> int:
    """Exit status 0 when every request was answered, and rightly so by the demo model."""
    console = Console()
    interrupt_once()
    started_s = time.monotonic()
    if arguments.images:
        _take_images(arguments)
    plan = plan_from(arguments, http_port=0, grpc_port=0)
    console.print(f"Starting a router and {len(plan.roles())} workers, each a process of its own …")
    with start_with_progress(plan, console) as fleet:
        console.print(f"Ready after {time.monotonic() - started_s:.1f} s at {fleet.url}\n")
        if arguments.migrate:
            return 0 if demo_migrate.run(console, fleet) else 1
        if arguments.images:
            return 0 if demo_pictures.run(console, fleet) else 1
        client = openai.OpenAI(base_url=fleet.url, api_key="none", max_retries=0, timeout=REQUEST_S_MAX)
        wrong = 0
        for question in questions(arguments.seed):
            request, answer = _ask(client, fleet, question)
            right = is_right(question, answer)
            wrong += not right
            row = record_of(fleet.grpc_address, request, until=is_complete)
            panel = draw(question, answer, row, is_right=right, width=min(console.width, WIDTH_MAX))
            console.print(panel)
        _show_workers(console, fleet)
    console.print("Every process has been stopped.")
    if wrong and plan.model_path == DEMO_MODEL:
        console.print(f"[red]{wrong} answers were wrong.[/red]")
        return 1
    return 0


def _take_images(arguments: argparse.Namespace) -> None:
    """The model that sees, and encode workers for it, unless others are named. Raises ConfigError."""
    if arguments.migrate:
        raise ConfigError("--images: is another demo than --migrate; ask for one of them")
    if arguments.model == str(DEMO_MODEL):
        arguments.model, arguments.name = str(demo_pictures.DEMO_VISION_MODEL), arguments.name or VISION_NAME
    if not arguments.pools:
        arguments.encode = arguments.encode or ENCODERS


def _ask(client: openai.OpenAI, fleet: LocalFleet, question: Question) -> tuple[str, str]:
    """Send one streamed chat request; return its id and the whole answer."""
    parts: list[str] = []
    request = ""
    chunks = client.chat.completions.create(
        model=fleet.plan.model_name,
        messages=[{"role": "user", "content": question.prompt}],
        max_tokens=question.max_tokens,
        temperature=0,
        stream=True,
    )
    for chunk in chunks:
        request = chunk.id
        parts += [choice.delta.content or "" for choice in chunk.choices]
    return request, "".join(parts)


def _show_workers(console: Console, fleet: LocalFleet) -> None:
    """What the workers hold now that every answer is out: nothing, once their next heartbeat has come."""
    deadline_s = time.monotonic() + RECORD_S_MAX
    with grpc.insecure_channel(fleet.grpc_address) as channel:
        while True:
            reply = rpc.AdminStub(channel).GetWorkers(pb.GetWorkersRequest(), timeout=RECORD_S_MAX)
            if not any(row.load.running_sequences for row in reply.workers) or time.monotonic() > deadline_s:
                break
            time.sleep(0.1)
    console.print(Text("\nWorkers at the end:", "bold"))
    show(worker_columns(reply), console)
    console.print()
