"""Trains the vision demo from nothing and writes it as Hugging Face files.

    python examples/demo_vision_model/train.py --out DIR [--seed N] [--seconds N]

Two stages. SEEING: the vision tower alone learns to write the facts of each cell where layout.py says (mean
squared error; no language model runs). SPEAKING: the language model alone learns to answer, from embeddings that say
their facts exactly, with some noise. A row of a batch shows one picture or two and then asks several times; a mask
keeps the conversations of a row from seeing one another, so that one look at a picture serves many questions.

`--seconds` of processor time end a sitting; the next one goes on from the state beside the model. What a step
sees is a function of the seed and the step. Read next: evaluate.py for what was learnt.
"""

from __future__ import annotations

import argparse
import enum
import os
import random
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pictures
import questions
import tokenizer
import torch
from layout import embeddings_of
from model import PICTURE_SIDE_PIXELS, PICTURE_TOKENS, new_model, pixel_values, save
from torch.nn import functional
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast


class Stage(enum.Enum):
    """What learns; the value is for how many steps."""

    SEEING = 600
    SPEAKING = 570


PICTURES_OF_A_BATCH = {Stage.SEEING: 64, Stage.SPEAKING: 24}
QUESTION_TOKENS = 128  # of a row, all its conversations together
TURNS = (1, 1, 1, 1, 1, 2)  # of a conversation
DRAWN_SIDES_PIXELS = (96, 96, 96, 144)
NOISE = 0.06  # of embeddings while the language model learns alone
COOLING = 0.4  # the share of a stage's steps in which the learning rate falls
REPORT_STEPS, SAVE_STEPS = 20, 100
IGNORED = -100


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of tokens, right-padded, [rows, tokens]; pictures in the rows' order; facts [pictures, tokens, facts]."""

    ids: torch.Tensor
    labels: torch.Tensor  # of the next token; IGNORED where nothing is taught
    kinds: torch.Tensor  # index of the question's Kind, where a label is
    groups: torch.Tensor  # 0: the pictures; k: conversation k; -1: padding
    positions: torch.Tensor
    pixels: torch.Tensor | None  # None where nobody looks
    facts: torch.Tensor


