"""The only reader of settings files and of the environment.

A file is one YAML mapping for one process. Every mistake becomes a ConfigError that names the
file, the field and what would be accepted. Nothing changes after reading.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from sluice.errors import ConfigError

T = TypeVar("T")

_NOTHING_OVER: Final[Mapping[str, str]] = {}


def load(path: Path, section: type[T], *, over: Mapping[str, str] = _NOTHING_OVER) -> T:
    """Read one process's settings; fields in `over` come from the command line and win. Raises ConfigError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); give a readable YAML file") from error
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: is not YAML ({error}); mend the syntax") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: holds no mapping; write `field: value` lines")
    return parse({**values, **over}, section, source=str(path))


def parse(values: Mapping[str, Any], section: type[T], *, source: str) -> T:
    """Check a mapping against a settings dataclass. Raises ConfigError naming the first bad field."""
    try:
        return _adapter(section).validate_python(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "(top level)"
        problem = (
            "is not a known setting; remove it" if first["type"] == "unexpected_keyword_argument" else first["msg"]
        )
        raise ConfigError(f"{source}: {field}: {problem}") from error


def to_yaml(values: Mapping[str, Any]) -> str:
    """A settings file's text for `load`."""
    return yaml.safe_dump(dict(values), sort_keys=False)


def from_environment(name: str) -> str | None:
    """One environment variable, or None: for paths and terminals only, never for settings."""
    return os.environ.get(name)


def child_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """The environment for a child process: ours, with `extra` on top."""
    return {**os.environ, **extra}


def set_default_environment(values: Mapping[str, str]) -> None:
    """Settings of libraries that read nothing else, for this process; what is set already stays."""
    for name, value in values.items():
        os.environ.setdefault(name, value)


def _adapter(section: type[T]) -> TypeAdapter[T]:
    # Unknown fields are refused, nested sections included; pydantic takes that from the class.
    with_config(ConfigDict(extra="forbid"))(section)
    return TypeAdapter(section)
