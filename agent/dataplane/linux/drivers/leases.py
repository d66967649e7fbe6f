"""Leases of tasks that have their addresses from the LAN: one thread for all of a node's.

Each lease has two sockets in its task's namespace, one for DHCP and one to set the address. What a server
gives is set at once; what it does not renew is taken off. A lease is given back when its task goes. After a
restart of the daemon a lease is asked for anew: servers know the MAC, and the address that stands is kept
until they give another one.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
import zlib
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

import structlog

from agent.dataplane.base import Leg
from agent.dataplane.linux import namespaces, netlink
from agent.dataplane.linux.drivers import dhcp, links
from agent.dataplane.linux.netlink import Netlink
from swarmpy.errors import Unavailable
from swarmpy.limits import DHCP_LEASES_MAX
from swarmpy.model.ids import TaskId

_log = structlog.get_logger(__name__)

_SO_BINDTODEVICE = 25
_MESSAGE_BYTES_MAX = 4096
_GONE = frozenset({19, 99})
"""ENODEV, EADDRNOTAVAIL."""


@dataclass(slots=True)
class _Lease:
    task_id: TaskId
    link: str
    client: dhcp.Client
    sock: socket.socket
    inside: Netlink
    is_way_out: bool


class Leases:
    """Called from the kernel's thread; the leases' own thread runs while there are any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._leases: dict[tuple[TaskId, str], _Lease] = {}
        self._thread: threading.Thread | None = None
        self._stir, self._stirred = -1, -1

    def start(self, task_id: TaskId, leg: Leg, path: Path, *, is_way_out: bool) -> None:
        """Ask for an address, unless that goes on already."""
        key = task_id, leg.link
        with self._lock:
            if key in self._leases:
                return
            if len(self._leases) >= DHCP_LEASES_MAX:
                raise Unavailable(f"this node holds {DHCP_LEASES_MAX} DHCP leases already")
        xid = zlib.crc32(f"{task_id} {leg.link}".encode())
        client = dhcp.Client(leg.mac, xid=xid, hostname=task_id[:12])
        with namespaces.inside(path):
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            inside = Netlink()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.setsockopt(socket.SOL_SOCKET, _SO_BINDTODEVICE, leg.link.encode())
        sock.bind(("", dhcp.CLIENT_PORT))
        sock.setblocking(False)
        lease = _Lease(task_id, leg.link, client, sock, inside, is_way_out)
        with self._lock:
            self._leases[key] = lease
            self._act(lease, client.start(time.monotonic()))
            if self._thread is None:
                self._stirred, self._stir = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
                self._thread = threading.Thread(target=self._run, name="dhcp", daemon=True)
                self._thread.start()
        self._wake_thread()

    def is_settled(self, task_id: TaskId) -> bool:
        with self._lock:
            return all(
                lease.client.grant is not None for lease in self._leases.values() if lease.task_id == task_id
            )

    def stop(self, task_id: TaskId, link: str, *, is_released: bool = True) -> None:
        with self._lock:
            lease = self._leases.pop((task_id, link), None)
            if lease is not None:
                if is_released:
                    self._act(lease, lease.client.release())
                lease.sock.close()
                lease.inside.close()
        self._wake_thread()

    def release(self, task_id: TaskId) -> None:
        """All leases of a task that goes."""
        for owner, link in list(self._leases):
            if owner == task_id:
                self.stop(owner, link)

    def stop_all(self) -> None:
        """Let go without giving back, and end the thread."""
        for owner, link in list(self._leases):
            self.stop(owner, link, is_released=False)
        if self._thread is not None:
            self._thread.join()
            self._thread = None
            os.close(self._stir)
            os.close(self._stirred)

    def _wake_thread(self) -> None:
        if self._thread is not None:
            with contextlib.suppress(BlockingIOError):  # full: it is about to wake up
                os.write(self._stir, b"!")

    # --- the thread

    def _run(self) -> None:
        """Until there are no leases and somebody waits for the end."""
        is_idle = False
        while True:
            with self._lock:
                socks = {lease.sock.fileno(): lease for lease in self._leases.values()}
                wake_at = min((lease.client.wake_at for lease in self._leases.values()), default=None)
            if not socks and is_idle:
                return
            timeout = 0.0 if not socks else max(0.0, (wake_at or 0.0) - time.monotonic())
            poll = select.poll()
            for fd in (self._stirred, *socks):
                poll.register(fd, select.POLLIN)
            ready = [fd for fd, _ in poll.poll(timeout * 1000)]
            is_idle = not socks
            if self._stirred in ready:
                os.read(self._stirred, _MESSAGE_BYTES_MAX)
            with self._lock:
                for fd in ready:
                    if fd in socks and socks[fd].sock.fileno() == fd:
                        self._receive(socks[fd])
                now = time.monotonic()
                for lease in list(self._leases.values()):
                    if lease.client.wake_at <= now:
                        self._act(lease, lease.client.wake(now))

    def _receive(self, lease: _Lease) -> None:
        with contextlib.suppress(OSError):  # an ICMP error of an earlier message
            data = lease.sock.recv(_MESSAGE_BYTES_MAX)
            self._act(lease, lease.client.take(data, time.monotonic()))

    def _act(self, lease: _Lease, actions: list[dhcp.Action]) -> None:
        for action in actions:
            try:
                match action:
                    case dhcp.Send(payload, to):
                        lease.sock.sendto(payload, (to, dhcp.SERVER_PORT))
                    case dhcp.Bind(grant):
                        self._bind(lease, grant)
                    case dhcp.Unbind(grant):
                        index = _index(lease)
                        lease.inside.do(links.delete_address(index, grant.address), accept=_GONE)
            except OSError as error:  # it is tried again when the client wakes up
                _log.warning("lease_not_followed", task_id=lease.task_id, error=str(error))

    def _bind(self, lease: _Lease, grant: dhcp.Grant) -> None:
        index = _index(lease)
        for other in lease.inside.addresses():
            if other[0] == index and other[1] != grant.address:  # of a former life of the daemon
                lease.inside.do(links.delete_address(index, other[1]), accept=_GONE)
        lease.inside.do(netlink.add_address(index, IPv4Interface(grant.address)))
        if lease.is_way_out and grant.router:
            lease.inside.do(links.set_way_out(index, IPv4Address(grant.router)))


def _index(lease: _Lease) -> int:
    link = lease.inside.link(lease.link)
    if link is None:
        raise OSError(19, f"{lease.link} of a task is gone")
    return link.index
