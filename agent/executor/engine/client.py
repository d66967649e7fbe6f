"""``Engine``: the connection to a Podman or Docker, over its API on a unix socket.

Decides what the engine's answers mean to callers, in this one place:

* not reachable, no answer in time, an answer that breaks off: ``Unavailable``, the tasks run on meanwhile;
* 404: ``NotFound``; 409 of something that does not run: ``NotRunning``; any other 409: ``Conflict``;
* everything else: ``Refused``, a ``TaskRejected`` with the engine's own words and its ``status``.

The version of the API is settled once per connection: the one that this was written for, or the oldest that
the engine still speaks. Calls and streams have connections of their own, both bounded, so that readers of
logs never keep a task from being stopped. Does not know what a task is.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, Literal
from urllib.parse import urlencode

import aiohttp
from yarl import URL

from agent.executor.base import NotRunning
from agent.executor.engine.limits import (
    ENGINE_ANSWER_BYTES_MAX,
    ENGINE_CALL_TIMEOUT_S,
    ENGINE_CALLS_PARALLEL_MAX,
    ENGINE_CONNECT_TIMEOUT_S,
    ENGINE_HANG_UP_S,
    ENGINE_HEAD_BYTES_MAX,
    ENGINE_STREAM_BYTES,
    ENGINE_STREAMS_MAX,
)
from swarmpy.errors import Conflict, NotFound, TaskRejected, Unavailable

Flavour = Literal["podman", "docker"]
Method = Literal["GET", "HEAD", "POST", "PUT", "DELETE"]
Params = Mapping[str, str]
Query = Mapping[str, str] | Sequence[tuple[str, str]]
"""Pairs, where a name may come several times."""

DEFAULT_SOCKETS: Final[dict[Flavour, str]] = {
    "podman": "/run/podman/podman.sock",
    "docker": "/var/run/docker.sock",
}
_API: Final = (1, 41)
_LIBPOD: Final = "/v4.0.0/libpod"
_STOPPED: Final = re.compile(r"container state improper|timed out waiting for file \S*/exits/")
"""The second: it has stopped, and its conmon, which would say how, is no more."""
_NOT_RUNNING: Final = re.compile(r"is not running|not running|container state improper|can only \w+ running")
_OK: Final = range(200, 300)
_UNCHANGED: Final = 304
_SWITCHED: Final = 101
_SERVER_AT_FAULT: Final = 500


class Refused(TaskRejected):
    """The engine's answer is no. ``status``: its HTTP code; from 500 on trying again may help."""

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


