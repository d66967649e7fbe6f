"""Host-mode ports of this node: each has one owner, and no program of the node may take it meanwhile.

A published port is forwarded before it reaches any local socket, so a program that listened on it would be
cut off without knowing. A bound socket per port (that never listens) makes the conflict an error on the side
that came second.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable

from agent.dataplane.base import HostPort
from swarmpy.errors import TaskRejected, Unavailable
from swarmpy.model.ids import TaskId

_KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
_PORT_MAX = 65_535
_Key = tuple[str, int]


class PortReservations:
    """To be used from one thread, whose network namespace is the node's."""

    def __init__(self) -> None:
        self._owners: dict[_Key, TaskId] = {}
        self._sockets: dict[_Key, socket.socket] = {}

    def reserve(self, task_id: TaskId, ports: Iterable[HostPort]) -> None:
        """All or none. Unavailable while one is taken: its owner may be about to go."""
        wanted = [_key(port) for port in ports]
        for key in wanted:
            owner = self._owners.get(key)
            if owner is not None and owner != task_id:
                raise Unavailable(
                    f"Bind for 0.0.0.0:{key[1]} failed: port is already allocated (task {owner})"
                )
        try:
            for key in wanted:
                if key not in self._owners:
                    self._sockets[key] = _bind(key)
                self._owners[key] = task_id
        except Unavailable:
            self.release(task_id)
            raise

    def take_back(self, task_id: TaskId, ports: Iterable[HostPort]) -> None:
        """After a restart: the ports are this task's, whether or not somebody has bound them since."""
        for port in ports:
            key = _key(port)
            self._owners[key] = task_id
            if key not in self._sockets:
                try:
                    self._sockets[key] = _bind(key)
                except Unavailable:
                    continue  # forwarding goes first; the program that took the port gets nothing

    def release(self, task_id: TaskId) -> None:
        for key in [key for key, owner in self._owners.items() if owner == task_id]:
            del self._owners[key]
            if key in self._sockets:
                self._sockets.pop(key).close()

    def close(self) -> None:
        for taken in self._sockets.values():
            taken.close()
        self._sockets.clear()
        self._owners.clear()


def _key(port: HostPort) -> _Key:
    if port.protocol not in _KINDS:
        raise TaskRejected(f"ports of protocol {port.protocol!r} cannot be published in host mode")
    if not (0 < port.published_port <= _PORT_MAX and 0 < port.target_port <= _PORT_MAX):
        raise TaskRejected(f"{port.published_port}:{port.target_port} is no pair of ports")
    return port.protocol, port.published_port


def _bind(key: _Key) -> socket.socket:
    protocol, number = key
    sock = socket.socket(socket.AF_INET, _KINDS[protocol])
    try:
        sock.bind(("0.0.0.0", number))
    except OSError as error:
        sock.close()
        reason = "port is already allocated" if error.errno == errno.EADDRINUSE else error.strerror
        raise Unavailable(f"Bind for 0.0.0.0:{number} failed: {reason}") from None
    return sock
