"""What the router costs: CPU microseconds per short request and per streamed token, tokenization included.

Run `python benchmarks/router.py`. A router process serves a fake worker process (tokens on a
timer, no engine) to a light client process. CPU time is the router process's own, from /proc,
so the figures hold on a busy machine; wall-clock columns do not. The peer of the same run is a
bare aiohttp server that streams ready-made events: the floor of this stack, without tokenizer,
placement or worker hop. Rounds alternate; medians are printed.
"""

import argparse
import asyncio
import contextlib
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import orjson
import uvloop
from aiohttp import web

from sluice.config import load
from sluice.testing.tiny_tokenizer import make_model_directory

ROUNDS = 3
UNARY_REQUESTS = 2000
UNARY_CONNECTIONS = 32
STREAMS = 64
STREAM_TOKENS = 128
START_S = 30.0
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
CHUNKS_END = b"0\r\n\r\n"
TEXT = "river sea lock keeper honest book count wait move place quick brown fox lazy dog zebra hill decision"
WORDS = TEXT.split()


# ---------------------------------------------------------------- the client


class Client(asyncio.Protocol):
    """One keep-alive connection that sends a request, reads its answer, and sends the next."""

    def __init__(self, next_body: Callable[[], bytes | None], path: str, done: Callable[[], None]) -> None:
        self._next_body = next_body
        self._path = path
        self._done = done
        self._bytes = 0
        self._bytes_expected: int | None = None  # None: chunked
        self._tail = b""
        self._transport: asyncio.Transport | None = None
        self.events = 0
        self.started_s = 0.0
        self.first_byte_s: list[float] = []
        self.latency_s: list[float] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name
        self._send()

    def data_received(self, data: bytes) -> None:
        if not self._bytes:
            self.first_byte_s.append(time.perf_counter() - self.started_s)
            head, _, _ = data.lower().partition(b"\r\n\r\n")
            stated = head.partition(b"content-length: ")[2].split(b"\r\n")[0]
            self._bytes_expected = len(head) + 4 + int(stated) if stated else None
        self._bytes += len(data)
        self._tail = self._tail[-8:] + data[-8:]
        self.events += data.count(b"data: ")
        if self._bytes == self._bytes_expected or (self._bytes_expected is None and self._tail.endswith(CHUNKS_END)):
            self.latency_s.append(time.perf_counter() - self.started_s)
            self._send()

    def connection_lost(self, _: Exception | None) -> None:
        self._done()

    def _send(self) -> None:
        assert self._transport is not None
        self._bytes, self._tail = 0, b""
        body = self._next_body()
        if body is None:
            self._transport.close()
            return
        self.started_s = time.perf_counter()
        head = f"POST {self._path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        self._transport.write(head.encode() + b"\r\n\r\n" + body)


async def drive(port: int, path: str, bodies: list[bytes], connections: int) -> dict[str, float]:
    """Send all bodies over so many connections; says how long it took and how many events came."""
    loop = asyncio.get_running_loop()
    queue = iter(bodies)
    clients = []
    finished = asyncio.Semaphore(0)
    begun_s = time.perf_counter()
    for _ in range(connections):
        _, client = await loop.create_connection(
            lambda: Client(lambda: next(queue, None), path, finished.release), "127.0.0.1", port
        )
        clients.append(client)
    for _ in range(connections):
        await finished.acquire()
    latencies = [value for client in clients for value in client.latency_s]
    assert len(latencies) == len(bodies), "every request is answered"
    return {
        "seconds": time.perf_counter() - begun_s,
        "events": sum(client.events for client in clients),
        "p50_ms": 1e3 * statistics.median(latencies),
        "ttft_p50_ms": 1e3 * statistics.median(value for client in clients for value in client.first_byte_s),
    }


