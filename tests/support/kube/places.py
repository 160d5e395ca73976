"""Names every folder of a test cluster: what is kept between runs, and what one run leaves and removes.

The cache (binaries, base system, images) is shared by runs and lies outside the work tree; it can
be deleted at any time. Never creates a process. Next: `cluster.py`, who uses all of it.
"""

import os
from dataclasses import dataclass
from pathlib import Path


def cache_root() -> Path:
    """Where things that take long to make are kept: $SLUICE_E2E_CACHE, or the user's cache folder."""
    named = os.environ.get("SLUICE_E2E_CACHE")
    return Path(named) if named else Path.home() / ".cache" / "sluice-e2e"


@dataclass(frozen=True, slots=True)
class Places:
    """The folders below one cache root."""

    root: Path

    @property
    def sources(self) -> Path:
        """Debian's sources of Kubernetes, downloaded once."""
        return self.root / "sources"

    @property
    def base_system(self) -> Path:
        """A small Debian with Python: the stand-in for the slim Python image."""
        return self.root / "base-system"

    @property
    def image_store(self) -> Path:
        """A container daemon's folder with our images; nodes start from a copy of it."""
        return self.root / "image-store"

    @property
    def run(self) -> Path:
        """Everything of the running cluster; removed when it goes down."""
        return self.root / "run"

    @property
    def logs(self) -> Path:
        """The last cluster's logs, kept for whoever asks what happened."""
        return self.root / "logs"
