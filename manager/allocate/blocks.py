"""Blocks of addresses: what a network's address management settings come to, in numbers.

A network has one block or more of each family. Of a block's subnet the first address stands for the network
itself and, in IPv4, the last for all its hosts; both stay free, but in subnets that are too small for that
(/31 and /32, /127 and /128). The gateway's address and the auxiliary ones belong to others. What is left of
the range, or of the subnet where there is no range, is handed out.
"""

from __future__ import annotations

import ipaddress
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from swarmpy.errors import InvalidArgument
from swarmpy.model.cluster_specs import IPAMConfig

IPV4: Final = 4
IPV6: Final = 6
BITS: Final = {IPV4: 32, IPV6: 128}

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Block:
    """``first`` to ``last`` are handed out, but for ``reserved``; ``lowest`` to ``highest`` may be asked for,
    but for those."""

    version: int
    prefix: int
    start: int
    lowest: int
    highest: int
    first: int
    last: int
    reserved: frozenset[int]

    @property
    def size(self) -> int:
        """Numbers between ``first`` and ``last``, reserved ones among them."""
        return max(self.last - self.first + 1, 0)

    @property
    def capacity(self) -> int:
        """Addresses that can be handed out."""
        return self.size - sum(1 for number in self.reserved if self.first <= number <= self.last)

    @property
    def is_partial(self) -> bool:
        """Whether less is handed out than may be asked for."""
        return self.first > self.lowest or self.last < self.highest

    def is_open(self, number: int) -> bool:
        """Whether somebody may have the address, if they ask for it."""
        return self.lowest <= number <= self.highest and number not in self.reserved

    def __str__(self) -> str:
        return f"{text_of(self.start, self.version)}/{self.prefix}"


def block_of(config: IPAMConfig) -> Block:
    """``config`` has a subnet; ``InvalidArgument`` if it makes no sense."""
    subnet = parse_subnet(config.subnet)
    version = subnet.version
    start, end = int(subnet.network_address), int(subnet.broadcast_address)
    is_tiny = subnet.prefixlen >= subnet.max_prefixlen - 1
    lowest = start if is_tiny else start + 1
    highest = end if is_tiny or version == IPV6 else end - 1
    first, last = lowest, highest
    if config.ip_range:
        chosen = parse_subnet(config.ip_range)
        if chosen.version != version or not start <= int(chosen.network_address) <= end:
            raise InvalidArgument(f"no matching subnet for range {config.ip_range}")
        first = max(first, int(chosen.network_address))
        last = min(last, int(chosen.broadcast_address))
    reserved = [
        _inside(subnet, address, f"aux-address {address}")
        for _, address in sorted(config.auxiliary_addresses.items())
    ]
    if config.gateway:
        reserved.append(_inside(subnet, config.gateway, f"gateway {config.gateway}"))
    return Block(version, subnet.prefixlen, start, lowest, highest, first, last, frozenset(reserved))


def first_host(config: IPAMConfig) -> str:
    """The gateway that a subnet gets: its first address that is no auxiliary one."""
    block = block_of(config)
    number = next(
        (n for n in range(block.lowest, block.lowest + len(block.reserved) + 1) if block.is_open(n)), None
    )
    if number is None:
        raise InvalidArgument(f"subnet {config.subnet} has no address left for a gateway")
    return text_of(number, block.version)


def parse_subnet(text: str) -> IPNetwork:
    """A subnet as people write it; bits of a host in it are dropped."""
    try:
        if "/" not in text:
            raise ValueError
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise InvalidArgument(f"invalid subnet {text}: invalid CIDR block notation") from None


def parse_address(text: str) -> tuple[int, int]:
    """Family and number; ``InvalidArgument``."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise InvalidArgument(f"invalid IP address: {text}") from None
    return address.version, int(address)


def text_of(number: int, version: int) -> str:
    if version == IPV4:
        return f"{number >> 24}.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
    return str(ipaddress.IPv6Address(number))


def _inside(subnet: IPNetwork, text: str, what: str) -> int:
    version, number = parse_address(text.partition("/")[0])
    is_inside = int(subnet.network_address) <= number <= int(subnet.broadcast_address)
    if version != subnet.version or not is_inside:
        raise InvalidArgument(f"no matching subnet for {what}")
    return number


class Spans:
    """A set of numbers, kept as spans that are apart from each other."""

    def __init__(self, spans: Iterable[tuple[int, int]] = ()) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        for first, last in sorted(spans):
            self.add(first, last)

    def clash(self, first: int, last: int) -> int | None:
        """The end of the taken span that reaches into ``first`` to ``last``; None: all of it is free."""
        at = bisect_right(self._firsts, last) - 1
        return self._lasts[at] if at >= 0 and self._lasts[at] >= first else None

    def add(self, first: int, last: int) -> None:
        begin = bisect_left(self._lasts, first)
        end = bisect_right(self._firsts, last)
        if begin < end:
            first, last = min(first, self._firsts[begin]), max(last, self._lasts[end - 1])
        self._firsts[begin:end] = [first]
        self._lasts[begin:end] = [last]
