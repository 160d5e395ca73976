"""How one request is drawn in the terminal: who did what, when, and what moved.

Draws from the router's own record of the request. Decides nothing. Next: `demo.py`.
"""

from typing import Final

from rich.console import Group
from rich.panel import Panel
from rich.text import Text

from sluice.cli.demo_prompts import Question
from sluice.cli.get import moved
from sluice.wire.gen import sluice_pb2 as pb

BAR_COLUMNS: Final = 56
ANSWER_CHARS_MAX: Final = 150
PREFILL_STYLE: Final = "yellow"
MOVE_STYLE: Final = "magenta"
DECODE_STYLE: Final = "green"


def draw(question: Question, answer: str, row: pb.RequestRow, *, is_right: bool) -> Panel:
    """One request as a panel: question, answer, a line of numbers, and a timeline."""
    mark = Text(" ✓ right", "bold green") if is_right else Text(f" ✗ expected {question.expected}", "bold red")
    shown = answer.strip()
    if len(shown) > ANSWER_CHARS_MAX:
        shown = f"{shown[: ANSWER_CHARS_MAX - 1]}…"
    lines = [
        Text.assemble(("prompt  ", "dim"), question.shown, (f"   [{row.prompt_tokens} tokens]", "dim")),
        Text.assemble(("answer  ", "dim"), (shown, "bold"), mark),
        Text(""),
        *_timeline(row),
        Text(""),
        _numbers(row),
        Text.assemble(("why     ", "dim"), row.decision),
    ]
    return Panel(Group(*lines), title=question.title, title_align="left", border_style="dim")


def _numbers(row: pb.RequestRow) -> Text:
    parts = [("TTFT ", "dim"), (f"{row.first_token_s * 1e3:.0f} ms", "bold")]
    if row.tpot_s:
        parts += [("   TPOT ", "dim"), (f"{row.tpot_s * 1e3:.1f} ms", "bold")]
    parts += [("   out ", "dim"), (f"{row.output_tokens} tokens", "bold")]
    parts += [("   cached ", "dim"), (f"{row.cached_tokens} tokens", "bold")]
    if row.kv_bytes:
        parts += [("   KV moved ", "dim"), (moved(row), f"bold {MOVE_STYLE}")]
    return Text.assemble(*parts)


def _timeline(row: pb.RequestRow) -> list[Text]:
    """One bar per phase on a common scale, from acceptance to the last token."""
    total_s = max(row.finished_s, row.first_token_s, 1e-9)
    is_split = bool(row.kv_bytes) and row.prefill_worker != row.decode_worker
    bars = [_bar(f"prefill on {row.prefill_worker}", row.placed_s, row.first_token_s, total_s, PREFILL_STYLE)]
    if is_split:
        begun_s = max(row.placed_s, row.handoff_s - max(row.transfer_s, row.exposed_s))
        bars.append(_bar(f"KV over {row.transport}", begun_s, row.handoff_s, total_s, MOVE_STYLE))
    if row.output_tokens > 1:
        bars.append(_bar(f"decode on {row.decode_worker}", row.first_token_s, row.finished_s, total_s, DECODE_STYLE))
    return bars


def _bar(label: str, start_s: float, end_s: float, total_s: float, style: str) -> Text:
    first = min(BAR_COLUMNS - 1, int(start_s / total_s * BAR_COLUMNS))
    last = max(first + 1, min(BAR_COLUMNS, round(end_s / total_s * BAR_COLUMNS)))
    bar = " " * first + "█" * (last - first) + " " * (BAR_COLUMNS - last)
    return Text.assemble(f"{label:22}", (bar, style), (f" {start_s * 1e3:6.0f} - {end_s * 1e3:.0f} ms", "dim"))
