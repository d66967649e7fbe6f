"""Servers outside for the resolver, and its clients: plain sockets on loopback addresses."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

PATIENCE_S = 10.0
Answer = Callable[[bytes], list[bytes]]


def answer_to(
    packet: bytes, *, rcode: int = 0, flags: int = 0, records: bytes = b"", count: int = 0
) -> bytes:
    """An upstream's answer: the question repeated, then ``records``."""
    end = 12
    while packet[end]:
        end += 1 + packet[end]
    head = packet[:2] + (0x8180 | flags | rcode).to_bytes(2) + b"\0\1" + count.to_bytes(2) + bytes(4)
    return head + packet[12 : end + 5] + records


def address_of(packet: bytes, address: str) -> bytes:
    record = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + socket.inet_aton(address)
    return answer_to(packet, records=record, count=1)


def _bound(address: str, port: int) -> tuple[socket.socket, socket.socket]:
    """One port for both ways. Of one that is chosen for UDP, TCP's may be another's: then another is."""
    while True:
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        udp.bind((address, port))
        try:
            tcp.bind((address, udp.getsockname()[1]))
        except OSError:
            udp.close()
            tcp.close()
            if port:
                raise
        else:
            return udp, tcp


class Upstream:
    """Answers each query with what ``answer`` makes of it: nothing, one message, or several."""

    def __init__(self, answer: Answer, *, address: str = "127.0.0.1", port: int = 0) -> None:
        self.address = address
        self.asked: list[tuple[str, bytes]] = []
        self._answer = answer
        self._udp, self._tcp = _bound(address, port)
        self.port: int = self._udp.getsockname()[1]
        self._tcp.listen()
        self._threads = [threading.Thread(target=run) for run in (self._serve_udp, self._serve_tcp)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._udp.sendto(b"", self._udp.getsockname())
        self._tcp.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(PATIENCE_S)
        self._udp.close()
        self._tcp.close()

    def _serve_udp(self) -> None:
        while True:
            packet, sender = self._udp.recvfrom(65_535)
            if not packet:
                return
            self.asked.append(("udp", packet))
            for message in self._answer(packet):
                self._udp.sendto(message, sender)

    def _serve_tcp(self) -> None:
        while True:
            try:
                sock, _ = self._tcp.accept()
            except OSError:
                return
            with sock, suppress(OSError):
                packet = read_stream(sock)
                self.asked.append(("tcp", packet))
                for message in self._answer(packet):
                    raw = len(message).to_bytes(2) + message
                    sock.sendall(raw[:1])
                    sock.sendall(raw[1:])


def read_stream(sock: socket.socket) -> bytes:
    """One message with its length before it; b"" at the end."""
    size = _read_exactly(sock, 2)
    return _read_exactly(sock, int.from_bytes(size)) if size else b""


def _read_exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = sock.recv(size - len(data))
        if not part:
            return b""
        data += part
    return data


class Client:
    """A task's sockets to its resolver at ``address``."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.address = address
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.settimeout(PATIENCE_S)
        self._udp.connect(address)

    def close(self) -> None:
        self._udp.close()

    def ask(self, packet: bytes) -> bytes:
        self._udp.send(packet)
        return self._udp.recv(65_535)

    def send(self, packet: bytes) -> None:
        self._udp.send(packet)

    def ask_first(self, packets: list[bytes]) -> bytes:
        """The answer that comes first."""
        for packet in packets:
            self._udp.send(packet)
        return self._udp.recv(65_535)

    def ask_many(self, packets: list[bytes]) -> list[bytes]:
        for packet in packets:
            self._udp.send(packet)
        return [self._udp.recv(65_535) for _ in packets]

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, PATIENCE_S)

    def ask_stream(self, packet: bytes) -> bytes:
        with self.connect() as sock:
            sock.sendall(len(packet).to_bytes(2) + packet)
            return read_stream(sock)
