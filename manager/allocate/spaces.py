"""``Space``: the addresses of one network, and where in them to look next.

Searching goes round: first through what was not looked at in this term, then through what was released in it,
the oldest first. What is free and in neither of the two, since a proposal failed, is found by a second round.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from manager.allocate.blocks import IPV4, IPV6, Block, block_of, parse_address, text_of
from manager.allocate.macs import mac_error
from manager.store.view import View
from swarmpy.limits import ADDRESSES_RESTING_MAX
from swarmpy.model.ids import NetworkId, Timestamp
from swarmpy.model.objects import Network, NetworkAttachment

FAMILIES: Final = (IPV4, IPV6)

_IsHeld = Callable[[str], bool]
_Age = tuple[Timestamp, int]


class Space:
    """One network's addresses, by family."""

    def __init__(self, view: View, network: Network) -> None:
        assert network.ipam_options is not None
        self.network_id = network.id
        self.name = network.spec.name
        self.options = network.ipam_options
        self.families: dict[int, Family] = {}
        blocks = [block_of(config) for config in network.ipam_options.configs]
        for version in FAMILIES:
            own = tuple(block for block in blocks if block.version == version)
            if own:
                self.families[version] = Family(own)
        youngest = max(_places_in(view, network.id), key=lambda found: found[0], default=None)
        for address in youngest[1].addresses if youngest is not None else ():
            version, number = parse_address(address.partition("/")[0])
            family = self.families.get(version)
            if family is not None:
                family.go_on_after(number)

    def rest(self, address: str) -> None:
        family = self.families.get(IPV6 if ":" in address else IPV4)
        if family is not None and mac_error(address):  # a MAC that was wished for needs no rest
            family.rest(address)

    def put_back(self, address: str) -> None:
        family = self.families.get(IPV6 if ":" in address else IPV4)
        if family is not None:
            family.put_back(address)


@dataclass(frozen=True, slots=True)
class _Turn:
    """Where a block begins in the row of all blocks of a family."""

    offset: int
    block: Block


class Family:
    """The blocks of one family in a row, and where to look next in it."""

    def __init__(self, blocks: tuple[Block, ...]) -> None:
        self._version = blocks[0].version
        self._turns: list[_Turn] = []
        self.size = 0
        for block in blocks:
            self._turns.append(_Turn(self.size, block))
            self.size += block.size
        self.capacity = sum(block.capacity for block in blocks)
        self.is_partial = any(block.is_partial for block in blocks)
        """Somebody may hold an address that we would not have given out: counting holders does not tell."""
        self._next = 0
        self._left = self.size
        """How much of the row has not been looked at; after that only what was released is worth a look."""
        self._resting: OrderedDict[str, None] = OrderedDict()

    def __str__(self) -> str:
        return ", ".join(str(turn.block) for turn in self._turns)

    def block_for(self, number: int) -> Block | None:
        """The block in which somebody may have this address."""
        return next((turn.block for turn in self._turns if turn.block.is_open(number)), None)

    def go_on_after(self, number: int) -> None:
        """Begin the next search behind this address."""
        for turn in self._turns:
            block = turn.block
            if block.first <= number <= block.last and number not in block.reserved:
                self._next = (turn.offset + number - block.first + 1) % self.size
                return

    def rest(self, address: str) -> None:
        self._resting[address] = None
        self._resting.move_to_end(address)
        if len(self._resting) > ADDRESSES_RESTING_MAX:
            self._resting.popitem(last=False)

    def put_back(self, address: str) -> None:
        """Of those that rest the next one to be given out."""
        self._resting[address] = None
        self._resting.move_to_end(address, last=False)

    def choose(self, is_held: _IsHeld) -> str | None:
        """A free address with its prefix. ``None``: every one is held."""
        for _ in range(2):  # what is free and in neither place (a proposal failed) is found by a second look
            found = self._unused(is_held) or self._rested(is_held)
            if found is not None:
                return found
            self._left = self.size
        return None

    def _unused(self, is_held: _IsHeld) -> str | None:
        while self._left:
            offset = self._next
            self._next = (offset + 1) % self.size
            self._left -= 1
            block, number = self._at(offset)
            if number in block.reserved:
                continue
            address = text_of(number, self._version)
            if address not in self._resting and not is_held(address):
                return f"{address}/{block.prefix}"
        return None

    def _rested(self, is_held: _IsHeld) -> str | None:
        while self._resting:
            address, _ = self._resting.popitem(last=False)
            block = self._giving(parse_address(address)[1])
            if block is not None and not is_held(address):
                return f"{address}/{block.prefix}"
        return None

    def _at(self, offset: int) -> tuple[Block, int]:
        turn = self._turns[0]
        if len(self._turns) > 1:
            turn = next(each for each in reversed(self._turns) if each.offset <= offset)
        return turn.block, turn.block.first + offset - turn.offset

    def _giving(self, number: int) -> Block | None:
        """The block of which we would give this address out."""
        for turn in self._turns:
            block = turn.block
            if block.first <= number <= block.last and number not in block.reserved:
                return block
        return None


def _places_in(view: View, network_id: NetworkId) -> Iterator[tuple[_Age, NetworkAttachment]]:
    """Who has addresses in the network, and since when."""
    for task in view.tasks_of_network(network_id):
        for attachment in task.networks:
            if attachment.network_id == network_id:
                yield (task.created_at, task.version), attachment
    for service in view.services_on_network(network_id):
        virtual = [each.addr for each in service.endpoint.virtual_ips if each.network_id == network_id]
        if virtual:
            addresses = tuple(virtual)
            yield (
                (service.created_at, service.version),
                NetworkAttachment(network_id=network_id, addresses=addresses),
            )
    for node in view.nodes():
        for attachment in node.attachments:
            if attachment.network_id == network_id:
                yield (node.created_at, node.version), attachment
