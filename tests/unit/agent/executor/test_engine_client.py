"""The connection to an engine: answers in pieces, heads that are none, a side that takes nothing; and a
daemon that does not know yet which containers it has."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import aiohttp
import pytest

from agent.executor.base import Command, LogQuery
from agent.executor.engine import commands, watching
from agent.executor.engine.client import Engine, Hijacked, Refused
from agent.executor.engine.commands import EngineCommand
from agent.executor.engine.executor import EngineExecutor
from agent.executor.engine.task import EngineTask, Record, Started
from agent.executor.engine.watching import Watch
from swarmpy.errors import Unavailable
from swarmpy.model.ids import TaskId, Timestamp
from swarmpy.runtime import SystemClock

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
ID = TaskId("t1")


@asynccontextmanager
async def served(folder: Path, serve: Serve) -> AsyncIterator[Engine]:
    server = await asyncio.start_unix_server(serve, folder / "sock")
    engine = Engine("docker", str(folder / "sock"))
    try:
        yield engine
    finally:
        await engine.close()
        server.close()


async def in_pieces(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Each answer byte by byte, the body apart from its head."""
    while head := await reader.readuntil(b"\r\n\r\n"):
        path = head.split()[1]
        body = json.dumps({"ApiVersion": "1.41"} if path == b"/version" else {"message": "not so"}).encode()
        status = 200 if path == b"/version" else 500
        writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n" % (status, len(body)))
        for at in range(len(body)):
            await writer.drain()
            await asyncio.sleep(0.001)
            writer.write(body[at : at + 1])


async def test_answers_come_in_pieces(tmp_path: Path) -> None:
    async with served(tmp_path, in_pieces) as engine:
        assert await engine.version() == {"ApiVersion": "1.41"}
        with pytest.raises(Refused, match=r"^not so$"):
            await engine.call("GET", "/x")
        with pytest.raises(Refused, match=r"^not so$"):
            async with engine.stream("GET", "/x"):
                raise AssertionError("there is no stream")


@pytest.mark.parametrize(
    "head", [b"\r\n\r\n", b"HTTP/1.1\r\n\r\n", b"HTTP/1.1 OK\r\n\r\n", b"SSH-2.0-x\r\n\r\n"]
)
async def test_a_head_that_is_none(tmp_path: Path, head: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head)

    async with served(tmp_path, serve) as engine:
        engine._prefix = "/v1.41"
        with pytest.raises(Unavailable, match="not reachable"):
            await engine.hijack("/x")


