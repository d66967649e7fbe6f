"""The client's end of simulated calls: ``grpc.aio``'s four kinds of call as the generated stubs make them.

What a caller sees is what ``grpc.aio`` shows: which error, when, and with which words. In particular a call
that was cancelled here raises ``CancelledError`` at its reader, a write that meets the end of its call says
"Internal error from Core", and one after it raises ``InvalidStateError``. Messages that came before the
status are read first, unless the connection broke.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, Callable, Generator, Iterable
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from swarmpy.limits import RPC_MESSAGE_BYTES_MAX
from swarmpy.sim.connection import PACKET_BYTES, End
from swarmpy.sim.grpc_server import FINISHED, WINDOW_BYTES, Metadata, Opening, ServedCall

if TYPE_CHECKING:
    from swarmpy.sim.grpc_channel import SimChannel

CANCELLED_HERE = "Locally cancelled by application!"
HALF_CLOSED = 'RPC is half closed after calling "done_writing".'
CORE_ERROR = "Internal error from Core"

Status = tuple[grpc.StatusCode, str, Metadata]


def error_of(status: Status) -> grpc.aio.AioRpcError:
    code, details, trailing = status
    return grpc.aio.AioRpcError(
        code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailing), details=details, debug_error_string=details
    )


class Method:
    """What the four kinds of multicallable know of their method."""

    __slots__ = ("channel", "deserialize", "is_answer_unary", "is_request_unary", "name", "serialize")

    def __init__(
        self, channel: SimChannel, name: str, *, is_request_unary: bool, is_answer_unary: bool
    ) -> None:
        self.channel = channel
        self.name = name
        self.is_request_unary = is_request_unary
        self.is_answer_unary = is_answer_unary
        self.serialize: Callable[[Any], bytes] | None = None
        self.deserialize: Callable[[bytes], Any] | None = None

    def __call__(
        self,
        request: Any = None,
        *,
        timeout: float | None = None,
        metadata: Iterable[tuple[str, str | bytes]] | None = None,
        **options: Any,
    ) -> SimCall:
        # credentials, compression and wait_for_ready have no meaning here
        self.channel.check_open()
        first: bytes | None = None
        if self.is_request_unary:
            first = bytes(request) if self.serialize is None else self.serialize(request)
        opening = Opening(method=self.name, metadata=tuple(metadata or ()), timeout_s=timeout, request=first)
        call = SimCall(self, opening)
        if not self.is_request_unary and request is not None:
            call.send_all_of(request)
        return call


class SimCall:
    """One call. All four kinds in one: what a kind can't do its callers don't ask for."""

    __slots__ = (
        "__weakref__",
        "_answer",
        "_begun",
        "_channel",
        "_credit",
        "_done_callbacks",
        "_end",
        "_ended",
        "_inbox",
        "_is_cancelled_here",
        "_is_half_closed",
        "_late_status",
        "_loop",
        "_method",
        "_opening",
        "_poller",
        "_reader",
        "_status",
        "_timer",
        "_unreturned",
        "_writer",
        "served",
    )

    def __init__(self, method: Method, opening: Opening) -> None:
        self._loop = asyncio.get_running_loop()
        self._method = method
        self._channel = method.channel
        self._opening = opening
        self._end: End | None = None
        self._status: Status | None = None
        self._late_status: Status | None = None
        self._answer: bytes | None = None
        self._inbox: deque[bytes] = deque()
        self._credit = WINDOW_BYTES
        self._unreturned = 0
        self._is_half_closed = opening.request is not None
        self._is_cancelled_here = False
        self._begun: asyncio.Future[None] | None = None
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._ended: asyncio.Future[None] | None = None
        self._poller: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._done_callbacks: list[Callable[[SimCall], object]] = []
        self.served: ServedCall | None = None
        """The server's end. The server alone touches it."""
        if opening.timeout_s is not None:
            self._timer = self._loop.call_later(max(opening.timeout_s, 0.0), self._deadline_passed)
        if opening.request is not None and len(opening.request) > RPC_MESSAGE_BYTES_MAX:
            self._finish((grpc.StatusCode.RESOURCE_EXHAUSTED, _too_long(opening.request), ()))
        else:
            self._channel.begin(self)

    # --- what the channel and the connection tell

    def begin(self, end: End) -> None:
        """There is a connection."""
        self._end = end
        end.streams[self] = None
        opening = self._opening
        size = PACKET_BYTES + len(opening.method) + len(opening.request or b"")
        end.out.send(open_at_server, (end, self, opening), size)
        if self._method.is_request_unary and self._method.is_answer_unary:
            self._channel.repeat(end, opening, size)
        _wake(self._begun)

    def refuse(self, details: str) -> None:
        """There is none."""
        self._finish((grpc.StatusCode.UNAVAILABLE, details, ()))

    def lost(self, reason: str) -> None:
        self._inbox.clear()
        self._finish((grpc.StatusCode.UNAVAILABLE, reason, ()))

    def data_arrived(self, raw: bytes) -> None:
        if self._status is None:
            self._inbox.append(raw)
            _wake(self._reader)

    def credit_arrived(self, size: int) -> None:
        self._credit += size
        if self._credit > 0:
            _wake(self._writer)

    def status_arrived(self, end: tuple[bytes | None, grpc.StatusCode, str, Metadata]) -> None:
        answer, code, details, trailing = end
        if self._status is not None:
            return
        if answer is not None:
            self._answer = answer
        if self._inbox:
            self._late_status = (code, details, trailing)
            _wake(self._writer)
        else:
            self._finish((code, details, trailing))

    def _deadline_passed(self) -> None:
        self._timer = None
        if self._status is None:
            self._inbox.clear()
            self._tell_server("cancel")
            self._finish((grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", ()))

    def _finish(self, status: Status) -> None:
        if self._status is not None:
            return
        self._status = status
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._end is not None:
            self._end.streams.pop(self, None)
        self._channel.ended(self)
        for waiter in (self._begun, self._reader, self._writer, self._ended):
            _wake(waiter)
        callbacks, self._done_callbacks = self._done_callbacks, []
        for callback in callbacks:
            callback(self)

    def _tell_server(self, name: str, argument: Any = None, size: int = PACKET_BYTES) -> None:
        if self._end is not None and not self._end.is_broken:
            self._end.out.send(_at_server, (self, name, argument), size)

    # --- what every caller may ask

    def cancel(self) -> bool:
        if self._status is not None:
            return False
        self._is_cancelled_here = True
        self._inbox.clear()
        self._tell_server("cancel")
        self._finish((grpc.StatusCode.CANCELLED, CANCELLED_HERE, ()))
        if self._poller is not None and self._poller is not asyncio.current_task():
            self._poller.cancel()
        return True

    def done(self) -> bool:
        return self._status is not None

    def cancelled(self) -> bool:
        return self._status is not None and self._status[0] is grpc.StatusCode.CANCELLED

    def add_done_callback(self, callback: Callable[[SimCall], object]) -> None:
        if self._status is not None:
            callback(self)
        else:
            self._done_callbacks.append(callback)

    async def _wait_ended(self) -> Status:
        while self._status is None:
            if self._ended is None or self._ended.done():
                self._ended = self._loop.create_future()
            await asyncio.shield(self._ended)
        return self._status

    async def code(self) -> grpc.StatusCode:
        return (await self._wait_ended())[0]

    async def details(self) -> str:
        return (await self._wait_ended())[1]

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        return grpc.aio.Metadata(*(await self._wait_ended())[2])

    async def initial_metadata(self) -> grpc.aio.Metadata:
        return grpc.aio.Metadata()

    async def wait_for_connection(self) -> None:
        await self._wait_begun()
        if self._status is not None:
            self._raise_for_status()

    def _raise_for_status(self) -> None:
        if self._is_cancelled_here:
            raise asyncio.CancelledError
        if self._status is not None and self._status[0] is not grpc.StatusCode.OK:
            raise error_of(self._status)

    # --- one answer

    def __await__(self) -> Generator[Any, None, Any]:
        return self._wait_answer().__await__()

    async def _wait_answer(self) -> Any:
        try:
            await self._wait_ended()
        except asyncio.CancelledError:
            self.cancel()
            raise
        self._raise_for_status()
        return self._parse(self._answer or b"")

    def _parse(self, raw: bytes) -> Any:
        return raw if self._method.deserialize is None else self._method.deserialize(raw)

    # --- a stream of answers

    async def read(self) -> Any:
        if self._status is not None:
            self._raise_for_status()
            return grpc.aio.EOF
        message = await self._read()
        if message is grpc.aio.EOF:
            self._raise_for_status()
        return message

    async def _read(self) -> Any:
        while not self._inbox:
            if self._status is not None:
                return grpc.aio.EOF
            self._reader = self._loop.create_future()
            try:
                await self._reader
            except asyncio.CancelledError:
                self.cancel()
                raise
        raw = self._inbox.popleft()
        if self._late_status is not None:
            if not self._inbox:
                self._finish(self._late_status)
        else:
            self._unreturned += len(raw)
            if self._unreturned >= WINDOW_BYTES // 2:
                self._tell_server("credit_arrived", self._unreturned)
                self._unreturned = 0
        return self._parse(raw)

    def __aiter__(self) -> SimCall:
        return self

    async def __anext__(self) -> Any:
        message = await self._read()
        if message is grpc.aio.EOF:
            self._raise_for_status()
            raise StopAsyncIteration
        return message

    # --- a stream of requests

    async def write(self, request: Any) -> None:
        if self.done():
            raise asyncio.InvalidStateError(FINISHED)
        if self._is_half_closed:
            raise asyncio.InvalidStateError(HALF_CLOSED)
        raw = bytes(request) if self._method.serialize is None else self._method.serialize(request)
        if self._end is None:
            await self._wait_begun()
            self._raise_for_status()
        while self._credit <= 0 and self._status is None and self._late_status is None:
            self._writer = self._loop.create_future()
            try:
                await self._writer
            except asyncio.CancelledError:
                self.cancel()
                raise
        if self._status is not None or self._late_status is not None or len(raw) > RPC_MESSAGE_BYTES_MAX:
            self._fail_write()
        self._credit -= len(raw)
        self._tell_server("data_arrived", raw, PACKET_BYTES + len(raw))

    def _fail_write(self) -> None:
        """gRPC's core only says that it could not send; grpc.aio makes that the call's status."""
        status: Status = (grpc.StatusCode.INTERNAL, CORE_ERROR, ())
        if self._status is None:
            self._tell_server("cancel")
            self._inbox.clear()
            self._finish(status)
        self._status = status
        self._raise_for_status()

    async def _wait_begun(self) -> None:
        while self._end is None and self._status is None:
            self._begun = self._loop.create_future()
            try:
                await self._begun
            except asyncio.CancelledError:
                self.cancel()
                raise

    async def done_writing(self) -> None:
        if self._status is not None or self._is_half_closed:
            return
        await self._wait_begun()
        self._is_half_closed = True
        self._tell_server("closed_by_client")

    def send_all_of(self, requests: Any) -> None:
        """Write what an iterator gives, in a task of its own."""
        self._poller = self._loop.create_task(self._send_all(requests))

    async def _send_all(self, requests: Any) -> None:
        try:
            if isinstance(requests, AsyncIterable):
                async for request in requests:
                    await self.write(request)
            else:
                for request in requests:
                    await self.write(request)
            await self.done_writing()
        except grpc.aio.AioRpcError:
            return  # the call has ended, and says so where its answer is awaited
        except asyncio.CancelledError:
            self.cancel()
            raise
        except Exception:  # noqa: BLE001 - the caller's iterator: gRPC cancels the call, whatever it was
            self.cancel()


def open_at_server(packet: tuple[End, SimCall | None, Opening]) -> None:
    """Runs in the server's process."""
    end, call, opening = packet
    peer = end.peer
    if peer is not None and peer.owner is not None and not peer.is_broken:
        peer.owner.open(peer, call, opening)


def _at_server(packet: tuple[SimCall, str, Any]) -> None:
    """Runs in the server's process."""
    call, name, argument = packet
    served = call.served
    if served is None:
        return
    if argument is None:
        getattr(served, name)()
    else:
        getattr(served, name)(argument)


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)


def _too_long(raw: bytes) -> str:
    return f"CLIENT: Sent message larger than max ({len(raw)} vs. {RPC_MESSAGE_BYTES_MAX})"
