"""`sluice explain REQUEST`: why it went where it went, waited, was refused or was moved; and what came of it."""

import argparse
import math
from collections.abc import Sequence
from typing import Final

from google.protobuf.json_format import MessageToJson
from rich.console import Console

from sluice.cli.admin_call import add_router_argument, admin
from sluice.cli.tables import Column, show
from sluice.wire.gen import sluice_pb2 as pb

CALL_S_MAX: Final = 5.0
TERM_SHOWN_MIN: Final = 1e-6
_BINDING: Final = {
    "ttft": "time to the first token",
    "tpot": "time between tokens",
    "memory": "KV memory",
    "link": "the link between the two workers",
    "price": "price",
    "role": "the worker's role",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `sluice explain`."""
    parser.add_argument("request", help="its id: in the answer, its x-request-id header, or `sluice get requests`")
    add_router_argument(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Ask the router and print."""
    with admin(arguments.grpc) as stub:
        reply = stub.Explain(pb.ExplainRequest(request_id=arguments.request), timeout=CALL_S_MAX)
    if arguments.json:
        print(MessageToJson(reply, preserving_proto_field_name=True, always_print_fields_with_no_presence=True))
        return 0
    console = Console()
    _say(console, head_line(arguments.request, reply))
    for decision in reply.decisions:
        _say(console, "")
        _say(console, decision_line(decision, is_only_choice=len(reply.requests) < 2))
        if decision.candidates:
            show(candidate_columns(decision.candidates, is_chosen=decision.kind != "refused"), console)
    for row in reply.requests:
        _say(console, "")
        _say(console, outcome_line(row, reply))
    return 0


def _say(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def head_line(request: str, reply: pb.ExplainReply) -> str:
    """What was asked for."""
    objectives = f"TTFT {milliseconds(reply.ttft_objective_s)}, TPOT {milliseconds(reply.tpot_objective_s)}"
    return f"{request}: {reply.slo_class}, {objectives}; {reply.prompt_tokens} prompt tokens; policy {reply.policy}"


def decision_line(decision: pb.Decision, *, is_only_choice: bool) -> str:
    """When, what, why."""
    which = "" if is_only_choice else f" choice {decision.choice}"
    cached = f", {decision.cached_tokens} tokens cached" if decision.cached_tokens else ""
    decided = f"; decided by {_BINDING.get(decision.binding, decision.binding)}" if decision.binding else ""
    return f"after {milliseconds(decision.at_s)}{which} {decision.kind}{cached}: {decision.reason}{decided}"


def candidate_columns(rows: Sequence[pb.CandidateRow], *, is_chosen: bool) -> list[Column]:
    """The candidates with their predictions and what their cost is made of, the best first."""
    marks = ["→" if is_chosen else " ", *(" " for _ in rows[1:])]
    terms = [name for name in rows[0].terms if any(abs(row.terms[name]) >= TERM_SHOWN_MIN for row in rows)]
    return [
        Column("  PREFILL", [f"{mark} {row.prefill_worker}" for mark, row in zip(marks, rows, strict=True)]),
        Column("DECODE", [row.decode_worker for row in rows]),
        Column("TTFT", [milliseconds(row.ttft_s) for row in rows]),
        Column("TPOT", [milliseconds(row.tpot_s) for row in rows]),
        Column("COST", [f"{row.cost:.4g}" for row in rows]),
        *(Column(name.upper(), [f"{row.terms[name]:.3g}" for row in rows], spare=1) for name in sorted(terms)),
    ]


def outcome_line(row: pb.RequestRow, reply: pb.ExplainReply) -> str:
    """What came of it, beside what its last placement predicted."""
    placed = [one for one in reply.decisions if one.kind == "placed" and one.choice == row.choice and one.candidates]
    expected = placed[-1].candidates[0] if placed else None
    parts = [f"{row.state} ({row.finish_reason})" if row.finish_reason else row.state]
    for name, seconds, predicted_s in (
        ("TTFT", row.first_token_s, math.nan if expected is None else expected.ttft_s),
        ("TPOT", row.tpot_s, math.nan if expected is None else expected.tpot_s),
    ):
        if seconds:
            told = "" if math.isnan(predicted_s) else f" (predicted {milliseconds(predicted_s)})"
            parts.append(f"{name} {milliseconds(seconds)}{told}")
    parts.append(f"{row.output_tokens} tokens")
    parts += [f"{move.how} from {move.from_worker} at token {move.at_token}: {move.why}" for move in row.moves]
    which = f"choice {row.choice}: " if len(reply.requests) > 1 else "came out: "
    return which + ", ".join(parts)


def milliseconds(seconds: float) -> str:
    """Short, readable; "-" for what nobody knows."""
    if math.isnan(seconds):
        return "-"
    return f"{seconds:.3g} s" if seconds >= 10.0 else f"{seconds * 1e3:.3g} ms" if seconds < 1.0 else f"{seconds:.2f} s"
