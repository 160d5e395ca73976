"""Trains the demo model from nothing and writes it as Hugging Face files.

    python examples/demo_model/train.py --out DIR [--seed N] [--steps N] [--threads N]

A four-layer Llama learns the lessons of tasks.py, half of them under the chat template
and half as plain text. Sequences grow from 96 to 1,280 tokens: short ones, dense with
questions, make the copying circuits appear; long ones stretch them. Only answers bear
loss. The run is a function of the seed (and of the thread count, by rounding).

The file stores float16, and config.json says float32: the weights are rounded
once, here, and every later figure is about the rounded weights computed in float32.
Read next: tasks.py for what is taught, evaluate.py for what was learnt.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import tasks
import tokenizer
import torch
from safetensors.torch import save_file
from torch.nn import functional
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

# What a token is to the loss. Counting and punctuation come by the hundred and are easy;
# a recall or a sum is one hard token. Weights in the order of the names.
UNTAUGHT, EASY, STOP, RECALLED, SUMMED = range(5)
WEIGHTS = torch.tensor([0.0, 0.2, 0.3, 1.0, 1.0])

REPORT_STEPS, SAVE_STEPS = 50, 50

# The start. Positions a few thousand apart must still look alike to the slower pairs of a
# head that matches content, hence the long rotary base.
ROPE_THETA = 1e7
LOOK_BACK = (1, 2, 3, 4, 5, 1, 2, 6)  # one distance a query head; two share a key head
HEAD, PAIRS, FAST_PAIRS = 32, 16, 5  # a head's size, its rotary pairs, those for nearby places
PERIODS = (2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0)
# What the 128 dimensions are for, at the start.
CLOCKS, IDENTITY, WORKSPACE = slice(0, 20), slice(20, 84), slice(84, 116)
MARK, CONSTANT = 126, 127


@dataclass(frozen=True, slots=True)
class Stage:
    """A share of the steps spent on sequences of one length."""

    share: float
    sequence_tokens: int
    batch_tokens: int


STAGES = (
    Stage(share=0.60, sequence_tokens=96, batch_tokens=3072),
    Stage(share=0.15, sequence_tokens=512, batch_tokens=4096),
    Stage(share=0.25, sequence_tokens=1280, batch_tokens=5120),
)


@dataclass(frozen=True, slots=True)
class Batch:
    """Right-padded sequences; shapes are [sequences, tokens]. Labels are already shifted."""

    inputs: torch.Tensor
    labels: torch.Tensor
    kinds: torch.Tensor  # of each label: UNTAUGHT .. SUMMED


def main() -> None:
    """Reads the command line, trains, saves."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--resume-at", type=int, default=0, help="go on from the step that --out holds")
    args = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    words = tokenizer.save(args.out)
    model = new_model(words)
    if args.resume_at:
        model = LlamaForCausalLM.from_pretrained(args.out, dtype=torch.float32)
    train(model, words, seed=args.seed + args.resume_at, steps=args.steps, first=args.resume_at, out=args.out)
    save(model, args.out)


