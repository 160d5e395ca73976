"""The steps of one worker of a running platform, as it reports them; and requests that give it some.

Watching is free: workers tell their routers of a few steps with every heartbeat. Load is asked for in words,
in the least urgent class and under a tenant of its own, so that clients go first. Next: `profile.py`.
"""

import contextlib
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import grpc

from sluice.capacity.profile_grid import Trial, trials
from sluice.capacity.step_model import StepShape
from sluice.errors import ConfigError
from sluice.wire.gen import sluice_pb2 as pb
from sluice.wire.gen import sluice_pb2_grpc as rpc

LOOK_S: Final = 0.2
CALL_S_MAX: Final = 5.0
REQUEST_S_MAX: Final = 60.0
STREAMS_MAX: Final = 32
TENANT: Final = "sluice profile"
TOKEN_FIRST, TOKEN_LAST = 20, 200  # ids that any vocabulary has

Sample = tuple[StepShape, float]


def find(stub: rpc.AdminStub, worker: str) -> pb.WorkerRow:
    """The worker's row. Raises ConfigError naming those that are there."""
    reply: pb.GetWorkersReply = stub.GetWorkers(pb.GetWorkersRequest(), timeout=CALL_S_MAX)
    rows = reply.workers
    for row in rows:
        if row.info.worker == worker:
            return row
    known = ", ".join(sorted(row.info.worker for row in rows)) or "none"
    raise ConfigError(f"--worker: '{worker}' is not connected; use one of: {known}")


def watch(stub: rpc.AdminStub, worker: str, *, seconds: float) -> Iterator[Sample]:
    """Its steps from now on, each once, as heartbeats bring them. Raises ConfigError when it leaves."""
    until_s = time.monotonic() + seconds
    boot, latest = "", 0
    while time.monotonic() < until_s:
        row = find(stub, worker)
        newest = max((step.number for step in row.load.steps), default=0)
        if row.info.boot != boot:
            boot, latest = row.info.boot, newest  # what it did before is not asked for
        for step in sorted(row.load.steps, key=lambda step: step.number):
            if step.number > latest:
                tokens, pairs = step.prefill_tokens, step.prefill_pairs
                shape = StepShape(tokens, pairs, step.prefills, step.decodes, step.context_tokens)
                yield shape, step.seconds
        latest = max(latest, newest)
        time.sleep(LOOK_S)


@contextlib.contextmanager
def load(channel: grpc.Channel, row: pb.WorkerRow) -> Iterator[None]:
    """Send requests of all sizes that fit the worker while the block runs. The router chooses who serves them."""
    plan = [
        trial
        for trial in trials(
            kv_tokens_max=row.info.blocks * row.info.block_tokens,
            sequence_tokens_max=row.info.sequence_tokens_max,
            batch_sequences_max=min(row.info.batch_sequences_max, STREAMS_MAX),
        )
        if trial.sequences <= STREAMS_MAX
    ]
    stop = threading.Event()
    stub = rpc.InferenceStub(channel)
    model = stub.ListModels(pb.ListModelsRequest(), timeout=CALL_S_MAX).models[0]
    sender = threading.Thread(target=_send, args=(stub, model, plan, stop), name="load", daemon=True)
    sender.start()
    try:
        yield
    finally:
        stop.set()
        sender.join(REQUEST_S_MAX)


def _send(stub: rpc.InferenceStub, model: str, plan: list[Trial], stop: threading.Event) -> None:
    rng = random.Random(0)  # noqa: S311 - prompts need no secrecy
    with ThreadPoolExecutor(STREAMS_MAX) as threads:
        while plan and not stop.is_set():
            trial = rng.choice(plan)
            for _ in threads.map(lambda seed, trial=trial: _ask(stub, model, trial, seed, stop), _seeds(trial, rng)):
                pass


def _seeds(trial: Trial, rng: random.Random) -> list[int]:
    return [rng.randrange(1 << 30) for _ in range(trial.sequences)]


def _ask(stub: rpc.InferenceStub, model: str, trial: Trial, seed: int, stop: threading.Event) -> None:
    """One request; refused and broken ones are not missed, and what still runs at the end is cancelled."""
    rng = random.Random(seed)  # noqa: S311 - prompts need no secrecy
    prompt = [rng.randrange(TOKEN_FIRST, TOKEN_LAST) for _ in range(trial.prompt_tokens)]
    request = pb.GenerateRequest(
        model=model,
        prompt_tokens=pb.TokenIds(ids=prompt),
        sampling=pb.SamplingParams(max_tokens=trial.outputs, ignore_eos=True),
        tenant=TENANT,
        service_tier="batch",
    )
    with contextlib.suppress(grpc.RpcError):
        call = stub.Generate(request, timeout=REQUEST_S_MAX)
        for _ in call:
            if stop.is_set():
                call.cancel()
