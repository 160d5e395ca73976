"""Two workers exchange KV only when it means the same to both; otherwise the difference is named."""

from dataclasses import replace

import pytest

from sluice.domain.kv import KvGeometry
from sluice.errors import IncompatiblePeerError
from sluice.kv_transfer.fingerprint import Compatible, Incompatible, KvIdentity, compare, require_compatible

GEOMETRY = KvGeometry(
    layers=8, group_layers=4, heads=4, head_dim=64, block_tokens=32, blocks=100, dtype="float32", dtype_bytes=4
)


def identity(**changes: object) -> KvIdentity:
    geometry = replace(GEOMETRY, **changes)
    return KvIdentity(model_fingerprint="m", wire_version=1, geometry=geometry, region_bytes=geometry.region_bytes)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"blocks": 7},
        {"group_layers": 3},
        {"block_tokens": 64},
        {"block_tokens": 16},
        {"heads": 2, "rank": 1, "ranks": 2},
        {"heads": 1, "rank": 3, "ranks": 4},
    ],
)
def test_differences_the_plan_compiler_bridges_are_compatible(changes: dict[str, object]) -> None:
    assert compare(identity(), identity(**changes)) == Compatible()
    assert compare(identity(**changes), identity()) == Compatible()
    require_compatible(identity(), identity(**changes))


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"layers": 9}, "layers"),
        ({"heads": 2}, "KV heads"),
        ({"heads": 4, "ranks": 2}, "KV heads"),
        ({"head_dim": 128}, "head size"),
        ({"dtype": "bfloat16"}, "dtype"),
        ({"dtype_bytes": 2}, "bytes per element"),
        ({"block_tokens": 48}, "block size"),
    ],
)
def test_other_differences_are_refused_by_name(changes: dict[str, object], what: str) -> None:
    verdict = compare(identity(), identity(**changes))
    assert isinstance(verdict, Incompatible)
    assert verdict.what.startswith(what)
    with pytest.raises(IncompatiblePeerError, match=what):
        require_compatible(identity(), identity(**changes))


def test_another_model_or_release_is_refused_by_name() -> None:
    ours = identity()
    assert "model fingerprint differs: m here, other there" in str(
        compare(ours, replace(ours, model_fingerprint="other"))
    )
    assert "wire version" in str(compare(ours, replace(ours, wire_version=2)))


def test_a_region_that_is_not_its_geometry_is_refused() -> None:
    assert "region size" in str(compare(identity(), replace(identity(), region_bytes=5)))
