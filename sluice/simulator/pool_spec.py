"""Reads a fleet as a person types it: `H100:2p+4d,A100x2:1m` is two prefill and four decode replicas of one H100
each, and one mixed replica of two A100. An e before the role, as in `H100:2ep`, gives replicas the vision tower too.

Decides nothing but what is a valid fleet and who in it sees. Next: `step_source.py` for where step times come from.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from sluice.capacity.catalogue import gpu_class
from sluice.capacity.curve_fit import fit_model
from sluice.capacity.encode_curve import datasheet_curve
from sluice.capacity.gpu_class import GpuClass
from sluice.capacity.model_shape import ModelShape
from sluice.capacity.roofline import ACTIVATION_BYTES, MEMORY_SHARE, kv_tokens
from sluice.capacity.step_curve import StepCurve
from sluice.capacity.vision_shape import VisionShape
from sluice.domain.role import Role
from sluice.errors import ConfigError
from sluice.simulator.instance_spec import InstanceSpec, StepOrder
from sluice.simulator.step_source import StepSource

ROLES: Final = {"e": Role.ENCODE, "p": Role.PREFILL, "d": Role.DECODE, "m": Role.MIXED}
REPLICAS_MAX: Final = 10_000
IDLE: Final = StepCurve(base_s=0.0, prefill_token_s=0.0, pair_s=0.0, decode_s=0.0, context_token_s=0.0)
"""The language model's steps on a replica that has none."""

JUMP_STEPS_MAX: Final = 64  # step models other than a curve are linear in context over so many steps
EXAMPLE: Final = (
    "write H100:2p+4d,A100x2:1m (class, GPUs per replica after x, then replicas by role: e, p, d or m; "
    "ep, ed or em: with the vision tower)"
)

_POOL: Final = re.compile(r"(?P<gpu>[A-Za-z][A-Za-z0-9 _.-]*?)(?:x(?P<degree>\d+))?:(?P<roles>.+)")
_COUNT: Final = re.compile(r"(?P<count>\d+)(?P<eye>e(?=[pdm]))?(?P<role>[epdm])")


class PoolCount(NamedTuple):
    """So many replicas of one kind."""

    gpu: str
    tensor_parallel: int
    role: Role
    replicas: int
    is_seeing: bool = False  # written to hold the vision tower beside the language model


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """What every replica's engine is told."""

    step_tokens_max: int = 2048
    batch_sequences_max: int = 256
    block_tokens: int = 16
    step_order: StepOrder = StepOrder.PACED
    is_ahead: bool = False
    vision: VisionShape | None = None  # the model's vision tower, if it has one
    encode_tokens_max: int = 8192  # embeddings of one batch of images


def parse_pools(text: str, *, is_whole: bool = True, option: str = "--pools") -> list[PoolCount]:
    """The pools in `text`; a whole fleet can do both phases. Raises ConfigError naming `option` and what is wrong."""
    pools: list[PoolCount] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        found = _POOL.fullmatch(part)
        if found is None or found["degree"] == "0":
            raise ConfigError(f"{option}: '{part}' is no pool; {EXAMPLE}")
        for count in found["roles"].split("+"):
            one = _COUNT.fullmatch(count.strip())
            if one is None or int(one["count"]) == 0:
                raise ConfigError(f"{option}: '{count}' in '{part}' is no number of replicas with a role; {EXAMPLE}")
            gpu, degree, replicas = found["gpu"], int(found["degree"] or 1), int(one["count"])
            pools.append(PoolCount(gpu, degree, ROLES[one["role"]], replicas, is_seeing=bool(one["eye"])))
    total = sum(pool.replicas for pool in pools)
    if not 0 < total <= REPLICAS_MAX:
        raise ConfigError(f"{option}: has {total} replicas; give 1 to {REPLICAS_MAX}")
    roles = {pool.role for pool in pools} - {Role.ENCODE}
    if is_whole and not roles:
        raise ConfigError(f"{option}: nobody can prefill; {EXAMPLE}")
    if is_whole and Role.MIXED not in roles and len(roles) == 1:
        lacking = "decode" if Role.PREFILL in roles else "prefill"
        raise ConfigError(f"{option}: nobody can {lacking}; add replicas with {lacking[0]} or m")
    return pools


