"""What crosses the wire arrives as it left."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.domain.block_hash import extend_chain, hashes_of_blocks, root_hash
from sluice.domain.ids import BootId, Epoch, RequestId, RouterId, SequenceId, WorkerId
from sluice.domain.image import ImageSpan
from sluice.domain.kv import KvGeometry
from sluice.domain.load import WorkerInfo, WorkerLoad
from sluice.domain.role import Lifecycle, Role
from sluice.domain.sampling import SamplingParams
from sluice.domain.sequence import SequenceState
from sluice.domain.slo import Due
from sluice.domain.step import StepSample, StepTerms
from sluice.errors import InvalidRequestError
from sluice.testing.sequence_states import sequence_state
from sluice.wire import convert
from sluice.wire.gen import sluice_pb2 as pb

SAMPLING = st.builds(
    SamplingParams,
    max_tokens=st.integers(5, 1000),
    min_tokens=st.integers(0, 5),
    temperature=st.floats(0, 2),
    top_k=st.integers(0, 100),
    top_p=st.floats(0.01, 1),
    min_p=st.floats(0, 1),
    logit_bias=st.dictionaries(st.integers(0, 99), st.floats(-100, 100), max_size=3).map(
        lambda biases: tuple(sorted(biases.items()))
    ),
    seed=st.integers(0, 2**64 - 1),
    stop_token_ids=st.lists(st.integers(0, 99), max_size=3).map(tuple),
    ignore_eos=st.booleans(),
    top_logprobs=st.none() | st.integers(0, 20),
)
DUES = st.builds(Due, first_in_s=st.floats(-1e9, 1e9), tpot_s=st.just(math.inf) | st.floats(0, 1e9, exclude_min=True))


@given(SAMPLING, st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=80), st.data())
def test_a_sequence_state_survives_the_wire(sampling: SamplingParams, tokens: list[int], data: st.DataObject) -> None:
    root = root_hash(model_fingerprint="m", salt="")
    state = SequenceState(
        sequence=SequenceId(2**63 + 5),
        request=RequestId("cmpl-1"),
        router=RouterId("r"),
        epoch=Epoch(3),
        tokens=tuple(tokens),
        prompt_tokens=data.draw(st.integers(1, len(tokens))),
        unit_hashes=tuple(extend_chain(root, tokens)),
        root=root,
        sampling=sampling,
        traceparent="00-aa-bb-01",
        images=(ImageSpan(digest=bytes(range(16)), first=7, rows=2, columns=3, offset=4),),
        due=data.draw(DUES),
    )
    message = pb.SequenceState.FromString(convert.state_to_wire(state).SerializeToString())
    assert convert.state_from_wire(message) == state


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan])
def test_a_pace_that_means_nothing_is_refused(value: float) -> None:
    message = convert.state_to_wire(sequence_state(1, [5]))
    message.tpot_s = value
    with pytest.raises(InvalidRequestError) as caught:
        convert.state_from_wire(message)
    assert caught.value.field == "tpot_s"


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_a_due_time_that_means_nothing_is_refused(value: float) -> None:
    message = convert.state_to_wire(sequence_state(1, [5]))
    message.first_due_in_s = value
    with pytest.raises(InvalidRequestError) as caught:
        convert.state_from_wire(message)
    assert caught.value.field == "first_due_in_s"


def test_a_worker_survives_the_wire() -> None:
    info = WorkerInfo(
        worker=WorkerId("w"),
        boot=BootId("b"),
        role=Role.DECODE,
        model="m",
        model_fingerprint="f",
        kv_address="h:1",
        block_tokens=16,
        blocks=10,
        sequence_tokens_max=100,
        batch_sequences_max=4,
        device="cpu",
    )
    assert convert.info_from_wire(convert.info_to_wire(info)) == info
    terms = StepTerms(0.01, 1e-4, 1e-8, 1e-4, 1e-7, 0.05)
    told = replace(info, gpu_class="H100", tensor_parallel=2, price_per_h=15.0, kv_token_bytes=2**17, step_terms=terms)
    assert convert.info_from_wire(convert.info_to_wire(told)) == told
    sample = StepSample(7, 100, 5050.0, 1, 3, 900, 0.02)
    load = WorkerLoad(
        lifecycle=Lifecycle.DRAINING, waiting_sequences=3, step_s=0.5, tokens_total=2**40, steps=(sample,)
    )
    assert convert.load_from_wire(convert.load_to_wire(load)) == load


def test_a_geometry_survives_the_wire() -> None:
    geometry = KvGeometry(
        layers=5,
        group_layers=2,
        heads=2,
        head_dim=8,
        block_tokens=32,
        blocks=7,
        dtype="float32",
        dtype_bytes=4,
        rank=1,
        ranks=2,
    )
    assert convert.geometry_from_wire(convert.geometry_to_wire(geometry)) == geometry


@given(st.lists(st.integers(0, 9), max_size=200), st.sampled_from([16, 32, 64]))
def test_blocks_of_every_size_share_one_chain(tokens: list[int], block_tokens: int) -> None:
    units = extend_chain(root_hash(model_fingerprint="m", salt="s"), tokens)
    blocks = hashes_of_blocks(units, block_tokens=block_tokens)
    assert len(units) == len(tokens) // 16
    assert len(blocks) == len(tokens) // block_tokens
    for i, block in enumerate(blocks):
        assert block == units[(i + 1) * block_tokens // 16 - 1]


def test_tenants_and_models_never_share_a_prefix() -> None:
    roots = {root_hash(model_fingerprint=m, salt=s) for m, s in [("a", "b"), ("ab", ""), ("a", ""), ("b", "b")]}
    assert len(roots) == 4