def new_model(words: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """An untrained model with a head start, so that two cores reach the goal within the hour.

    A circuit that recalls is laid out by hand and then trained like any other weight: the
    first layer gathers the numbers just before each token into a workspace, the second
    attends to numbers whose workspace is like the asker's, and copies them.
    """
    config = LlamaConfig(
        vocab_size=math.ceil(len(words) / 128) * 128,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=len(LOOK_BACK),
        num_key_value_heads=len(LOOK_BACK) // 2,
        head_dim=32,
        initializer_range=0.08,
        max_position_embeddings=tokenizer.POSITIONS_MAX,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
        dtype="float32",
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for layer in model.model.layers:  # what is random whispers
            layer.mlp.down_proj.weight *= 0.05
            layer.self_attn.o_proj.weight *= 0.05
        _place_tokens(model, words)
        _gather_recent_numbers(model)
        _copy_from_like_surroundings(model)
    return model


def _place_tokens(model: LlamaForCausalLM, words: PreTrainedTokenizerFast) -> None:
    """Gives numbers clocks, an identity and a mark; all tokens one length and one constant.

    A number's clocks are cosine and sine of it at a few periods, so that sums and steps are
    turns. Llama has no biases: the constant is what heads that mind positions hold on to.
    """
    embedding = model.model.embed_tokens.weight
    ids = words.convert_tokens_to_ids([str(n) for n in range(tasks.NUMBERS)])
    numbers = torch.arange(tasks.NUMBERS, dtype=torch.float32)
    angles = 2 * math.pi * numbers[:, None] / torch.tensor(PERIODS)
    identity = embedding[ids, IDENTITY]
    embedding[:, IDENTITY] = 0.0
    embedding[:, WORKSPACE] = 0.0
    embedding[ids] = 0.0
    embedding[ids, CLOCKS] = torch.cat([angles.cos(), angles.sin()], dim=1) * 0.2
    embedding[ids, IDENTITY] = identity * 0.09 / identity.std()
    embedding.copy_(functional.normalize(embedding, dim=1))
    embedding[:, MARK] = 0.0
    embedding[ids, MARK] = 0.3
    embedding[:, CONSTANT] = 0.3


def _gather_recent_numbers(model: LlamaForCausalLM) -> None:
    """Makes head h of the first layer write the number LOOK_BACK[h] tokens back to the workspace.

    Rotary embedding scores a query (cos fo, -sin fo) and a key (1, 0) in the pair of
    frequency f, d tokens apart, as cos(f(d - o)): most where d = o.
    """
    attention = model.model.layers[0].self_attn
    attention.q_proj.weight *= 0.25
    attention.k_proj.weight *= 0.25
    frequencies = ROPE_THETA ** (-torch.arange(FAST_PAIRS) / PAIRS)
    for head, distance in enumerate(LOOK_BACK):
        query = _rows(attention.q_proj.weight, head)[:, CONSTANT]
        query[:FAST_PAIRS] = 1.9 * torch.cos(frequencies * distance)
        query[PAIRS : PAIRS + FAST_PAIRS] = -1.9 * torch.sin(frequencies * distance)
    gather = 0.021 * torch.randn(HEAD, IDENTITY.stop - IDENTITY.start)
    for head in range(len(LOOK_BACK) // 2):
        key = _rows(attention.k_proj.weight, head)[:, CONSTANT]
        key[:FAST_PAIRS] = 1.9
        key[PAIRS : PAIRS + FAST_PAIRS] = 0.0
        values = _rows(attention.v_proj.weight, head)
        values *= 0.05
        values[:, IDENTITY] += gather
    for head in range(len(LOOK_BACK)):
        attention.o_proj.weight[WORKSPACE, HEAD * head : HEAD * (head + 1)] += 0.5 * torch.eye(HEAD)


def _copy_from_like_surroundings(model: LlamaForCausalLM) -> None:
    """Makes the second layer copy the numbers whose workspaces are like the asking token's.

    Likeness is scored in the slow rotary pairs, which distance hardly turns; in the slowest
    of them every number has an advantage over every word.
    """
    attention = model.model.layers[1].self_attn
    slow = [*range(FAST_PAIRS, PAIRS - 1), *range(PAIRS + FAST_PAIRS, HEAD - 1)]
    for weight in (attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight):
        weight.mul_(0.1)
    for head in range(len(LOOK_BACK) // 2):
        likeness = 0.28 * torch.randn(len(slow), HEAD)
        key = _rows(attention.k_proj.weight, head)
        key[slow, WORKSPACE] += likeness
        key[PAIRS - 1, MARK] = 3.8
        for sharer in (2 * head, 2 * head + 1):
            query = _rows(attention.q_proj.weight, sharer)
            query[slow, WORKSPACE] += likeness
            query[PAIRS - 1, CONSTANT] = 3.8
    attention.v_proj.weight[: IDENTITY.stop, : IDENTITY.stop] += torch.eye(IDENTITY.stop)
    for head in range(len(LOOK_BACK)):
        first = HEAD * (head // 2)
        copied = min(HEAD, max(0, IDENTITY.stop - first))
        block = attention.o_proj.weight[first : first + copied, HEAD * head : HEAD * head + copied]
        block += 0.08 * torch.eye(copied)


def _rows(weight: torch.Tensor, head: int) -> torch.Tensor:
    return weight[HEAD * head : HEAD * (head + 1)]


def train(
    model: LlamaForCausalLM,
    words: PreTrainedTokenizerFast,
    *,
    seed: int,
    steps: int,
    first: int,
    out: Path,
) -> None:
    """Runs the stages from step `first` on under one learning-rate curve; saves now and then."""
    rng = random.Random(seed)
    optimizers = _optimizers(model)
    report = Report()
    for step, stage in list(enumerate(_schedule(steps)))[first:]:
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * _learning_rate(step, steps)
        loss, tally = _loss(model, make_batch(rng, words, stage))
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        report.add(step, stage, tally)
        if step % SAVE_STEPS == SAVE_STEPS - 1:
            save(model, out)


class Report:
    """Prints a line of accuracies every REPORT_STEPS steps."""

    def __init__(self) -> None:
        self._began_s = time.monotonic()
        self._total = torch.zeros(len(WEIGHTS), 2, dtype=torch.long)

    def add(self, step: int, stage: Stage, tally: torch.Tensor) -> None:
        """Counts one step's `tally`, shaped [kind, (right, all)]."""
        self._total += tally
        if step % REPORT_STEPS != REPORT_STEPS - 1:
            return
        right = self._total[:, 0] / self._total[:, 1]
        print(
            f"step {step + 1} tokens {stage.sequence_tokens} easy {right[EASY]:.4f} "
            f"stop {right[STOP]:.4f} recall {right[RECALLED]:.4f} sum {right[SUMMED]:.4f} "
            f"after {time.monotonic() - self._began_s:.0f} s",
            flush=True,
        )
        self._total.zero_()


def _optimizers(model: LlamaForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices, AdamW for embeddings and norms; "peak_lr" in each group.

    Attention holds the laid-out circuit and moves gently; sums are learnt by the other
    matrices, and from nothing, so those move faster.
    """
    layers = dict(model.model.layers.named_parameters())
    attention = [p for name, p in layers.items() if p.ndim == 2 and "self_attn" in name]
    feed_forward = [p for name, p in layers.items() if p.ndim == 2 and "mlp" in name]
    others = [model.model.embed_tokens.weight, model.model.norm.weight]
    others += [p for p in layers.values() if p.ndim == 1]
    return [
        torch.optim.AdamW([{"params": others, "peak_lr": 2e-3}], betas=(0.9, 0.98), weight_decay=0.0),
        torch.optim.Muon(
            [
                {"params": attention, "peak_lr": 0.006},
                {"params": feed_forward, "peak_lr": 0.01},
            ],
            weight_decay=0.01,
        ),
    ]


def _schedule(steps: int) -> Iterator[Stage]:
    for stage in STAGES:
        for _ in range(round(steps * stage.share)):
            yield stage


def _learning_rate(step: int, steps: int) -> float:
    """Factor of the peak: a short warm-up, then a straight line down."""
    return min((step + 1) / 50, max(0.02, 1 - step / steps))


def _loss(model: LlamaForCausalLM, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Weighted mean loss over what is taught, and [kind, (right, all)] counts."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = model.model(input_ids=batch.inputs, use_cache=False).last_hidden_state
    taught = batch.kinds != UNTAUGHT
    labels, kinds = batch.labels[taught], batch.kinds[taught]
    logits = model.lm_head(hidden[taught].float())
    losses = functional.cross_entropy(logits, labels, reduction="none")
    weights = WEIGHTS[kinds]
    with torch.no_grad():
        right = (logits.argmax(-1) == labels).long()
        tally = torch.zeros(len(WEIGHTS), 2, dtype=torch.long)
        tally.index_add_(0, kinds, torch.stack([right, torch.ones_like(right)], dim=1))
    return (losses * weights).sum() / weights.sum(), tally


def make_batch(rng: random.Random, words: PreTrainedTokenizerFast, stage: Stage) -> Batch:
    """Lessons cut to the stage's length, answers marked as labels."""
    count = stage.batch_tokens // stage.sequence_tokens
    width = stage.sequence_tokens + 1
    ids = torch.full((count, width), int(words.pad_token_id or 0))
    kinds = torch.full((count, width), UNTAUGHT)
    for row in range(count):
        dialogue = tasks.lesson(rng, tokens=stage.sequence_tokens)
        parts = chat_parts(dialogue) if rng.random() < 0.5 else plain_parts(dialogue)
        encoded = words.backend_tokenizer.encode_batch([text for text, _ in parts])
        pairs = [(i, kind) for e, (_, kind) in zip(encoded, parts, strict=True) for i in e.ids]
        cut = torch.tensor(pairs[:width])
        ids[row, : len(cut)], kinds[row, : len(cut)] = cut[:, 0], cut[:, 1]
    return Batch(ids[:, :-1], ids[:, 1:], kinds[:, 1:])


def chat_parts(dialogue: tasks.Dialogue) -> list[tuple[str, int]]:
    """The dialogue under the chat template as (text, kind) pieces."""
    parts: list[tuple[str, int]] = []
    if dialogue.system is not None:
        parts.append((tokenizer.SYSTEM + dialogue.system + tasks.END, UNTAUGHT))
    for exchange in dialogue.exchanges:
        parts.append((tokenizer.USER + exchange.ask + tasks.END + tokenizer.ASSISTANT, UNTAUGHT))
        parts += _answer_parts(exchange, exchange.answer)
    return parts


def plain_parts(dialogue: tasks.Dialogue) -> list[tuple[str, int]]:
    """The dialogue as running text, as (text, kind) pieces."""
    parts = [] if dialogue.system is None else [(dialogue.system + "\n", UNTAUGHT)]
    for exchange in dialogue.exchanges:
        parts.append((exchange.ask, UNTAUGHT))
        parts += _answer_parts(exchange, tasks.plain_answer(exchange))
    return parts


def _answer_parts(exchange: tasks.Exchange, answer: str) -> list[tuple[str, int]]:
    space = " " if answer.startswith(" ") else ""
    stop = (tasks.END, UNTAUGHT if exchange.is_open else STOP)
    kind = {tasks.Task.RECALL: RECALLED, tasks.Task.SUM: SUMMED, tasks.Task.COUNT: EASY}
    return [(space, EASY), (answer[len(space) :], kind[exchange.task]), stop]


def save(model: LlamaForCausalLM, out: Path) -> None:
    """Writes config, generation config and weights, the weights in float16."""
    model.config.architectures = ["LlamaForCausalLM"]
    model.config.save_pretrained(out)
    end = model.config.eos_token_id
    GenerationConfig(do_sample=False, eos_token_id=end, pad_token_id=model.config.pad_token_id).save_pretrained(out)
    tensors = {
        name: tensor.detach().to(torch.float16).contiguous()
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight"  # tied to the embedding
    }
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})


if __name__ == "__main__":
    main()
