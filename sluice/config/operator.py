"""Settings of the operator process. Every field has a default; the chart writes the images."""

from dataclasses import dataclass, field

from sluice.config.telemetry import TelemetryConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorConfig:
    """One operator process."""

    router_image: str = "sluice-control:latest"
    worker_image: str = "sluice-worker:latest"
    image_pull_policy: str = "IfNotPresent"
    image_pull_secrets: tuple[str, ...] = ()
    lease_namespace: str = "sluice-system"  # where the operators' lease is
    identity: str = ""  # this operator's name in the lease; empty: the host's name
    lease_s: float = 15.0  # another operator takes over after so long
    parallel_services_max: int = 8  # reconciled at once
    resync_s: float = 30.0  # every service is looked at again
    watch_s: float = 1.0  # the same while workers hand over requests, which only routers see
    scaling_s: float = 5.0  # the same where the platform scales: load is something only routers see
    asleep_s: float = 2.0  # the same while a pool is empty: a request may be held for it
    settle_s: float = 10.0  # the same while pods start; what they do is also watched
    retry_s_max: float = 60.0
    telemetry: TelemetryConfig = field(default_factory=TelemetryConfig)
