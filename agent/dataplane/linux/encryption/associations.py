"""``Associations``: who shares which keys with whom, kept in IPsec and in the user-space port.

Both count with keys that are derived with this node's epoch, so they are settled together: where a key would
have to count from the beginning a second time, the epoch ends first, and every key is another.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple, Protocol

import structlog

from agent.dataplane.base import Peer
from agent.dataplane.linux.encryption import esp
from agent.dataplane.linux.encryption.epoch import Epoch
from agent.dataplane.linux.encryption.keys import (
    KEY_BYTES,
    SALT_BYTES,
    TAGS,
    Party,
    derive,
    fingerprint,
    sending_key,
)
from agent.dataplane.linux.encryption.userspace.orders import Configure, Key, Member, Status
from agent.dataplane.linux.encryption.xfrm import Policy, State
from agent.dataplane.linux.netlink import Message
from swarmpy.errors import Unavailable
from swarmpy.model.objects import NetworkKey

log = structlog.get_logger(__name__)

_USERSPACE_PURPOSE: Final = "userspace"
_TAG_BITS: Final = 0xFF


class Ipsec(Protocol):
    """``xfrm.Xfrm``."""

    def states(self) -> list[State]: ...

    def policies(self) -> list[Policy]: ...

    def do(self, *messages: Message) -> None: ...


class SecurePort(Protocol):
    """``userspace.port.UserspacePort``. ``ensure`` starts it if there is none, ``ask`` does not."""

    @property
    def reached(self) -> dict[str, int]: ...

    def ensure(self) -> Status: ...

    def ask(self) -> Status | None: ...

    def configure(self, order: Configure) -> Status: ...


class Wanted(NamedTuple):
    """``own`` None: this node does not know of itself yet.

    ``by_ipsec``, ``by_port``: to whom these ways lead; ``others``: addresses that IPsec leaves alone.
    """

    own: Peer | None
    ring: tuple[NetworkKey, ...]
    by_ipsec: tuple[Peer, ...]
    by_port: tuple[Peer, ...]
    others: tuple[str, ...]
    base: tuple[Policy, ...]


class Associations:
    def __init__(self, epoch: Epoch, port: SecurePort) -> None:
        self._epoch = epoch
        self._port = port

    def settle(self, wanted: Wanted, ipsec: Ipsec | None) -> list[Member] | None:
        """IPsec as wanted. Members for the user-space port; None: it does not run.

        Keys that these are the first to have are written down as used by then.
        """
        status, failure = self._find_port(bool(wanted.by_port))
        present = {*status.sending, *status.receiving, *self._port.reached} if status is not None else set()
        states, policies = (ipsec.states(), ipsec.policies()) if ipsec is not None else ([], [])
        tags = {key.tag % TAGS: key.tag for key in wanted.ring}
        for _ in range(2):
            work = esp.diff(self._plan(wanted, has_ipsec=ipsec is not None), states, policies)
            members = self._members(wanted) if status is not None else []
            keys = {key for member in members for key in _keys_of(member) if key.name not in present}
            fresh = [(tags[state.request & _TAG_BITS], state.key) for state in work.fresh]
            fresh += [(tags[key.tag], key.material) for key in sorted(keys, key=_name_of)]
            if not self._epoch.was_used(fresh):
                break
            # who counted with a key is gone: never again with that key
            log.warning("encryption_epoch_ended", epoch=self._epoch.name)
            self._epoch.end()
        if wanted.ring:
            self._epoch.forget_before(min(key.tag for key in wanted.ring))
        self._epoch.use(fresh)
        if ipsec is not None:
            ipsec.do(*work.messages)
        if failure is not None:
            raise failure
        return members if status is not None else None

    def _find_port(self, is_needed: bool) -> tuple[Status | None, Unavailable | None]:
        """The user-space port, running if somebody needs it. What keeps it must not keep IPsec."""
        try:
            return (self._port.ensure() if is_needed else self._port.ask()), None
        except Unavailable as error:
            return None, error

    def _plan(self, wanted: Wanted, *, has_ipsec: bool) -> esp.Plan:
        if wanted.own is None or not has_ipsec:
            return esp.Plan("", wanted.base, is_known=False)
        peers = [esp.Node(party_of(peer, peer.boot_id), peer.addr) for peer in wanted.by_ipsec]
        own = esp.Node(party_of(wanted.own, self._epoch.name), wanted.own.addr)
        return esp.make_plan(own, peers, wanted.ring, base=wanted.base, others=wanted.others)

    def _members(self, wanted: Wanted) -> list[Member]:
        """Of the user-space port. Peers of which something is not known yet wait."""
        sending = sending_key(wanted.ring)
        if wanted.own is None or sending is None:
            return []
        own = party_of(wanted.own, self._epoch.name)
        others = [(peer.addr, party_of(peer, peer.boot_id)) for peer in wanted.by_port]
        return [
            Member(
                addr=addr,
                sending=_key(sending, own, party),
                receiving=tuple(_key(key, party, own) for key in wanted.ring),
            )
            for addr, party in others
            if party.is_known and own.is_known
        ]


def party_of(peer: Peer, epoch: str) -> Party:
    return Party(peer.node_id, peer.number, epoch)


def tags_of(ring: Iterable[NetworkKey]) -> tuple[int, ...]:
    return tuple(sorted(key.tag % TAGS for key in ring))


def _key(secret: NetworkKey, sender: Party, receiver: Party) -> Key:
    size = KEY_BYTES + SALT_BYTES
    material = derive(secret.secret, sender, receiver, purpose=_USERSPACE_PURPOSE, size=size)
    return Key(tag=secret.tag % TAGS, number=sender.number, material=material, name=fingerprint(material))


def _keys_of(member: Member) -> tuple[Key, ...]:
    return member.receiving if member.sending is None else (member.sending, *member.receiving)


def _name_of(key: Key) -> str:
    return key.name
