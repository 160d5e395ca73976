"""Pictures on their way to the tower are bounded, and the tower's engine never shares what it has not encoded."""

import asyncio
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from vision_platform import MANY_TILES, make_vision_model, picture_file

from sluice.clock import ManualClock
from sluice.config.worker import ImagesConfig
from sluice.domain.block_hash import extend_chain
from sluice.domain.ids import BlockHash, SequenceId
from sluice.domain.image import ImageLayout, ImageSpan, embedding_root, embedding_tokens, parts_of
from sluice.domain.sequence import SequenceState
from sluice.encode_worker.looks import LookTable
from sluice.engine.contract import EngineLimits, ModelFacts, StepReport
from sluice.engine.embedding_memory import EmbeddingMemory, embedding_geometry
from sluice.engine.engine import PagedEngine
from sluice.engine.vision.encoder import VisionEncoder
from sluice.engine.vision.eye import Eye
from sluice.engine.vision.picture import PictureLimits, decode_picture
from sluice.engine.vision.prepared_store import PreparedStore
from sluice.engine.vision.preprocessor import PreparedImage, Preprocessor
from sluice.engine.vision.vision_fingerprint import vision_fingerprint
from sluice.engine.vision.vision_runner import GONE, VisionRunner
from sluice.errors import InvalidRequestError
from sluice.telemetry.metrics import WorkerMetrics
from sluice.testing.sequence_states import ROOT, run_until_idle, sequence_state
from sluice.wire.gen import sluice_pb2 as pb

ROOT_OF_IMAGES = embedding_root(ROOT)
MIB = 1024 * 1024


class Link:
    """Keeps what is said to the router."""

    def __init__(self) -> None:
        self.said: list[pb.WorkerMessage] = []

    def send(self, message: pb.WorkerMessage) -> None:
        self.said.append(message)


class SlowEye:
    """Looks at pictures when it is let."""

    def __init__(self) -> None:
        self.may = threading.Event()
        self.sides: list[int] = []

    def look(self, data: bytes, *, root: BlockHash, field: str, side_max: int) -> ImageLayout:
        self.may.wait(10)
        self.sides.append(side_max)
        if data == b"bad":
            raise InvalidRequestError(field=field, problem="is animated", remedy="send a still image")
        return ImageLayout(digest=data.ljust(16), tokens=3, rows=1, columns=3)


class Bench:
    """A look table whose shell is played by the test."""

    def __init__(self, **settings: int) -> None:
        self.eye, self.link, self.started = SlowEye(), Link(), list[pb.Start]()
        standing = SimpleNamespace(admits_work=True, lifecycle=SimpleNamespace(value="draining"))
        shell: Any = SimpleNamespace(
            standing=standing,
            info=SimpleNamespace(worker="e"),
            on_message=lambda _link, message: self.started.append(message.start),
        )
        self.standing = standing
        self.table = LookTable(shell, self.eye, ImagesConfig(**settings), WorkerMetrics(), ManualClock(1.0))  # type: ignore[arg-type]

    def look(self, sequence: int, data: bytes, *, part: int = 0) -> None:
        look = pb.Look(sequence=sequence, picture=data, root=ROOT_OF_IMAGES, field="pictures[0]", part=part)
        assert self.table.take(self.link, pb.RouterMessage(look=look))  # type: ignore[arg-type]

    async def answered(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.link.said) < count:
                await asyncio.sleep(0.001)


async def test_a_picture_is_told_to_the_router_and_then_encoded() -> None:
    bench = Bench()
    bench.eye.may.set()
    assert not bench.table.take(bench.link, pb.RouterMessage(cancel=pb.Cancel()))  # type: ignore[arg-type]
    bench.look(1, b"one")
    await bench.answered(1)
    assert bench.link.said[0].looked.tokens == 3
    (start,) = bench.started
    assert start.state.viewer == 1
    assert not start.HasField("target")
    await bench.table.close()


async def test_a_bad_picture_is_refused_by_the_name_of_its_field_and_never_encoded() -> None:
    bench = Bench()
    bench.eye.may.set()
    bench.look(1, b"bad")
    await bench.answered(1)
    assert bench.link.said[0].failed.field == "pictures[0]"
    assert bench.started == []
    await bench.table.close()


async def test_more_pictures_or_bytes_than_allowed_are_sent_elsewhere() -> None:
    bench = Bench(looks_max=2, threads=1)
    for sequence in (1, 2, 3):
        bench.look(sequence, b"x")
    assert [(message.failed.sequence, message.failed.unstarted) for message in bench.link.said] == [(3, True)]
    bench.eye.may.set()
    await bench.answered(3)
    await asyncio.sleep(0)
    bench.look(4, b"x")  # there is room again
    await bench.answered(4)
    assert len(bench.started) == 3
    await bench.table.close()
    full = Bench(looks_mib_max=1)
    full.look(1, bytes(MIB))
    full.look(2, b"x")
    assert [message.failed.sequence for message in full.link.said] == [2]
    full.eye.may.set()
    await full.table.close()


