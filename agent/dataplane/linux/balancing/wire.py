"""Netlink to the packet filter and to the socket tables, without a library: many messages per system call.

A ``Wire`` belongs to the network namespace that the thread was in when it was made, and keeps that alive
until it is closed. The kernel works a message off before ``send`` returns, so that all answers to a batch can
be taken without waiting.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import NamedTuple, Self

from agent.dataplane.linux.nftables import out_of_the_way

NETFILTER, SOCKETS = 12, 4
"""The families of ``Wire``."""
CREATE = 0x400
_REQUEST, _ACK, _DUMP = 1, 4, 0x300
_ERROR, _DONE, _OVERRUN = 2, 3, 4
_SOL_NETLINK, _CAP_ACK = 270, 10
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
_BUFFER_BYTES = 8 << 20
"""Room for the largest transaction, and for the answers to a batch."""
_READ_BYTES = 1 << 20
_CHUNK_MESSAGES = 250
_NESTED = 0x8000
KIND_MASK = 0x3FFF
_HEADER = struct.Struct("=IHHII")
_HEAD = struct.Struct("=HH")


class Message(NamedTuple):
    kind: int
    flags: int
    body: bytes


def attribute(kind: int, data: bytes) -> bytes:
    size = 4 + len(data)
    return _HEAD.pack(size, kind) + data + b"\0" * (-size % 4)


def nested(kind: int, data: bytes) -> bytes:
    return attribute(kind | _NESTED, data)


def attributes(data: bytes, offset: int = 0) -> dict[int, bytes]:
    """By kind; of several of one kind the last."""
    return dict(each_attribute(data, offset))


def each_attribute(data: bytes, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    while offset + 4 <= len(data):
        size, kind = _HEAD.unpack_from(data, offset)
        if size < 4:
            return
        yield kind & KIND_MASK, data[offset + 4 : offset + size]
        offset += (size + 3) & ~3


class Wire:
    """One netlink socket. Not for use by two threads at once."""

    def __init__(self, family: int) -> None:
        made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family)
        self._socket = out_of_the_way(made)
        self._socket.bind((0, 0))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _BUFFER_BYTES)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
        self._socket.setsockopt(_SOL_NETLINK, _CAP_ACK, 1)
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def each(self, messages: Sequence[Message]) -> list[int]:
        """Carry all out, in order; the error number of each, 0 where it went well."""
        results: list[int] = []
        for start in range(0, len(messages), _CHUNK_MESSAGES):
            chunk = messages[start : start + _CHUNK_MESSAGES]
            first = self._take(len(chunk))
            self._socket.send(
                b"".join(
                    _HEADER.pack(16 + len(body), kind, flags | _REQUEST | _ACK, first + position, 0) + body
                    for position, (kind, flags, body) in enumerate(chunk)
                )
            )
            answers = self._answers()
            results += [answers.get(first + position, errno.EIO) for position in range(len(chunk))]
        return results

    def ask(self, messages: Sequence[Message]) -> list[bytes]:
        """What each is answered with; empty for an error, such as that there is no such thing."""
        results: list[bytes] = []
        for start in range(0, len(messages), _CHUNK_MESSAGES):
            chunk = messages[start : start + _CHUNK_MESSAGES]
            first = self._take(len(chunk))
            self._socket.send(
                b"".join(
                    _HEADER.pack(16 + len(body), kind, flags | _REQUEST, first + position, 0) + body
                    for position, (kind, flags, body) in enumerate(chunk)
                )
            )
            found = {sequence: body for kind, sequence, body in self._waiting() if kind != _ERROR}
            results += [found.get(first + position, b"") for position in range(len(chunk))]
        return results

    def transact(self, text: bytes) -> None:
        """Carry out what ``transaction`` wrote: all of it, or OSError with the first error and nothing."""
        self._socket.send(text)
        answers = self._answers()
        failures = [error for _, error in sorted(answers.items()) if error]
        if failures:
            raise OSError(failures[0], os.strerror(failures[0]))
        if not answers:
            raise OSError(errno.EIO, "the kernel gave no answer to a transaction")

    def dump(self, message: Message) -> list[bytes]:
        """All that the kernel has of a kind."""
        while True:
            found = self._dump(message)
            if found is not None:
                return found

    def _dump(self, message: Message) -> list[bytes] | None:
        """None: it changed under the dump's hands."""
        own = self._take(1)
        kind, flags, body = message
        self._socket.send(_HEADER.pack(16 + len(body), kind, flags | _REQUEST | _DUMP, own, 0) + body)
        found: list[bytes] = []
        while True:
            for answer, sequence, payload in self._parse(self._socket.recv(_READ_BYTES)):
                if sequence != own:
                    continue
                if answer == _DONE:
                    return found
                if answer == _ERROR:
                    error = -struct.unpack_from("=i", payload)[0]
                    if error == errno.EINTR:
                        return None
                    raise OSError(error, os.strerror(error))
                found.append(payload)

    def _take(self, count: int) -> int:
        """The first of so many sequence numbers."""
        first = self._sequence + 1
        self._sequence = (self._sequence + count) & 0x3FFFFFFF
        return first

    def _answers(self) -> dict[int, int]:
        """Error numbers by sequence number, of all that is there to read; the first of each counts."""
        found: dict[int, int] = {}
        for kind, sequence, body in self._waiting():
            if kind == _ERROR:
                found.setdefault(sequence, -struct.unpack_from("=i", body)[0])
        return found

    def _waiting(self) -> Iterator[tuple[int, int, bytes]]:
        """All that is there to read."""
        while True:
            try:
                data = self._socket.recv(_READ_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            yield from self._parse(data)

    @staticmethod
    def _parse(data: bytes) -> Iterator[tuple[int, int, bytes]]:
        offset = 0
        while offset + 16 <= len(data):
            size, kind, _, sequence, _ = _HEADER.unpack_from(data, offset)
            yield kind, sequence, data[offset + 16 : offset + size]
            offset += (size + 3) & ~3


def transaction(begin: Message, messages: Iterable[Message], end: Message) -> bytes:
    """One text for ``Wire.transact``, in any namespace; the last of the messages is acknowledged."""
    work = list(messages)
    assert work, "a transaction has something to do"
    texts = [_HEADER.pack(16 + len(begin.body), begin.kind, _REQUEST, 0, 0) + begin.body]
    for position, (kind, flags, body) in enumerate(work, start=1):
        flags |= _REQUEST | (_ACK if position == len(work) else 0)
        texts.append(_HEADER.pack(16 + len(body), kind, flags, position, 0) + body)
    texts.append(_HEADER.pack(16 + len(end.body), end.kind, _REQUEST, len(work) + 1, 0) + end.body)
    return b"".join(texts)
