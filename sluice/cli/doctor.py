"""`sluice doctor`: what works on this machine, and what to do about what does not."""

import argparse
import importlib.metadata
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

import psutil
from rich.console import Console
from rich.table import Table

from sluice.cli.fleet_options import DEMO_MODEL
from sluice.cli.local_fleet import check_port_free
from sluice.domain.ids import BootId
from sluice.errors import SluiceError
from sluice.kv_transfer import memory
from sluice.kv_transfer.nixl_transport import NixlTransport

SHM_BYTES_WANTED: Final = 512 * 1024 * 1024
MEMORY_BYTES_WANTED: Final = 2 * 1024**3
PORTS: Final = (8000, 8001)


class Verdict(Enum):
    """How a check went."""

    OK = "[green]ok[/green]"
    LIMITED = "[yellow]limited[/yellow]"
    BROKEN = "[red]broken[/red]"


@dataclass(frozen=True, slots=True)
class Finding:
    """One check's result and, unless all is well, the remedy."""

    verdict: Verdict
    fact: str
    remedy: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`sluice doctor` has no options."""


def run(_arguments: argparse.Namespace) -> int:
    """Print a line per check; exit status 1 if something needed is broken."""
    table = Table(box=None, header_style="bold")
    for name in ("CHECK", "", "FOUND", "REMEDY"):
        table.add_column(name)
    findings = {name: check() for name, check in CHECKS.items()}
    for name, finding in findings.items():
        table.add_row(name, finding.verdict.value, finding.fact, finding.remedy)
    console = Console()
    console.print(table)
    is_broken = any(finding.verdict is Verdict.BROKEN for finding in findings.values())
    console.print(
        "\n[red]Sluice cannot run here yet.[/red]" if is_broken else "\nSluice can run here: try `sluice demo`."
    )
    return 1 if is_broken else 0


def _python() -> Finding:
    return Finding(Verdict.OK, sys.version.split()[0])  # an older one could not have installed Sluice


def _cores() -> Finding:
    available = psutil.virtual_memory().available
    fact = f"{os.cpu_count()} cores, {available / 1024**3:.1f} GiB of memory free"
    if available < MEMORY_BYTES_WANTED:
        return Finding(Verdict.LIMITED, fact, "each worker of the demo needs about 0.5 GiB; start fewer")
    return Finding(Verdict.OK, fact)


def _engine() -> Finding:
    for package in ("torch", "transformers"):
        if importlib.util.find_spec(package) is None:
            return Finding(Verdict.BROKEN, f"{package} is not installed", "pip install 'sluice[worker]'")
    versions = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in ("torch", "transformers"))
    return Finding(Verdict.OK, versions)


def _cuda() -> Finding:
    device = Path("/dev/nvidia0")
    torch_version = importlib.metadata.version("torch") if importlib.util.find_spec("torch") else ""
    if not device.exists():
        return Finding(Verdict.LIMITED, "no NVIDIA device; engines run on the CPU", "nothing to do on a laptop")
    if "cpu" in torch_version:
        remedy = "install a CUDA build of torch from https://pytorch.org"
        return Finding(Verdict.LIMITED, f"{device} is here, but torch {torch_version} cannot use it", remedy)
    return Finding(Verdict.OK, f"{device}, torch {torch_version}")


def _nixl() -> Finding:
    try:
        NixlTransport(boot=BootId("doctor")).close()
    except SluiceError as error:
        return Finding(Verdict.LIMITED, str(error), "pip install 'sluice[nixl]'; without it, shm and tcp are used")
    return Finding(Verdict.OK, "loads; KV can go over UCX (--transport nixl)")


def _shared_memory() -> Finding:
    folder = Path("/dev/shm")  # noqa: S108 - where POSIX shared memory lives on Linux
    if not folder.is_dir():
        return Finding(Verdict.LIMITED, "no /dev/shm", "KV goes over tcp: --transport tcp")
    stale = memory.sweep_stale()
    swept = f"; removed {len(stale)} files of dead workers" if stale else ""
    free = shutil.disk_usage(folder).free
    fact = f"{free / 1024**2:.0f} MiB free in /dev/shm{swept}"
    if free < SHM_BYTES_WANTED:
        remedy = "raise it (docker: --shm-size=1g, Kubernetes: an emptyDir of medium Memory) or use --transport tcp"
        return Finding(Verdict.LIMITED, fact, remedy)
    return Finding(Verdict.OK, fact)


def _ports() -> Finding:
    taken = []
    for port in PORTS:
        try:
            check_port_free("127.0.0.1", port, option="--port")
        except SluiceError:
            taken.append(str(port))
    if taken:
        return Finding(
            Verdict.LIMITED, f"in use: {', '.join(taken)}", "choose others: sluice up --port … --grpc-port …"
        )
    return Finding(Verdict.OK, f"{', '.join(map(str, PORTS))} are free")


def _demo_model() -> Finding:
    missing = [
        name for name in ("config.json", "model.safetensors", "tokenizer.json") if not (DEMO_MODEL / name).is_file()
    ]
    if missing:
        return Finding(Verdict.BROKEN, f"missing {', '.join(missing)}", "reinstall sluice, or pass --model DIRECTORY")
    size = sum(file.stat().st_size for file in DEMO_MODEL.iterdir() if file.is_file())
    return Finding(Verdict.OK, f"{size / 1e6:.1f} MB in {DEMO_MODEL}")


CHECKS: Final[dict[str, Callable[[], Finding]]] = {
    "Python": _python,
    "machine": _cores,
    "engine": _engine,
    "CUDA": _cuda,
    "NIXL": _nixl,
    "shared memory": _shared_memory,
    "ports": _ports,
    "demo model": _demo_model,
}
