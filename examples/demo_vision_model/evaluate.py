"""Measures how often the vision demo is right on pictures it has never seen, by kind of question.

    python examples/demo_vision_model/evaluate.py --model DIR [--seed N] [--prompts N]

Pictures go through the image processor that the model's files name, answers come from transformers' own
`generate`: greedy, float32, one prompt at a time. An answer is right when every token of it is, the end included.
It reads the model, never writes it. Read next: questions.py for what is asked.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pictures
import questions
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoTokenizer, LlavaForConditionalGeneration, PreTrainedTokenizerFast

ANSWER_TOKENS_MAX = 6
SIDES_PIXELS = (96, 120, 144, 200)


@dataclass(frozen=True, slots=True)
class Examinee:
    """A model with its tokenizer and its image processor."""

    model: LlavaForConditionalGeneration
    words: PreTrainedTokenizerFast
    processor: Any  # transformers gives image processors no common typed base

    @classmethod
    def load(cls, path: Path) -> Examinee:
        """The model of `path`, computed in float32 whatever its file stores."""
        model = LlavaForConditionalGeneration.from_pretrained(path, dtype=torch.float32)
        processor = AutoImageProcessor.from_pretrained(path, backend="pil")
        return cls(model.eval(), AutoTokenizer.from_pretrained(path), processor)

    def answer(self, shown: Sequence[Image.Image], ask: str) -> str:
        """The greedy answer to a question after pictures, without its end; no end gives the text and a mark."""
        content = [*({"type": "image"} for _ in shown), {"type": "text", "text": ask}]
        messages = [{"role": "user", "content": content}]
        text = str(self.words.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        text = text.replace("<image>", "<image>" * self.model.config.image_seq_length)
        prompt = torch.tensor([self.words(text, add_special_tokens=False)["input_ids"]])
        with torch.inference_mode():
            ids = self.model.generate(
                input_ids=prompt,
                attention_mask=torch.ones_like(prompt),
                pixel_values=self.processor(list(shown), return_tensors="pt")["pixel_values"],
                max_new_tokens=ANSWER_TOKENS_MAX,
                do_sample=False,
            )
        answer = str(self.words.decode(ids[0, prompt.shape[1] :]))
        return answer.removesuffix(questions.END) if answer.endswith(questions.END) else answer + "..."


def main() -> None:
    """Prints one Markdown table row per kind of question, one column per number of pictures, then the whole."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--prompts", type=int, default=100, help="per cell of the table")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    examinee = Examinee.load(args.model)
    print("| question | one picture | two pictures |\n| --- | ---: | ---: |")
    shares: list[float] = []
    for kind in questions.Kind:
        cells: list[str] = []
        for shown in (1, 2):
            if shown == 1 and kind is questions.Kind.WHICH:
                cells.append("")
                continue
            rng = random.Random(f"{args.seed} {kind.value} {shown}")
            shares.append(accuracy(examinee, rng, kind, shown=shown, prompts=args.prompts))
            cells.append(f"{100 * shares[-1]:.1f} %")
        print(f"| {kind.value} | {' | '.join(cells)} |", flush=True)
    print(f"all cells alike: {100 * sum(shares) / len(shares):.1f} %")


def accuracy(examinee: Examinee, rng: random.Random, kind: questions.Kind, *, shown: int, prompts: int) -> float:
    """Share of right answers to `prompts` questions of a kind, each about fresh pictures."""
    right = 0
    for _ in range(prompts):
        scenes = [pictures.scene(rng) for _ in range(shown)]
        exchange = questions.exchange(rng, scenes, kind)
        drawn = [pictures.draw(scene, side_pixels=rng.choice(SIDES_PIXELS)) for scene in scenes]
        right += examinee.answer(drawn, exchange.ask) == exchange.answer
    return right / prompts


if __name__ == "__main__":
    main()
