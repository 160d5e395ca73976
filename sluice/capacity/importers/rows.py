"""Reading the rows of a CSV file into numbers, with errors that name the file, the line and the column.

Decides nothing about what the columns mean: the importers beside it do.
"""

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from sluice.errors import ConfigError

ROWS_MAX: Final = 2_000_000  # more is not a profile


class Row:
    """One line of a file."""

    def __init__(self, path: Path, line: int, values: Mapping[str, str]) -> None:
        self._path = path
        self._line = line
        self._values = values

    def text(self, column: str) -> str:
        """Raises ConfigError without that column."""
        value = self._values.get(column)
        if value is None:
            raise ConfigError(f"{self._path}, line {self._line}: has no column '{column}'")
        return value

    def number(self, column: str) -> float:
        """Raises ConfigError where the column holds no number."""
        text = self.text(column)
        try:
            return float(text)
        except ValueError as error:
            raise ConfigError(f"{self._path}, line {self._line}: column '{column}' is '{text}', no number") from error

    def integer(self, column: str) -> int:
        """Raises ConfigError where the column holds no number."""
        return round(self.number(column))

    def has(self, column: str) -> bool:
        """Whether there is anything in that column."""
        return bool(self._values.get(column))


def read_rows(path: Path) -> Iterator[Row]:
    """All lines of `path`. Raises ConfigError where it cannot be read, is empty or too long."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            line = 0
            for line, values in enumerate(csv.DictReader(file), start=1):
                if line > ROWS_MAX:
                    raise ConfigError(f"{path}: has more than {ROWS_MAX} rows; that is no profile")
                yield Row(path, line + 1, values)
            if line == 0:
                raise ConfigError(f"{path}: is empty; give a CSV file with a header")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give the folder of the profile") from error
