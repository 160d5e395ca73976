"""Prompts with images, in whatever way they are computed, give the tokens of transformers' generate()."""

import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText

from sluice.domain.block_hash import extend_chain
from sluice.domain.ids import SequenceId
from sluice.domain.image import ImageSpan, image_tokens
from sluice.domain.sequence import SequenceState
from sluice.engine import torch_runner
from sluice.engine.contract import EngineLimits, StepReport, TokenOut
from sluice.engine.engine import PagedEngine
from sluice.engine.model_loader import LoadedModel, geometry_for, load_model
from sluice.engine.vision.encoder import VisionEncoder
from sluice.engine.vision.picture import Picture
from sluice.engine.vision.preprocessor import PreparedImage, Preprocessor
from sluice.engine.vision.random_vision_models import CONFIGS, IMAGE_TOKEN, save_random_vision_model
from sluice.errors import InvalidRequestError
from sluice.testing.embedding_rows import ArrayRows
from sluice.testing.sequence_states import ROOT, outputs_of, run_until_idle, sequence_state
from tests.support.engine_caches import cache_of

NEW_TOKENS = 12
CPU = torch.device("cpu")
IMAGES_OF_PROMPTS = (0, 1, 2, 8, 3)
MERGE = 2

torch.set_num_threads(1)


class Seer:
    """One family's model in two halves, prompts with images, and what generate() says of them."""

    def __init__(self, name: str, directory: Path) -> None:
        save_random_vision_model(directory, family=name)
        self.directory = directory
        self.preprocessor = Preprocessor(directory)
        self.encoder = VisionEncoder.load(directory, dtype=torch.float32, device=CPU)
        self.model: LoadedModel = load_model(str(directory), device="cpu")
        rng = random.Random(name)
        self.images = [self._image(rng) for _ in range(8)]
        self.embeddings = {
            digest_of(index): rows.contiguous().numpy().view(np.uint8).reshape(len(rows), -1)
            for index, rows in enumerate(self.encoder.encode(self.images))
        }
        self.prompts = [self._prompt(rng, rng.sample(range(8), count)) for count in IMAGES_OF_PROMPTS]
        self.prompts.append(self._prompt(rng, [5, 1], like=self.prompts[2]))
        oracle = AutoModelForImageTextToText.from_pretrained(directory, dtype=torch.float32).eval()
        self.expected = [self._generate(oracle, ids, shown) for ids, shown in self.prompts]

    def _image(self, rng: random.Random) -> PreparedImage:
        shape = (rng.randrange(30, 120), rng.randrange(30, 120), 3)
        pixels = np.random.default_rng(rng.randrange(1000)).integers(0, 256, shape, dtype=np.uint8)
        return self.preprocessor.prepare(Picture(pixels=pixels, digest=b""))

    def _prompt(
        self, rng: random.Random, shown: list[int], *, like: tuple[list[int], list[int]] | None = None
    ) -> tuple[list[int], list[int]]:
        """Token ids as the model's own processor lays them out, and the images shown; `like` shares its beginning."""
        if like is not None:
            ids, earlier = like
            second = [at for at, token in enumerate(ids) if token == IMAGE_TOKEN][self.images[earlier[0]].tokens]
            return [*ids[:second], *[IMAGE_TOKEN] * self.images[shown[1]].tokens, 9, 8, 7], [earlier[0], shown[1]]
        ids = [rng.randrange(3, 180) for _ in range(rng.randrange(3, 40))]
        for index in shown:
            ids += [IMAGE_TOKEN] * self.images[index].tokens
            ids += [rng.randrange(3, 180) for _ in range(rng.randrange(2, 20))]
        return ids, shown

    def _generate(self, oracle: Any, ids: list[int], shown: list[int]) -> list[int]:
        row = torch.tensor([ids])
        inputs: dict[str, Any] = {"attention_mask": torch.ones_like(row)}
        if shown:
            inputs |= VisionEncoder(oracle)._inputs([self.images[index] for index in shown])
        if self.images[0].grid is not None:
            inputs["mm_token_type_ids"] = (row == IMAGE_TOKEN).int()
        made = oracle.generate(row, max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=None, **inputs)
        tokens: list[int] = made[0, len(ids) :].tolist()
        return tokens

    def state(self, index: int) -> SequenceState:
        """The prompt as an engine takes it."""
        ids, shown = self.prompts[index]
        tokens, spans, at = list(ids), list[ImageSpan](), 0
        for image in shown:
            first = tokens.index(IMAGE_TOKEN, at)
            prepared = self.images[image]
            rows, columns = (1, prepared.tokens)
            if prepared.grid is not None:
                rows, columns = prepared.grid[1] // MERGE, prepared.grid[2] // MERGE
            spans.append(ImageSpan(digest=digest_of(image), first=first, rows=rows, columns=columns))
            at = first + prepared.tokens
            tokens[first:at] = image_tokens(digest_of(image), prepared.tokens)
        state = sequence_state(index, tokens, max_tokens=NEW_TOKENS)
        return replace(state, images=tuple(spans), unit_hashes=tuple(extend_chain(ROOT, tokens)))

    def embeddings_of(self, index: int) -> Mapping[bytes, ArrayRows]:
        """Of the images shown in one prompt."""
        return {digest_of(image): ArrayRows(self.embeddings[digest_of(image)]) for image in self.prompts[index][1]}

    def add(self, engine: PagedEngine, index: int, *, hold: bool = False) -> SequenceState:
        """Queue one prompt and send its images after it."""
        state = self.state(index)
        engine.add(state, hold=hold)
        for digest, rows in self.embeddings_of(index).items():
            engine.provide(state.sequence, digest, rows)
        return state

    def engine(self, *, blocks: int = 128, step_tokens_max: int = 23) -> PagedEngine:
        geometry = geometry_for(self.model.facts, blocks=blocks)
        limits = EngineLimits(batch_sequences_max=8, step_tokens_max=step_tokens_max, sequence_tokens_max=600)
        return torch_runner.build_engine(self.model, geometry=geometry, limits=limits)

    @property
    def all_prompts(self) -> range:
        """Every prompt's index."""
        return range(len(self.prompts))


