"""The API server's connections: how many, and how slow a client may be.

aiohttp reads and writes HTTP; what it leaves open is bounded here. A head must be complete in a while, a body
must not stand still, an answer must be taken. One sweep for all connections does it, so that a connection
costs no timers of its own. A client that breaks a bound has its connection closed, and nobody else notices.

A client may close its half as soon as it has asked: it gets its answer. For a stream that means that the
client has left; who waits on its behalf is told (``telling``).

A connection that was taken over (``manager/api/hijack.py``) still counts; who has it bounds it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Final

import structlog
from aiohttp import web

from manager.api.connection_bounds import (
    API_CONNECTIONS_MAX,
    API_HEAD_BYTES_MAX,
    API_HEAD_TIMEOUT_S,
    API_IDLE_TIMEOUT_S,
    API_REFUSAL_TIMEOUT_S,
    API_REFUSALS_MAX,
    API_STALL_TIMEOUT_S,
    API_UPLOAD_QUIET_S,
    API_WATCH_PERIOD_S,
)
from manager.api.docker_json import encode
from swarmpy.limits import API_HEADER_BYTES_MAX

log = structlog.get_logger(__name__)

_Next = Callable[[web.Request], Awaitable[web.StreamResponse]]

_FULL: Final = encode(
    {"message": f"This node serves {API_CONNECTIONS_MAX} connections already; try again later."}
)
_REFUSAL: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nConnection: close\r\n"
    b"Retry-After: 1\r\nContent-Length: %d\r\n\r\n" % len(_FULL)
) + _FULL


class Connection(web.RequestHandler):
    """One client's, from its first byte to the last."""

    __slots__ = (
        "_begun",
        "_book",
        "_head_bytes",
        "_head_since",
        "_heard_at",
        "_leaving",
        "_request",
        "_unread",
        "_unread_since",
        "is_ending",
        "is_half_closed",
    )

    def __init__(self, server: web.Server, book: Connections, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(
            server,
            loop=loop,
            access_log=None,  # type: ignore[arg-type]  # aiohttp's way of having none
            keepalive_timeout=API_IDLE_TIMEOUT_S,
            max_line_size=API_HEADER_BYTES_MAX,
            max_field_size=API_HEADER_BYTES_MAX,
            auto_decompress=False,  # as docker: a body is what it is, and no bomb
        )
        self._book = book
        self._request: web.Request | None = None
        self._begun = 0
        self._head_since: float | None = None
        self._head_bytes = 0
        self._heard_at = loop.time()
        self._unread = 0
        self._unread_since: float | None = None
        self._leaving: Callable[[], None] | None = None
        self.is_half_closed = False
        """The client sends no more."""
        self.is_ending = False
        """The daemon stops: streams are over."""

    # --- what the transport says

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._book.open.add(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._book.open.discard(self)
        super().connection_lost(exc)
        self._tell()

    def data_received(self, data: bytes) -> None:
        self._heard_at = self._loop.time()
        super().data_received(data)
        if self._has_asked() or not data:
            return
        if self._head_since is None:
            self._head_since, self._head_bytes = self._heard_at, 0
        self._head_bytes += len(data)
        if self._head_bytes > API_HEAD_BYTES_MAX:
            self._drop("head too large")

    def eof_received(self) -> bool:  # type: ignore[override]  # aiohttp never keeps the other half open
        """Whether this half stays open: only if there is an answer to give."""
        self.is_half_closed = True
        if self._request is not None and not self._request.content.is_eof():
            return False  # the rest of the body will never come
        self._tell()
        return self._has_asked() and self.ssl_context is None

    def _has_asked(self) -> bool:
        """Whether a request is being answered, or will be in a moment."""
        return self._request is not None or self._request_count > self._begun

    # --- the request that is being answered

    def begin(self, request: web.Request) -> None:
        self._request = request
        self._begun += 1
        self._head_since = None
        if self.is_half_closed and not request.content.is_eof():
            self._drop("body cut off")

    def end(self) -> None:
        self._request = None
        if self.is_half_closed and not self._has_asked():
            self.close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What is no HTTP is its sender's fault, and nothing for the daemon's log."""
        if status != HTTPStatus.BAD_REQUEST:
            return super().handle_error(request, status, exc, message)
        text = (message or "").strip().partition("\n")[0].rstrip(":")
        response = web.Response(
            body=encode({"message": f"400 Bad Request: {text}" if text else "400 Bad Request"}),
            status=status,
            content_type="application/json",
        )
        response.force_close()
        return response

    @property
    def has_left(self) -> bool:
        return self.is_half_closed or self.is_ending or self.transport is None or self.transport.is_closing()

    @contextmanager
    def telling(self, leaving: Callable[[], None]) -> Iterator[None]:
        """``leaving`` is called when the client leaves while the block runs."""
        self._leaving = leaving
        try:
            yield
        finally:
            self._leaving = None

    def end_stream(self) -> None:
        """The daemon stops."""
        self.is_ending = True
        self._tell()

    def _tell(self) -> None:
        """Once: it may end, and then be lost."""
        leaving, self._leaving = self._leaving, None
        if leaving is not None:
            leaving()

    # --- bounds

    def check(self, now: float) -> None:
        """Drop the connection if its client is too slow."""
        transport = self.transport
        if transport is None or transport.get_protocol() is not self:
            return  # lost, or taken over
        fault = self._fault(transport, now)
        if fault:
            self._drop(fault)

    def _fault(self, transport: asyncio.Transport, now: float) -> str:
        if self._head_since is not None and now - self._head_since > API_HEAD_TIMEOUT_S:
            return "head too slow"
        request = self._request
        if (
            request is not None
            and not request.content.is_eof()
            and transport.is_reading()
            and now - self._heard_at > API_UPLOAD_QUIET_S
        ):
            return "body stands still"
        unread = transport.get_write_buffer_size() if self.writing_paused else 0
        if not unread or unread < self._unread or self._unread_since is None:
            self._unread_since = now if unread else None
        self._unread = unread
        if self._unread_since is not None and now - self._unread_since > API_STALL_TIMEOUT_S:
            return "answer not read"
        return ""

    def _drop(self, fault: str) -> None:
        log.info("api_connection_dropped", fault=fault, path=self._request.path if self._request else "")
        if self.transport is not None:
            self.transport.abort()


class _Refusal(asyncio.Protocol):
    """A connection too many: told why, if there are not too many of these, too."""

    def __init__(self, book: Connections) -> None:
        self._book = book
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        if len(self._book.refused) >= API_REFUSALS_MAX:
            transport.abort()
            return
        self._book.refused.add(transport)
        transport.write(_REFUSAL)
        # closed at once, with the request unread, its client would meet an error before it reads this
        self._timer = asyncio.get_running_loop().call_later(API_REFUSAL_TIMEOUT_S, transport.abort)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._book.refused.discard(self._transport)


class Connections:
    """All of one server; made by calling it, as asyncio's servers do."""

    def __init__(self, server: web.Server, *, limit: int = API_CONNECTIONS_MAX) -> None:
        self._server = server
        self._limit = limit
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self.open: set[Connection] = set()
        self.refused: set[asyncio.Transport] = set()

    def __call__(self) -> asyncio.Protocol:
        if len(self.open) >= self._limit:
            return _Refusal(self)
        return Connection(self._server, self, self._loop)

    def watch(self) -> None:
        """Begin to look after them."""
        self._timer = self._loop.call_later(API_WATCH_PERIOD_S, self._sweep)

    def _sweep(self) -> None:
        self.watch()
        now = self._loop.time()
        for connection in tuple(self.open):
            connection.check(now)

    def close(self) -> None:
        """End all streams; what else is open is the server's to end."""
        if self._timer is not None:
            self._timer.cancel()
        for connection in tuple(self.open):
            connection.end_stream()
        for transport in tuple(self.refused):
            transport.abort()


@web.middleware
async def watched(request: web.Request, handler: _Next) -> web.StreamResponse:
    """Lets the connection know what it is at."""
    connection = request.protocol
    if not isinstance(connection, Connection):
        return await handler(request)
    connection.begin(request)
    try:
        return await handler(request)
    finally:
        connection.end()
