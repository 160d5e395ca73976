"""The demo model ships small, reads any text, and gives right answers at every length.

Prompts come from examples/demo_model/tasks.py, the file its lessons came from, with
seeds of their own. Answers come from transformers' `generate`, so that a failure here
is about the model's files and never about Sluice's engine.
"""

from __future__ import annotations

import importlib.util
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "sluice" / "demo_model"
SIZE_MAX_BYTES = 4 * 1024 * 1024
PROMPTS_PER_TASK = 20
RIGHT_SHARE_MIN = 0.95


def _example(name: str) -> ModuleType:
    """A file of examples/demo_model as a module; the examples are no package."""
    spec = importlib.util.spec_from_file_location(f"demo_model_{name}", ROOT / "examples" / "demo_model" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up here
    spec.loader.exec_module(module)
    return module


tasks = _example("tasks")
words: Any = transformers.AutoTokenizer.from_pretrained(MODEL)


@pytest.fixture(scope="module")
def model() -> Iterator[Any]:
    """The model in float32 on one thread; the thread count is put back afterwards."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield transformers.LlamaForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
    torch.set_num_threads(threads)


def _ids(text: str) -> list[int]:
    return list(words(text, add_special_tokens=False)["input_ids"])


def _continuation(model: Any, text: str, tokens_max: int) -> list[int]:
    prompt = torch.tensor([_ids(text)])
    with torch.inference_mode():
        ids = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=tokens_max,
            do_sample=False,
        )
    return list(ids[0, prompt.shape[1] :].tolist())


def _is_right(model: Any, dialogue: Any, form: str) -> bool:
    """Whether every token of the answer is right, the end token too where one is due."""
    exchange = dialogue.exchanges[-1]
    if form == "chat":
        text, answer = _chat(dialogue.chat_messages()), exchange.answer
    else:
        text, answer = dialogue.plain_prompt(), tasks.plain_answer(exchange)
    expected = _ids(answer if exchange.is_open else answer + tasks.END)
    return _continuation(model, text, len(expected)) == expected


def _chat(messages: list[dict[str, str]]) -> str:
    return str(words.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def test_the_files_fit_in_four_megabytes() -> None:
    assert sum(f.stat().st_size for f in MODEL.iterdir() if f.is_file()) <= SIZE_MAX_BYTES


@settings(deadline=None, max_examples=300)
@given(st.text())
def test_every_text_decodes_to_itself(text: str) -> None:
    assert words.decode(_ids(text), clean_up_tokenization_spaces=False) == text


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), st.text()), min_size=1))
def test_the_chat_template_takes_any_sequence_of_turns(turns: list[tuple[str, str]]) -> None:
    text = _chat([{"role": role, "content": content} for role, content in turns])
    marked = "".join(f"<|{role}|>{content}<|end|>" for role, content in turns)
    assert text == marked + "<|assistant|>"


def test_numbers_below_a_thousand_are_single_tokens() -> None:
    assert all(len(_ids(str(number))) == 1 for number in range(1000))


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32), st.sampled_from(list(tasks.Task)), st.integers(0, 1000))
def test_token_count_is_the_tokenizers_count(seed: int, task: Any, tokens: int) -> None:
    text = tasks.prompt(random.Random(seed), task, tokens=tokens).plain_prompt()
    assert tasks.token_count(text) == len(_ids(text))
    assert tasks.token_count(text) <= tokens + 24


@pytest.mark.parametrize("task", tasks.Task)
def test_fresh_prompts_up_to_a_thousand_tokens_are_answered_right(task: Any, model: Any) -> None:
    rng = random.Random(f"unit test {task.value}")
    right = 0
    for index in range(PROMPTS_PER_TASK):
        tokens = 1000 - 50 * index
        dialogue = tasks.prompt(rng, task, tokens=tokens, answer_tokens_max=24)
        right += _is_right(model, dialogue, ("chat", "plain")[index % 2])
    assert right >= RIGHT_SHARE_MIN * PROMPTS_PER_TASK


def test_an_open_count_goes_on_for_hundreds_of_tokens(model: Any) -> None:
    expected = _ids(" ".join(str(number) for number in range(17, 217)))
    text = _chat([{"role": "user", "content": "count from 17"}])
    assert _continuation(model, text, len(expected)) == expected
