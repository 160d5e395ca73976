"""What every custom resource model shares: camelCase fields, nothing unknown, rules that CEL can also check.

A Rule stands once, in both languages: as CEL for servers that have it, as Python for the operator,
which checks everything again because old servers do not. Next: `model_service.py`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Something a schema cannot say. `message` says what is wrong and what to do; `field` where, within the model."""

    cel: str
    message: str
    holds: Callable[[Any], bool]
    field: str = ""


class Part(BaseModel):
    """A piece of a custom resource. Its fields' descriptions become the CRD's and the reference page's."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
    )
    rules: ClassVar[tuple[Rule, ...]] = ()

    def broken_rules(self, path: str) -> Iterator[tuple[str, str]]:
        """(field, message) of every rule that does not hold here or further inside; `path` names this part."""
        for rule in self.rules:
            if not rule.holds(self):
                yield f"{path}.{rule.field}" if rule.field else path, rule.message
        for name, info in type(self).model_fields.items():
            inner = f"{path}.{info.alias or to_camel(name)}"
            yield from _inside(getattr(self, name), inner)


def _inside(value: object, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Part):
        yield from value.broken_rules(path)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _inside(item, f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _inside(item, f"{path}[{index}]")
