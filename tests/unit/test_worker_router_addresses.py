"""A worker dials every address its routers' names have, and lets go of those that are gone for good."""

import socket

from hypothesis import given
from hypothesis import strategies as st

from sluice.worker.router_addresses import AddressInfo, Names, change

V4, V6 = socket.AF_INET, socket.AF_INET6
ADDRESSES = st.sampled_from(["10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1"])


def info(host: str, family: socket.AddressFamily = V4) -> AddressInfo:
    return (family, host, 8001)


def test_a_name_with_many_addresses_means_a_link_to_each() -> None:
    names = Names(["routers.svc:8001"])
    names.resolved("routers.svc:8001", [info("10.0.0.2"), info("10.0.0.1"), info("10.0.0.1")])
    assert names.listed == {"10.0.0.1:8001", "10.0.0.2:8001"}


def test_a_name_that_was_never_resolved_is_not_dialled() -> None:
    names = Names(["a:8001", "b:8001"])
    names.resolved("a:8001", [info("10.0.0.1")])
    names.resolved("b:8001", [])
    assert names.listed == {"10.0.0.1:8001"}


def test_a_name_server_that_answers_nothing_loses_no_router() -> None:
    names = Names(["a:8001"])
    names.resolved("a:8001", [info("10.0.0.1")])
    names.resolved("a:8001", [])
    assert names.listed == {"10.0.0.1:8001"}


def test_a_router_with_two_kinds_of_address_is_dialled_once() -> None:
    names = Names(["localhost:8001", "six:8001"])
    names.resolved("localhost:8001", [info("::1", V6), info("127.0.0.1")])
    names.resolved("six:8001", [info("fe80::2", V6)])
    assert names.listed == {"127.0.0.1:8001", "[fe80::2]:8001"}


@given(st.sets(ADDRESSES), st.dictionaries(ADDRESSES, st.booleans()))
def test_links_follow_the_list_but_one_that_serves_is_never_cut(listed: set[str], links: dict[str, bool]) -> None:
    todo = change(listed=listed, links=links)
    after = (links.keys() | set(todo.dial)) - set(todo.drop)
    assert listed <= after
    assert after - listed == {address for address, is_up in links.items() if is_up and address not in listed}
    assert not set(todo.dial) & links.keys()
