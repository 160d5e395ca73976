"""What bounds the requests of one router while they are in flight. Facts only. Next: `dispatcher.py`."""

from dataclasses import dataclass, field

from sluice.policy.admission import AdmissionLimits
from sluice.policy.restraint import RestraintLimits
from sluice.router.door import HoldLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatchLimits:
    """Bounds of what is in flight."""

    admission: AdmissionLimits
    attempts_max: int
    unread_tokens_max: int
    records_max: int
    restraint: RestraintLimits = field(default_factory=RestraintLimits)
    hold: HoldLimits = field(default_factory=HoldLimits)
    ttft_s: float = 5.0  # the objective within which images must be encoded
    tpot_s: float = 0.1  # the objective of those who decode beside an encoder
