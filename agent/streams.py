"""Streams that managers ask this node to attend: calls with one answer, and conversations such as a command.

What the node does is named in two tables, ``calls`` and ``talks``; a name that is in none is refused. Each
stream is one task of the session, so it ends with the session, and its work with it. Work ends as soon as the
manager's end is gone, whether or not anybody reads: a client that left must not leave a command behind.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

import structlog

from agent.executor.base import NotRunning, NotThere
from agent.link import AttendedStream, Link
from swarmpy.errors import (
    Conflict,
    InvalidArgument,
    NotFound,
    SwarmError,
    TaskFailed,
    TaskRejected,
    Unavailable,
    Unimplemented,
)
from swarmpy.limits import (
    RPC_ERROR_CHARS_MAX,
    STREAM_BODY_BYTES_MAX,
    STREAM_PART_BYTES_MAX,
    STREAM_QUEUE_PARTS_MAX,
    STREAMS_MAX,
)
from swarmpy.pb import dispatcher_pb2, streams_pb2

log = structlog.get_logger(__name__)


class Peer:
    """The client, as what talks to it sees it."""

    def __init__(self, stream: AttendedStream) -> None:
        self._stream = stream
        self._inputs: asyncio.Queue[streams_pb2.StreamPart] = asyncio.Queue(STREAM_QUEUE_PARTS_MAX)

    async def accept(self, pid: int = 0) -> None:
        """What was asked for is being done; data follows. ``pid``: of a command."""
        await self._stream.send(streams_pb2.StreamPart(accepted=streams_pb2.StreamAccepted(pid=pid)))

    async def send(self, data: bytes, *, stream: int = 1) -> None:
        """Waits until the client's end takes it."""
        for at in range(0, len(data), STREAM_PART_BYTES_MAX):
            piece = data[at : at + STREAM_PART_BYTES_MAX]
            await self._stream.send(
                streams_pb2.StreamPart(data=streams_pb2.StreamData(stream=stream, data=piece))
            )

    async def inputs(self) -> AsyncIterator[streams_pb2.StreamPart]:
        """What the client sends: data, the end of its input, sizes of its terminal. Ends with the stream."""
        while True:
            yield await self._inputs.get()

    async def read(self) -> None:
        """For the server: take in what comes, until the manager has ended the stream."""
        while (part := await self._stream.receive()) is not None:
            await self._inputs.put(part)


Call = Callable[[bytes], Awaitable[bytes]]
Talk = Callable[[bytes, Peer], Awaitable[bytes]]
"""Answers with the body of the result; what it raises is the client's to read."""


class StreamServer:
    def __init__(self, link: Link, *, calls: Mapping[str, Call], talks: Mapping[str, Talk]) -> None:
        self._link = link
        self._calls = dict(calls)
        self._talks = dict(talks)
        self._open: dict[str, asyncio.Task[None]] = {}

    def add_calls(self, calls: Mapping[str, Call]) -> None:
        """More that this node answers. A name belongs to one part of it."""
        assert not self._calls.keys() & calls.keys(), "two parts answer the same calls"
        self._calls.update(calls)

    def take(self, request: dispatcher_pb2.StreamRequest, address: str, tasks: asyncio.TaskGroup) -> None:
        """Attend a stream of the manager at ``address``; its work runs in ``tasks``."""
        id_ = request.stream_id
        if id_ in self._open:
            return
        if len(self._open) >= STREAMS_MAX:
            log.warning("stream_refused", stream_id=id_, open=len(self._open))
            return
        running = tasks.create_task(self._serve(id_, address))
        self._open[id_] = running
        running.add_done_callback(lambda _: self._open.pop(id_, None))

    async def _serve(self, id_: str, address: str) -> None:
        try:
            stream = await self._link.attend(address, id_)
            try:
                await self._attend(stream)
            finally:
                await stream.close()
        except SwarmError as error:
            log.info("stream_ended", stream_id=id_, reason=str(error))
        except Exception as error:  # the top of every stream: one that broke must not end the others
            log.error("stream_broke", stream_id=id_, exc_info=error)

    async def _attend(self, stream: AttendedStream) -> None:
        first = await stream.receive()
        if first is None:
            return  # the client has left meanwhile
        peer = Peer(stream)
        working = asyncio.create_task(self._work(first.start, peer))
        watching = [asyncio.create_task(peer.read()), asyncio.create_task(stream.wait_ended())]
        try:
            await asyncio.wait([working, *watching], return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                await stream.send(working.result())
                await stream.finish()
        finally:
            for task in (working, *watching):
                task.cancel()
            await asyncio.wait([working, *watching])

    async def _work(self, start: streams_pb2.StreamStart, peer: Peer) -> streams_pb2.StreamPart:
        """Do what is asked for. The last part of the stream: the result, or why there is none."""
        try:
            body = await self._answer(start, peer)
            if len(body) > STREAM_BODY_BYTES_MAX:
                raise Unavailable(f"the answer has {len(body)} bytes, {STREAM_BODY_BYTES_MAX} at most")
        except SwarmError as error:
            return failure_of(error)
        except Exception as error:  # what nobody foresaw is logged whole, and the client told of it
            log.error("stream_work_broke", name=start.name, exc_info=error)
            return failure_of(SwarmError(f"internal error of the node: {type(error).__name__}; see its log"))
        return streams_pb2.StreamPart(result=streams_pb2.StreamResult(body=body))

    async def _answer(self, start: streams_pb2.StreamStart, peer: Peer) -> bytes:
        if (call := self._calls.get(start.name)) is not None:
            return await call(start.body)
        if (talk := self._talks.get(start.name)) is not None:
            return await talk(start.body, peer)
        raise Unimplemented(
            f'this node does not know how to do "{start.name}": its daemon is older; upgrade it'
        )


def failure_of(error: SwarmError) -> streams_pb2.StreamPart:
    """An error as the client is to get it: the executor's own families become the API's."""
    kinds: tuple[tuple[type[SwarmError], type[SwarmError]], ...] = (
        (NotRunning, Conflict),
        (NotThere, NotFound),
        (TaskRejected, InvalidArgument),
        (TaskFailed, InvalidArgument),
    )
    kind = next((seen for own, seen in kinds if isinstance(error, own)), type(error))
    return streams_pb2.StreamPart(
        failure=streams_pb2.StreamFailure(kind=kind.__name__, message=str(error)[:RPC_ERROR_CHARS_MAX])
    )