async def test_a_draining_encode_worker_looks_at_nothing_new() -> None:
    bench = Bench()
    bench.standing.admits_work = False
    bench.look(1, b"x")
    assert bench.link.said[0].failed.unstarted
    await bench.table.close()


class Tower:
    """An encoder, its memory, and what it was asked to encode."""

    def __init__(self, directory: Path, *, blocks: int = 64, step_tokens_max: int = 4096) -> None:
        encoder = VisionEncoder.load(directory, dtype=torch.float32, device=torch.device("cpu"))
        self.geometry = embedding_geometry(
            levels=encoder.levels,
            hidden=encoder.hidden,
            dtype="float32",
            dtype_bytes=4,
            memory_bytes=blocks * 16 * encoder.levels * encoder.hidden * 4,
        )
        self.memory = EmbeddingMemory(self.geometry, memoryview(bytearray(self.geometry.region_bytes)))
        self.prepared: PreparedStore[PreparedImage] = PreparedStore(bytes_max=64 * MIB)
        self.eye = Eye(directory, fingerprint=vision_fingerprint(directory, dtype="float32"), prepared=self.prepared)
        facts = ModelFacts(
            name="eye",
            fingerprint="f",
            vocabulary=256,
            eos_token_ids=(),
            layers=self.geometry.layers,
            kv_heads=1,
            head_dim=self.geometry.head_dim,
            dtype="float32",
            dtype_bytes=4,
            sequence_tokens_max=65536,
            device="cpu",
            image_token_bytes=self.geometry.token_bytes,
        )
        self.encoder = encoder
        self.batches: list[int] = []
        runner = VisionRunner(facts, encoder, self.memory, self.prepared)
        runner.listen(lambda images, _tokens, _seconds: self.batches.append(images))
        limits = EngineLimits(batch_sequences_max=16, step_tokens_max=step_tokens_max, sequence_tokens_max=65536)
        self.engine = PagedEngine(runner, geometry=self.geometry, limits=limits)

    def state(self, sequence: int, data: bytes, *, part: int = 0) -> SequenceState:
        """The own sequence of an image's part, its picture prepared."""
        layout = parts_of(self.eye.look(data, root=ROOT_OF_IMAGES, field="p"))[part]
        prompt = embedding_tokens(layout.digest, layout.tokens)
        made = sequence_state(sequence, prompt, max_tokens=2)
        span = ImageSpan(digest=layout.digest, first=0, rows=1, columns=layout.tokens)
        hashes = tuple(extend_chain(ROOT_OF_IMAGES, prompt))
        return replace(made, unit_hashes=hashes, root=ROOT_OF_IMAGES, images=(span,), viewer=SequenceId(99))

    def rows(self, state: SequenceState) -> np.ndarray[Any, Any]:
        """The embeddings of a held image, as float32."""
        span = state.images[0]
        read = self.memory.read(self.engine.kv_of(state.sequence).blocks, 0, span.tokens)
        return read.view(np.float32).reshape(span.tokens, -1)

    def expected(self, data: bytes) -> np.ndarray[Any, Any]:
        """What the tower makes of a picture's first part by itself."""
        name = extend_chain(ROOT_OF_IMAGES, embedding_tokens(*self._layout(data)))[-1]
        image = self.prepared.get(name)
        assert isinstance(image, PreparedImage)
        (made,) = self.encoder.encode([image])
        return made.numpy().reshape(len(made), -1)

    def _layout(self, data: bytes) -> tuple[bytes, int]:
        layout = parts_of(self.eye.look(data, root=ROOT_OF_IMAGES, field="p"))[0]
        return layout.digest, layout.tokens


@pytest.fixture(scope="module", params=["qwen3_vl", "smolvlm", "llava"])
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return make_vision_model(tmp_path_factory.mktemp(request.param), request.param)


@pytest.mark.parametrize("budget", [17, 4096])
def test_held_images_have_the_towers_embeddings_whatever_the_budget(directory: Path, budget: int) -> None:
    tower = Tower(directory, step_tokens_max=budget)
    files = [picture_file(seed) for seed in range(4)]
    states = [tower.state(number, data) for number, data in enumerate(files)]
    for state in states:
        tower.engine.add(state, hold=True)
    run_until_idle(tower.engine, after_step=lambda _: tower.engine.check_integrity())
    for state, data in zip(states, files, strict=True):
        assert np.allclose(tower.rows(state), tower.expected(data), atol=1e-4)


