"""Tells every worker of those it may exchange KV with, so that they keep the links between them probed.

A router names a target with every Start anyway; this says beforehand who the targets may be. Up to
PEERS_MAX per worker, chosen by a ring of hashes: the same ones whenever the fleet is the same, and
every worker chosen by about as many. Decides who and when; `fleet.py` knows the workers.
Next: `worker/probing.py` for what they do with it, docs/adr/0012.
"""

import bisect
import hashlib
from collections.abc import Sequence
from typing import Final

from sluice.domain.ids import BootId
from sluice.domain.role import Role
from sluice.router.fleet import Fleet, Member
from sluice.wire.gen import sluice_pb2 as pb

PEERS_MAX: Final = 64


class Peering:
    """Who has been told of whom."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._known: tuple[tuple[BootId, Role], ...] = ()
        self._told: dict[BootId, frozenset[tuple[BootId, Role]]] = {}

    def step(self) -> None:
        """Tell those whose peers have changed. Call often: it looks at who is there only."""
        known = tuple((member.info.boot, member.info.role) for member in self._fleet)
        if known == self._known:
            return
        self._known = known
        members = {member.info.boot: member for member in self._fleet}
        self._told = {boot: told for boot, told in self._told.items() if boot in members}
        for boot, peers in acquaintances(list(members.values())).items():
            told = frozenset((peer.info.boot, peer.info.role) for peer in peers)
            if self._told.get(boot) != told:  # everyone once, those without peers too: they wait for this word
                self._told[boot] = told
                rows = [_row(members[boot], peer) for peer in peers]
                members[boot].link.send(pb.RouterMessage(peers=pb.Peers(peers=rows)))


def acquaintances(members: Sequence[Member]) -> dict[BootId, list[Member]]:
    """For every worker those it may send KV or embeddings to, and for decode workers the prefill workers that do."""
    ring = sorted((member for member in members if member.info.role in {Role.DECODE, Role.MIXED}), key=_place)
    places = [_place(member) for member in ring]
    found: dict[BootId, list[Member]] = {member.info.boot: [] for member in members}
    for member in members:
        if member.info.role is Role.ENCODE:
            found[member.info.boot] = [one for one in members if one.info.image_boot is not None][:PEERS_MAX]
            continue
        first = bisect.bisect(places, _place(member))
        around = [one for one in (*ring[first:], *ring[:first]) if one is not member] if ring else []
        targets = around[:PEERS_MAX]
        found[member.info.boot] += targets
        if member.info.role is Role.PREFILL:
            for target in targets:
                if target.info.role is Role.DECODE:
                    found[target.info.boot].append(member)
    return found


def _row(member: Member, peer: Member) -> pb.PeerRow:
    """A peer, as `member` meets it: encode workers meet the others where these take in embeddings."""
    if member.info.role is not Role.ENCODE:
        return pb.PeerRow(target=peer.target(), role=peer.info.role.value)
    return pb.PeerRow(target=peer.image_target(), role=Role.MIXED.value)  # something is sent there, whatever its role


def _place(member: Member) -> bytes:
    return hashlib.blake2b(member.info.boot.encode(), digest_size=8).digest()