async def test_who_begins_while_another_leaves_has_connections_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And keeps them: nobody would close them."""
    goes_on = asyncio.Event()
    real = aiohttp.ClientSession.close
    closed: list[aiohttp.ClientSession] = []

    async def close(session: aiohttp.ClientSession) -> None:
        await goes_on.wait()
        closed.append(session)
        await real(session)

    async with served(tmp_path, in_pieces) as engine:
        await engine.version()
        first = engine._calls
        monkeypatch.setattr(aiohttp.ClientSession, "close", close)
        leaving = asyncio.ensure_future(engine.close())
        await asyncio.sleep(0)
        await engine.version()
        second = engine._calls
        goes_on.set()
        await leaving
        assert engine._calls is second
        await engine.close()
    assert closed == [first, second]


# --- who does not take what it is sent


async def stuck() -> tuple[Hijacked, socket.socket]:
    """Written to until nothing more is taken."""
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_unix_connection(sock=ours)
    connection = Hijacked(reader, writer)
    writing = asyncio.ensure_future(connection.write(bytes(8 << 20)))
    await asyncio.sleep(0)
    assert not writing.done()
    writing.cancel()
    return connection, theirs


async def test_who_takes_nothing_is_let_go_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.executor.engine.client.ENGINE_HANG_UP_S", 0.01)
    connection, theirs = await stuck()
    with theirs:
        async with asyncio.timeout(20):
            await asyncio.gather(connection.close(), connection.close())


async def test_a_command_that_reads_no_input_is_killed_as_its_client_leaves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("agent.executor.engine.client.ENGINE_HANG_UP_S", 0.01)
    killed: list[int] = []
    monkeypatch.setattr(commands, "kill", lambda pid, _: killed.append(pid))
    connection, theirs = await stuck()
    command = Command(argv=("sleep", "600"), has_input=True)
    engine = cast("Engine", None)
    channel = EngineCommand(engine, "c1", exec_id="e1", command=command, connection=connection)
    channel.pid = 7
    with theirs:
        async with asyncio.timeout(20):
            await channel.close()
    assert killed == [7]


# --- a daemon that has just begun


class Late:
    """An engine that is away first; then it has the one container of the task, which has ended."""

    flavour = "podman"
    socket = "/run/engine.sock"
    is_away = True
    removed = False

    async def call(self, method: str, path: str, **_: object) -> Any:
        if self.is_away:
            raise Unavailable("it is away")
        if path == "/info":
            return {"DockerRootDir": "/root"}
        if path == "/containers/json":
            labels = {"io.swarmpy.task": ID, "io.swarmpy.kind": "task"}
            return [] if self.removed else [{"Id": "c1", "State": "exited", "Labels": labels}]
        if method == "DELETE":
            self.removed = True
            return None
        state = {"StartedAt": "2026-01-01T00:00:00Z", "FinishedAt": "2026-01-01T00:00:09Z", "ExitCode": 3}
        return {"Id": "c1", "State": state, "LogPath": str(self.log)}

    log = Path("/nonexistent")

    async def close(self) -> None:
        pass


@pytest.fixture
async def late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[EngineExecutor, Late]]:
    """With a task of a former life, of which the engine has not told yet."""
    engine = Late()
    engine.log = tmp_path / "ctr.log"
    engine.log.write_text("2026-01-01T00:00:01.000000000+00:00 stdout F last words\n")
    executor = EngineExecutor(tmp_path, flavour="podman", socket="/x", files_dir=tmp_path / "files")
    parts = (executor, "engine"), (executor._identity, "_engine"), (executor._log, "_engine")
    for part, name in parts:
        vars(part)[name] = engine
    executor._files.prepare = lambda: None  # type: ignore[method-assign]
    monkeypatch.setattr(watching.Watch, "run", _never)
    await executor.start_up()
    record = Record(task_id=ID, name="web.1", container="web.1", image="box:1")
    executor._tasks[ID] = EngineTask(record=record, started=Started(at=Timestamp(1)), is_created=True)
    yield executor, engine
    await executor.shut_down()


async def _never(_: Watch) -> None:
    await asyncio.Event().wait()


async def test_a_log_is_not_lost_as_its_container_is_not_known_yet(late: tuple[EngineExecutor, Late]) -> None:
    """It is asked for, and kept as the task goes; nobody is told that there is none."""
    executor, engine = late

    async def read() -> list[bytes]:
        return [line.data async for line in executor.logs(ID, LogQuery())]

    with pytest.raises(Unavailable):
        await read()
    with pytest.raises(Unavailable):
        await executor.remove(ID, keep_log=True)
    engine.is_away = False
    task = executor._tasks[ID]
    await executor._ends._settle(task)
    task.container = ""
    await executor.remove(ID, keep_log=True)
    assert engine.removed
    assert await read() == [b"last words\n"]


async def test_the_log_of_a_container_that_was_removed_is_empty(late: tuple[EngineExecutor, Late]) -> None:
    executor, engine = late
    engine.is_away, engine.removed = False, True
    assert [line async for line in executor.logs(ID, LogQuery())] == []


async def test_after_a_while_of_quiet_a_break_is_made_good_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the breaks before it were waited for."""
    waits: list[float] = []
    enough = asyncio.Event()
    listened = iter([False] * 6 + [True] + [False] * 2)

    async def sleep(delay: float) -> None:
        waits.append(delay)

    async def listen(_: Watch, since: int) -> bool:
        found = next(listened, None)
        if found is None:
            enough.set()
            await asyncio.Event().wait()
        return bool(found)

    async def reconcile() -> None:
        pass

    monkeypatch.setattr("agent.executor.engine.watching.asyncio.sleep", sleep)
    monkeypatch.setattr(Watch, "_listen", listen)
    engine = cast("Engine", Late())
    watch = Watch(
        engine,
        "node",
        clock=SystemClock(),
        reconcile=reconcile,
        heard=lambda _: None,
        broke_off=lambda: None,
    )
    work = asyncio.ensure_future(watch.run())
    async with asyncio.timeout(20):
        await enough.wait()
    work.cancel()
    assert waits == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 0.1, 0.2]