def unary_bodies(seed: int) -> list[bytes]:
    """Short chat requests of about a hundred words, one output token each."""
    words = random.Random(seed)
    return [
        orjson.dumps(
            {
                "model": "fake",
                "messages": [{"role": "user", "content": " ".join(words.choices(WORDS, k=100))}],
                "max_tokens": 1,
            }
        )
        for _ in range(UNARY_REQUESTS)
    ]


def stream_bodies(seed: int) -> list[bytes]:
    """One streamed completion per connection."""
    words = random.Random(seed)
    return [
        orjson.dumps(
            {
                "model": "fake",
                "prompt": " ".join(words.choices(WORDS, k=40)),
                "max_tokens": STREAM_TOKENS,
                "stream": True,
                "ignore_eos": True,
            }
        )
        for _ in range(STREAMS)
    ]


# ---------------------------------------------------------------- the floor


async def floor(port: int, itl_s: float) -> None:
    """A bare aiohttp server: reads JSON, streams events of the same size on a timer."""
    chunk = {"id": "cmpl-0123456789abcdef01234567", "object": "text_completion", "created": 1, "model": "fake"}
    choice = {"index": 0, "text": " river", "logprobs": None, "finish_reason": None}
    event = b"data: " + orjson.dumps({**chunk, "choices": [choice]}) + b"\n\n"
    waiters: list[asyncio.Future[None]] = []

    async def answer(http: web.Request) -> web.StreamResponse:
        body = orjson.loads(await http.read())
        if not body.get("stream"):
            return web.Response(body=event, content_type="application/json")
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(http)
        for _ in range(body["max_tokens"]):
            waiter = asyncio.get_running_loop().create_future()
            waiters.append(waiter)
            await waiter
            await response.write(event)
        await response.write(b"data: [DONE]\n\n")
        return response

    app = web.Application()
    app.router.add_post("/v1/completions", answer)
    app.router.add_post("/v1/chat/completions", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    while True:
        await asyncio.sleep(itl_s)
        step, waiters[:] = waiters[:], []
        for waiter in step:
            waiter.set_result(None)


# ---------------------------------------------------------------- the run


def cpu_s(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def rss_mib(pid: int) -> float:
    """Resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@contextlib.contextmanager
def child(*arguments: str) -> Iterator[int]:
    """A Python process of ours; ended and waited for when the block is left."""
    process = subprocess.Popen([sys.executable, *arguments])
    try:
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_ready(port: int, path: str) -> None:
    """Until the server answers 200 (or, for the floor, anything)."""
    deadline = time.monotonic() + START_S
    while True:
        try:
            got = subprocess.run(
                ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", f"http://127.0.0.1:{port}{path}"],
                capture_output=True,
                check=False,
            ).stdout
            if got == b"200" or (path == "/" and got != b"000"):
                return
        finally:
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.2)


def client_run(port: int, kind: str, seed: int) -> dict[str, float]:
    """One load phase in a process of its own."""
    command = [sys.executable, __file__, "--client", kind, "--port", str(port), "--seed", str(seed)]
    result = subprocess.run(command, capture_output=True, check=True, timeout=300)
    return orjson.loads(result.stdout)


def measure(port: int, pid: int, kind: str, seed: int) -> dict[str, float]:
    """CPU microseconds per request (unary) or token (streams), with the client's own view."""
    before_s = cpu_s(pid)
    report = client_run(port, kind, seed)
    units = UNARY_REQUESTS if kind == "unary" else STREAMS * STREAM_TOKENS
    return {**report, "cpu_us": 1e6 * (cpu_s(pid) - before_s) / units, "units_per_s": units / report["seconds"]}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--client", choices=["unary", "stream"])
    parser.add_argument("--floor", action="store_true")
    parser.add_argument("--port", type=int, default=18500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--itl-ms", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    arguments = parser.parse_args()
    if arguments.client == "unary":
        bodies = unary_bodies(arguments.seed)
        report = uvloop.run(drive(arguments.port, "/v1/chat/completions", bodies, UNARY_CONNECTIONS))
        sys.stdout.buffer.write(orjson.dumps(report))
    elif arguments.client == "stream":
        report = uvloop.run(drive(arguments.port, "/v1/completions", stream_bodies(arguments.seed), STREAMS))
        sys.stdout.buffer.write(orjson.dumps(report))
    elif arguments.floor:
        uvloop.run(floor(arguments.port, arguments.itl_ms / 1e3))
    else:
        compare(arguments.port, arguments.itl_ms, arguments.rounds)


def compare(port: int, itl_ms: float, rounds: int) -> None:
    """Start everything, alternate rounds, print medians."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        model = make_model_directory(Path(folder) / "model")
        router = start_router(stack, Path(folder), model, port, itl_ms=itl_ms, traces="none")
        traced = start_router(stack, Path(folder), model, port + 3, itl_ms=itl_ms, traces="file")
        bare = stack.enter_context(child(__file__, "--floor", "--port", str(port + 2), "--itl-ms", str(itl_ms)))
        wait_ready(port, "/readyz")
        wait_ready(port + 3, "/readyz")
        wait_ready(port + 2, "/")
        servers = {
            "sluice router": (port, router),
            "with traces": (port + 3, traced),
            "bare aiohttp": (port + 2, bare),
        }
        results: dict[tuple[str, str], list[dict[str, float]]] = {}
        for kind in ("unary", "stream"):
            for seed in range(rounds + 1):
                for name, (server_port, pid) in servers.items():
                    result = measure(server_port, pid, kind, seed)
                    if seed:  # the first round warms up
                        results.setdefault((kind, name), []).append(result)
        report(results, itl_ms, {name: rss_mib(pid) for name, (_, pid) in servers.items()})


def start_router(
    stack: contextlib.ExitStack, folder: Path, model: Path, port: int, *, itl_ms: float, traces: str
) -> int:
    """A router process on `port` and its fake worker; returns the router's process id."""
    settings = {
        "model_path": str(model),
        "model_name": "fake",
        "http_port": port,
        "grpc_port": port + 1,
        "telemetry": {"log_level": "warning", "traces": traces, "traces_to": str(folder / "traces.jsonl")},
    }
    config = folder / f"router-{traces}.yaml"
    config.write_text(load.to_yaml(settings))
    router = stack.enter_context(child("-m", "sluice.cli.main", "router", "--config", str(config)))
    fake = ("-m", "sluice.testing.fake_worker", "--router", f"127.0.0.1:{port + 1}", "--itl-ms", str(itl_ms))
    stack.enter_context(child(*fake))
    return router


def report(results: dict[tuple[str, str], list[dict[str, float]]], itl_ms: float, memory_mib: dict[str, float]) -> None:
    """Medians of all rounds, and the ratio to the floor."""
    print(f"unary: {UNARY_REQUESTS} chat requests of 100 words, {UNARY_CONNECTIONS} connections, 1 token each")
    print(f"stream: {STREAMS} streams of {STREAM_TOKENS} tokens at {itl_ms:g} ms between tokens")
    print(
        f"{'phase':8}{'server':16}{'CPU us/unit':>12}{'ratio':>8}{'unit/s':>10}{'events':>9}{'p50 ms':>9}{'TTFT ms':>9}"
    )
    for kind in ("unary", "stream"):
        lowest = statistics.median(result["cpu_us"] for result in results[kind, "bare aiohttp"])
        for (phase, name), rounds in results.items():
            if phase == kind:
                middle = {key: statistics.median(result[key] for result in rounds) for key in rounds[0]}
                print(
                    f"{kind:8}{name:16}{middle['cpu_us']:12.1f}{middle['cpu_us'] / lowest:8.2f}"
                    f"{middle['units_per_s']:10.0f}{middle['events']:9.0f}{middle['p50_ms']:9.1f}"
                    f"{middle['ttft_p50_ms']:9.1f}"
                )
    for name, mib in memory_mib.items():
        print(f"memory: {name} {mib:.0f} MiB")


if __name__ == "__main__":
    main()