def main() -> None:
    """Reads the command line, trains, saves."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), help="end this sitting after so much processor time"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--state", type=Path, help="where a sitting leaves off; default: OUT with .state behind it")
    args = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    words = tokenizer.save(args.out)
    state = args.state or args.out.with_suffix(".state")
    training = Training(new_model(words), words, seed=args.seed)
    if state.exists():
        training.load(state)
    training.run(state, args.out, seconds=args.seconds)


class Training:
    """A model, what teaches it, and how far it has come."""

    def __init__(self, model: LlavaForConditionalGeneration, words: PreTrainedTokenizerFast, *, seed: int) -> None:
        self.model = model
        self.words = words
        self.seed, self.step = seed, 0
        self.optimizers = _optimizers(model)

    def load(self, state: Path) -> None:
        """Goes on where the last sitting ended."""
        kept = torch.load(state, weights_only=True)
        self.step = kept["step"]
        self.model.load_state_dict(kept["model"])
        for optimizer, values in zip(self.optimizers, kept["optimizers"], strict=True):
            optimizer.load_state_dict(values)

    def keep(self, state: Path, out: Path) -> None:
        """Writes the model, and what the next sitting needs."""
        save(self.model, out)
        kept = {
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        torch.save(kept, state.with_suffix(".part"))
        state.with_suffix(".part").replace(state)

    def run(self, state: Path, out: Path, *, seconds: float) -> None:
        """Steps until all are done or the time is over."""
        began_s, report = time.process_time(), Report()
        while self.step < sum(stage.value for stage in Stage) and time.process_time() - began_s < seconds:
            stage, at = _stage(self.step)
            batch = make_batch(random.Random(f"{self.seed} {self.step}"), self.words, stage)
            loss, tally = self._loss(batch, stage)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            for optimizer in self.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = group["peak_lr"] * _learning_rate(at, stage)
                optimizer.step()
                optimizer.zero_grad()
            self.step += 1
            report.add(self.step, stage, tally, loss=loss.item(), spent_s=time.process_time() - began_s)
            if self.step % SAVE_STEPS == 0:
                self.keep(state, out)
        self.keep(state, out)

    def _loss(self, batch: Batch, stage: Stage) -> tuple[torch.Tensor, torch.Tensor]:
        """What the stage minimises, and counts [kind, (right, all)] of answers' words."""
        said = embeddings_of(batch.facts)
        match stage:
            case Stage.SEEING:
                made = self.model.model.get_image_features(batch.pixels, return_dict=True).pooler_output
                nothing = torch.zeros(len(questions.Kind), 2, dtype=torch.long)
                return 100 * functional.mse_loss(torch.stack(list(made)), said), nothing
            case Stage.SPEAKING:
                noise = torch.Generator().manual_seed(self.seed * 1_000_003 + self.step)
                return self._answers(batch, said + NOISE * torch.randn(said.shape, generator=noise))

    def _answers(self, batch: Batch, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss of the answers to questions about pictures that look like `features`."""
        inner = self.model.model
        allowed = (batch.groups[:, None, :] == 0) | (batch.groups[:, None, :] == batch.groups[:, :, None])
        allowed &= torch.ones(allowed.shape[1:], dtype=torch.bool).tril()
        is_picture = (batch.ids == self.model.config.image_token_id)[..., None]
        mixed = inner.get_input_embeddings()(batch.ids).masked_scatter(is_picture, features)
        hidden = inner.language_model(
            inputs_embeds=mixed, attention_mask=allowed[:, None], position_ids=batch.positions, use_cache=False
        ).last_hidden_state
        taught = batch.labels != IGNORED
        logits = self.model.lm_head(hidden[taught])
        labels, kinds = batch.labels[taught], batch.kinds[taught]
        with torch.no_grad():
            is_word = labels != self.model.config.text_config.eos_token_id
            right = (logits.argmax(-1) == labels)[is_word].long()
            tally = torch.zeros(len(questions.Kind), 2, dtype=torch.long)
            tally.index_add_(0, kinds[is_word], torch.stack([right, torch.ones_like(right)], dim=1))
        return functional.cross_entropy(logits, labels), tally


def _stage(step: int) -> tuple[Stage, int]:
    """The stage of a step, and its number in it."""
    for stage in Stage:
        if step < stage.value:
            return stage, step
        step -= stage.value
    raise AssertionError("no steps are left")


class Report:
    """Prints a line of accuracies every REPORT_STEPS steps: of the words of answers."""

    def __init__(self) -> None:
        self._total = torch.zeros(len(questions.Kind), 2, dtype=torch.long)

    def add(self, step: int, stage: Stage, tally: torch.Tensor, *, loss: float, spent_s: float) -> None:
        """Counts one step."""
        self._total += tally
        if step % REPORT_STEPS:
            return
        shares = (self._total[:, 0] / self._total[:, 1].clamp(min=1)).tolist()
        shown = " ".join(f"{kind.value} {share:.3f}" for kind, share in zip(questions.Kind, shares, strict=True))
        print(f"step {step} {stage.name.lower()} loss {loss:.3f} {shown} after {spent_s:.0f} s", flush=True)
        self._total.zero_()


def _optimizers(model: LlavaForConditionalGeneration) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of layers and projector, AdamW for the rest; "peak_lr" in each group.

    What was laid out in the language model moves more gently than the vision tower, which starts from nothing.
    """
    named = dict(model.named_parameters())
    matrices = {name: p for name, p in named.items() if p.ndim == 2 and "embed" not in name and "lm_head" not in name}
    laid = [p for name, p in matrices.items() if "language_model" in name and "self_attn" in name]
    seeing = [p for name, p in matrices.items() if not ("language_model" in name and "self_attn" in name)]
    others = [p for name, p in named.items() if name not in matrices]
    return [
        torch.optim.AdamW([{"params": others, "peak_lr": 1.5e-3}], betas=(0.9, 0.98), weight_decay=0.0),
        torch.optim.Muon([{"params": laid, "peak_lr": 0.006}, {"params": seeing, "peak_lr": 0.02}], weight_decay=0.01),
    ]


def _learning_rate(at: int, stage: Stage) -> float:
    """Factor of the peak: a short warm-up, all of it for most of the stage, then a straight line down."""
    return min((at + 1) / 20, max(0.02, min(1.0, (1 - at / stage.value) / COOLING)))


def make_batch(rng: random.Random, words: PreTrainedTokenizerFast, stage: Stage) -> Batch:
    """Rows of one or two pictures, the same number in all, with their conversations."""
    shown = rng.choice((1, 2))
    rows = [[pictures.scene(rng) for _ in range(shown)] for _ in range(PICTURES_OF_A_BATCH[stage] // shown)]
    width = shown * (PICTURE_TOKENS + 1) + 1 + QUESTION_TOKENS
    ids = torch.full((len(rows), width), int(words.pad_token_id or 0))
    labels, kinds = torch.full_like(ids, IGNORED), torch.zeros_like(ids)
    groups, positions = torch.full_like(ids, -1), torch.zeros_like(ids)
    for at, scenes in enumerate(rows if stage is not Stage.SEEING else ()):
        row = Row(words, shown=shown)
        row.fill(rng, scenes)
        end = min(width, len(row.ids) - 1)
        ids[at, :end] = torch.tensor(row.ids[:end])
        groups[at, :end] = torch.tensor(row.groups[:end])
        positions[at, :end] = torch.tensor(row.positions[:end])
        is_own = [row.groups[i] == row.groups[i + 1] and row.kinds[i + 1] >= 0 for i in range(end)]
        labels[at, :end] = torch.tensor([row.ids[i + 1] if own else IGNORED for i, own in enumerate(is_own)])
        kinds[at, :end] = torch.tensor([max(0, kind) for kind in row.kinds[1 : end + 1]])
    pixels = None
    if stage is not Stage.SPEAKING:
        every = [scene for scenes in rows for scene in scenes]
        pixels = pixel_values([pictures.draw(scene, side_pixels=rng.choice(DRAWN_SIDES_PIXELS)) for scene in every])
    facts = np.array([_facts(scene) for scenes in rows for scene in scenes])
    return Batch(ids, labels, kinds, groups, positions, pixels, torch.from_numpy(facts))


class Row:
    """The tokens of one row: pictures, then conversations that do not see one another."""

    def __init__(self, words: PreTrainedTokenizerFast, *, shown: int) -> None:
        self._words = words
        prefix = tokenizer.USER + "".join(f"{n + 1}{tokenizer.IMAGE * PICTURE_TOKENS}" for n in range(shown))
        self.ids: list[int] = self._tokens(prefix)
        self._pictures = len(self.ids)
        self.groups = [0] * self._pictures
        self.positions = list(range(self._pictures))
        self.kinds = [-1] * self._pictures  # of the token itself, where it is taught

    def fill(self, rng: random.Random, scenes: list[pictures.Scene]) -> None:
        """Conversations until the row is full."""
        group = 0
        while len(self.ids) < self._pictures + QUESTION_TOKENS:
            group += 1
            position = self._pictures
            for turn in range(rng.choice(TURNS)):
                exchange = questions.exchange(rng, scenes)
                mark = tokenizer.USER if turn else ""
                asked = self._tokens(mark + exchange.ask + questions.END + tokenizer.ASSISTANT)
                answer = self._tokens(exchange.answer + questions.END)
                kind = tuple(questions.Kind).index(exchange.kind)
                self.ids += asked + answer
                self.kinds += [-1] * len(asked) + [kind] * len(answer)
                self.groups += [group] * (len(asked) + len(answer))
                self.positions += range(position, position + len(asked) + len(answer))
                position += len(asked) + len(answer)

    def _tokens(self, text: str) -> list[int]:
        return self._words.backend_tokenizer.encode(text, add_special_tokens=False).ids


def _facts(scene: pictures.Scene) -> list[list[int]]:
    """The facts of each of a picture's tokens: those of the cell its patch is in."""
    side = round(PICTURE_TOKENS**0.5)
    rows = range(pictures.GRID)
    cells = {(row, column): questions.facts(scene, row=row, column=column) for row in rows for column in rows}
    return [cells[y * pictures.GRID // side, x * pictures.GRID // side] for y in range(side) for x in range(side)]


if __name__ == "__main__":
    assert PICTURE_SIDE_PIXELS % pictures.GRID == 0, "cells end where patches end"
    main()
