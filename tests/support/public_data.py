"""Where the public traces and profiles are, for tests that read them; skips with a clear word without them."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def public_data(*parts: str) -> Path:
    """A path below the data folder (SLUICE_DATA, or `shared/data` beside the repository)."""
    folder = Path(os.environ.get("SLUICE_DATA") or ROOT.parent / "shared" / "data")
    path = folder.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"public data is not here: {'/'.join(parts)} (set SLUICE_DATA to its folder)")
    return path
