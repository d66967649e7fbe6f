"""The server's end of simulated calls: ``grpc.aio.Server`` and ``ServicerContext`` as our code uses them.

Methods are found, interceptors asked and errors turned into statuses as gRPC does it. A call is one task. It
is cancelled when its client has cancelled, its deadline has passed, its connection is lost, or the server was
stopped and the grace is over.
"""

from __future__ import annotations

import asyncio
import inspect
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import structlog

from swarmpy.limits import RPC_CONCURRENT_MAX, RPC_MESSAGE_BYTES_MAX
from swarmpy.sim.connection import PACKET_BYTES, End

if TYPE_CHECKING:
    from swarmpy.sim.grpc_call import SimCall

log = structlog.get_logger(__name__)

WINDOW_BYTES = 64 << 10
"""What one direction of a stream may have under way and unread; one message may go beyond it."""
EOF_FIRST_PROBABILITY = 0.5
"""Of a servicer that reads when its client goes: it may see the end of the requests before it is cancelled,
as in gRPC, where both arrive by ways of their own."""
FINISHED = "RPC already finished."

Metadata = tuple[tuple[str, str | bytes], ...]
Pair = tuple["SimCall", Any]


@dataclass(frozen=True)
class CallDetails(grpc.HandlerCallDetails):
    method: str
    invocation_metadata: Metadata


@dataclass(frozen=True, kw_only=True)
class Opening:
    """What a client sends to begin a call."""

    method: str
    metadata: Metadata
    timeout_s: float | None
    request: bytes | None = None
    """The only one, if the client sends no stream."""


