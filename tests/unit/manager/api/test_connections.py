"""Clients that are slow, silent, half gone or too many, and what only resembles HTTP; on raw sockets."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiohttp import web
from api_http import Http
from api_node import FakeCluster, FakeNode

from manager.api import listening, requests
from manager.api.connection_bounds import (
    API_HEAD_BYTES_MAX,
    API_HEAD_TIMEOUT_S,
    API_STALL_TIMEOUT_S,
    API_UPLOAD_QUIET_S,
)
from manager.api.connections import Connection, Connections
from manager.api.context import Api
from manager.api.hijack import Hijacked
from manager.api.server import ApiServer, make_app
from swarmpy.errors import FailedPrecondition
from swarmpy.model.changes import Create
from swarmpy.model.cluster_specs import ConfigSpec
from swarmpy.model.ids import ConfigId
from swarmpy.model.objects import Config
from swarmpy.runtime import Env

BOUND_S = 5.0
CONNECTIONS_MAX = 4
PING = b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n"
EVENTS = b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n"


@dataclass
class Served:
    path: Path
    book: Connections
    api: Api

    async def connect(self, data: bytes = b"") -> Client:
        reader, writer = await asyncio.open_unix_connection(str(self.path))
        writer.write(data)
        return Client(reader, writer)

    async def only(self) -> Connection:
        """The one connection that is open, once it has heard something."""
        await until(lambda: len(self.book.open) == 1)
        return next(iter(self.book.open))


@dataclass
class Client:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def answer(self) -> tuple[int, bytes]:
        async with asyncio.timeout(BOUND_S):
            head = await self.reader.readuntil(b"\r\n\r\n")
            length = next(
                (
                    int(line[15:])
                    for line in head.split(b"\r\n")
                    if line.lower().startswith(b"content-length")
                ),
                0,
            )
            return int(head.split()[1]), await self.reader.readexactly(length)

    async def rest(self) -> bytes:
        async with asyncio.timeout(BOUND_S):
            try:
                return await self.reader.read()
            except (ConnectionResetError, BrokenPipeError):
                return b""

    async def is_closed(self) -> bool:
        return await self.rest() == b""


def _create(header: bytes, body: bytes = b"") -> bytes:
    return b"POST /configs/create HTTP/1.1\r\nHost: x\r\n" + header + b"\r\n\r\n" + body


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(BOUND_S):
        while not is_so():
            await asyncio.sleep(0.001)


@pytest.fixture
async def served(node: FakeNode, tmp_path: Path) -> AsyncIterator[Served]:
    api = Api(node, Env())
    runner = web.AppRunner(make_app(api), shutdown_timeout=0.1)
    await runner.setup()
    assert runner.server is not None
    book = Connections(runner.server, limit=CONNECTIONS_MAX)
    listener = await listening.listen_unix(book, tmp_path / "api.sock")
    yield Served(tmp_path / "api.sock", book, api)
    listener.close()
    book.close()
    await runner.cleanup()


# --- half closed


async def test_who_closes_its_half_gets_its_answers(served: Served) -> None:
    client = await served.connect(PING + PING)
    client.writer.write_eof()
    answers = await client.rest()
    assert answers.count(b"HTTP/1.1 200 OK") == 2
    await until(lambda: not served.book.open)


@pytest.mark.parametrize("is_begun", [True, False])
async def test_a_body_that_is_cut_off_is_not_waited_for(
    served: Served, cluster: FakeCluster, is_begun: bool
) -> None:
    client = await served.connect(_create(b"Content-Length: 99", b"{"))
    if is_begun:  # so that it is cut off while it is read, not before
        connection = await served.only()
        await until(lambda: connection._request is not None)
    client.writer.write_eof()
    assert await client.is_closed()
    await until(lambda: not served.book.open)


@pytest.mark.parametrize("is_manager", [True, False])
async def test_a_stream_ends_when_its_reader_leaves(served: Served, node: FakeNode, is_manager: bool) -> None:
    if is_manager:
        node.become_manager()
    client = await served.connect(EVENTS)
    assert (await client.answer())[0] == 200
    client.writer.write_eof()
    assert (await client.rest()).endswith(b"0\r\n\r\n")
    await until(lambda: not served.book.open)


@pytest.mark.parametrize("has_left", [True, False])
async def test_a_stream_ends_when_the_daemon_stops(
    node: FakeNode, tmp_path: Path, has_left: bool, caplog: pytest.LogCaptureFixture
) -> None:
    node.become_manager()
    server = ApiServer(node, Env())
    await server.start(tmp_path / "api.sock")
    reader, writer = await asyncio.open_unix_connection(str(tmp_path / "api.sock"))
    client = Client(reader, writer)
    writer.write(EVENTS)
    assert (await client.answer())[0] == 200
    if has_left:  # it is told twice, at once
        writer.close()
    async with asyncio.timeout(BOUND_S):
        await server.stop()
    if has_left:
        assert not caplog.records
        return
    assert (await client.rest()).endswith(b"0\r\n\r\n"), "its end is said, not only met"


async def test_who_leaves_is_told_of_once(served: Served) -> None:
    client = await served.connect(EVENTS)
    assert (await client.answer())[0] == 200
    connection = await served.only()
    told: list[str] = []
    with connection.telling(lambda: told.append("left")):
        connection.end_stream()
        connection.end_stream()
    assert told == ["left"]


# --- slow


async def test_a_head_that_does_not_end_is_not_waited_for(served: Served) -> None:
    client = await served.connect(b"GET /_ping HTTP/1.1\r\nHo")
    connection = await served.only()
    await until(lambda: connection._head_since is not None)
    now = asyncio.get_running_loop().time()
    connection.check(now + API_HEAD_TIMEOUT_S / 2)
    assert served.book.open
    connection.check(now + API_HEAD_TIMEOUT_S + 1)
    assert await client.is_closed()


async def test_a_quiet_connection_is_kept(served: Served) -> None:
    client = await served.connect(PING)
    assert (await client.answer())[0] == 200
    connection = await served.only()
    connection.check(asyncio.get_running_loop().time() + API_UPLOAD_QUIET_S + API_HEAD_TIMEOUT_S)
    client.writer.write(PING)
    assert (await client.answer())[0] == 200


async def test_a_head_is_bounded_as_a_whole(served: Served) -> None:
    client = await served.connect(b"GET /_ping HTTP/1.1\r\n")
    line = b"X-%d: " + b"x" * 60_000 + b"\r\n"
    for number in range(2 * API_HEAD_BYTES_MAX // len(line)):
        client.writer.write(line % number)
    assert await client.is_closed()


async def test_a_connection_that_is_taken_over_knows_that_no_more_comes(served: Served) -> None:
    client = await served.connect(EVENTS)
    connection = await served.only()
    await until(lambda: connection._request is not None)
    connection.is_half_closed = True
    assert isinstance(connection.transport, asyncio.Transport)
    taken = Hijacked(connection.transport, connection)
    async with asyncio.timeout(BOUND_S):
        assert await taken.read() == b""
    await taken.close()
    await until(lambda: not served.book.open)
    client.writer.close()


async def test_a_body_that_stands_still_is_given_up(served: Served) -> None:
    client = await served.connect(b"POST /images/load HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\nname=")
    connection = await served.only()
    await until(lambda: connection._request is not None)
    now = asyncio.get_running_loop().time()
    connection.check(now + API_UPLOAD_QUIET_S - 1)
    assert served.book.open
    connection.check(now + API_UPLOAD_QUIET_S + 1)
    assert await client.is_closed()


async def test_json_that_comes_in_drops_is_too_slow(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "API_BODY_TIMEOUT_S", 0.01)
    client = await served.connect(_create(b"Content-Length: 99", b"{"))
    status, body = await client.answer()
    assert status == 408
    assert "has not come within" in json.loads(body)["message"]


async def test_who_reads_nothing_is_dropped_and_takes_little(served: Served, cluster: FakeCluster) -> None:
    client = await served.connect(EVENTS)
    client.reader._transport.pause_reading()  # type: ignore[attr-defined]  # asyncio's own way to read nothing
    connection = await served.only()
    number = 0
    while not connection.writing_paused:
        number += 1
        spec = ConfigSpec(name="x" * 200_000 + str(number), data=b"x")
        cluster.change(Create(object=Config(id=ConfigId(f"c{number}"), spec=spec)))
        await asyncio.sleep(0.001)
        assert number < 100
    transport = connection.transport
    assert transport is not None
    assert transport.get_write_buffer_size() < 4 << 20
    now = asyncio.get_running_loop().time()
    connection.check(now)
    connection.check(now + API_STALL_TIMEOUT_S - 1)
    assert served.book.open
    connection.check(now + API_STALL_TIMEOUT_S + 1)
    await until(lambda: not served.book.open)


# --- many


async def test_connections_are_counted(served: Served) -> None:
    clients = [await served.connect(PING) for _ in range(CONNECTIONS_MAX)]
    for client in clients:
        assert (await client.answer())[0] == 200
    one_more = await served.connect(PING)
    status, body = await one_more.answer()
    assert status == 503
    assert "connections already" in json.loads(body)["message"]
    assert await one_more.is_closed()
    clients[0].writer.close()
    await until(lambda: len(served.book.open) < CONNECTIONS_MAX)
    assert (await (await served.connect(PING)).answer())[0] == 200
    await until(lambda: not served.book.refused)


# --- almost HTTP


@pytest.mark.parametrize(
    "data",
    [
        _create(b"Transfer-Encoding: chunked\r\nContent-Length: 5", b"0\r\n\r\n"),
        _create(b"Content-Length: 5\r\nContent-Length: 6", b"abcdef"),
        _create(b"Content-Length: -5"),
        _create(b"Transfer-Encoding: chunked", b"zz\r\n"),
        _create(b"Transfer-Encoding: gzip"),
        b"GET /_ping HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x00\x01\x02\xff\xfe\r\n\r\n",
        bytes.fromhex("16030100050100000100"),
    ],
)
async def test_what_is_no_http_is_said_and_not_logged(
    served: Served, cluster: FakeCluster, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    client = await served.connect(data)
    status, body = await client.answer()
    assert status == 400
    assert json.loads(body)["message"].startswith("400 Bad Request")
    assert await client.is_closed()
    assert not caplog.records


async def test_compressed_bodies_are_not_unpacked(served: Served, cluster: FakeCluster) -> None:
    client = await served.connect(_create(b"Content-Encoding: gzip\r\nContent-Length: 5", b"abcde"))
    assert (await client.answer())[0] == 400


@pytest.mark.parametrize(
    "data",
    [
        b"GET /_ping HTTP/1.0\r\n\r\n",
        b"GET http://docker/_ping HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /_ping HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n",
        b"GET /_ping HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
        b"HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n\r\n",
        b"GET /_ping HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nabcde",
    ],
)
async def test_what_is_unusual_is_answered(served: Served, data: bytes) -> None:
    assert await (await served.connect(data)).answer() == (200, b"OK")


async def test_who_asks_before_it_sends_is_told_to(served: Served, cluster: FakeCluster) -> None:
    client = await served.connect(_create(b"Expect: 100-continue\r\nContent-Length: 26"))
    assert (await client.answer())[0] == 100
    client.writer.write(b'{"Name":"a","Data":"eA=="}')
    assert (await client.answer())[0] == 201


# --- the socket


def test_a_socket_has_its_rights_before_it_takes_anybody(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    before = os.umask(0)
    try:
        bound = listening._bound(path, "")
    finally:
        os.umask(before)
    try:
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        with socket.socket(socket.AF_UNIX) as client, pytest.raises(ConnectionRefusedError):
            client.connect(str(path))
    finally:
        bound.close()


async def test_what_is_no_socket_is_left_alone(node: FakeNode, tmp_path: Path) -> None:
    file, folder = tmp_path / "file", tmp_path / "folder"
    file.write_text("precious")
    folder.mkdir()
    for path, words in (
        (file, "no socket is there"),
        (folder, "no socket is there"),
        (file / "api.sock", "File exists|Not a directory"),
        (tmp_path / ("x" * 120), "at most"),
    ):
        with pytest.raises(FailedPrecondition, match=words):
            await ApiServer(node, Env()).start(path)
    assert file.read_text() == "precious"


async def test_another_daemons_socket_stays(node: FakeNode, tmp_path: Path) -> None:
    path = tmp_path / "run" / "deeper" / "api.sock"
    first, second = ApiServer(node, Env()), ApiServer(node, Env())
    await first.start(path)
    path.unlink()  # as an overeager administrator does
    await second.start(path)
    await first.stop()
    async with Http(path) as http:
        assert (await http.get("/_ping")).status == 200
    await second.stop()
    assert not path.exists()
