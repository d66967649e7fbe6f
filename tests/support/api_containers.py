"""Containers over the API on a pretended node: what tests of commands, attaching and lists share."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from api_http import Http, spec
from api_node import FIRST, FakeCluster
from stream_rig import TASK, StreamRig

from agent.executor.base import Command
from agent.executor.fake_exec import Reply
from swarmpy.model.ids import TaskId

DEADLINE_S = 20.0


@asynccontextmanager
async def pretended(http: Http, cluster: FakeCluster) -> AsyncIterator[StreamRig]:
    """A node on which the task ``t1`` of the service ``web`` runs."""
    async with asyncio.TaskGroup() as tasks:
        rig = StreamRig(tasks, node_id=FIRST)
        await rig.start()
        cluster.streams = rig.streams
        service_id = (await http.post("/services/create", spec(container={"OpenStdin": True}))).json["ID"]
        cluster.add_task(TASK, service_id)
        yield rig


def answering(rig: StreamRig, reply: Reply) -> None:
    def answer(task_id: TaskId, command: Command) -> Reply:
        return reply

    rig.machine.answer = answer


class Raw:
    """A connection that was upgraded."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def frame(self) -> tuple[int, bytes]:
        async with asyncio.timeout(DEADLINE_S):
            head = await self.reader.readexactly(8)
            return head[0], await self.reader.readexactly(int.from_bytes(head[4:]))

    async def rest(self) -> bytes:
        async with asyncio.timeout(DEADLINE_S):
            return await self.reader.read()


async def upgraded(socket: Path, path: str, body: object) -> tuple[str, Raw]:
    """The head of the answer, and what the connection has become."""
    reader, writer = await asyncio.open_unix_connection(str(socket))
    data = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: docker\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(data)}\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
    )
    writer.write(head.encode() + data)
    async with asyncio.timeout(DEADLINE_S):
        answer = await reader.readuntil(b"\r\n\r\n")
    return answer.decode(), Raw(reader, writer)


async def made(http: Http, name: str = "web.1", **config: object) -> str:
    body = {"Cmd": ["sh"], "AttachStdout": True, "AttachStderr": True, **config}
    answer = await http.post(f"/containers/{name}/exec", body)
    assert answer.status == 201, answer.body
    return str(answer.json["Id"])


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.01)
