"""Addresses: a free one of a network for each task, virtual address and node, found without a search.

Who holds what is an index of the store, over the objects themselves; nothing about it is remembered here, so
nothing can leak, and a new leader knows all of it. What is remembered is where to look next:

* Each search goes on after the last choice. An address that was just released, which others may still call,
  is the last to be given out again: those that were released in this term come after all others, in the
  order of their release.
* A new leader goes on after the address of the youngest holder that it finds.

``Claims`` are the addresses that one plan gives out, which the view does not show yet. A choice costs a look
at the index, whatever the size of the network and however full it is; that a network is full is told by
counting its holders.

A static address is wished for by an attachment's options ``ipv4_address``, ``ipv6_address`` and
``mac_address``; several of them, separated by commas, for several tasks: the first free one counts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping
from typing import Final

from manager.allocate.blocks import IPV4, IPV6, parse_address, text_of
from manager.allocate.macs import mac_error, normal_mac
from manager.allocate.pools import has_addresses, why_unallocated
from manager.allocate.spaces import FAMILIES, Space
from manager.store.indexes import held_by, held_by_node, held_by_service, held_by_task, holder_key
from manager.store.networking import Place
from manager.store.view import View
from swarmpy.errors import InvalidArgument
from swarmpy.limits import ADDRESSES_RESTING_MAX
from swarmpy.model.ids import NetworkId
from swarmpy.model.network_rules import IPV4_OPTION, IPV6_OPTION, MAC_OPTION, listed
from swarmpy.model.objects import Network, NetworkAttachment, Node, Service, Task
from swarmpy.model.states import NodeState, is_terminal

STATIC_OPTIONS: Final = {IPV4: IPV4_OPTION, IPV6: IPV6_OPTION}


class NoAddress(Exception):
    """Why a place in a network can't be had now; a sentence for users, the same until the cause changes."""


class Addresses:
    """Where to look next, for one term of leadership; shared by all that give addresses out."""

    def __init__(self) -> None:
        self._spaces: dict[NetworkId, Space] = {}
        self._early: dict[NetworkId, deque[str]] = {}
        """What was released in networks in which nothing was looked for until now."""

    def claims(self, view: View) -> Claims:
        """For one plan over this view."""
        return Claims(self, view)

    def note_released(self, old: object | None, new: object | None) -> tuple[NetworkId, ...]:
        """Remember what a stored change released; the networks in which it did."""
        before, after = _holdings_of(old, new)
        released: dict[NetworkId, None] = {}
        for key in before:
            if key not in after:
                network_id, _, address = key.partition(" ")
                released[NetworkId(network_id)] = None
                if address:
                    self._rest(NetworkId(network_id), address)
        return tuple(released)

    def _rest(self, network_id: NetworkId, address: str) -> None:
        space = self._spaces.get(network_id)
        if space is not None:
            space.rest(address)
        else:
            self._early.setdefault(network_id, deque(maxlen=ADDRESSES_RESTING_MAX)).append(address)

    def put_back(self, attachment: NetworkAttachment) -> None:
        """What was chosen is not wanted after all."""
        space = self._spaces.get(attachment.network_id)
        if space is not None:
            for address in attachment.addresses:
                space.put_back(address.partition("/")[0])

    def forget(self, network_id: NetworkId) -> None:
        """The network is gone."""
        self._spaces.pop(network_id, None)
        self._early.pop(network_id, None)

    def keep_only(self, network_ids: Iterable[NetworkId]) -> None:
        """The networks that there are."""
        kept = set(network_ids)
        self._spaces = {id_: space for id_, space in self._spaces.items() if id_ in kept}
        self._early = {id_: addresses for id_, addresses in self._early.items() if id_ in kept}

    def space(self, view: View, network: Network) -> Space:
        space = self._spaces.get(network.id)
        if space is None or space.options != network.ipam_options:
            space = self._spaces[network.id] = Space(view, network)
            for address in self._early.pop(network.id, ()):
                space.rest(address)
        return space