def make_specs(
    pools: Sequence[PoolCount],
    *,
    shape: ModelShape,
    source: StepSource,
    settings: EngineSettings,
    prices: Mapping[str, float] | None = None,
) -> list[InstanceSpec]:
    """One spec per replica. Raises ConfigError for an unknown class, a model that does not fit, a missing profile.

    Who holds the vision tower: those written so; in a fleet without any, all who prefill.
    """
    specs: list[InstanceSpec] = []
    is_named = any(pool.role is Role.ENCODE or pool.is_seeing for pool in pools)
    for pool in pools:
        gpu = gpu_class(pool.gpu, prices)
        if pool.role is Role.ENCODE:
            spec = _encoder_spec(gpu, pool, settings)
        else:
            holds_tower = pool.is_seeing if is_named else pool.role in {Role.PREFILL, Role.MIXED}
            vision = settings.vision if holds_tower else None
            spec = _token_spec(gpu, pool, shape=shape, source=source, settings=settings, vision=vision)
        specs += [spec] * pool.replicas
    return specs


def _token_spec(
    gpu: GpuClass,
    pool: PoolCount,
    *,
    shape: ModelShape,
    source: StepSource,
    settings: EngineSettings,
    vision: VisionShape | None,
) -> InstanceSpec:
    """A replica of the language model, and of the vision tower `vision` beside it."""
    degree = pool.tensor_parallel
    tower_bytes = vision.weight_bytes if vision is not None else 0
    tokens = kv_tokens(gpu, shape, tensor_parallel=degree) - tower_bytes // shape.kv_token_bytes
    blocks = tokens // settings.block_tokens
    if blocks < 2:
        need = (shape.weight_bytes + tower_bytes) / 1e9
        raise ConfigError(
            f"--pools: {degree} {gpu.name} cannot hold the {need:.0f} GB of {shape.name} and KV beside them; "
            f"use more per replica, as in {gpu.name}x{2 * degree}"
        )
    model = source.model(gpu, shape, tensor_parallel=degree)
    return InstanceSpec(
        name=_kind(gpu, pool),
        gpu_class=gpu.name if degree == 1 else f"{gpu.name}x{degree}",
        role=pool.role,
        model=model,
        curve=fit_model(model),
        blocks=blocks,
        block_tokens=settings.block_tokens,
        unit_tokens=settings.block_tokens,
        step_tokens_max=settings.step_tokens_max,
        batch_sequences_max=settings.batch_sequences_max,
        sequence_tokens_max=min(shape.sequence_tokens_max, tokens),
        kv_token_bytes=shape.kv_token_bytes,
        link_bytes_per_s=gpu.link_bytes_per_s * degree,
        gpus=degree,
        price_per_h=gpu.price_per_h * degree,
        idle_w=gpu.idle_w * degree,
        peak_w=gpu.peak_w * degree,
        step_order=settings.step_order,
        is_ahead=settings.is_ahead,
        jump_steps_max=JUMP_STEPS_MAX,
        encode=None if vision is None else datasheet_curve(gpu, vision).times(1 / degree),  # images shared out
        encode_tokens_max=settings.encode_tokens_max,
    )


def _encoder_spec(gpu: GpuClass, pool: PoolCount, settings: EngineSettings) -> InstanceSpec:
    """A replica of the vision tower alone."""
    if settings.vision is None:
        raise ConfigError("--pools: has replicas that encode; name the model's vision tower with --vision")
    usable = MEMORY_SHARE * gpu.memory_bytes - ACTIVATION_BYTES
    if pool.tensor_parallel > 1 or settings.vision.weight_bytes > usable:
        raise ConfigError(
            f"--pools: one {gpu.name} holds one tower; {settings.vision.name} has "
            f"{settings.vision.weight_bytes / 1e9:.1f} GB: use single GPUs of a class that holds it"
        )
    return InstanceSpec(
        name=_kind(gpu, pool),
        gpu_class=gpu.name,
        role=Role.ENCODE,
        model=IDLE,
        curve=IDLE,
        blocks=1,
        block_tokens=settings.block_tokens,
        unit_tokens=settings.block_tokens,
        link_bytes_per_s=gpu.link_bytes_per_s,
        price_per_h=gpu.price_per_h,
        idle_w=gpu.idle_w,
        peak_w=gpu.peak_w,
        encode=datasheet_curve(gpu, settings.vision),
        encode_tokens_max=settings.encode_tokens_max,
    )


def _kind(gpu: GpuClass, pool: PoolCount) -> str:
    sees = "encode+" if pool.is_seeing else ""
    return f"{gpu.name}{f'x{pool.tensor_parallel}' if pool.tensor_parallel > 1 else ''} {sees}{pool.role.value}"
