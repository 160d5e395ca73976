"""How one request is drawn in the terminal: who did what, when, and what moved.

Draws from the router's own record of the request. Decides nothing. Next: `demo.py`.
"""

from typing import Final

from rich.console import Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from sluice.cli.demo_prompts import Question
from sluice.cli.get import moved
from sluice.wire.gen import sluice_pb2 as pb

LABEL_COLUMNS: Final = 22
SPAN_COLUMNS: Final = 16
FRAME_COLUMNS: Final = 4
BAR_COLUMNS_MIN: Final = 10
BAR_COLUMNS_MAX: Final = 56
TEXT_CHARS_MAX: Final = 150
PREFILL_STYLE: Final = "yellow"
MOVE_STYLE: Final = "magenta"
DECODE_STYLE: Final = "green"


def draw(question: Question, answer: str, row: pb.RequestRow, *, is_right: bool, width: int) -> Panel:
    """One request as a panel of at most `width` columns: question, answer, a timeline, times and why."""
    mark = Text(" ✓ right", "bold green") if is_right else Text(f" ✗ expected {_shortened(question.expected)}", "red")
    asked = Text.assemble(question.shown, (f"   [{row.prompt_tokens} tokens]", "dim"))
    bar_columns = width - FRAME_COLUMNS - LABEL_COLUMNS - SPAN_COLUMNS
    bars = _timeline(row, min(BAR_COLUMNS_MAX, max(BAR_COLUMNS_MIN, bar_columns)))
    below = {"times": _times(row), "why": Text(row.decision)}
    if row.kv_bytes:
        below = {"moved": Text(moved(row), f"bold {MOVE_STYLE}"), **below}
    above = {"prompt": asked, "answer": Text.assemble((_shortened(answer), "bold"), mark)}
    content = Group(_labelled(above), Text(""), *bars, Text(""), _labelled(below))
    return Panel(content, title=question.title, title_align="left", border_style="dim", width=width)


def _labelled(lines: dict[str, Text]) -> Table:
    """A dim word before each text; long texts wrap beside it."""
    grid = Table.grid(padding=(0, 2))
    for label, text in lines.items():
        grid.add_row(Text(f"{label:6}", "dim"), text)
    return grid


def _shortened(text: str) -> str:
    """On one line, and not longer than a glance."""
    line = " ".join(text.split())
    return line if len(line) <= TEXT_CHARS_MAX else f"{line[: TEXT_CHARS_MAX - 1]}…"


def _times(row: pb.RequestRow) -> Text:
    parts = [("TTFT ", "dim"), (f"{row.first_token_s * 1e3:.0f} ms", "bold")]
    if row.tpot_s:
        parts += [("   TPOT ", "dim"), (f"{row.tpot_s * 1e3:.1f} ms", "bold")]
    parts += [("   out ", "dim"), (f"{row.output_tokens} tokens", "bold")]
    parts += [("   cached ", "dim"), (f"{row.cached_tokens} tokens", "bold")]
    return Text.assemble(*parts)


def _timeline(row: pb.RequestRow, columns: int) -> list[Text]:
    """One bar per phase on a common scale, from acceptance to the last token."""
    total_s = max(row.finished_s, row.first_token_s, 1e-9)

    def bar(label: str, start_s: float, end_s: float, style: str) -> Text:
        first = min(columns - 1, int(start_s / total_s * columns))
        last = max(first + 1, min(columns, round(end_s / total_s * columns)))
        blocks = " " * first + "█" * (last - first) + " " * (columns - last)
        return Text.assemble(
            f"{label:{LABEL_COLUMNS}}", (blocks, style), (f" {start_s * 1e3:5.0f} - {end_s * 1e3:.0f} ms", "dim")
        )

    bars = [bar(f"prefill on {row.prefill_worker}", row.placed_s, row.first_token_s, PREFILL_STYLE)]
    if row.kv_bytes and row.prefill_worker != row.decode_worker:
        begun_s = max(row.placed_s, row.handoff_s - max(row.transfer_s, row.exposed_s))
        bars.append(bar(f"KV over {row.transport}", begun_s, row.handoff_s, MOVE_STYLE))
    if row.output_tokens > 1:
        bars.append(bar(f"decode on {row.decode_worker}", row.first_token_s, row.finished_s, DECODE_STYLE))
    return bars