class Claims:
    """What one plan gives out."""

    def __init__(self, addresses: Addresses, view: View) -> None:
        self._addresses = addresses
        self._view = view
        self._taken: set[str] = set()
        self._counts: dict[NetworkId, int] = {}
        """By network the places that were given out."""
        self._full: dict[tuple[NetworkId, int], str] = {}
        """By network and family why there is nothing left; family 0: why there is no subnet."""

    def attachments(self, places: Iterable[Place]) -> tuple[NetworkAttachment, ...]:
        """A place in each of these networks, or ``NoAddress`` and none at all."""
        given: list[NetworkAttachment] = []
        try:
            for place in places:
                attachment = self._attachment(place)
                given.append(attachment)
        except NoAddress:
            for attachment in reversed(given):
                self._give_back(attachment)
            raise
        return tuple(given)

    def virtual(self, network: Network) -> tuple[str, ...]:
        """An address of each of the network's families, with prefix; or ``NoAddress``."""
        return self.attachments((Place(network),))[0].addresses

    def is_held(self, network_id: NetworkId, address: str) -> bool:
        return holder_key(network_id, address) in self._taken or bool(
            self._view.holders_of(network_id, address)
        )

    def _attachment(self, place: Place) -> NetworkAttachment:
        network, wish = place.network, place.wish
        if not has_addresses(network.spec):
            return NetworkAttachment(network_id=network.id, aliases=wish.aliases)
        if network.ipam_options is None:
            raise NoAddress(self._without_subnet(network))
        space = self._addresses.space(self._view, network)
        found: list[str] = []
        for version in FAMILIES:
            static = wish.driver_opts.get(STATIC_OPTIONS[version], "") if wish.driver_opts else ""
            if static:
                found.append(self._static(space, version, static))
            elif version in space.families:
                found.append(self._next(space, version))
        mac = self._mac(space, wish.driver_opts, found) if wish.driver_opts else ""
        given = NetworkAttachment(
            network_id=network.id, addresses=tuple(found), aliases=wish.aliases, mac=mac
        )
        self._taken.update(held_by((given,)))
        self._counts[network.id] = self._counts.get(network.id, 0) + 1
        return given

    def _give_back(self, attachment: NetworkAttachment) -> None:
        self._taken.difference_update(held_by((attachment,)))
        self._counts[attachment.network_id] = self._counts.get(attachment.network_id, 0) - 1
        self._addresses.put_back(attachment)

    def _without_subnet(self, network: Network) -> str:
        key = (network.id, 0)
        if key not in self._full:
            reason = why_unallocated(self._view, network)
            self._full[key] = f"network {network.spec.name} has no subnet" + (
                f": {reason}" if reason else " yet"
            )
        return self._full[key]

    # --- one that is free

    def _next(self, space: Space, version: int) -> str:
        network_id, family = space.network_id, space.families[version]
        known = self._full.get((network_id, version))
        if known is not None:
            raise NoAddress(known)
        holders = self._view.holder_count(network_id) + self._counts.get(network_id, 0)
        if holders < family.capacity or family.is_partial:
            chosen = family.choose(lambda address: self.is_held(network_id, address))
            if chosen is not None:
                return chosen
        reason = (
            f"could not find an available IP on network {space.name}: "
            f"all {family.capacity} addresses of {family} are in use"
        )
        self._full[network_id, version] = reason
        raise NoAddress(reason)

    # --- one that was asked for

    def _static(self, space: Space, version: int, wished: str) -> str:
        family = space.families.get(version)
        taken = []
        for text in listed(wished):
            try:
                known_version, number = parse_address(text)
            except InvalidArgument as error:
                raise NoAddress(f"could not find an available IP on network {space.name}: {error}") from None
            block = family.block_for(number) if family is not None and known_version == version else None
            if block is None:
                subnets = ", ".join(str(each) for each in space.families.values())
                raise NoAddress(
                    f"requested address {text} is out of range: "
                    f"network {space.name} has {subnets}, without gateway and auxiliary addresses"
                )
            address = text_of(number, version)
            if not self.is_held(space.network_id, address):
                return f"{address}/{block.prefix}"
            taken.append(address)
        are = "is" if len(taken) == 1 else "are"
        raise NoAddress(
            f"could not find an available IP on network {space.name}: {', '.join(taken)} {are} in use"
            + self._doubt(space.network_id, taken)
        )

    def _doubt(self, network_id: NetworkId, taken: Iterable[str]) -> str:
        """A task on a node that is down may run on: it has its address until somebody says otherwise."""
        holders = [holder for address in taken for holder in self._view.holders_of(network_id, address)]
        nodes = [self._view.node(holder.node_id) for holder in holders if isinstance(holder, Task)]
        down = sorted(node.id for node in nodes if node is not None and node.status.state is NodeState.DOWN)
        if not down:
            return ""
        return f" on node {down[0]}, which is down: if it is gone for good, remove it"

    def _mac(self, space: Space, options: Mapping[str, str], addresses: Iterable[str]) -> str:
        """The first free one of the wished MACs; nothing if none is wished, or the address's own is."""
        wished = options.get(MAC_OPTION, "")
        if not wished:
            return ""
        own = {holder_key(space.network_id, address.partition("/")[0]) for address in addresses}
        taken = []
        for text in listed(wished):
            mac = normal_mac(text)
            error = mac_error(mac)
            if error:
                raise NoAddress(f"invalid MAC address {text}: {error}")
            claim = NetworkAttachment(network_id=space.network_id, mac=mac)
            keys = [key for key in held_by((claim,)) if " " in key and key not in own]
            if not any(self.is_held(space.network_id, key.partition(" ")[2]) for key in keys):
                return mac
            taken.append(mac)
        are = "is" if len(taken) == 1 else "are"
        raise NoAddress(f"MAC address {', '.join(taken)} {are} in use on network {space.name}")


def has_released(old: object | None, new: object | None) -> bool:
    """Whether a stored change released an address."""
    before, after = _holdings_of(old, new)
    return any(key not in after for key in before)


def _holdings_of(old: object | None, new: object | None) -> tuple[Collection[str], Collection[str]]:
    """What a stored change's object held before it, and holds now; nothing twice if that is the same."""
    match old:
        case Task():
            now = new if isinstance(new, Task) else None
            if now is not None and now.networks is old.networks and not is_terminal(now.status.state):
                return (), ()
            return held_by_task(old), held_by_task(now) if now is not None else ()
        case Service():
            service = new if isinstance(new, Service) else None
            return held_by_service(old), held_by_service(service) if service is not None else ()
        case Node():
            node = new if isinstance(new, Node) else None
            return held_by_node(old), held_by_node(node) if node is not None else ()
    return (), ()
