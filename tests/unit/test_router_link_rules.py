"""Which links may be followed: nothing that is not listed, and nothing that leads inside."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.errors import ConfigError, InvalidRequestError
from sluice.router.link_rules import LinkRules

RULES = LinkRules.parse(["images.example.org", "*.cdn.example.org", "minio.local:9000", "10.1.2.3"], ["10.1.0.0/16"])


def checked(url: str, rules: LinkRules = RULES) -> str:
    return str(rules.checked(url, field="url"))


@pytest.mark.parametrize(
    "url",
    [
        "https://images.example.org/cat.png?size=3",
        "http://images.example.org/cat.png",
        "https://IMAGES.Example.ORG/cat.png",
        "https://images.example.org./cat.png",
        "https://images.example.org:443/cat.png",
        "https://a.cdn.example.org/x",
        "https://a.b.cdn.example.org/x",
        "http://minio.local:9000/bucket/x",
        "http://10.1.2.3/x",
    ],
)
def test_listed_hosts_are_followed(url: str) -> None:
    assert checked(url)


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org/cat.png",
        "https://cdn.example.org/x",
        "https://evil-cdn.example.org.attacker.test/x",
        "https://images.example.org.attacker.test/x",
        "https://attacker.test/images.example.org",
        "https://attacker.test#images.example.org",
        "https://attacker.test?@images.example.org/",
        "https://images.example.org@attacker.test/",
        "https://user:secret@images.example.org/",
        "https://user@images.example.org/",
        "https://images.example.org:8443/",
        "http://minio.local/bucket",
        "https://images.example.org\\@attacker.test/",
        "https://[::1]/",
        "https://[::ffff:127.0.0.1]/",
        "http://127.0.0.1/",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://127.1/",
        "http://169.254.169.254/latest/meta-data",
        "http://localhost/",
        "http://images.example.org:99999/",
        "http://images.example.org:port/",
        "http:///nothing",
        "http://",
        "https://ima\u2024ges.example.org.attacker.test/",
        "https://[bad/",
        "gopher://images.example.org/",
    ],
)
def test_all_others_are_refused(url: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        checked(url)
    assert caught.value.field == "url"
    assert "secret" not in str(caught.value)


def test_without_a_list_nothing_is_fetched() -> None:
    with pytest.raises(InvalidRequestError, match="fetches none"):
        checked("https://images.example.org/cat.png", LinkRules.parse([], []))


def test_a_listed_number_is_no_way_around_the_addresses() -> None:
    rules = LinkRules.parse(["127.0.0.1", "2130706433", "127.1"], [])
    for url in ("http://127.0.0.1/", "http://2130706433/", "http://127.1/"):
        with pytest.raises(InvalidRequestError):
            checked(url, rules)


@given(st.text(max_size=60), st.sampled_from(["http://", "https://", "", "http:", "https:/"]))
def test_any_text_is_followed_only_to_a_listed_host(text: str, scheme: str) -> None:
    try:
        url = RULES.checked(scheme + text, field="url")
    except InvalidRequestError:
        return
    host = (url.raw_host or "").rstrip(".")
    assert host in {"images.example.org", "minio.local", "10.1.2.3"} or host.endswith(".cdn.example.org")


INSIDE = [
    *("127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1"),
    *("255.255.255.255", "192.0.2.1", "198.18.0.1", "240.0.0.1", "::1", "::", "fe80::1", "fc00::1", "ff02::1"),
    *("::ffff:10.0.0.1", "::ffff:169.254.169.254", "64:ff9b::7f00:1", "2002:7f00:1::", "2001:0:4136:e378::1"),
]


@pytest.mark.parametrize("text", INSIDE)
def test_no_name_leads_inside(text: str) -> None:
    assert not LinkRules.parse(["images.example.org"], []).reaches(ipaddress.ip_address(text))


def test_public_addresses_and_named_networks_are_reached() -> None:
    for text in ("8.8.8.8", "2606:4700::1111", "10.1.255.1", "::ffff:10.1.0.1"):
        assert RULES.reaches(ipaddress.ip_address(text))
    assert not RULES.reaches(ipaddress.ip_address("10.2.0.1"))


@pytest.mark.parametrize(
    "entry", ["", "https://images.example.org", "host:0", "host:x", "a b", "*", "user@host", "h/x"]
)
def test_a_host_that_is_none_is_refused_at_start(entry: str) -> None:
    with pytest.raises(ConfigError, match=r"pictures\.hosts"):
        LinkRules.parse([entry], [])


def test_a_network_that_is_none_is_refused_at_start() -> None:
    with pytest.raises(ConfigError, match=r"pictures\.networks"):
        LinkRules.parse([], ["10.0.0.1/8"])
