"""Decides which links a router may follow: which hosts, on which ports, and which addresses they may have.

Nothing is allowed unless listed. A listed name may still lead only to public addresses, or to networks that
the settings name, so that a name someone else controls cannot reach inside. Pure; no look-ups and no I/O.
Next: `picture_fetch.py`, which obeys.
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from yarl import URL

from sluice.errors import ConfigError, InvalidRequestError

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

_TRANSLATED: Final = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("64:ff9b:1::/48"))
"""IPv6 addresses that a gateway turns into IPv4 ones (RFC 6052, RFC 8215): they may lead anywhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRule:
    """One entry of the allow-list. `port` 0 means the scheme's own."""

    name: str
    port: int = 0
    covers_subdomains: bool = False

    def admits(self, url: URL) -> bool:
        """Whether the entry covers the host and port of a link."""
        host = (url.raw_host or "").rstrip(".").lower()
        own_port = {"http": 80, "https": 443}[url.scheme]
        if url.port != (self.port or own_port):
            return False
        return host.endswith("." + self.name) if self.covers_subdomains else host == self.name


@dataclass(frozen=True, slots=True)
class LinkRules:
    """What a router may fetch."""

    hosts: tuple[HostRule, ...]
    networks: tuple[Network, ...]

    @classmethod
    def parse(cls, hosts: Sequence[str], networks: Sequence[str]) -> "LinkRules":
        """From the settings. Raises ConfigError naming the entry."""
        return cls(tuple(_host_rule(entry) for entry in hosts), tuple(_network(entry) for entry in networks))

    def checked(self, text: str, *, field: str) -> URL:
        """A link that may be followed. Raises InvalidRequestError otherwise; the message names the host only."""
        try:
            url = URL(text)
            host, port = url.raw_host, url.port
        except (ValueError, UnicodeError) as error:
            raise _refusal(field, "is not a valid link", "send an http(s) link") from error
        if url.scheme not in {"http", "https"} or not host or port is None:
            raise _refusal(field, "is not a valid link", "send an http(s) link")
        if not self.hosts:
            raise _refusal(field, "is a link, and this platform fetches none", "send the picture as a data URL")
        if url.raw_user is not None or url.raw_password is not None:
            raise _refusal(field, "holds a user or a password", "send a link without")
        if not any(rule.admits(url) for rule in self.hosts):
            problem = f"leads to {host[:100]!r} on port {port}, which is not on the list of allowed hosts"
            raise _refusal(field, problem, "send the picture as a data URL, or have pictures.hosts extended")
        literal = _literal(host)
        if literal is None and (":" in host or host.replace(".", "").isdigit()):
            raise _refusal(field, "names its host by an odd number", "send a host name or a plain address")
        if literal is not None and not self.reaches(literal):
            raise _refusal(field, _FORBIDDEN, "send the picture as a data URL")
        return url

    def reaches(self, address: Address) -> bool:
        """Whether a connection to an address is allowed."""
        if isinstance(address, ipaddress.IPv6Address):
            if address.ipv4_mapped is not None:
                return self.reaches(address.ipv4_mapped)
            if address.sixtofour is not None or address.teredo is not None or any(address in n for n in _TRANSLATED):
                return False
        if any(address.version == network.version and address in network for network in self.networks):
            return True
        return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


_FORBIDDEN: Final = "leads to an address that is not public"


def forbidden_address(field: str) -> InvalidRequestError:
    """What a client hears whose link's name has no address that may be connected to."""
    return _refusal(field, _FORBIDDEN, "send the picture as a data URL")


def _host_rule(entry: str) -> HostRule:
    name, _, port = entry.partition(":") if entry.count(":") == 1 else (entry.strip("[]"), "", "")
    covers_subdomains = name.startswith("*.")
    name = name.removeprefix("*.").rstrip(".").lower()
    is_port = not port or (port.isascii() and port.isdigit() and 0 < int(port) < 65536)
    try:
        is_name = URL.build(scheme="http", host=name).raw_host == name and not set(name) & set("*/@?# ")
    except (ValueError, UnicodeError):
        is_name = False
    if not name or not is_name or not is_port:
        raise ConfigError(f"pictures.hosts: {entry!r} is no host; write images.example.org, *.example.org or host:port")
    return HostRule(name=name, port=int(port or 0), covers_subdomains=covers_subdomains)


def _network(entry: str) -> Network:
    try:
        return ipaddress.ip_network(entry)
    except ValueError as error:
        raise ConfigError(f"pictures.networks: {error}; write networks as 10.0.0.0/8") from error


def _literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _refusal(field: str, problem: str, remedy: str) -> InvalidRequestError:
    return InvalidRequestError(field=field, problem=problem, remedy=remedy)
