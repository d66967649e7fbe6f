"""A LAN's DHCP server, as small as it can be, in a namespace of a test."""

from __future__ import annotations

import os
import select
import socket
import threading
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from types import TracebackType
from typing import Self

from net_hosts import run_in

from agent.dataplane.linux.drivers import dhcp

_SO_BINDTODEVICE = 25


@dataclass
class DhcpServer:
    """Gives out addresses from ``first`` on, the same to the same MAC; within a ``with``."""

    path: str | Path
    link: str
    address: str
    first: str
    router: str
    lease_s: int = 3600
    given: dict[str, str] = field(default_factory=dict)
    """By MAC."""
    seen: list[int] = field(default_factory=list)
    """The kinds of messages that came."""
    is_silent: bool = False

    def __enter__(self) -> Self:
        self._socket = run_in(self.path, self._open)
        self._halt, self._stop = os.pipe()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        return self

    def _open(self) -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        made.setsockopt(socket.SOL_SOCKET, _SO_BINDTODEVICE, self.link.encode())
        made.bind(("", dhcp.SERVER_PORT))
        return made

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._stop)
        self._thread.join()
        os.close(self._halt)
        self._socket.close()

    def _serve(self) -> None:
        while True:
            ready, _, _ = select.select([self._halt, self._socket.fileno()], [], [])
            if self._halt in ready:
                return
            data, _ = self._socket.recvfrom(4096)
            message = dhcp.decode(data)
            if message is None or message.is_reply:
                continue
            self.seen.append(message.kind)
            if not self.is_silent and message.kind in (dhcp.DISCOVER, dhcp.REQUEST):
                self._answer(message)

    def _answer(self, message: dhcp.Message) -> None:
        yours = self.given.setdefault(message.mac, str(IPv4Address(self.first) + len(self.given)))
        reply = dhcp.Message(
            kind=dhcp.OFFER if message.kind == dhcp.DISCOVER else dhcp.ACK,
            xid=message.xid,
            mac=message.mac,
            yours=yours,
            is_reply=True,
            options=(
                (1, IPv4Address("255.255.255.0").packed),
                (3, IPv4Address(self.router).packed),
                (51, self.lease_s.to_bytes(4)),
                (54, IPv4Address(self.address).packed),
            ),
        )
        target = dhcp.ANYBODY if message.own == "0.0.0.0" else message.own
        self._socket.sendto(dhcp.encode(reply), (target, dhcp.CLIENT_PORT))
