"""What a plan consists of: writes to the cluster, words to workers, events for people. Values only. Next: `act.py`."""

from dataclasses import dataclass, field

from sluice.domain.role import Role
from sluice.operator.manifest import Manifest, Ref


@dataclass(frozen=True, slots=True)
class Create:
    """Make an object that then belongs to others."""

    manifest: Manifest


@dataclass(frozen=True, slots=True)
class Apply:
    """Make the stated fields stand."""

    manifest: Manifest


@dataclass(frozen=True, slots=True)
class Patch:
    """Change a few fields of an object."""

    ref: Ref
    change: Manifest = field(hash=False)


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove an object."""

    ref: Ref


@dataclass(frozen=True, slots=True)
class DrainWorker:
    """A worker is to hand over what it runs. `deadline_s` 0: as long as it takes."""

    worker: str
    deadline_s: float


@dataclass(frozen=True, slots=True)
class ResumeWorker:
    """A worker may admit again."""

    worker: str


@dataclass(frozen=True, slots=True)
class FlipWorker:
    """A worker takes another role now."""

    worker: str
    role: Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Tell:
    """An Event on the ModelService. Equal keys of one service are told once."""

    key: str
    reason: str
    message: str
    is_warning: bool = False


Action = Create | Apply | Patch | Delete | DrainWorker | ResumeWorker | FlipWorker | Tell
