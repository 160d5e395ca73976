"""Tables that fit the terminal: whole cells always, fewer columns when it is narrow.

Decides which columns stay; says which ones it left out. Nothing is ever cut or wrapped, so what
is printed can be copied. A pipe gets every column. Next: `get.py`, which fills tables.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rich.console import Console
from rich.text import Text

GAP_COLUMNS: Final = 2  # between a cell and the next


@dataclass(frozen=True, slots=True)
class Column:
    """A heading and its cells. Columns of higher `spare` go first; those of 0 stay."""

    heading: str
    cells: Sequence[str]
    spare: int = 0

    @property
    def width(self) -> int:
        """Terminal columns it takes, the gap included."""
        return max(len(self.heading), *(len(cell) for cell in self.cells), 0) + GAP_COLUMNS


def fitting(columns: Sequence[Column], width: int) -> list[Column]:
    """The columns that fit into `width`, in their order; those of spare 0 stay even when too wide."""
    kept = list(columns)
    for column in sorted(columns, key=lambda column: column.spare, reverse=True):
        if sum(each.width for each in kept) <= width or not column.spare:
            break
        kept.remove(column)
    return kept


def show(columns: Sequence[Column], console: Console) -> None:
    """Print them as a table."""
    kept = fitting(columns, console.width) if console.is_terminal else list(columns)
    widths = [column.width for column in kept]
    headings = [column.heading for column in kept]
    console.print(_line(headings, widths), style="bold", soft_wrap=True)
    for cells in zip(*(column.cells for column in kept), strict=True):
        console.print(_line(cells, widths), soft_wrap=True, highlight=False)
    if len(kept) < len(columns):
        names = ", ".join(column.heading for column in columns if column not in kept)
        console.print(Text(f"no room for {names}; --json has them", "dim"))


def _line(cells: Sequence[str], widths: Sequence[int]) -> Text:
    return Text("".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())
