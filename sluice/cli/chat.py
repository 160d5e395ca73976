"""`sluice chat`: a conversation in the terminal, through the same OpenAI API everyone uses."""

import argparse

import openai
from openai.types.chat import ChatCompletionMessageParam
from rich.console import Console

from sluice.errors import NoWorkerError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `sluice chat`."""
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1", help="a router's OpenAI API (%(default)s)")
    parser.add_argument("--model", default="", help="default: the first one served")
    parser.add_argument("--system", default="", help="a system message")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (%(default)s)")
    parser.add_argument("--max-tokens", type=int, default=512, help="limit of an answer (%(default)s)")


def run(arguments: argparse.Namespace) -> int:
    """Read lines, stream answers, until Ctrl-D."""
    console = Console()
    client = openai.OpenAI(base_url=arguments.url, api_key="none", max_retries=0)
    try:
        model = arguments.model or client.models.list().data[0].id
    except openai.APIError as error:
        raise NoWorkerError(f"no router answers at {arguments.url}; start one with `sluice up`") from error
    console.print(f"[dim]{model} at {arguments.url}; an empty line starts anew, Ctrl-D ends.[/dim]")
    opening: list[ChatCompletionMessageParam] = (
        [{"role": "system", "content": arguments.system}] if arguments.system else []
    )
    messages = list(opening)
    while True:
        try:
            line = console.input("[bold]you[/bold]    ").strip()
        except EOFError:
            console.print()
            return 0
        if not line:
            messages = list(opening)
            continue
        messages.append({"role": "user", "content": line})
        try:
            answer = _stream(client, console, model, messages, arguments)
        except openai.APIError as error:
            console.print(f"[red]{error.message}[/red]")
            messages.pop()
        else:
            messages.append({"role": "assistant", "content": answer})


def _stream(
    client: openai.OpenAI,
    console: Console,
    model: str,
    messages: list[ChatCompletionMessageParam],
    arguments: argparse.Namespace,
) -> str:
    """Print one answer as it comes; return it whole."""
    console.print("[bold]model[/bold]  ", end="")
    parts: list[str] = []
    chunks = client.chat.completions.create(
        model=model,
        messages=messages,
        temperature=arguments.temperature,
        max_tokens=arguments.max_tokens,
        stream=True,
    )
    for chunk in chunks:
        if chunk.choices and (text := chunk.choices[0].delta.content):
            parts.append(text)
            console.print(text, end="", markup=False, highlight=False)
    console.print()
    return "".join(parts)
