"""The options `sluice up` and `sluice demo` share, and the FleetPlan they make."""

import argparse
from pathlib import Path
from typing import Final, Literal

from sluice.capacity.catalogue import parse_prices
from sluice.capacity.model_shape import shape_of
from sluice.cli.gpu_pools import Role, emulated_workers
from sluice.cli.local_fleet import FleetPlan
from sluice.cli.model_source import find_model
from sluice.config.router import PlacementConfig
from sluice.config.telemetry import TelemetryConfig
from sluice.config.worker import EngineConfig, TransferConfig
from sluice.errors import ConfigError
from sluice.policy.joint import Joint
from sluice.policy.registry import POLICIES

DEMO_MODEL: Final = Path(__file__).resolve().parent.parent / "demo_model"
POOL_ROLES: Final[tuple[Role, ...]] = ("encode", "prefill", "decode", "mixed")
BESIDE_ENCODE: Final = "encode+"
"""Begins the name of a role whose workers encode too."""
DEFAULT_SHAPE: Final = "Llama-3.1-8B"
EMULATED_BATCH_MAX: Final = 256
EMULATED_STEP_TOKENS_MAX: Final = 2048


def add_fleet_arguments(parser: argparse.ArgumentParser, *, prefill: int, decode: int) -> None:
    """Add the shared options, with these numbers of workers unless told otherwise."""
    parser.add_argument("--model", default=str(DEMO_MODEL), help="directory or hub id of a model (default: demo model)")
    parser.add_argument("--name", default="", help="the model's name for clients (default: the directory's)")
    parser.add_argument("--prefill", type=int, default=prefill, metavar="N", help="prefill workers (%(default)s)")
    parser.add_argument("--decode", type=int, default=decode, metavar="N", help="decode workers (%(default)s)")
    parser.add_argument("--mixed", type=int, metavar="N", help="N colocated workers instead")
    parser.add_argument("--encode", type=int, default=0, metavar="N", help="encode workers, for pictures (%(default)s)")
    parser.add_argument(
        "--pools",
        default="",
        metavar="ROLE=N,...",
        help="all of these at once, for example encode=1,prefill=1,decode=1; encode+decode=1: one that does both",
    )
    parser.add_argument("--routers", type=int, default=1, metavar="N", help="routers side by side (%(default)s)")
    parser.add_argument("--policy", choices=[*POLICIES], default=Joint.name, help="who serves what (%(default)s)")
    parser.add_argument("--transport", choices=["auto", "shm", "tcp", "nixl"], default="auto", help="how KV moves")
    parser.add_argument("--block-tokens", type=int, default=16, help="KV block size, a multiple of 16 (%(default)s)")
    parser.add_argument("--kv-memory-mib", type=int, default=128, help="KV pool of each worker (%(default)s)")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="where the engines run")
    parser.add_argument(
        "--gpu",
        action="append",
        default=[],
        metavar="POOLS",
        help="emulated workers instead, as in `sluice simulate --pools`: H100:2p,A100x2:1p+4d; may be repeated;"
        " --model then names a shape, Llama-3.1-8B by default",
    )
    parser.add_argument("--price", default="", metavar="CLASS=DOLLARS", help="per hour and GPU, joined by commas")
    parser.add_argument(
        "--profile",
        action="append",
        default=[],
        metavar="CLASS=PATH",
        help="measured steps of a class (sluice profile) instead of its roofline; may be repeated",
    )
    parser.add_argument("--traces", default="", metavar="WHERE", help="a file, or an OTLP endpoint (http://host:4318)")