def test_pictures_of_several_requests_share_a_pass_and_a_known_one_needs_none(directory: Path) -> None:
    tower = Tower(directory)
    states = [tower.state(number, picture_file(number)) for number in range(3)]
    for state in (*states, tower.state(10, picture_file(0))):
        tower.engine.add(state, hold=False)
    run_until_idle(tower.engine)
    assert tower.batches == [3], "one pass, the same picture once"
    tower.engine.add(tower.state(11, picture_file(1)), hold=False)
    run_until_idle(tower.engine)
    assert tower.batches == [3]


def test_an_image_whose_picture_is_gone_fails_and_leaves_nothing_to_be_found(directory: Path) -> None:
    tower = Tower(directory, step_tokens_max=17)
    state = tower.state(1, picture_file(1))
    other = tower.state(2, picture_file(1))
    tower.prepared._images.clear()
    reports: list[StepReport] = []
    tower.engine.add(state, hold=True)
    run_until_idle(tower.engine, after_step=reports.append)
    assert [failure for report in reports for failure in report.failed] == [(SequenceId(1), GONE)]
    assert tower.engine.blocks().free == tower.engine.blocks().total, "nothing of it is cached"
    tower.engine.add(other, hold=True)
    tower.eye.look(picture_file(1), root=ROOT_OF_IMAGES, field="p")
    run_until_idle(tower.engine)
    assert np.allclose(tower.rows(other), tower.expected(picture_file(1)), atol=1e-4)


def test_parts_of_a_picture_made_by_several_towers_are_together_what_one_makes_of_it(tmp_path: Path) -> None:
    directory = make_vision_model(tmp_path / "smolvlm", "smolvlm", processor=MANY_TILES)
    towers, data = [Tower(directory) for _ in range(3)], picture_file(5, sides=(200, 224))
    layout = towers[0].eye.look(data, root=ROOT_OF_IMAGES, field="p")
    assert (layout.tiles, len(parts_of(layout))) == (17, 5)
    made = []
    for part in range(5):
        tower = towers[part % 3]
        state = tower.state(part, data, part=part)
        tower.engine.add(state, hold=True)
        run_until_idle(tower.engine)
        made.append(tower.rows(state))
    whole = Preprocessor(directory).prepare(decode_picture(data, limits=PictureLimits()))
    (expected,) = towers[0].encoder.encode([whole])
    assert np.allclose(np.concatenate(made), expected.numpy().reshape(layout.tokens, -1), atol=1e-4)


def test_a_picture_of_little_detail_is_made_small_first_and_is_another_picture(directory: Path) -> None:
    tower, data = Tower(directory), picture_file(3, sides=(100, 120))
    closely = tower.eye.look(data, root=ROOT_OF_IMAGES, field="p")
    small = tower.eye.look(data, root=ROOT_OF_IMAGES, field="p", side_max=30)
    assert small.digest != closely.digest
    assert small.tokens <= closely.tokens
    assert tower.eye.look(data, root=ROOT_OF_IMAGES, field="p", side_max=512) == closely, "it is small already"


async def test_a_part_that_a_picture_does_not_have_is_refused() -> None:
    bench = Bench()
    bench.eye.may.set()
    bench.look(1, b"one", part=1)
    await bench.answered(1)
    assert "part 1 was asked for" in bench.link.said[0].failed.message
    assert bench.started == []
    await bench.table.close()


def test_prepared_pictures_are_bounded_and_the_oldest_goes() -> None:
    store: PreparedStore[PreparedImage] = PreparedStore(bytes_max=100)
    images = [PreparedImage(pixels=np.zeros(size, dtype=np.float32), tokens=1) for size in (10, 10, 10, 100)]
    for number, image in enumerate(images):
        store.put(BlockHash(bytes([number])), image)
        if number < 3:
            assert store.total_bytes <= 100
    assert store.get(BlockHash(b"\0")) is None
    assert store.get(BlockHash(b"\3")) is images[3], "one that is larger than all room stays until the next comes"
    store.put(BlockHash(b"\4"), images[0])
    assert store.total_bytes == 40


def test_embeddings_of_other_files_have_another_name(directory: Path) -> None:
    before = vision_fingerprint(directory, dtype="float32")
    assert before == vision_fingerprint(directory, dtype="float32")
    assert before != vision_fingerprint(directory, dtype="bfloat16")
    settings = directory / "preprocessor_config.json"
    text = settings.read_text()
    settings.write_text(text + " ")
    assert before != vision_fingerprint(directory, dtype="float32")
    settings.write_text(text)
