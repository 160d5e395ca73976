"""Draws docs/handoff.md and docs/migration-states.md from the tables, so that they cannot disagree.

Run `python -m sluice.kv_transfer.diagram` at the repository root after changing a table; a test
fails while the page is old. Never part of a running worker.
"""

from collections.abc import Iterable, Mapping
from enum import Enum
from pathlib import Path
from typing import Final, TypeVar

from sluice.kv_transfer import migration
from sluice.kv_transfer.handoff import RECEIVER, RECEIVER_ENDS, SENDER, SENDER_ENDS, ReceiverState, SenderState

PAGE: Final = Path("docs/handoff.md")
MIGRATION_PAGE: Final = Path("docs/migration-states.md")

State = TypeVar("State", bound=Enum)
Event = TypeVar("Event", bound=Enum)
Effect = TypeVar("Effect", bound=Enum)

OPENING: Final = """\
# The handoff, state by state

Drawn by `python -m sluice.kv_transfer.diagram` from the tables in `sluice/kv_transfer/handoff.py`; do not edit.
Each arrow reads *event* / *what the worker then does*. An event without an arrow in a state is a bug and raises.
Memory is freed or handed on only where no write can still be running: a given-up handoff waits in *abandoning*,
*cancelling* or *quarantined* until its transport says so.
"""


MIGRATION_OPENING: Final = """\
# The migration, state by state

Drawn by `python -m sluice.kv_transfer.diagram` from the table in `sluice/kv_transfer/migration.py`; do not edit.
[migration.md](migration.md) tells the story; the target's side is the receiver of [handoff.md](handoff.md), by way of
*parked*. Each arrow reads *event* / *what the worker then does*. An event without an arrow in a state is a bug and
raises. *moved*, *stayed* and *ended* are the only ends: the sequence is the target's, goes on here, or was over.
"""


def render_migration() -> str:
    """The page about migrations."""
    title = "The worker that runs the sequence"
    source = _section(title, migration.SOURCE, start=migration.SourceState.RESERVING, ends=migration.SOURCE_ENDS)
    return f"{MIGRATION_OPENING}\n{source}"


def render() -> str:
    """The page about handoffs."""
    sender = _section("The prefill worker, which pushes", SENDER, start=SenderState.RESERVING, ends=SENDER_ENDS)
    receiver = _section("The decode worker, which receives", RECEIVER, start=ReceiverState.RESERVED, ends=RECEIVER_ENDS)
    return f"{OPENING}\n{sender}\n{receiver}"


def _section(
    title: str,
    table: Mapping[tuple[State, Event], tuple[State, tuple[Effect, ...]]],
    *,
    start: State,
    ends: Iterable[State],
) -> str:
    lines = [f"## {title}", "", "```mermaid", "stateDiagram-v2", f"    [*] --> {start.value}"]
    for (state, event), (after, effects) in table.items():
        doing = ", ".join(effect.value for effect in effects) or "nothing"
        lines.append(f"    {state.value} --> {after.value} : {event.value} / {doing}")
    lines += [f"    {end} --> [*]" for end in sorted(str(end.value) for end in ends)]
    lines += ["```", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(render())
    MIGRATION_PAGE.write_text(render_migration())
