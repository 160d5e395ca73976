"""Measures how often the demo model is right, by task, prompt length and prompt form.

    python examples/demo_model/evaluate.py --model DIR [--seed N] [--prompts N]

Answers come from transformers' own `generate`: greedy, float32, one prompt at a time.
An answer is right when every token of it is, the end token included where one is due.
An open count is judged on all the numbers it was allowed. It reads the model, never
writes it. Read next: tasks.py for the prompts.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import dataclass
from pathlib import Path

import tasks
import torch
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

LENGTHS = (16, 100, 250, 500, 750, 1000)
ANSWER_TOKENS_MAX = 200


@dataclass(frozen=True, slots=True)
class Examinee:
    """A model with its tokenizer."""

    model: LlamaForCausalLM
    words: PreTrainedTokenizerFast

    @classmethod
    def load(cls, path: Path) -> Examinee:
        """The model of `path`, computed in float32 whatever its file stores."""
        model = LlamaForCausalLM.from_pretrained(path, dtype=torch.float32)
        return cls(model.eval(), AutoTokenizer.from_pretrained(path))

    def is_right(self, dialogue: tasks.Dialogue, *, is_chat: bool) -> bool:
        """Whether the greedy answer to the dialogue's last question is the expected one."""
        exchange = dialogue.exchanges[-1]
        if is_chat:
            text = self.words.apply_chat_template(dialogue.chat_messages(), tokenize=False, add_generation_prompt=True)
            answer = exchange.answer
        else:
            text, answer = dialogue.plain_prompt(), tasks.plain_answer(exchange)
        expected = self._ids(answer if exchange.is_open else answer + tasks.END)
        return self.answer_ids(str(text), tokens_max=len(expected)) == expected

    def answer_ids(self, text: str, *, tokens_max: int) -> list[int]:
        """The greedy continuation of `text`, its end token included."""
        prompt = torch.tensor([self._ids(text)])
        with torch.inference_mode():
            ids = self.model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=tokens_max,
                do_sample=False,
            )
        return list(ids[0, prompt.shape[1] :].tolist())

    def _ids(self, text: str) -> list[int]:
        return list(self.words(text, add_special_tokens=False)["input_ids"])


def main() -> None:
    """Prints one Markdown table row per task and form, one column per prompt length."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--prompts", type=int, default=100, help="per cell of the table")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    examinee = Examinee.load(args.model)
    print("| task | form | " + " | ".join(f"{n} tokens" for n in LENGTHS) + " |")
    print("| --- | --- |" + " ---: |" * len(LENGTHS))
    for task in tasks.Task:
        for form in ("chat", "plain"):
            cells = [
                accuracy(
                    examinee,
                    random.Random(f"{args.seed} {task.value} {form} {tokens}"),
                    task,
                    tokens=tokens,
                    prompts=args.prompts,
                    is_chat=form == "chat",
                )
                for tokens in LENGTHS
            ]
            shown = " | ".join(f"{100 * cell:.1f} %" for cell in cells)
            print(f"| {task.value} | {form} | {shown} |", flush=True)


def accuracy(
    examinee: Examinee,
    rng: random.Random,
    task: tasks.Task,
    *,
    tokens: int,
    prompts: int,
    is_chat: bool,
) -> float:
    """Share of right answers to `prompts` fresh prompts of about `tokens` tokens."""
    right = 0
    for _ in range(prompts):
        dialogue = tasks.prompt(rng, task, tokens=tokens, answer_tokens_max=ANSWER_TOKENS_MAX)
        right += examinee.is_right(dialogue, is_chat=is_chat)
    return right / prompts


if __name__ == "__main__":
    main()
