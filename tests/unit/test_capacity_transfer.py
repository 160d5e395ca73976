"""Links are learned from messages: latency and speed come out again, and nonsense is refused."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.capacity.importers import messages
from sluice.capacity.transfer_curve import fit_messages
from sluice.errors import ConfigError
from tests.support.public_data import public_data


@given(latency_s=st.floats(1e-6, 1e-3), bytes_per_s=st.floats(1e8, 1e12))
def test_latency_and_speed_are_found_again(latency_s: float, bytes_per_s: float) -> None:
    curve = fit_messages([(size, latency_s + size / bytes_per_s) for size in (0.0, 1e4, 1e6, 1e8, 1e9)])
    assert curve.latency_s == pytest.approx(latency_s, rel=1e-3)
    assert curve.bytes_per_s == pytest.approx(bytes_per_s, rel=1e-3)
    assert curve.error < 1e-3


@pytest.mark.parametrize("wrong", [[], [(1.0, 1.0)], [(1.0, 0.0), (2.0, 1.0)], [(1e6, 1.0), (2e6, 1.0), (9e6, 0.5)]])
def test_messages_that_name_no_link_are_refused(wrong: list[tuple[float, float]]) -> None:
    with pytest.raises(ConfigError, match="messages"):
        fit_messages(wrong)


def test_published_files_are_read_in_bytes_and_seconds(tmp_path: Path) -> None:
    apex = tmp_path / "sendrecv.csv"
    apex.write_text("gpu,num_nodes,num_gpus_per_node,dtype,size(kb),time(us)\nX,1,2,half,4,8\nX,1,2,float,4,9\n")
    assert messages.read_apex(apex) == [(4096.0, pytest.approx(8e-6))]
    with pytest.raises(ConfigError, match="no messages over 2 nodes"):
        messages.read_apex(apex, nodes=2)
    vidur = tmp_path / "send_recv.csv"
    vidur.write_text(",time_stats.send_recv.median,size,devices_per_node\n0,0.5,2048,1\n1,0.1,2048,2\n")
    assert messages.read_vidur(vidur, devices_per_node=2) == [(2048.0, pytest.approx(1e-4))]
    with pytest.raises(ConfigError, match="it has 1 or 2"):
        messages.read_vidur(vidur, devices_per_node=4)


def test_nvlink_of_the_published_tables_carries_hundreds_of_gigabytes_a_second() -> None:
    curve = fit_messages(messages.read_apex(public_data("apex", "comm", "H200-SXM-141GB", "sendrecv.csv")))
    assert 2e11 < curve.bytes_per_s < 6e11
    assert curve.latency_s < 5e-5
