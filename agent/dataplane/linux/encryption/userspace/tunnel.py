"""The device of the user-space port: packets out of the kernel and into it, many TCP segments at once.

The kernel tells with each packet what is left to do of it: a checksum, and on kernels that hand over VXLAN
packets of many segments whole (6.17 and later), how to cut them. That goes to the other side in few bytes:

    0 · packet                        nothing is left to do
    1 · start, offset · packet        a checksum is
    2 · the kernel's head · packet    it has many segments

It takes such packets only from a device with Ethernet heads; so they are put on here, all with one address,
which every such device has: nobody asks for neighbours on it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from typing import Final

_TUNSETIFF: Final = 0x400454CA
_TUNSETOFFLOAD: Final = 0x400454D0
_TUNSETVNETHDRSZ: Final = 0x400454D8
_TUNSETVNETLE: Final = 0x400454DC
_SIOCSIFHWADDR: Final = 0x8924
_ARPHRD_ETHER: Final = 1
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
_OFFLOAD_CHECKSUM: Final = 0x01
_OFFLOAD_LARGE: Final = 0x01 | 0x02 | 0x04 | 0x80
"""Checksums, TCP segments of both families, and those within UDP tunnels."""
_HEAD = struct.Struct("<BBHHHHHIHHHH")
"""struct virtio_net_hdr_v1_hash_tunnel. Kernels that know no tunnels leave its end alone."""
_NEEDS_CHECKSUM: Final = 1
_PLAIN, _CHECKSUM, _LARGE = 0, 1, 2
_CHECKSUM_HEAD = struct.Struct("<BHH")
_NONE: Final = bytes(_HEAD.size)
_MAC: Final = bytes.fromhex("02535a000001")
_ETHERNET: Final = {4: _MAC * 2 + b"\x08\x00", 6: _MAC * 2 + b"\x86\xdd"}
"""By the version of IP."""
_BEFORE_PACKET: Final = _HEAD.size + 14

PACKET_BYTES_MAX: Final = (1 << 16) + _BEFORE_PACKET


class Tunnel:
    """Made with its device; the device goes with it."""

    def __init__(self, name: str) -> None:
        self.fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR
        fcntl.ioctl(self.fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
        fcntl.ioctl(self.fd, _TUNSETVNETHDRSZ, struct.pack("i", _HEAD.size))
        fcntl.ioctl(self.fd, _TUNSETVNETLE, struct.pack("i", 1))
        fcntl.ioctl(self.fd, _SIOCSIFHWADDR, struct.pack("16sH6s16x", b"", _ARPHRD_ETHER, _MAC))
        self.set_large(False)
        self._buffer = bytearray(PACKET_BYTES_MAX)
        self._view = memoryview(self._buffer)

    def set_large(self, is_large: bool) -> None:
        """Whether packets of many segments are handed over, and taken. OSError if the kernel cannot."""
        fcntl.ioctl(self.fd, _TUNSETOFFLOAD, _OFFLOAD_LARGE if is_large else _OFFLOAD_CHECKSUM)

    def read(self) -> memoryview | None:
        """A packet, valid until the next call, with the kernel's head before it; None if there is none."""
        try:
            size = os.readv(self.fd, [self._buffer])
        except BlockingIOError:
            return None
        return self._view[:size] if size > _BEFORE_PACKET else None

    def write(self, message: bytes) -> bool:
        """A message of the other side's ``message_of``. False if the kernel does not take it."""
        kind = message[0] if message else -1
        if kind == _PLAIN:
            head = _NONE
        elif kind == _CHECKSUM and len(message) >= _CHECKSUM_HEAD.size:
            _, start, offset = _CHECKSUM_HEAD.unpack_from(message)
            head = _HEAD.pack(_NEEDS_CHECKSUM, 0, 0, 0, start, offset, 0, 0, 0, 0, 0, 0)
        elif kind == _LARGE and len(message) > _HEAD.size:
            head = message[1 : 1 + _HEAD.size]
        else:
            return False
        packet = packet_of(message)
        ethernet = _ETHERNET.get(packet[0] >> 4) if packet else None
        if ethernet is None:
            return False
        try:
            os.writev(self.fd, (head, ethernet, packet))
        except OSError as error:
            if error.errno in (errno.EBADF, errno.ENODEV):
                raise
            return False  # it is down, out of memory, or does not know such packets
        return True

    def close(self) -> None:
        os.close(self.fd)


def packet_in(raw: memoryview) -> memoryview:
    """The packet of what ``read`` gave."""
    return raw[_BEFORE_PACKET:]


def message_of(raw: memoryview) -> bytes:
    """What is sent to the other side of what ``read`` gave."""
    flags, segments, _, _, start, offset, *_ = _HEAD.unpack_from(raw)
    if segments:
        return b"".join((bytes([_LARGE]), raw[: _HEAD.size], raw[_BEFORE_PACKET:]))
    if flags & _NEEDS_CHECKSUM:
        return _CHECKSUM_HEAD.pack(_CHECKSUM, start, offset) + raw[_BEFORE_PACKET:]
    return bytes([_PLAIN]) + raw[_BEFORE_PACKET:]


def packet_of(message: bytes) -> memoryview:
    """The packet of what ``message_of`` made; empty if it made none of this."""
    size = {_PLAIN: 1, _CHECKSUM: _CHECKSUM_HEAD.size, _LARGE: 1 + _HEAD.size}.get(message[0], len(message))
    return memoryview(message)[size:]