class SimServer:
    """Duck-typed ``grpc.aio.Server``, and what connections need of it."""

    def __init__(
        self,
        interceptors: Sequence[grpc.aio.ServerInterceptor],
        *,
        generator: random.Random,
        on_unexpected: Callable[[str, Exception], None],
    ) -> None:
        self._generator = generator
        self._on_unexpected = on_unexpected
        self._interceptors = tuple(interceptors)
        self._generic: list[grpc.GenericRpcHandler] = []
        self._registered: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        self._calls: dict[ServedCall, None] = {}
        self.is_stopping = False

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        self._generic.extend(handlers)

    def add_registered_method_handlers(
        self, service: str, handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
    ) -> None:
        self._registered.update({f"/{service}/{name}": method for name, method in handlers.items()})

    # --- calls

    def open(self, end: End, call: SimCall | None, opening: Opening) -> ServedCall:
        """Serve a call. With no client's end it is the shadow of another: nobody hears its answer."""
        served = ServedCall(end, call, opening, self._generator)
        if call is not None:
            call.served = served
        if self.is_stopping:
            served.finish(grpc.StatusCode.UNAVAILABLE, "Server shutting down")
        elif len(self._calls) >= RPC_CONCURRENT_MAX:
            served.finish(grpc.StatusCode.RESOURCE_EXHAUSTED, "Concurrent RPC limit exceeded!")
        else:
            self._calls[served] = None
            served.task = asyncio.get_running_loop().create_task(self._serve(served))
            served.task.add_done_callback(lambda _: self._ended(served))
            if opening.timeout_s is not None:
                served.timer = asyncio.get_running_loop().call_later(opening.timeout_s, served.cancel)
        return served

    def _ended(self, served: ServedCall) -> None:
        self._calls.pop(served, None)
        served.close()

    async def stop(self, grace_s: float | None) -> None:
        """Take no more calls, wait for those under way, then end them."""
        self.is_stopping = True
        tasks = [served.task for served in self._calls if served.task is not None]
        if tasks and grace_s:
            await asyncio.wait(tasks, timeout=grace_s)
        for served in list(self._calls):
            served.finish(grpc.StatusCode.UNAVAILABLE, "Cancelling all calls")
            served.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _find(self, details: CallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        async def continuation(
            position: int, asked: grpc.HandlerCallDetails
        ) -> grpc.RpcMethodHandler[Any, Any] | None:
            if position < len(self._interceptors):

                async def rest(more: grpc.HandlerCallDetails) -> Any:
                    return await continuation(position + 1, more)

                return await self._interceptors[position].intercept_service(rest, asked)
            found = self._registered.get(asked.method)
            if found is not None:
                return found
            services = (generic.service(asked) for generic in self._generic)
            return next((method for method in services if method is not None), None)

        return await continuation(0, details)

    async def _serve(self, served: ServedCall) -> None:
        opening = served.opening
        try:
            method = await self._find(CallDetails(opening.method, opening.metadata))
            if method is None:
                served.finish(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
                return
            await _answer(served, method)
        except asyncio.CancelledError:
            served.finish(grpc.StatusCode.CANCELLED, "")
        except grpc.aio.AbortError:
            pass  # the status has been sent
        except grpc.aio.InternalError:
            served.finish(grpc.StatusCode.CANCELLED, "")  # it wrote on after its client had gone
        except Exception as error:  # noqa: BLE001 - a call's top: its caller gets the error's name
            log.error("call_failed", method=opening.method, error=repr(error))
            self._on_unexpected(opening.method, error)
            code = served.code_set or grpc.StatusCode.UNKNOWN
            served.finish(code, f"Unexpected {type(error)}: {error}")


async def _answer(served: ServedCall, method: grpc.RpcMethodHandler[Any, Any]) -> None:
    served.deserialize = method.request_deserializer or _same
    served.serialize = method.response_serializer or _same
    requests = "stream" if method.request_streaming else "unary"
    responses = "stream" if method.response_streaming else "unary"
    behavior: Callable[..., Any] = getattr(method, f"{requests}_{responses}")
    request: Any = served
    if not method.request_streaming:
        request = await served.read()
        if request is grpc.aio.EOF:
            return  # a client that cancelled before it had asked
    result = behavior(request, served)
    if inspect.isasyncgen(result):
        async with aclosing(result):
            async for response in result:
                await served.write(response)
        served.finish(served.code_set or grpc.StatusCode.OK, served.details_set)
        return
    response = await result if inspect.isawaitable(result) else result
    code = served.code_set or grpc.StatusCode.OK
    if method.response_streaming or code is not grpc.StatusCode.OK:
        served.finish(code, served.details_set)
    else:
        served.finish(code, served.details_set, answer=served.serialize(response))


def _same(message: Any) -> Any:
    return message


class ServedCall:
    """One call as the server has it: the context that servicers see, and the requests that arrive."""

    def __init__(self, end: End, call: SimCall | None, opening: Opening, generator: random.Random) -> None:
        self._end = end
        self._generator = generator
        self._call = call
        self._inbox: deque[bytes] = deque() if opening.request is None else deque((opening.request,))
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._credit = WINDOW_BYTES
        self._unreturned = 0
        self._has_all = opening.request is not None
        self._is_over = self._is_aborted = self._is_cancelled = False
        self.opening = opening
        self.task: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.code_set: grpc.StatusCode | None = None
        self.details_set = ""
        self.trailing: Metadata = ()
        self.deserialize: Callable[[bytes], Any] = _same
        self.serialize: Callable[[Any], bytes] = _same
        end.streams[self] = None

    # --- what arrives

    def data_arrived(self, raw: bytes) -> None:
        if not self._is_over and not self._is_cancelled:
            self._inbox.append(raw)
            _wake(self._reader)

    def closed_by_client(self) -> None:
        self._has_all = True
        _wake(self._reader)

    def credit_arrived(self, size: int) -> None:
        self._credit += size
        if self._credit > 0:
            _wake(self._writer)

    def cancel(self) -> None:
        """The client wants it no more, or can't be told any more."""
        self._is_cancelled = True
        self.close()
        if self.task is None:
            return
        reader = self._reader
        if reader is not None and not reader.done() and self._generator.random() < EOF_FIRST_PROBABILITY:
            reader.set_result(None)
            asyncio.get_running_loop().call_soon(self.task.cancel)
        else:
            self.task.cancel()

    def lost(self, reason: str) -> None:
        self.cancel()

    def close(self) -> None:
        self._end.streams.pop(self, None)
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    # --- what servicers use

    async def read(self) -> Any:
        self._check_running()
        while not self._inbox:
            if self._has_all or self._is_cancelled:
                return grpc.aio.EOF
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        raw = self._inbox.popleft()
        self._unreturned += len(raw)
        if self._unreturned >= WINDOW_BYTES // 2 and not self._has_all:
            self._send("credit_arrived", self._unreturned)
            self._unreturned = 0
        return self.deserialize(raw)

    def __aiter__(self) -> ServedCall:
        return self

    async def __anext__(self) -> Any:
        message = await self.read()
        if message is grpc.aio.EOF:
            raise StopAsyncIteration
        return message

    async def write(self, message: Any) -> None:
        self._check_running()
        raw = self.serialize(message)
        if len(raw) > RPC_MESSAGE_BYTES_MAX:
            self.finish(grpc.StatusCode.RESOURCE_EXHAUSTED, _too_long(raw))
            raise asyncio.CancelledError
        while self._credit <= 0 and not self._is_cancelled:
            self._writer = asyncio.get_running_loop().create_future()
            await self._writer
            self._check_running()
        if self._is_cancelled:
            raise grpc.aio.InternalError("the client is gone")
        self._credit -= len(raw)
        self._send("data_arrived", raw, PACKET_BYTES + len(raw))

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Metadata = ()) -> None:
        if self._is_aborted:
            raise grpc.aio.UsageError("Abort already called!")
        self._is_aborted = True
        self.trailing = tuple(trailing_metadata) or self.trailing
        self.finish(code, details or self.details_set)
        raise grpc.aio.AbortError("Locally aborted.")

    def set_code(self, code: grpc.StatusCode) -> None:
        self.code_set = code

    def set_details(self, details: str) -> None:
        self.details_set = details

    def set_trailing_metadata(self, metadata: Metadata) -> None:
        self.trailing = tuple(metadata)

    def invocation_metadata(self) -> Metadata:
        return self.opening.metadata

    def peer(self) -> str:
        peer = self._end.peer
        host, _, port = ("", "", "") if peer is None else peer.address.rpartition(":")
        return f"ipv6:%5B{host}%5D:{port}" if ":" in host else f"ipv4:{host}:{port}"

    def auth_context(self) -> Mapping[str, Sequence[bytes]]:
        peer = self._end.peer
        return {} if peer is None or not peer.certificate else {"x509_pem_cert": [peer.certificate]}

    def done(self) -> bool:
        return self._is_over

    # --- the end

    def finish(self, code: grpc.StatusCode, details: str, *, answer: bytes | None = None) -> None:
        """Send the status; the first counts."""
        if self._is_over:
            return
        self._is_over = True
        if self._is_cancelled:
            return  # nobody hears it
        if answer is not None and len(answer) > RPC_MESSAGE_BYTES_MAX:
            code, details, answer = grpc.StatusCode.RESOURCE_EXHAUSTED, _too_long(answer), None
        size = PACKET_BYTES + len(answer or b"")
        self._send("status_arrived", (answer, code, details, self.trailing), size)
        self.close()

    def _send(self, name: str, argument: Any, size: int = PACKET_BYTES) -> None:
        if self._call is not None:
            self._end.out.send(getattr(self._call, name), argument, size)

    def _check_running(self) -> None:
        if self._is_aborted:
            raise grpc.aio.AbortError("Locally aborted.")
        if self._is_over:
            raise grpc.aio.UsageError(FINISHED)


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)


def _too_long(raw: bytes) -> str:
    return f"SERVER: Sent message larger than max ({len(raw)} vs. {RPC_MESSAGE_BYTES_MAX})"
