"""Public profiles become step models that say what was measured, and errors name the line that is wrong."""

import json
from pathlib import Path

import pytest

from sluice.capacity.importers import distserve, llmservingsim, splitwise
from sluice.capacity.importers.rows import read_rows
from sluice.capacity.model_shape import ModelShape, from_config, shape_of
from sluice.capacity.operator_table import AllReduce, AttentionSample, AttentionTable, OperatorTable, spread
from sluice.capacity.step_model import StepShape, chunk_pairs, prefill_s
from sluice.errors import ConfigError
from tests.support.public_data import public_data

MILLISECOND = 1e-3
TINY = ModelShape(
    name="tiny", layers=2, hidden=8, intermediate=16, heads=2, kv_heads=1, head_dim=4, vocabulary=10, dtype_bytes=2
)


def linear_attention(chunk: int, past: int, decodes: int, context: int) -> float:
    """An attention linear in every axis, as the measured ones nearly are."""
    return (5 + 0.01 * chunk + 0.0002 * chunk * past + 0.001 * decodes * context) * 1e-6


def grid_samples(*, holes: bool) -> list[AttentionSample]:
    samples = []
    for chunk in (0, 16, 64):
        for past in (0, 32, 128) if chunk else (0,):
            for decodes in (0, 1, 8):
                for context in (16, 64, 256) if decodes else (0,):
                    if (not chunk and not decodes) or (holes and decodes == 8 and context == 256 and chunk == 64):
                        continue
                    samples.append(
                        AttentionSample(chunk, past, decodes, context, linear_attention(chunk, past, decodes, context))
                    )
    return samples


@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("point", [(16, 32, 0, 0), (40, 80, 0, 0), (0, 0, 5, 100), (64, 128, 8, 256), (32, 16, 4, 200)])
def test_attention_between_the_measured_points_is_linear_and_holes_are_continued(
    point: tuple[int, int, int, int], holes: bool
) -> None:
    table = AttentionTable(grid_samples(holes=holes))
    assert table.seconds(*point) == pytest.approx(linear_attention(*point), rel=1e-9)


def test_attention_beyond_the_measured_contexts_goes_on_with_the_last_slope() -> None:
    table = AttentionTable(grid_samples(holes=False))
    assert table.seconds(0, 0, 16, 512) == pytest.approx(linear_attention(0, 0, 16, 512), rel=1e-9)


def test_a_step_is_the_sum_of_its_operators_and_an_empty_one_takes_nothing() -> None:
    table = OperatorTable(
        attention=AttentionTable(grid_samples(holes=False)),
        layers=3,
        token_s=spread([1, 100], [0.001, 0.1]),
        sequence_s=spread([1, 10], [0.01, 0.1]),
        step_s=0.5,
    )
    shape = StepShape(
        prefill_tokens=16, prefill_pairs=chunk_pairs(16, context_tokens=32), prefills=1, decodes=2, context_tokens=64
    )
    expected_s = 0.5 + 3 * linear_attention(16, 32, 2, 32) + 0.018 + 0.03
    assert table.step_s(shape) == pytest.approx(expected_s)
    assert table.step_s(StepShape()) == 0.0


def test_several_chunks_pay_the_start_of_the_kernel_once() -> None:
    flat = [AttentionSample(chunk, 0, 0, 0, 7e-6) for chunk in (16, 64)] + [AttentionSample(0, 0, 1, 16, 7e-6)]
    table = OperatorTable(
        attention=AttentionTable(flat), layers=1, token_s=spread([1, 100], [0, 0]), sequence_s=spread([1, 9], [0, 0])
    )
    pairs = 3 * chunk_pairs(16, context_tokens=0)
    assert table.step_s(StepShape(prefill_tokens=48, prefill_pairs=pairs, prefills=3)) == pytest.approx(7e-6)


