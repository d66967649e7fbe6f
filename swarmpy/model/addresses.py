"""Addresses as objects have them, with or without a prefix, and what follows from them."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address
from typing import Final

_MAC_PREFIX: Final = "02:42:"
"""Locally administered, as docker's are."""
_MAC_BYTES: Final = 4
"""Of the address in the MAC: the last ones."""


def bare(address: str) -> str:
    """The address without its prefix."""
    return address.partition("/")[0]


def bares(addresses: Iterable[str]) -> tuple[str, ...]:
    return tuple(bare(address) for address in addresses)


def mac_of(address: str) -> str:
    """The MAC that follows from an address: all nodes come to the same, so nobody has to be told."""
    return _MAC_PREFIX + ip_address(bare(address)).packed[-_MAC_BYTES:].hex(":")