def plan_from(arguments: argparse.Namespace, *, http_port: int, grpc_port: int, host: str = "127.0.0.1") -> FleetPlan:
    """The platform the options describe. Raises ConfigError naming the option."""
    block_tokens: int = arguments.block_tokens
    if block_tokens <= 0 or block_tokens % 16:
        raise ConfigError(f"--block-tokens: is {block_tokens}; use a multiple of 16")
    if arguments.kv_memory_mib <= 0:
        raise ConfigError(f"--kv-memory-mib: is {arguments.kv_memory_mib}; use a positive number")
    _take_pools(arguments)
    for role in ("encode", "prefill", "decode", "mixed"):
        if (getattr(arguments, role) or 0) < 0:
            raise ConfigError(f"--{role}: is {getattr(arguments, role)}; use 0 or more")
    if arguments.gpu:
        return _emulated_plan(arguments, http_port=http_port, grpc_port=grpc_port, host=host)
    path = find_model(arguments.model)
    is_mixed = arguments.mixed is not None
    return FleetPlan(
        model_path=path,
        model_name=arguments.name or _name_of(arguments.model, path),
        prefill=0 if is_mixed else arguments.prefill,
        decode=0 if is_mixed else arguments.decode,
        mixed=arguments.mixed if is_mixed else 0,
        encode=arguments.encode,
        encodes=arguments.encodes,
        routers=arguments.routers,
        host=host,
        http_port=http_port,
        grpc_port=grpc_port,
        engine=EngineConfig(device=arguments.device, block_tokens=block_tokens, kv_memory_mib=arguments.kv_memory_mib),
        transfer=_transfer(arguments.transport),
        telemetry=_telemetry(arguments.traces),
        placement=PlacementConfig(policy=arguments.policy),
    )


def _take_pools(arguments: argparse.Namespace) -> None:
    """Have `--pools` stand for the options of each role. Raises ConfigError naming it."""
    arguments.encodes = None
    if not arguments.pools:
        return
    counts = dict.fromkeys(POOL_ROLES, 0)
    encodes: set[Role] = set()
    for word in arguments.pools.split(","):
        named, equals, count = word.strip().partition("=")
        role = named.removeprefix(BESIDE_ENCODE)
        if role not in counts or not equals or not count.isdigit() or (named != role and role == "encode"):
            raise ConfigError(
                f"--pools: '{word}' is no pool; write {', '.join(POOL_ROLES)} as encode=1,prefill=2, or encode+decode=1"
            )
        counts[role] = int(count)
        encodes |= {role} if named != role else set()
    arguments.encodes = frozenset(encodes) if encodes else None
    if counts["mixed"] and (counts["prefill"] or counts["decode"]):
        raise ConfigError("--pools: mixed stands for prefill and decode; give the one or the others")
    arguments.encode, arguments.prefill, arguments.decode = counts["encode"], counts["prefill"], counts["decode"]
    arguments.mixed = counts["mixed"] or None


def _emulated_plan(arguments: argparse.Namespace, *, http_port: int, grpc_port: int, host: str) -> FleetPlan:
    """A platform of emulated GPUs; texts are made of the demo model's tokens."""
    shape = shape_of(DEFAULT_SHAPE if arguments.model == str(DEMO_MODEL) else arguments.model)
    return FleetPlan(
        model_path=DEMO_MODEL,
        model_name=arguments.name or shape.name,
        routers=arguments.routers,
        host=host,
        http_port=http_port,
        grpc_port=grpc_port,
        engine=EngineConfig(
            block_tokens=arguments.block_tokens,
            batch_sequences_max=EMULATED_BATCH_MAX,
            step_tokens_max=EMULATED_STEP_TOKENS_MAX,
        ),
        transfer=_transfer(arguments.transport),
        telemetry=_telemetry(arguments.traces),
        placement=PlacementConfig(policy=arguments.policy),
        emulate=shape.name,
        emulated=emulated_workers(
            arguments.gpu,
            shape=shape.name,
            prices=parse_prices(arguments.price),
            profiles=arguments.profile,
        ),
    )


def _transfer(transport: Literal["auto", "shm", "tcp", "nixl"]) -> TransferConfig:
    return TransferConfig() if transport == "auto" else TransferConfig(transports=(transport,))


def _name_of(model: str, path: Path) -> str:
    """What clients call it: its directory's name, or its hub id."""
    if path == DEMO_MODEL:
        return "sluice-demo"
    return path.name if Path(model).expanduser().is_dir() else model


def _telemetry(traces: str) -> TelemetryConfig:
    if not traces:
        return TelemetryConfig()
    if traces.startswith(("http://", "https://")):
        return TelemetryConfig(traces="otlp", traces_to=traces)
    return TelemetryConfig(traces="file", traces_to=str(Path(traces).expanduser().resolve()))
