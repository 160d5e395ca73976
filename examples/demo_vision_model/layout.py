"""What the 128 numbers of an embedding mean at the start of training, and the circuits laid out in them by hand.

A circuit that looks things up in a picture is slow to appear by itself, so it is laid out and then trained like
all else. Words that matter in a question get a number of their own. The first layer gathers them from the
question into a workspace, and tells every patch which picture it belongs to. The second compares the
workspace with what is at each patch (colour, shape, picture) and copies the embedding of the best match. The vision
tower is taught to write what is at a patch, and next to it, at agreed numbers (`embeddings_of`). What to answer
is left to learning. Read next: model.py.
"""

from __future__ import annotations

import pictures
import questions
import torch
from torch import nn
from torch.nn import functional
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

COLOURS, SHAPES = slice(0, 6), slice(6, 10)
WAYS, KINDS, ORDINALS = slice(10, 14), slice(14, 22), slice(22, 24)
ROWS, COLUMNS = slice(24, 27), slice(27, 30)
NEIGHBOURS = tuple((slice(30 + 10 * way, 36 + 10 * way), slice(36 + 10 * way, 40 + 10 * way)) for way in range(4))
WORKSPACE = slice(70, 94)  # numbers 0 to 23 of the question's words
COUNTS = slice(94, 105)  # all, by shape, by colour
LABELS = slice(105, 107)  # the 1 and 2 before the pictures
IDENTITY = slice(107, 125)  # at random, so that tokens differ
ANSWER, CONTENT, CONSTANT = 125, 126, 127

HEAD, PAIRS, SLOW_PAIR = 32, 16, 7  # of a head's rotary pairs, those from SLOW_PAIR on hardly turn over a prompt
SLOWEST = PAIRS - 1
MATCHED = (*range(SLOW_PAIR, PAIRS), *range(PAIRS + SLOW_PAIR, PAIRS + SLOW_PAIR + 3))
LOOK_FOR = (*range(70, 80), 92, 93)  # in the workspace: colour, shape, which picture
LOOK_AT = (*range(10), 22, 23)  # at a patch
THERE, ABSENT, COUNT_UNIT = 1.5, -0.2, 3.0


@torch.no_grad()
def lay_out(model: LlavaForConditionalGeneration, words: PreTrainedTokenizerFast) -> None:
    """Writes words and circuits into a model whose weights are random and small."""
    _place_words(model.get_input_embeddings().weight, words)
    model.model.multi_modal_projector.linear_2.bias[CONSTANT] = 1.0
    first, second = (layer.self_attn for layer in model.model.language_model.layers[:2])
    _gather(first)
    _look_up(second)


def _place_words(embedding: torch.Tensor, words: PreTrainedTokenizerFast) -> None:
    embedding.zero_()
    embedding[:, IDENTITY].normal_(std=0.15)
    embedding[:, CONSTANT] = 1.0
    meanings: dict[str, int] = {}
    meanings |= {colour.word: COLOURS.start + i for i, colour in enumerate(pictures.Colour)}
    for i, shape in enumerate(pictures.Shape):
        meanings |= {shape.word: SHAPES.start + i, shape.value: SHAPES.start + i}
    meanings |= dict(zip(("left", "right", "above", "below"), range(WAYS.start, WAYS.stop), strict=True))
    meanings |= dict(zip(("colour", "shape", "many", "where", "is", "which", "what", "shows"),
                         range(KINDS.start, KINDS.stop), strict=True))  # fmt: skip
    meanings |= dict(zip(questions.ORDINALS, range(ORDINALS.start, ORDINALS.stop), strict=True))
    meanings |= {"color": meanings["colour"], "shapes": meanings["shape"], "has": meanings["shows"]}
    meanings |= {name.capitalize(): meanings[name] for name in ("where", "is", "which", "what")}
    begins = {"where", "is", "which", "what", "Where", "Is", "Which", "What"}
    for word, number in meanings.items():
        inside = ANSWER if word == "is" else CONTENT  # "is there" asks, "what is" does not
        for token, mark in ((word, CONTENT if word in begins else ANSWER), ("\u0120" + word, inside)):
            row = words.convert_tokens_to_ids(token)
            embedding[row, number] = 1.0
            embedding[row, mark] = 1.0
    for i, label in enumerate("12"):
        embedding[words.convert_tokens_to_ids(label), LABELS.start + i] = 1.0


def _gather(attention: nn.Module) -> None:
    """Head 0 of the first layer: the question's words into the workspace. Head 1: each patch's picture."""
    query, key, value, out = (
        getattr(attention, name).weight for name in ("q_proj", "k_proj", "v_proj", "o_proj")
    )  # [to, from] each
    for head in (0, 1):
        rows = slice(HEAD * head, HEAD * (head + 1))
        query[rows], key[rows], value[rows], out[:, rows] = 0.0, 0.0, 0.0, 0.0
        query[HEAD * head + SLOWEST, CONSTANT] = 1.5
    key[SLOWEST, CONTENT] = 1.4
    words = WORKSPACE.stop - WORKSPACE.start
    value[:words, :words] = torch.eye(words)
    out[WORKSPACE, :words] = 0.5 * torch.eye(words)
    key[HEAD + SLOWEST, LABELS] = torch.tensor([1.0, 2.0])
    value[HEAD : HEAD + 2, LABELS] = torch.eye(2)
    out[ORDINALS, HEAD : HEAD + 2] = 0.3 * torch.eye(2)


def _look_up(attention: nn.Module) -> None:
    """Every head of the second layer finds the patch that the workspace asks for; each copies a quarter of it."""
    query, key, value, out = (getattr(attention, name).weight for name in ("q_proj", "k_proj", "v_proj", "o_proj"))
    query.mul_(0.1), key.mul_(0.1)
    copied = torch.ones(value.shape[1])
    copied[WORKSPACE], copied[CONTENT], copied[CONSTANT], copied[ANSWER] = 0.0, 0.0, 0.0, 0.0
    value.copy_(torch.diag(copied))
    out.copy_(0.3 * torch.eye(out.shape[0]))
    for head in range(query.shape[0] // HEAD):
        for place, wanted, shown in zip(MATCHED, LOOK_FOR, LOOK_AT, strict=True):
            query[HEAD * head + place, wanted] += 1.5
            key[HEAD * head + place, shown] += 1.5


def embeddings_of(facts: torch.Tensor) -> torch.Tensor:
    """What the vision tower shall make of a picture: its facts, each at its agreed number, and nothing else.

    `facts` [pictures, tokens, facts], as questions.facts orders them; the result is [pictures, tokens, hidden].
    """
    embeddings = torch.zeros(*facts.shape[:-1], CONSTANT + 1)
    ends = [COLOURS, SHAPES, *(part for way in NEIGHBOURS for part in way)]
    for index, part in enumerate(ends):  # class 0: nothing is there
        shown = functional.one_hot(facts[..., index], part.stop - part.start + 1)[..., 1:]
        embeddings[..., part] = (THERE - ABSENT) * shown + ABSENT
    for index, part in ((len(ends), ROWS), (len(ends) + 1, COLUMNS)):
        embeddings[..., part] = (THERE - ABSENT) * functional.one_hot(facts[..., index], pictures.GRID) + ABSENT
    embeddings[..., COUNTS] = facts[..., len(ends) + 2 :] / COUNT_UNIT
    embeddings[..., CONSTANT] = 1.0
    return embeddings
