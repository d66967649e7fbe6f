"""What clients may do inside this node's tasks: run commands, be attached, copy, look at processes and usage.

Each is one entry of the tables of ``agent/streams``. Whether a task is this node's is asked first: an id of
somebody else's task, or of one that was taken from the node, is not found.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing

import msgspec
from google.protobuf.message import DecodeError, Message

from agent.detached import DetachedCommands
from agent.executor.base import Attachment, Channel, Command, Executor, NotRunning, Stats
from agent.executor.limits import ATTACH_POLL_S
from agent.streams import Call, Peer, Talk
from swarmpy.errors import InvalidArgument, NotFound
from swarmpy.model.containers import CONTAINER_LOOK, ContainerAnswer, ContainerQuery
from swarmpy.model.ids import ServiceId, TaskId
from swarmpy.pb import streams_pb2 as pb
from swarmpy.runtime import Clock

_KILLED = 128 + signal.SIGKILL


class Inside:
    """``service_of`` says which service a task is of; None for a task that is not this node's."""

    def __init__(
        self, executor: Executor, clock: Clock, *, service_of: Callable[[TaskId], ServiceId | None]
    ) -> None:
        self._executor = executor
        self._clock = clock
        self._service_of = service_of
        self._detached = DetachedCommands()

    async def close(self) -> None:
        await self._detached.close()

    @property
    def calls(self) -> Mapping[str, Call]:
        return {
            "task.top": self.top,
            "task.stats": self.stats,
            "task.resize": self.resize,
            "task.exec_state": self.exec_state,
            CONTAINER_LOOK: self.look,
        }

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
            is_detached=start.is_detached,
            rows=start.rows,
            columns=start.columns,
        )
        task_id = self._own(start.task_id)
        if not start.is_detached:
            return await self._carry(await self._executor.exec(task_id, command), peer)
        self._detached.make_room()
        channel = await self._executor.exec(task_id, command)
        self._detached.add(task_id, start.exec_id, channel)
        await peer.accept(channel.pid)
        return b""

    async def exec_state(self, body: bytes) -> bytes:
        query = pb.ExecQuery()
        _parse(body, query)
        pid, code, is_running = self._detached.state(TaskId(query.task_id), query.exec_id)
        return pb.ExecState(
            is_running=is_running, code=_KILLED if code is None else code, pid=pid
        ).SerializeToString()

    async def attach(self, body: bytes, peer: Peer) -> bytes:
        start = pb.TaskStart()
        _parse(body, start)
        wish = Attachment(replays=start.replays, is_waited_for=start.is_waited_for)
        if start.waits_for_start:
            channel = await self._attach_early(TaskId(start.task_id), wish)
        else:
            channel = await self._executor.attach(self._own(start.task_id), wish)
        return await self._carry(channel, peer, closes_input=start.closes_input)

    async def _attach_early(self, task_id: TaskId, wish: Attachment) -> Channel:
        """To a task that may not have come here yet. Waits as long as the client does."""
        has_come = False
        while True:
            is_own = self._service_of(task_id) is not None
            if has_come and not is_own:
                raise NotFound(f"No such container: {task_id}")
            has_come = is_own
            if is_own:
                try:
                    return await self._executor.attach(task_id, wish)
                except NotRunning:
                    pass  # not yet
            await asyncio.sleep(ATTACH_POLL_S)

    async def _carry(self, channel: Channel, peer: Peer, *, closes_input: bool = False) -> bytes:
        """Between channel and client, until the channel's output ends. Its command dies with the stream.

        ``closes_input``: a client that leaves without a word has no more to say.
        """
        try:
            await peer.accept(channel.pid)
            feeding = asyncio.create_task(_feed(channel, peer))
            try:
                async for part in channel.output():
                    await peer.send(part.data, stream=part.stream)
            finally:
                feeding.cancel()
                await asyncio.wait([feeding])
            return pb.ExitResult(code=await channel.exit_code()).SerializeToString()
        finally:
            if closes_input:
                await channel.close_input()
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
        task_id, start = self._task(body)
        table = await self._executor.top(task_id, start.ps_args)
        rows = [pb.ProcessRow(cells=row) for row in table.rows]
        return pb.ProcessTable(titles=table.titles, rows=rows).SerializeToString()

    async def look(self, body: bytes) -> bytes:
        """Of those of the tasks that are this node's, or were and have left something."""
        try:
            query = msgspec.json.decode(body, type=ContainerQuery)
        except msgspec.DecodeError as error:
            raise InvalidArgument(f"invalid JSON: {error}") from None
        looks = [await self._executor.look(id_, has_sizes=query.has_sizes) for id_ in query.task_ids]
        return msgspec.json.encode(
            ContainerAnswer(containers=tuple(each for each in looks if each is not None))
        )

    async def stats(self, body: bytes) -> bytes:
        """Of those of the tasks that are this node's."""
        start = pb.StatsStart()
        _parse(body, start)
        result = pb.StatsResult()
        running = {found.task_id for found in await self._executor.list() if found.pid}
        for task_id in map(TaskId, start.task_ids):
            if self._service_of(task_id) is None:
                continue
            stats = await self._executor.stats(task_id, is_full=True)
            row = result.tasks.add(
                task_id=task_id,
                is_running=task_id in running,
                at=self._clock.now(),
                cpu_ns=stats.cpu_ns,
                memory_bytes=stats.memory_bytes,
                pids=stats.pids,
                received_bytes=stats.received_bytes,
                sent_bytes=stats.sent_bytes,
                cpu_user_ns=stats.cpu_user_ns,
                cpu_system_ns=stats.cpu_system_ns,
                system_cpu_ns=stats.system_cpu_ns,
                cpu_periods=stats.cpu_periods,
                throttled_periods=stats.throttled_periods,
                throttled_ns=stats.throttled_ns,
                memory_max_bytes=stats.memory_max_bytes,
                memory=stats.memory,
                pids_limit=stats.pids_limit,
            )
            _add_parts(row, stats)
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


def _add_parts(row: pb.TaskStats, stats: Stats) -> None:
    for link in stats.links:
        received, sent = link.received, link.sent
        row.interfaces.add(
            name=link.name,
            received_bytes=received[0],
            received_packets=received[1],
            received_errors=received[2],
            received_dropped=received[3],
            sent_bytes=sent[0],
            sent_packets=sent[1],
            sent_errors=sent[2],
            sent_dropped=sent[3],
        )
    for disk in stats.disks:
        row.disks.add(
            major=disk.major,
            minor=disk.minor,
            read_bytes=disk.read_bytes,
            written_bytes=disk.written_bytes,
            reads=disk.reads,
            writes=disk.writes,
        )


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
