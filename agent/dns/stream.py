"""A task's TCP connection to its resolver: messages with two bytes of length before them.

Any number of queries, each answered as soon as its answer is there (RFC 7766). A connection ends when it is
idle for long, or when its client does not read what it asked for.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

from agent.dns.forward import Done
from agent.dns.limits import DNS_CONNECTION_BYTES_MAX, DNS_CONNECTION_IDLE_S, DNS_STREAM_BYTES_MAX
from agent.dns.loop import READABLE, WRITABLE, Loop, Timer

_LENGTH_BYTES = 2


class Connection:
    """``respond`` is given a query and what to do with its answer; ``closed`` is told at the end."""

    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        *,
        respond: Callable[[bytes, Done], None],
        closed: Callable[[Connection], None],
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._respond = respond
        self._closed = closed
        self._unread = bytearray()
        self._unsent = bytearray()
        self._is_open = True
        self._idle: Timer | None = None
        self._used_at = time.monotonic()

    def begin(self) -> None:
        self._loop.watch(self._sock.fileno(), READABLE, self._step)
        self._idle = self._loop.after(DNS_CONNECTION_IDLE_S, self._look)

    def close(self) -> None:
        if not self._is_open:
            return
        self._is_open = False
        if self._idle is not None:
            self._idle.cancel()
        self._closed(self)  # first, so that who sees the end can count on it
        self._loop.forget(self._sock.fileno())
        self._sock.close()

    def _look(self) -> None:
        """One timer per connection, not one per query."""
        left = self._used_at + DNS_CONNECTION_IDLE_S - time.monotonic()
        if left <= 0:
            self.close()
        else:
            self._idle = self._loop.after(left, self._look)

    def _step(self) -> None:
        if self._unsent:
            self._flush()
            return
        try:
            data = self._sock.recv(DNS_STREAM_BYTES_MAX)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        self._used_at = time.monotonic()
        self._unread += data
        self._take()

    def _take(self) -> None:
        """Every query that has come whole."""
        while self._is_open and len(self._unread) >= _LENGTH_BYTES:
            end = _LENGTH_BYTES + int.from_bytes(self._unread[:_LENGTH_BYTES])
            if len(self._unread) < end:
                return
            packet = bytes(self._unread[_LENGTH_BYTES:end])
            del self._unread[:end]
            self._respond(packet, self._answer)

    def _answer(self, message: bytes) -> None:
        if not self._is_open:
            return
        was_empty = not self._unsent
        self._unsent += len(message).to_bytes(_LENGTH_BYTES) + message
        if len(self._unsent) > DNS_CONNECTION_BYTES_MAX:
            self.close()
        elif was_empty:
            self._flush()

    def _flush(self) -> None:
        try:
            del self._unsent[: self._sock.send(self._unsent)]
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        self._used_at = time.monotonic()
        self._loop.change(self._sock.fileno(), WRITABLE if self._unsent else READABLE)
