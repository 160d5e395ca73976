"""Turns a conversation into prompt text with the model's own Jinja template.

Renders as transformers' `apply_chat_template` does: a sandbox without mutation, the same
filters and functions. What a template refuses is the client's mistake (InvalidRequestError on
`messages`); a template that cannot be parsed is the model's (ModelLoadError).
Next: `router/intake.py`.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from sluice.errors import InvalidRequestError, ModelLoadError

_PROBE: Final = "probe"
RENDERED_CHARS_MAX: Final = 32 * 1024 * 1024


class _Generation(Extension):
    """`{% generation %}` marks the assistant's words for training; when serving it is only its body."""

    tags = {"generation"}  # noqa: RUF012 - Jinja declares it as an instance variable

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class ChatTemplate:
    """A compiled template and the special tokens it may name."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = _strftime_now
        self._special_tokens = dict(special_tokens)
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateError as error:
            raise ModelLoadError(
                f"chat template: {error}; mend chat_template.jinja or tokenizer_config.json"
            ) from error
        self.takes_parts = self._has_parts()
        """Whether it writes out content that is a list of parts, as vision-language models' templates do."""

    def _has_parts(self) -> bool:
        content = [{"type": "text", "text": _PROBE}]
        try:
            text = self.render([{"role": "user", "content": content}])
        except InvalidRequestError:
            return False
        return _PROBE in text and str(content) not in text

    def render(self, messages: Sequence[Mapping[str, object]]) -> str:
        """The prompt for the assistant's next answer. Raises InvalidRequestError."""
        remedy = "send roles and an order that the model's chat template accepts"
        try:
            text = self._template.render(
                messages=messages, tools=None, documents=None, add_generation_prompt=True, **self._special_tokens
            )
        except (jinja2.TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
            problem = f"refused by the model's chat template ({error})"
            raise InvalidRequestError(field="messages", problem=problem, remedy=remedy) from error
        if len(text) > RENDERED_CHARS_MAX:
            raise InvalidRequestError(field="messages", problem="render to too long a prompt", remedy="send less text")
        return text


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().astimezone().strftime(form)


def _to_json(
    value: Any,  # noqa: ANN401 - whatever a template holds
    ensure_ascii: bool = False,  # noqa: FBT001, FBT002 - the filter's public signature
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,  # noqa: FBT001, FBT002 - the filter's public signature
) -> str:
    """Jinja's own filter escapes for HTML; prompts need plain JSON."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
