"""`sluice demo --images`: two pictures through encode workers, and which of them encoded what.

The pictures come with the demo model, and so do the questions and the right answers. The first request has both
pictures encoded, by as many encode workers as there are; the later ones find the embeddings there. Draws from the
router's own record of each request. Next: `half_blocks.py` for how a picture looks in a terminal.
"""

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import openai
from openai.types.chat import ChatCompletionContentPartParam
from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from sluice.cli.half_blocks import half_blocks
from sluice.cli.local_fleet import LocalFleet
from sluice.cli.record_call import is_complete, record_of
from sluice.wire.gen import sluice_pb2 as pb

DEMO_VISION_MODEL: Final = Path(__file__).resolve().parent.parent / "demo_vision_model"
PICTURES: Final = ("first.png", "second.png")
QUESTIONS: Final = "questions.json"
PICTURE_COLUMNS: Final = 30
ANSWER_TOKENS_MAX: Final = 16
REQUEST_S_MAX: Final = 120.0


@dataclass(frozen=True, slots=True)
class Asked:
    """One question about both pictures, what came back, and the router's record of it."""

    question: str
    expected: str
    answer: str
    row: pb.RequestRow

    @property
    def is_right(self) -> bool:
        """Whether the answer is the expected one."""
        return self.answer == self.expected


def run(console: Console, fleet: LocalFleet, *, model: Path = DEMO_VISION_MODEL) -> bool:
    """Ask, draw; whether every answer was right, and later requests found every embedding."""
    client = openai.OpenAI(base_url=fleet.url, api_key="none", max_retries=0, timeout=REQUEST_S_MAX)
    files = [(model / name).read_bytes() for name in PICTURES]
    questions: list[dict[str, str]] = json.loads((model / QUESTIONS).read_text(encoding="utf-8"))
    asked = [_ask(client, fleet, files, each["question"], each["answer"]) for each in questions]
    console.print(page(files, asked))
    return all(each.is_right for each in asked) and all(shown.known for each in asked[1:] for shown in each.row.shown)


def page(files: list[bytes], asked: list[Asked]) -> Group:
    """Both pictures side by side, then a panel per request."""
    gallery = Table.grid(padding=(0, 3))
    gallery.add_row(*(half_blocks(data, columns=PICTURE_COLUMNS) for data in files))
    names = [f"{Path(name).stem} picture, {len(data):,} bytes" for name, data in zip(PICTURES, files, strict=True)]
    gallery.add_row(*(Text(name, "dim") for name in names))
    panels = [_panel(each, is_first=number == 0) for number, each in enumerate(asked)]
    return Group(Panel(gallery, title="what is sent with every question", title_align="left", border_style="dim",
                       expand=False), *panels, _comparison(asked))  # fmt: skip


def _panel(asked: Asked, *, is_first: bool) -> Panel:
    row = asked.row
    mark = Text(" ✓ right", "bold green") if asked.is_right else Text(f" ✗ expected {asked.expected}", "red")
    grid = Table.grid(padding=(0, 2))
    grid.add_row(Text("prompt", "dim"), Text.assemble(asked.question, (f"   [{row.prompt_tokens} tokens]", "dim")))
    grid.add_row(Text("answer", "dim"), Text.assemble((asked.answer, "bold"), mark))
    for shown in row.shown:
        what = ("cache hit", "bold green") if shown.known else ("encoded", "bold yellow")
        grid.add_row(
            Text(f"image {shown.image + 1}", "dim"),
            Text.assemble(f"{shown.tokens} embeddings of {shown.encoder}: ", what),
        )
    times = f"TTFT {row.first_token_s * 1e3:.0f} ms, prefill on {row.prefill_worker}, decode on {row.decode_worker}"
    grid.add_row(Text("times", "dim"), Text(times))
    title = "first send" if is_first else "the same pictures again"
    return Panel(grid, title=title, title_align="left", border_style="dim", expand=False)


def _comparison(asked: list[Asked]) -> Text:
    hits = sum(shown.known for each in asked for shown in each.row.shown)
    images = sum(len(each.row.shown) for each in asked)
    encoders = sorted({shown.encoder for shown in asked[0].row.shown})
    return Text(f"{images} images sent, {images - hits} encoded by {', '.join(encoders)}, {hits} cache hits.\n")


def _ask(client: openai.OpenAI, fleet: LocalFleet, files: list[bytes], question: str, expected: str) -> Asked:
    """One chat request with both pictures as data URLs."""
    urls = ["data:image/png;base64," + base64.b64encode(data).decode() for data in files]
    content: list[ChatCompletionContentPartParam] = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    content.append({"type": "text", "text": question})
    answered = client.chat.completions.create(
        model=fleet.plan.model_name,
        messages=[{"role": "user", "content": content}],
        max_tokens=ANSWER_TOKENS_MAX,
        temperature=0,
    )
    row = record_of(fleet.grpc_address, answered.id, until=is_complete)
    return Asked(question, expected, (answered.choices[0].message.content or "").strip(), row)