class Hijacked:
    """A connection that is no HTTP any more: bytes both ways, each way with an end of its own."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader: Final = reader
        self.writer: Final = writer

    async def read(self) -> bytes:
        """Whatever is there next; empty at the end, also if the engine breaks off."""
        try:
            return await self.reader.read(ENGINE_STREAM_BYTES)
        except OSError:
            return b""

    async def read_exactly(self, count: int) -> bytes:
        """Empty at the end, whether or not it comes in the middle."""
        try:
            return await self.reader.readexactly(count)
        except (OSError, asyncio.IncompleteReadError):
            return b""

    async def write(self, data: bytes) -> None:
        """Returns once there is room for more. Nothing happens if the other side has gone."""
        with contextlib.suppress(OSError):
            self.writer.write(data)
            await self.writer.drain()

    async def close_input(self) -> None:
        with contextlib.suppress(OSError):
            if self.writer.can_write_eof():
                self.writer.write_eof()

    async def close(self) -> None:
        """What was written goes out first, unless the other side does not take it."""
        self.writer.close()
        closing = asyncio.ensure_future(self.writer.wait_closed())
        try:
            await asyncio.wait([closing], timeout=ENGINE_HANG_UP_S)
        finally:
            self.writer.transport.abort()
        with contextlib.suppress(OSError):  # it was broken already
            await closing


class Engine:
    """``socket``: a path, with or without ``unix://`` before it. Paths of calls begin with ``/`` and have no
    version; those of Podman's own API with ``/libpod/``."""

    def __init__(self, flavour: Flavour, socket: str) -> None:
        self.flavour: Final[Flavour] = flavour
        self.socket: Final = socket.removeprefix("unix://") or DEFAULT_SOCKETS[flavour]
        self._prefix = ""
        self._calls: aiohttp.ClientSession | None = None
        self._streams: aiohttp.ClientSession | None = None

    async def call(
        self,
        method: Method,
        path: str,
        *,
        params: Query | None = None,
        body: object = None,
        headers: Params | None = None,
        timeout_s: float = ENGINE_CALL_TIMEOUT_S,
    ) -> Any:
        """The answer, decoded from JSON; None if it is empty, or says that nothing was to be done."""
        prefix = await self._version_of(path)
        if self._calls is None:
            self._calls = self._session(ENGINE_CALLS_PARALLEL_MAX)
        timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=ENGINE_CONNECT_TIMEOUT_S)
        request = self._calls.request(
            method, self._url(prefix, path, params), json=body, headers=headers, timeout=timeout
        )
        with self._translated():
            async with request as response:
                data = await _read(response.content, ENGINE_ANSWER_BYTES_MAX)
                if not response.content.at_eof():
                    raise Unavailable(f"{self.flavour} answers more than is taken: {method} {path}")
                self._check(response.status, data)
                if response.status == _UNCHANGED or not data.strip():
                    return None
                return json.loads(data)

    @asynccontextmanager
    async def stream(
        self,
        method: Method,
        path: str,
        *,
        params: Query | None = None,
        body: object = None,
        data: AsyncIterator[bytes] | bytes | None = None,
        headers: Params | None = None,
        timeout_s: float | None = None,
    ) -> AsyncGenerator[aiohttp.StreamReader]:
        """The answer's body as it comes; without a bound of time unless one is given. ``body`` goes as JSON,
        ``data`` as it is. Read it with ``chunks`` to have breaks in the middle translated, too."""
        prefix = await self._version_of(path)
        if self._streams is None:
            self._streams = self._session(ENGINE_STREAMS_MAX)
        timeout = aiohttp.ClientTimeout(
            total=timeout_s, connect=ENGINE_CALL_TIMEOUT_S, sock_connect=ENGINE_CONNECT_TIMEOUT_S
        )
        words = {"json": body} if body is not None else {"data": data}
        with self._translated():
            response = await self._streams.request(
                method, self._url(prefix, path, params), headers=headers, timeout=timeout, **words
            )
        try:
            if response.status not in _OK:
                with self._translated():
                    async with asyncio.timeout(ENGINE_CALL_TIMEOUT_S):
                        said = await _read(response.content, ENGINE_HEAD_BYTES_MAX)
                    self._check(response.status, said)
            yield response.content
        finally:
            response.close()

    async def chunks(self, content: aiohttp.StreamReader) -> AsyncGenerator[bytes]:
        """What a stream brings, piece by piece."""
        while True:
            with self._translated():
                data = await content.read(ENGINE_STREAM_BYTES)
            if not data:
                return
            yield data

    async def hijack(self, path: str, *, params: Query | None = None, body: object = None) -> Hijacked:
        """POST, and the connection turns into the standard streams of a process."""
        prefix = await self._version_of(path)
        payload = json.dumps(body).encode() if body is not None else b""
        head = (
            f"POST {_target(prefix, path, params)} HTTP/1.1\r\n"
            "Host: engine\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(payload)}\r\n\r\n"
        )
        with self._translated():
            async with asyncio.timeout(ENGINE_CALL_TIMEOUT_S):
                reader, writer = await asyncio.open_unix_connection(self.socket, limit=ENGINE_HEAD_BYTES_MAX)
                try:
                    writer.write(head.encode() + payload)
                    await writer.drain()
                    await self._check_head(reader)
                except BaseException:
                    writer.close()
                    raise
        return Hijacked(reader, writer)

    async def close(self) -> None:
        """Who asks from now on, also while this goes on, has connections of its own, to be closed again."""
        sessions = self._calls, self._streams
        self._calls = self._streams = None
        self._prefix = ""
        for session in sessions:
            if session is not None:
                await session.close()

    # --- what answers mean

    async def _check_head(self, reader: asyncio.StreamReader) -> None:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        status = int(lines[0].partition(" ")[2][:3])
        if status == _SWITCHED or status in _OK:
            return
        fields = {name.strip().lower(): value.strip() for name, _, value in (x.partition(":") for x in lines)}
        length = min(int(fields.get("content-length") or 0), ENGINE_HEAD_BYTES_MAX)
        data = await reader.readexactly(length) if length else await reader.read(ENGINE_HEAD_BYTES_MAX)
        if fields.get("transfer-encoding") == "chunked":
            data = data.partition(b"\r\n")[2].rpartition(b"\r\n0")[0] or data
        self._check(status, data)

    def _check(self, status: int, data: bytes) -> None:
        if status in _OK or status == _UNCHANGED:
            return
        text = message_of(data) or f"{self.flavour} answers with status {status}"
        match status:
            case 404:
                raise NotFound(text)
            case 409 if _NOT_RUNNING.search(text):
                raise NotRunning(text)
            case 409:
                raise Conflict(text)
            case 503:
                raise Unavailable(text)  # it is starting, or stopping
            case _ if status >= _SERVER_AT_FAULT and _STOPPED.search(text):
                raise NotRunning(text)  # podman's 500 for what is docker's 409
            case _:
                raise Refused(text, status=status)

    @contextlib.contextmanager
    def _translated(self) -> Any:
        """Whatever goes wrong with the connection is Unavailable: nothing of the request is at fault."""
        try:
            yield
        except TimeoutError:
            self._prefix = ""  # who answers next may be another version
            raise Unavailable(
                f"{self.flavour} at {self.socket} does not answer in time; its tasks run on"
            ) from None
        except (aiohttp.ClientError, OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
            self._prefix = ""
            raise Unavailable(
                f"{self.flavour} is not reachable at {self.socket}: {error}; its tasks run on. Is its "
                "service running?"
            ) from None

    # --- the connection

    async def version(self) -> dict[str, Any]:
        """What the engine says of itself."""
        if self._calls is None:
            self._calls = self._session(ENGINE_CALLS_PARALLEL_MAX)
        timeout = aiohttp.ClientTimeout(total=ENGINE_CALL_TIMEOUT_S, sock_connect=ENGINE_CONNECT_TIMEOUT_S)
        with self._translated():
            async with self._calls.get("http://engine/version", timeout=timeout) as response:
                data = await _read(response.content, ENGINE_HEAD_BYTES_MAX)
                self._check(response.status, data)
                found: dict[str, Any] = json.loads(data)
                return found

    async def _version_of(self, path: str) -> str:
        if path.startswith("/libpod/"):
            return _LIBPOD
        if not self._prefix:
            self._prefix = f"/v{speak(await self.version())}"
        return self._prefix

    def _url(self, prefix: str, path: str, params: Query | None) -> URL:
        return URL(f"http://engine{_target(prefix, path, params)}", encoded=True)

    def _session(self, connections: int) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(connector=aiohttp.UnixConnector(self.socket, limit=connections))


async def _read(content: aiohttp.StreamReader, most: int) -> bytes:
    """All of it, or so much: an answer may come in pieces."""
    data = bytearray()
    while len(data) < most and (piece := await content.read(most - len(data))):
        data += piece
    return bytes(data)


def _target(prefix: str, path: str, params: Query | None) -> str:
    if prefix == _LIBPOD:
        path = path.removeprefix("/libpod")
    return f"{prefix}{path}{'?' + urlencode(params) if params else ''}"


def speak(version: Mapping[str, Any]) -> str:
    """The version of the API to speak with an engine that says this of itself. Pure."""
    newest, oldest = (_numbers(version.get(key)) for key in ("ApiVersion", "MinAPIVersion"))
    chosen = max(min(_API, newest or _API), oldest or (0, 0))
    return ".".join(str(number) for number in chosen)


def flavour_of(version: Mapping[str, Any]) -> Flavour:
    """Which engine says this of itself. Pure."""
    names = " ".join(str(part.get("Name", "")) for part in version.get("Components") or [])
    return "podman" if "podman" in names.lower() else "docker"


def message_of(data: bytes) -> str:
    """The sentence of an answer that is an error; podman says the cause apart. Pure."""
    try:
        found = json.loads(data)
    except ValueError:
        return data.decode(errors="replace").strip()
    if not isinstance(found, dict):
        return data.decode(errors="replace").strip()
    return str(found.get("message") or found.get("error") or found.get("cause") or "")


def _numbers(text: object) -> tuple[int, ...]:
    words = str(text or "").split(".")
    return tuple(int(word) for word in words) if all(word.isdigit() for word in words) else ()