def write_llmservingsim(folder: Path) -> None:
    (folder / "attention.csv").write_text(
        "prefill_chunk,kv_prefill,n_decode,kv_decode,time_us\n"
        "0,0,1,16,10\n0,0,2,16,10\n16,0,0,0,10\n16,16,0,0,10\n32,0,0,0,10\n0,0,1,32,10\n"
    )
    dense = "layer,tokens,time_us\n"
    for layer in ("layernorm", "qkv_proj", "down_proj", "embedding"):
        dense += f"{layer},1,1\n{layer},64,64\n"
    (folder / "dense.csv").write_text(dense)
    (folder / "per_sequence.csv").write_text(
        "layer,sequences,time_us\nlm_head,1,100\nlm_head,4,400\nsampler,1,0\nsampler,4,0\n"
    )


def test_a_folder_of_operators_counts_each_as_often_as_the_model_runs_it(tmp_path: Path) -> None:
    write_llmservingsim(tmp_path)
    model = llmservingsim.read_profile(tmp_path, TINY, step_overhead_s=0.001)
    # Two layers, each two norms, qkv and down; one embedding; attention 10 us a layer; head 200 us.
    expected_us = 1000 + 2 * 10 + 2 * (2 + 1 + 1) * 2 + 1 * 2 + 200
    assert model.step_s(StepShape(decodes=2, context_tokens=32)) == pytest.approx(expected_us * 1e-6)


def test_tensor_parallel_ranks_pay_two_all_reduces_a_layer(tmp_path: Path) -> None:
    write_llmservingsim(tmp_path)
    alone = llmservingsim.read_profile(tmp_path, TINY)
    ring = AllReduce(ranks=2, latency_s=1e-3, bytes_per_s=16.0)
    pair = llmservingsim.read_profile(tmp_path, TINY, all_reduce=ring)
    step = StepShape(decodes=1, context_tokens=16)
    assert pair.step_s(step) - alone.step_s(step) == pytest.approx(2 * 2 * (2 * 1e-3 + 16 / 16.0))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("attention.csv", "prefill_chunk,kv_prefill\n1,2\n", "line 2: has no column 'n_decode'"),
        ("dense.csv", "layer,tokens,time_us\nlayernorm,1,fast\n", "line 2: column 'time_us' is 'fast', no number"),
        ("dense.csv", "layer,tokens,time_us\nwarp_drive,1,1\n", "not known: warp_drive"),
        ("per_sequence.csv", "layer,sequences,time_us\n", "is empty"),
        ("per_sequence.csv", "layer,sequences,time_us\nsampler,1,1\n", "lacks lm_head"),
    ],
)
def test_a_broken_profile_is_refused_by_file_and_line(tmp_path: Path, file: str, content: str, message: str) -> None:
    write_llmservingsim(tmp_path)
    (tmp_path / file).write_text(content)
    with pytest.raises(ConfigError, match=message):
        llmservingsim.read_profile(tmp_path, TINY)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        list(read_rows(tmp_path / "nothing.csv"))


def distserve_file(folder: Path) -> Path:
    path = folder / "profiler.json"
    fits = {
        "decoding_large_small_bs_threshold": 95,
        "prefill": [18.0, 0.1, 0.001],
        "decoding_smallbs": [20.0, 0.01, 0.1],
        "decoding_largebs": [10.0, 0.01, 0.3],
    }
    path.write_text(json.dumps({"facebook/opt-13b": {"1": fits}}))
    return path


def test_distserve_coefficients_reproduce_its_formula(tmp_path: Path) -> None:
    model = distserve.read_profile(distserve_file(tmp_path), model="OPT-13B", tensor_parallel=1)
    assert prefill_s(model, 100) == pytest.approx((18 + 0.1 * 100 + 0.001 * 100**2) * MILLISECOND)
    small = StepShape(decodes=94, context_tokens=1000)
    large = StepShape(decodes=95, context_tokens=1000)
    assert model.step_s(small) == pytest.approx((20 + 0.01 * 1000 + 0.1 * 94) * MILLISECOND)
    assert model.step_s(large) == pytest.approx((10 + 0.01 * 1000 + 0.3 * 95) * MILLISECOND)
    both = StepShape(prefill_tokens=1, prefill_pairs=1, prefills=1, decodes=1, context_tokens=10)
    assert model.step_s(both) == pytest.approx((20 + 0.1 + 0.001 + 0.1 + 0.1) * MILLISECOND)


