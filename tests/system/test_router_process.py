"""The router as a process: wrong settings end it with one line, SIGTERM lets running requests end."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from sluice.config import load
from sluice.domain.role import Role
from sluice.testing.fake_worker import FakeSettings, FakeWorker
from sluice.testing.tiny_tokenizer import make_model_directory

pytestmark = pytest.mark.system

PATIENCE_S = 30.0


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_directory(tmp_path_factory.mktemp("model"))


async def start_router(folder: Path, **settings: Any) -> asyncio.subprocess.Process:
    config = folder / "router.yaml"
    config.write_text(load.to_yaml({"model_name": "fake", "http_port": 0, "grpc_port": 0, **settings}))
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sluice.cli.main", "router", "--config", str(config)), stderr=asyncio.subprocess.PIPE
    )


async def ports_of(process: asyncio.subprocess.Process) -> tuple[int, int]:
    """HTTP and gRPC port from the line a router logs when it serves."""
    assert process.stderr is not None
    line = (await asyncio.wait_for(process.stderr.readline(), PATIENCE_S)).decode()
    assert "serving fake" in line, line
    http, grpc = (int(part.split()[0].strip(",")) for part in line.split("127.0.0.1:")[1:3])
    return http, grpc


@pytest.fixture
async def router(model: Path, tmp_path: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await start_router(tmp_path, model_path=str(model))
    yield process
    if process.returncode is None:
        process.kill()
    await process.wait()


@pytest.mark.parametrize("command", ["router", "worker"])
async def test_a_process_that_is_told_to_stop_while_it_starts_ends_at_once(command: str, tmp_path: Path) -> None:
    """As the first process of a container it would ignore the signal, come up, and be killed when its grace is over."""
    settings = tmp_path / "settings.yaml"
    os.mkfifo(settings)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sluice.cli.main", command, "--config", str(settings))
    )
    try:
        async with asyncio.timeout(PATIENCE_S):
            with await asyncio.to_thread(settings.open, "w"):  # it has come as far as its settings, and no further
                process.send_signal(signal.SIGTERM)
                assert await process.wait() == 128 + signal.SIGTERM
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def wait_ready(http: aiohttp.ClientSession) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            async with http.get("/readyz") as answer:
                if answer.status == 200:
                    return
            await asyncio.sleep(0.02)


async def test_sigterm_lets_a_running_stream_end(router: asyncio.subprocess.Process) -> None:
    http_port, grpc_port = await ports_of(router)
    fake = FakeWorker(FakeSettings(role=Role.MIXED, itl_s=0.005))
    worker = asyncio.create_task(fake.serve(f"127.0.0.1:{grpc_port}"))
    async with aiohttp.ClientSession(base_url=f"http://127.0.0.1:{http_port}") as http:
        await wait_ready(http)
        body = {"model": "fake", "prompt": "The quick fox", "max_tokens": 100, "stream": True}
        async with http.post("/v1/completions", json=body) as answer:
            await answer.content.readline()
            router.send_signal(signal.SIGTERM)
            rest = await answer.content.read()
        assert rest.count(b"data: ") >= 100
        assert rest.endswith(b"data: [DONE]\n\n")
    assert await asyncio.wait_for(router.wait(), PATIENCE_S) == 0
    worker.cancel()
    await asyncio.wait({worker})


async def test_who_keeps_a_connection_to_a_stopping_router_is_answered_once_more_and_sent_elsewhere(
    router: asyncio.subprocess.Process,
) -> None:
    """Behind a Service a client that kept its connection comes back to the leaving pod, and must not be refused."""
    http_port, grpc_port = await ports_of(router)
    fake = FakeWorker(FakeSettings(role=Role.MIXED, itl_s=0.005))
    worker = asyncio.create_task(fake.serve(f"127.0.0.1:{grpc_port}"))
    async with aiohttp.ClientSession(base_url=f"http://127.0.0.1:{http_port}") as http:
        await wait_ready(http)
    opened = [await asyncio.open_connection("127.0.0.1", http_port, limit=1 << 20) for _ in range(2)]
    for (_, writer), tokens in zip(opened, (50, 1000), strict=True):
        writer.write(streamed(tokens))
    readers = [reader for reader, _ in opened]
    for reader in readers:
        await reader.readuntil(b"data: ")
    router.send_signal(signal.SIGTERM)
    async with asyncio.timeout(PATIENCE_S):
        await readers[0].readuntil(b"data: [DONE]\n\n\r\n0\r\n\r\n")
        opened[0][1].write(streamed(20))
        again = await readers[0].read()  # to the end of the connection, not only of the answer
        assert again.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"Connection: close\r\n" in again
        assert again.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
        longer = await readers[1].readuntil(b"data: [DONE]\n\n\r\n0\r\n\r\n")
        assert longer.count(b"data: ") > 500
    for _, writer in opened:
        writer.close()
    assert await asyncio.wait_for(router.wait(), PATIENCE_S) == 0
    worker.cancel()
    await asyncio.wait({worker})


def streamed(tokens: int) -> bytes:
    """A request for a stream of so many tokens, on a connection that is kept."""
    body = f'{{"model": "fake", "prompt": "The quick fox", "max_tokens": {tokens}, "stream": true}}'
    head = "POST /v1/completions HTTP/1.1\r\nHost: router\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"model_path": "nowhere"}, "nowhere: is not a directory"),
        ({"htp_port": 1}, "htp_port"),
        ({"http_port": "many"}, "http_port"),
    ],
    ids=["model", "name", "type"],
)
async def test_wrong_settings_end_with_one_line(
    model: Path, tmp_path: Path, settings: dict[str, Any], says: str
) -> None:
    process = await start_router(tmp_path, **{"model_path": str(model), **settings})
    _, errors = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    assert process.returncode == 1
    assert says in errors.decode()
    assert "Traceback" not in errors.decode()


@pytest.mark.parametrize("which", ["http_port", "grpc_port"])
async def test_a_port_in_use_is_named(model: Path, tmp_path: Path, which: str) -> None:
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    process = await start_router(tmp_path, model_path=str(model), **{which: port})
    _, errors = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    server.close()
    assert process.returncode == 1
    assert f"{which}: 127.0.0.1:{port} cannot be bound" in errors.decode()
