"""Decides which router addresses a worker dials: every address that the configured names have now.

A name that cannot be resolved keeps the addresses it had: a name server's bad hour loses no
router. An address no longer listed is let go once its link is down, never while it serves. Pure.
Next: `router_links.py`, who resolves and dials.
"""

import socket
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

AddressInfo: TypeAlias = tuple[socket.AddressFamily, str, int]
"""Family, address and port: what a name service answers, less what is of no use here."""


@dataclass(frozen=True, slots=True)
class Change:
    """What to do about links: `dial` these addresses, `drop` the links to those."""

    dial: tuple[str, ...]
    drop: tuple[str, ...]


def change(*, listed: Collection[str], links: Mapping[str, bool]) -> Change:
    """Compare the addresses that names have now with the links there are; a link's value is whether it is up."""
    dial = tuple(sorted(set(listed) - links.keys()))
    drop = tuple(sorted(address for address, is_up in links.items() if not is_up and address not in listed))
    return Change(dial, drop)


class Names:
    """What each configured name resolved to when it last did."""

    def __init__(self, names: Iterable[str]) -> None:
        # Nothing until it is resolved: a link to the bare name would soon be a second one to the same router.
        self._addresses: dict[str, tuple[str, ...]] = dict.fromkeys(names, ())

    @property
    def listed(self) -> set[str]:
        """Every address of every name."""
        return {address for addresses in self._addresses.values() for address in addresses}

    def resolved(self, name: str, infos: Iterable[AddressInfo]) -> None:
        """A name service has answered; an empty answer changes nothing.

        One family is enough, IPv4 if there is any: both lead to the same routers.
        """
        found = sorted(set(infos))
        family = min((family for family, _, _ in found), default=None)
        addresses = tuple(_join(host, port) for one, host, port in found if one is family)
        self._addresses[name] = addresses or self._addresses[name]


def _join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
