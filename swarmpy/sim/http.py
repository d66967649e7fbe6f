"""``SimHttp``: a client of a daemon's API without a network: the real application, in this process.

A request goes through the real routes, middlewares and parsers, and its answer comes back encoded as any
client would get it. Left out are only aiohttp's server and HTTP's own syntax. What is under way when its
caller is cancelled is cancelled with it: give it a task of its own to have it go on, as a server would.

Streams (``/events``, logs) are not simulated: they are answered with 501 and a message that says so.

Calls what aiohttp's own server calls: ``Application._handle`` with a ``Request`` of its making; a test pins
that for every supported version.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, cast

import msgspec
from aiohttp import HttpVersion11, StreamReader, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from manager.api.context import Api
from manager.api.server import make_app
from swarmpy.errors import Unimplemented
from swarmpy.limits import API_BODY_BYTES_MAX

_JSON: Final = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Answer:
    """What was answered, whole."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body's value; None if there is no body."""
        return msgspec.json.decode(self.body) if self.body else None

    @property
    def message(self) -> str:
        """The text of an error; empty if it was none."""
        value = self.json if self.status >= 400 else None
        return str(value.get("message", "")) if isinstance(value, dict) else ""


class SimHttp:
    """``request`` may be called any number of times, also while others are under way."""

    def __init__(self, app: web.Application) -> None:
        self._app = app
        app.freeze()

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: object = None,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """``body`` is sent as JSON, or as it is if it is bytes. ``path`` may have a query of its own."""
        loop = asyncio.get_running_loop()
        data = body if isinstance(body, bytes) else b"" if body is None else msgspec.json.encode(body)
        url = URL(path, encoded=True)
        if query:
            url = url.update_query(query)
        response = await self._app._handle(_request(loop, method.upper(), url, headers or {}, data))
        if not isinstance(response, web.Response):
            raise TypeError(f"{method} {path} was answered with a stream that was never begun")
        content = response.body
        if not isinstance(content, bytes | bytearray | None):
            raise TypeError(f"{method} {path} was answered with {type(content).__name__}, not with bytes")
        return Answer(status=response.status, headers=response.headers, body=bytes(content or b""))


class SharedHttp:
    """One application for the APIs of any number of daemons: ten thousand would cost more than what they do.

    It holds nothing of a daemon: its routes ask whose request they serve.
    """

    def __init__(self) -> None:
        self._http = SimHttp(make_app(cast(Api, _AskedApi())))

    async def request(self, api: Api, method: str, path: str, **options: Any) -> Answer:
        """As ``SimHttp.request``, of this daemon. Within a task of its own: the task is that daemon's now."""
        _API.set(api)
        return await self._http.request(method, path, **options)


_API: ContextVar[Api] = ContextVar("api")


class _AskedApi:
    """The API of the daemon that is asked."""

    def __getattr__(self, name: str) -> Any:
        return getattr(_API.get(), name)


def _request(
    loop: asyncio.AbstractEventLoop, method: str, url: URL, headers: Mapping[str, str], data: bytes
) -> web.Request:
    """A request as aiohttp's server makes it of what it has read."""
    fields = CIMultiDictProxy(CIMultiDict({**(_JSON if data else {}), **headers}))
    message = RawRequestMessage(method, str(url), HttpVersion11, fields, (), False, None, False, False, url)
    content = EMPTY_PAYLOAD
    if data:
        content = StreamReader(BaseProtocol(loop), len(data), loop=loop)
        content.feed_data(data)
        content.feed_eof()
    return web.Request(
        message,
        content,
        cast(Any, _NO_CONNECTION),
        _NO_STREAM,
        cast("asyncio.Task[None]", asyncio.current_task()),
        loop,
        client_max_size=API_BODY_BYTES_MAX,
    )


class _NoConnection:
    """What requests ask of their connection. It never breaks: who waits is gone together with it."""

    transport = None
    ssl_context = None
    peername = None
    sockname = None


class _NoStream(AbstractStreamWriter):
    """Refuses to send an answer in pieces."""

    async def write_headers(self, status_line: str, headers: CIMultiDict[str]) -> None:
        raise Unimplemented("streams are not simulated: read the objects, or the simulation's trace, instead")

    async def write(self, chunk: object) -> None:
        raise AssertionError("no stream has begun")

    async def write_eof(self, chunk: bytes = b"") -> None:
        raise AssertionError("no stream has begun")

    async def drain(self) -> None:
        raise AssertionError("no stream has begun")

    def enable_compression(self, encoding: str = "deflate", strategy: int | None = None) -> None:
        """Never asked for before the headers."""

    def enable_chunking(self) -> None:
        """As above."""


_NO_CONNECTION: Final = _NoConnection()
_NO_STREAM: Final = _NoStream()
