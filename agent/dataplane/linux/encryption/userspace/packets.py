"""What may pass through the user-space port: VXLAN between the two nodes of a key, and nothing else. Pure."""

from __future__ import annotations

from ipaddress import ip_address
from socket import IPPROTO_UDP
from typing import Final

_IPV4_HEAD_BYTES: Final = 20
_IPV6_HEAD_BYTES: Final = 40
_UDP_HEAD_BYTES: Final = 8


def target_of(packet: memoryview) -> bytes:
    """The address that it goes to; empty if it is no packet."""
    version = packet[0] >> 4 if packet else 0
    if version == 4 and len(packet) >= _IPV4_HEAD_BYTES:
        return bytes(packet[16:20])
    if version == 6 and len(packet) >= _IPV6_HEAD_BYTES:
        return bytes(packet[24:40])
    return b""


class Passage:
    """From ``source`` to ``target``, UDP to ``port``."""

    def __init__(self, source: str, target: str, port: int) -> None:
        self._ends = ip_address(source).packed + ip_address(target).packed
        self._port = port.to_bytes(2, "big")
        self._is_ipv4 = ip_address(source).version == 4

    def has(self, packet: memoryview) -> bool:
        if self._is_ipv4:
            return (
                len(packet) >= _IPV4_HEAD_BYTES + _UDP_HEAD_BYTES
                and packet[0] == 0x45
                and packet[9] == IPPROTO_UDP
                and packet[12:20] == self._ends
                and packet[22:24] == self._port
            )
        return (
            len(packet) >= _IPV6_HEAD_BYTES + _UDP_HEAD_BYTES
            and packet[0] >> 4 == 6
            and packet[6] == IPPROTO_UDP
            and packet[8:40] == self._ends
            and packet[42:44] == self._port
        )
