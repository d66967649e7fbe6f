"""What clients may do inside this node's tasks: run commands, be attached, copy, look at processes and usage.

Each is one entry of the tables of ``agent/streams``. Whether a task is this node's is asked first: an id of
somebody else's task, or of one that was taken from the node, is not found.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing

from google.protobuf.message import DecodeError, Message

from agent.executor.base import Channel, Command, Executor
from agent.streams import Call, Peer, Talk
from swarmpy.errors import InvalidArgument, NotFound
from swarmpy.model.ids import ServiceId, TaskId
from swarmpy.pb import streams_pb2 as pb
from swarmpy.runtime import Clock


class Inside:
    """``service_of`` says which service a task is of; None for a task that is not this node's."""

    def __init__(
        self, executor: Executor, clock: Clock, *, service_of: Callable[[TaskId], ServiceId | None]
    ) -> None:
        self._executor = executor
        self._clock = clock
        self._service_of = service_of

    @property
    def calls(self) -> Mapping[str, Call]:
        return {"task.top": self.top, "task.stats": self.stats, "task.resize": self.resize}

    @property
    def talks(self) -> Mapping[str, Talk]:
        return {
            "task.exec": self.exec,
            "task.attach": self.attach,
            "task.copy_out": self.copy_out,
            "task.copy_in": self.copy_in,
        }

    async def exec(self, body: bytes, peer: Peer) -> bytes:
        start = pb.ExecStart()
        _parse(body, start)
        command = Command(
            argv=tuple(start.argv),
            env=tuple(start.env),
            user=start.user,
            workdir=start.workdir,
            has_terminal=start.has_terminal,
            has_input=start.has_input,
            is_privileged=start.is_privileged,
        )
        return await self._carry(await self._executor.exec(self._own(start.task_id), command), peer)

    async def attach(self, body: bytes, peer: Peer) -> bytes:
        return await self._carry(await self._executor.attach(self._task(body)[0]), peer)

    async def _carry(self, channel: Channel, peer: Peer) -> bytes:
        """Between channel and client, until the channel's output ends. Its command dies with the stream."""
        try:
            await peer.accept()
            feeding = asyncio.create_task(_feed(channel, peer))
            try:
                async for part in channel.output():
                    await peer.send(part.data, stream=part.stream)
            finally:
                feeding.cancel()
                await asyncio.wait([feeding])
            return pb.ExitResult(code=await channel.exit_code()).SerializeToString()
        finally:
            await channel.close()

    async def copy_out(self, body: bytes, peer: Peer) -> bytes:
        task_id, start = self._task(body)
        async with aclosing(self._executor.copy_out(task_id, start.path)) as chunks:
            chunk = await anext(chunks, None)  # what cannot be read is refused before anything is sent
            await peer.accept()
            while chunk is not None:
                await peer.send(chunk)
                chunk = await anext(chunks, None)
        return b""

    async def copy_in(self, body: bytes, peer: Peer) -> bytes:
        task_id, start = self._task(body)
        await peer.accept()
        await self._executor.copy_in(task_id, start.path, _content(peer))
        return b""

    async def top(self, body: bytes) -> bytes:
        table = await self._executor.top(self._task(body)[0])
        rows = [pb.ProcessRow(cells=row) for row in table.rows]
        return pb.ProcessTable(titles=table.titles, rows=rows).SerializeToString()

    async def stats(self, body: bytes) -> bytes:
        """Of those of the tasks that are this node's."""
        start = pb.StatsStart()
        _parse(body, start)
        result = pb.StatsResult()
        running = {found.task_id for found in await self._executor.list() if found.pid}
        for task_id in map(TaskId, start.task_ids):
            if self._service_of(task_id) is None:
                continue
            stats = await self._executor.stats(task_id)
            result.tasks.add(
                task_id=task_id,
                is_running=task_id in running,
                at=self._clock.now(),
                cpu_ns=stats.cpu_ns,
                memory_bytes=stats.memory_bytes,
                pids=stats.pids,
                received_bytes=stats.received_bytes,
                sent_bytes=stats.sent_bytes,
            )
        return result.SerializeToString()

    async def resize(self, body: bytes) -> bytes:
        """The terminal of the task itself, for docker asks for it apart from being attached."""
        task_id, start = self._task(body)
        channel = await self._executor.attach(task_id)
        try:
            await channel.resize(rows=start.rows, columns=start.columns)
        finally:
            await channel.close()
        return b""

    def _task(self, body: bytes) -> tuple[TaskId, pb.TaskStart]:
        start = pb.TaskStart()
        _parse(body, start)
        return self._own(start.task_id), start

    def _own(self, task_id: str) -> TaskId:
        if self._service_of(TaskId(task_id)) is None:
            raise NotFound(f"No such container: {task_id}")
        return TaskId(task_id)


async def _feed(channel: Channel, peer: Peer) -> None:
    async for part in peer.inputs():
        match part.WhichOneof("part"):
            case "data":
                await channel.write(part.data.data)
            case "end_of_input":
                await channel.close_input()
            case "resize":
                await channel.resize(rows=part.resize.rows, columns=part.resize.columns)
            case _:
                continue  # something newer than this agent


async def _content(peer: Peer) -> AsyncIterator[bytes]:
    async for part in peer.inputs():
        if part.HasField("end_of_input"):
            return
        if part.HasField("data"):
            yield part.data.data


def _parse(body: bytes, into: Message) -> None:
    try:
        into.ParseFromString(body)
    except DecodeError:
        raise InvalidArgument("the request is damaged: its body cannot be read") from None
