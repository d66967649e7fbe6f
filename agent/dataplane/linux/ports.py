"""Published ports of this node: each has one owner, and no program of the node may take it meanwhile.

A published port is forwarded before it reaches any local socket, so a program that listened on it would be
cut off without knowing. A bound socket per port (that never listens) makes the conflict an error on the side
that came second. The kernel decides what is in conflict: an address with all addresses, for one.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable
from ipaddress import ip_address

from agent.dataplane.base import HostPort
from swarmpy.errors import TaskRejected, Unavailable

_SCTP = 132
_KINDS = {
    "tcp": (socket.SOCK_STREAM, 0),
    "udp": (socket.SOCK_DGRAM, 0),
    "sctp": (socket.SOCK_STREAM, _SCTP),
}
_PORT_MAX = 65_535
_LINK_NAME_BYTES_MAX = 15
_UNSUPPORTED = frozenset({errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT, errno.EAFNOSUPPORT})
_Key = tuple[str, int, str]


class PortReservations:
    """To be used from one thread, whose network namespace is the node's. Owners are tasks, or the mesh."""

    def __init__(self) -> None:
        self._owners: dict[_Key, str] = {}
        self._sockets: dict[_Key, socket.socket] = {}

    def reserve(self, owner: str, ports: Iterable[HostPort]) -> None:
        """All or none of ``ports``. Unavailable while one is taken: its owner may be about to go."""
        wanted = [_key(port) for port in ports]
        for key in wanted:
            other = self._owners.get(key)
            if other is not None and other != owner:
                raise Unavailable(f"{_failure(key)}: port is already allocated ({other})")
        taken = []
        try:
            for key in wanted:
                if key not in self._owners:
                    self._bind(key)
                    self._owners[key] = owner
                    taken.append(key)
        except Unavailable:
            self._drop(taken)
            raise

    def take_back(self, owner: str, ports: Iterable[HostPort]) -> None:
        """After a restart: the ports are this owner's, whether or not somebody has bound them since."""
        for port in ports:
            key = _key(port)
            self._owners[key] = owner
            if key not in self._sockets:
                try:
                    self._bind(key)
                except Unavailable:
                    continue  # forwarding goes first; the program that took the port gets nothing

    def release(self, owner: str, ports: Iterable[HostPort] | None = None) -> None:
        """These ports, or all of the owner's."""
        keys = self._owners if ports is None else map(_key, ports)
        self._drop([key for key in keys if self._owners.get(key) == owner])

    def close(self) -> None:
        for taken in self._sockets.values():
            taken.close()
        self._sockets.clear()
        self._owners.clear()

    def _drop(self, keys: Iterable[_Key]) -> None:
        for key in keys:
            del self._owners[key]
            if key in self._sockets:
                self._sockets.pop(key).close()

    def _bind(self, key: _Key) -> None:
        protocol, number, host = key
        is_address = _is_address(host)
        family = socket.AF_INET6 if ":" in host and is_address else socket.AF_INET
        try:
            sock = socket.socket(family, *_KINDS[protocol])
        except OSError as error:
            if error.errno in _UNSUPPORTED:
                return  # so no program can listen there either
            raise Unavailable(f"{_failure(key)}: {error.strerror}") from None
        try:
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if host and not is_address:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, host.encode())
            sock.bind((host if is_address else "0.0.0.0", number))
        except OSError as error:
            sock.close()
            reason = "port is already allocated" if error.errno == errno.EADDRINUSE else error.strerror
            raise Unavailable(f"{_failure(key)}: {reason}") from None
        self._sockets[key] = sock


def _key(port: HostPort) -> _Key:
    if port.protocol not in _KINDS:
        raise TaskRejected(f"ports of protocol {port.protocol!r} cannot be published")
    if not (0 < port.published_port <= _PORT_MAX and 0 < port.target_port <= _PORT_MAX):
        raise TaskRejected(f"{port.published_port}:{port.target_port} is no pair of ports")
    host = "" if port.host_ip == "0.0.0.0" else port.host_ip
    if not _is_address(host) and len(host.encode()) > _LINK_NAME_BYTES_MAX:
        raise TaskRejected(f"{host!r} is neither an address nor an interface of a node")
    return port.protocol, port.published_port, host


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _failure(key: _Key) -> str:
    host = f"[{key[2]}]" if ":" in key[2] else key[2] or "0.0.0.0"
    return f"Bind for {host}:{key[1]} failed"