def digest_of(image: int) -> bytes:
    return bytes([image + 1, *range(100, 115)])


@pytest.fixture(scope="module", params=sorted(CONFIGS))
def seer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Seer:
    return Seer(request.param, tmp_path_factory.mktemp(request.param))


def test_a_mixed_batch_in_chunks_and_with_prefix_hits_gives_the_tokens_of_generate(seer: Seer) -> None:
    engine = seer.engine()
    for index in seer.all_prompts:
        seer.add(engine, index)
    tokens = run_until_idle(engine, after_step=lambda _: engine.check_integrity())
    assert [outputs_of(tokens, index) for index in seer.all_prompts] == seer.expected
    again = seer.state(3)
    engine.add(replace(again, sequence=SequenceId(99)), hold=False)
    for digest, rows in seer.embeddings_of(3).items():
        engine.provide(SequenceId(99), digest, rows)
    computed: list[int] = []
    repeated = run_until_idle(engine, after_step=lambda report: computed.append(report.shape.prefill_tokens))
    assert outputs_of(repeated, 99) == seer.expected[3]
    assert sum(computed) <= engine.geometry.block_tokens  # its images were found in the prefix cache


def test_preempted_sequences_give_the_tokens_of_generate(seer: Seer) -> None:
    longest = max(len(ids) for ids, _ in seer.prompts)
    engine = seer.engine(blocks=(longest + NEW_TOKENS) // 16 + 3, step_tokens_max=40)
    preempted = 0

    def count(report: StepReport) -> None:
        nonlocal preempted
        preempted += report.preempted
        engine.check_integrity()

    for index in seer.all_prompts:
        seer.add(engine, index)
    tokens = run_until_idle(engine, after_step=count)
    assert [outputs_of(tokens, index) for index in seer.all_prompts] == seer.expected


def test_a_handed_over_sequence_goes_on_without_the_images(seer: Seer) -> None:
    prefill, decode = seer.engine(), seer.engine()
    for index in seer.all_prompts:
        state = seer.state(index)
        reservation = decode.reserve(state.sequence, tokens=state.prompt_tokens, unit_hashes=state.unit_hashes)
        seer.add(prefill, index, hold=True)
        tokens = run_until_idle(prefill)
        copy_blocks(prefill, decode, prefill.kv_of(state.sequence).blocks, reservation.blocks)
        decode.attach(prefill.state_of(state.sequence), computed=state.prompt_tokens)
        prefill.release(state.sequence)
        tokens += run_until_idle(decode)
        assert outputs_of(tokens, index) == seer.expected[index]


def test_a_sequence_whose_images_are_elsewhere_is_given_up_rather_than_computed_wrong(seer: Seer) -> None:
    prefill, decode = seer.engine(), seer.engine(blocks=40)
    state = seer.state(3)
    state = replace(state, sampling=replace(state.sampling, max_tokens=64))
    reservation = decode.reserve(state.sequence, tokens=state.prompt_tokens, unit_hashes=state.unit_hashes)
    prefill.add(state, hold=True)
    for digest, rows in seer.embeddings_of(3).items():
        prefill.provide(state.sequence, digest, rows)
    run_until_idle(prefill)
    copy_blocks(prefill, decode, prefill.kv_of(state.sequence).blocks, reservation.blocks)
    frozen = prefill.state_of(state.sequence)
    with pytest.raises(InvalidRequestError, match="images"):
        decode.attach(frozen, computed=state.images[0].first)
    decode.attach(frozen, computed=state.prompt_tokens)
    left = decode.blocks().free + decode.blocks().cached
    decode.reserve(SequenceId(50), tokens=(left - 1) * 16, unit_hashes=())
    reports: list[StepReport] = []
    run_until_idle(decode, after_step=reports.append)
    assert [failure for report in reports for failure in report.failed] == [
        (state.sequence, "its blocks were needed, and its images are not here")
    ]
    decode.check_integrity()


def test_a_prompt_is_computed_up_to_the_first_image_that_is_not_here(seer: Seer) -> None:
    engine, state = seer.engine(), seer.state(3)
    engine.add(state, hold=False)
    computed: list[int] = []

    def run() -> list[TokenOut]:
        return run_until_idle(engine, after_step=lambda report: computed.append(report.shape.prefill_tokens))

    assert run() == []
    assert sum(computed) == state.images[0].first
    for digest, rows in reversed(
        seer.embeddings_of(3).items()
    ):  # the last one first: nothing can go on before the first
        assert run() == []
        assert sum(computed) == state.images[0].first
        engine.provide(state.sequence, digest, rows)
    assert outputs_of(run(), 3) == seer.expected[3]
    engine.check_integrity()


def test_who_waits_for_images_holds_nobody_up(seer: Seer) -> None:
    engine = seer.engine()
    blind = seer.state(3)
    engine.add(
        replace(blind, tokens=blind.tokens[blind.images[0].first :], prompt_tokens=1, images=()), hold=False
    ) if False else engine.add(blind, hold=False)
    seer.add(engine, 2)
    seer.add(engine, 0)
    tokens = run_until_idle(engine)
    assert [outputs_of(tokens, index) for index in (2, 0)] == [seer.expected[2], seer.expected[0]]
    assert not engine.has_work()
    for digest, rows in seer.embeddings_of(3).items():
        engine.provide(blind.sequence, digest, rows)
    assert outputs_of(run_until_idle(engine), 3) == seer.expected[3]


def test_embeddings_are_closed_once_whatever_becomes_of_their_reader(seer: Seer) -> None:
    engine, state = seer.engine(), seer.state(2)
    own = seer.embeddings_of(2)
    (first, early), *_ = own.items()
    engine.provide(state.sequence, first, early)
    assert early.closed == 1  # nobody here waits for it
    engine.add(state, hold=False)
    for digest, rows in seer.embeddings_of(2).items():
        engine.provide(state.sequence, digest, rows)
        twice = ArrayRows(rows.array)
        engine.provide(state.sequence, digest, twice)
        assert (rows.closed, twice.closed) == (0, 1)
    late = seer.embeddings_of(2)
    engine.abort(state.sequence)
    for digest, rows in late.items():
        engine.provide(state.sequence, digest, rows)
    assert all(rows.closed == 1 for rows in late.values())
    finished = seer.state(1)
    (digest,) = seer.embeddings_of(1)
    engine.add(finished, hold=False)
    kept = seer.embeddings_of(1)[digest]
    engine.provide(finished.sequence, digest, kept)
    run_until_idle(engine)
    assert kept.closed == 1


def test_a_prompt_that_is_handed_off_lets_go_of_each_image_it_has_read(seer: Seer) -> None:
    engine, state = seer.engine(), seer.state(3)
    engine.add(state, hold=True)
    left = dict(seer.embeddings_of(3))
    ends = {digest: max(span.end for span in state.images if span.digest == digest) for digest in left}
    for digest, rows in left.items():
        engine.provide(state.sequence, digest, rows)
    computed = 0

    def check(report: StepReport) -> None:
        nonlocal computed
        computed += report.shape.prefill_tokens
        assert {digest for digest, rows in left.items() if rows.closed} == {d for d in left if ends[d] <= computed}

    tokens = run_until_idle(engine, after_step=check)
    assert [rows.closed for rows in left.values()] == [1] * len(left)
    assert outputs_of(tokens, 3) == seer.expected[3][:1]
    engine.resume(state.sequence)  # its handoff is off: it goes on here
    assert outputs_of(tokens + run_until_idle(engine), 3) == seer.expected[3]
    assert [rows.closed for rows in left.values()] == [1] * len(left)


def test_prompts_that_do_not_match_their_images_are_refused(seer: Seer) -> None:
    engine, state = seer.engine(), seer.state(1)
    moved = replace(state.images[0], first=state.images[0].first + 1)
    with pytest.raises(InvalidRequestError, match="do not stand for"):
        engine.add(replace(state, images=(moved,)), hold=False)
    with pytest.raises(InvalidRequestError, match="token"):
        engine.add(replace(state, images=()), hold=False)
    engine.add(state, hold=False)
    for digest, rows in seer.embeddings_of(1).items():
        short = ArrayRows(rows.array[:-1])
        with pytest.raises(InvalidRequestError, match="encode the picture"):
            engine.provide(state.sequence, digest, short)
        assert short.closed == 1
    engine.check_integrity()


def copy_blocks(source: PagedEngine, target: PagedEngine, have: tuple[int, ...], want: tuple[int, ...]) -> None:
    """What a transport does: the bytes of each block, group by group."""
    for group in range(source.geometry.groups):
        for one, other in zip(have, want, strict=False):
            cache_of(target)._group(group)[other] = cache_of(source)._group(group)[one]