def test_distserve_errors_list_what_the_file_has(tmp_path: Path) -> None:
    path = distserve_file(tmp_path)
    with pytest.raises(ConfigError, match=r"has no model 'opt-1b'; it has facebook/opt-13b"):
        distserve.read_profile(path, model="opt-1b", tensor_parallel=1)
    with pytest.raises(ConfigError, match="not measured at tensor parallelism 3, but at 1"):
        distserve.read_profile(path, model="opt-13b", tensor_parallel=3)


SPLITWISE = "model,hardware,prompt_size,batch_size,token_size,prompt_time,token_time,tensor_parallel\n"


def test_splitwise_rows_become_two_lines_and_a_slope_over_context(tmp_path: Path) -> None:
    path = tmp_path / "perf_model.csv"
    path.write_text(
        SPLITWISE
        + "m,g,512,1,128,100,20,8\nm,g,512,1,128,102,22,8\nm,g,512,1,128,500,21,8\n"  # the median is 102, 21
        + "m,g,1024,1,128,202,21,8\nm,g,512,2,128,202,31,8\nm,g,512,1,1128,102,26,8\n"
    )
    model = splitwise.read_profile(path, model="m", hardware="g", tensor_parallel=8)
    assert prefill_s(model, 768) == pytest.approx(0.152)
    assert model.context_token_s == pytest.approx(0.005 / 500)
    assert model.step_s(StepShape(decodes=1, context_tokens=576)) == pytest.approx(0.021)
    assert model.step_s(StepShape(decodes=2, context_tokens=1152 + 100)) == pytest.approx(0.031 + 0.001)


def test_splitwise_rows_that_were_modelled_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "perf_model.csv"
    path.write_text(SPLITWISE + "m,g,512,1,128,100,20,8\n")
    with pytest.raises(ConfigError, match="modelled"):
        splitwise.read_profile(path, model="m", hardware="h100-80gb-pcap", tensor_parallel=8)
    with pytest.raises(ConfigError, match="it has m g 8"):
        splitwise.read_profile(path, model="x", hardware="g", tensor_parallel=8)


def test_the_shapes_have_the_weights_their_names_say() -> None:
    weights = {name: shape_of(name).weights / 1e9 for name in ("Llama-3.1-8B", "Qwen3-32B", "Qwen3-30B-A3B", "OPT-13B")}
    assert weights == pytest.approx(
        {"Llama-3.1-8B": 8.03, "Qwen3-32B": 32.8, "Qwen3-30B-A3B": 30.5, "OPT-13B": 12.9}, rel=0.02
    )
    assert shape_of("llama-3.1-8b").kv_token_bytes == 131_072


def test_a_shape_is_read_from_a_config_and_its_mistakes_are_named() -> None:
    config: dict[str, object] = {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 128,
        "vocab_size": 100,
        "dtype": "float32",
    }
    shape = from_config("mine", config)
    assert (shape.kv_heads, shape.head_dim, shape.dtype_bytes) == (4, 16, 4)
    with pytest.raises(ConfigError, match="vocab_size: is missing"):
        from_config("mine", {key: value for key, value in config.items() if key != "vocab_size"})
    with pytest.raises(ConfigError, match="vocab_size: is 'many'"):
        from_config("mine", {**config, "vocab_size": "many"})
    with pytest.raises(ConfigError, match="use one of: Llama-3"):
        shape_of("gpt-17")


def test_the_measured_profiles_give_plausible_steps() -> None:
    folder = public_data("llmservingsim", "perf", "RTXPRO6000", "meta-llama", "Llama-3.1-8B", "bf16", "tp1")
    model = llmservingsim.read_profile(folder, shape_of("Llama-3.1-8B"))
    one_s = model.step_s(StepShape(decodes=1, context_tokens=1000))
    many_s = model.step_s(StepShape(decodes=128, context_tokens=128 * 600))
    assert 0.009 < one_s < 0.015, "weights of 16 GB at 1.8 TB/s"
    assert 0.015 < many_s < 0.03
    assert 0.06 < prefill_s(model, 2048, step_tokens=2048) < 0.12
