"""What commands print fits the terminal, and every mistake is one line that says what to do."""

import json
import shutil
import socket
from io import StringIO
from pathlib import Path

import pytest
from huggingface_hub.errors import OfflineModeIsEnabled
from rich.console import Console
from rich.text import Text

from sluice.cli import main, model_source
from sluice.cli.demo_prompts import Question
from sluice.cli.demo_report import draw
from sluice.cli.get import request_columns, worker_columns
from sluice.cli.tables import fitting, show
from sluice.wire.gen import sluice_pb2 as pb

REQUEST = pb.RequestRow(
    request_id="chatcmpl-0123456789abcdef01234567",
    state="finished",
    finish_reason="length",
    prefill_worker="prefill-0",
    decode_worker="decode-0",
    decision="split: 1445 uncached tokens; prefill-0 (prefix 0.00 + load 1.00) of 1, decode-0 (load 1.00) of 2",
    prompt_tokens=1445,
    output_tokens=16,
    first_token_s=0.142,
    handoff_s=0.159,
    finished_s=0.251,
    tpot_s=0.0073,
    transport="shm",
    kv_bytes=750_000,
    transfer_s=0.001,
    exposed_s=0.004,
)
WORKER = pb.WorkerRow(
    info=pb.Register(worker="prefill-0", role="prefill", blocks=16384, device="cpu"),
    load=pb.Heartbeat(lifecycle="draining", free_blocks=16384),
)


REPLY = pb.GetRequestsReply(requests=[REQUEST])


def terminal(width: int) -> Console:
    return Console(file=StringIO(), width=width, force_terminal=True, no_color=True, highlight=False)


def printed(console: Console) -> list[str]:
    assert isinstance(console.file, StringIO)
    return Text.from_ansi(console.file.getvalue()).plain.splitlines()


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_tables_show_whole_cells_in_any_terminal(width: int) -> None:
    for columns in (worker_columns(pb.GetWorkersReply(workers=[WORKER])), request_columns(REPLY)):
        console = terminal(width)
        show(columns, console)
        lines = printed(console)
        assert max(map(len, lines)) <= width
        kept = fitting(columns, width)
        assert all(column.heading in lines[0] and column.cells[0] in lines[1] for column in kept)
        assert all(column.heading in "".join(lines[2:]) for column in columns if column not in kept)


def test_a_pipe_gets_every_column() -> None:
    console = Console(file=StringIO(), width=80)
    show(request_columns(REPLY), console)
    heading, row = printed(console)
    assert "KV MOVED" in heading
    assert "0.75 MB over shm, 0.75 GB/s" in row


@pytest.mark.parametrize("width", [80, 120])
def test_a_request_is_drawn_within_the_terminal(width: int) -> None:
    question = Question("recall", "k1=2 … k1?", "k1=2 k1?", "2", 16)
    console = terminal(width)
    console.print(draw(question, "2\n\tand more", REQUEST, is_right=True, width=width))
    lines = printed(console)
    assert {len(line) for line in lines} == {width}
    whole = "\n".join(lines)
    for words in ("2 and more", "prefill on prefill-0", "KV over shm", "decode on decode-0", "TTFT 142 ms", "0.75 MB"):
        assert words in whole


def failure_of(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line a command that cannot do its work says."""
    assert main.main(words) == 1
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.fixture
def model(model_path: Path, tmp_path: Path) -> Path:
    """A copy of the model that a test may damage."""
    return Path(shutil.copytree(model_path, tmp_path / "copy"))


def test_a_taken_port_is_named_with_its_option(model_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        line = failure_of(["up", "--model", str(model_path), "--port", port, "--grpc-port", "0"], capsys)
        assert port in line
        assert line.endswith("choose another with --port")
        line = failure_of(["up", "--model", str(model_path), "--port", "0", "--grpc-port", port], capsys)
        assert line.endswith("choose another with --grpc-port")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_missing_model_file_is_named(model: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    (model / name).unlink()
    line = failure_of(["up", "--model", str(model)], capsys)
    assert f"{model / name}: is missing;" in line


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_truncated_model_file_is_named(model: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    whole = (model / name).read_bytes()
    (model / name).write_bytes(whole[: len(whole) // 2])
    line = failure_of(["up", "--model", str(model)], capsys)
    assert str(model / name) in line
    assert "again" in line


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_corrupt_model_file_is_named(model: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    (model / name).write_bytes(b"\x00garbage\xff" * 100)
    line = failure_of(["up", "--model", str(model)], capsys)
    assert str(model / name) in line
    assert "again" in line


def test_an_absent_shard_is_named(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (model / "model.safetensors").rename(model / "model-00001-of-00002.safetensors")
    weight_map = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    line = failure_of(["up", "--model", str(model)], capsys)
    assert "model-00002-of-00002.safetensors" in line


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--block-tokens", "20"], "--block-tokens: is 20; use a multiple of 16"),
        (["--kv-memory-mib", "0"], "--kv-memory-mib: is 0; use a positive number"),
        (["--prefill", "-1"], "--prefill: is -1; use 0 or more"),
        (["--prefill", "0", "--decode", "0"], "start 1 to 64"),
        (["--prefill", "100"], "start 1 to 64"),
        (["--port", "70000"], "--port: is 70000; use 1 to 65535, or 0 for any free one"),
        (["--model", "/nowhere/at/all"], "--model: /nowhere/at/all is not there"),
    ],
)
def test_an_option_out_of_range_is_named(
    model_path: Path, options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words in failure_of(["up", "--model", str(model_path), *options], capsys)


def test_a_hub_id_without_a_network_says_what_to_do(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(name: str, allow_patterns: list[str]) -> str:
        raise OfflineModeIsEnabled(f"cannot reach {name} for {allow_patterns}:\noffline mode")

    monkeypatch.setattr(model_source, "snapshot_download", offline)
    line = failure_of(["up", "--model", "nobody-at-all/no-such-model"], capsys)
    assert line.startswith("sluice up: --model: ")
    assert "download it where there is a network and give its directory" in line


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"role": "juggler"}, "role: Input should be 'encode', 'prefill', 'decode' or 'mixed'"),
        ({"roll": "prefill"}, "roll: is not a known setting; remove it"),
        ({"engine": {"block_tokens": "many"}}, "engine.block_tokens"),
    ],
)
def test_a_wrong_setting_of_a_worker_is_named(
    tmp_path: Path, settings: dict[str, object], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "worker.yaml"
    path.write_text(json.dumps({"worker": "w", "model_path": "/nowhere", **settings}))  # JSON is YAML
    line = failure_of(["worker", "--config", str(path)], capsys)
    assert str(path) in line
    assert words in line


def test_nobody_at_the_address_is_said_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    line = failure_of(["get", "workers", "--grpc", "127.0.0.1:1"], capsys)
    assert "give its address with --grpc" in line
    line = failure_of(["chat", "--url", "http://127.0.0.1:1/v1"], capsys)
    assert "start one with `sluice up`" in line


def test_an_unknown_command_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["dance"]) == 2
    assert "there is no command 'dance'" in (err := capsys.readouterr().err)
    assert all(name in err for name in main.COMMANDS)


def test_doctor_says_what_works(capsys: pytest.CaptureFixture[str]) -> None:
    status = main.main(["doctor"])
    out = capsys.readouterr().out
    assert all(check in out for check in ("Python", "engine", "CUDA", "NIXL", "shared memory", "ports", "demo model"))
    assert ("Sluice can run here" in out) == (status == 0)
