"""How property tests run: the same examples every time, and never failed by the clock."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "sluice", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("sluice")
