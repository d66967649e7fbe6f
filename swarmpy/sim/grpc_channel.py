"""A simulated ``grpc.aio.Channel``: one connection, made when the first call needs it.

As in gRPC a call fails at once while the last attempt to connect has failed lately, an attempt is bounded,
and a connection that broke is made anew by the next call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc.aio

from swarmpy.limits import RPC_CONNECT_TIMEOUT_S, RPC_RECONNECT_MAX_S, RPC_RECONNECT_MIN_S
from swarmpy.model.ids import Timestamp
from swarmpy.pki import Identity, Role
from swarmpy.sim.connection import CLOSED, REFUSED, End
from swarmpy.sim.grpc_call import Method, SimCall, open_at_server
from swarmpy.sim.grpc_server import Opening
from swarmpy.sim.handshake import show
from swarmpy.sim.network import SimNetwork

RECONNECT_FACTOR = 1.6
DUPLICATE_DELAY_S = 0.05
TIMED_OUT = "Handshake read failed (Endpoint closing)"
UNTRUSTED = "Tls handshake failed (TSI_PROTOCOL_FAILURE): CERTIFICATE_VERIFY_FAILED"
WRONG_ROLE = (
    "Custom verification check failed with error: UNAUTHENTICATED: Hostname Verification Check failed."
)


class SimChannel:
    """Duck-typed ``grpc.aio.Channel`` of one process to one address."""

    def __init__(
        self,
        network: SimNetwork,
        connect: Callable[[], End],
        *,
        identity: Identity,
        address: str,
        server_role: Role,
        now: Callable[[], Timestamp],
    ) -> None:
        self._network = network
        self._connect = connect
        self._identity = identity
        self._address = address
        self._server_role = server_role
        self._now = now
        self._loop = asyncio.get_running_loop()
        self._is_closed = False
        self._ends: dict[End, None] = {}
        self._end: End | None = None
        """The connection for new calls."""
        self._attempt: End | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._waiting: dict[SimCall, None] = {}
        self._failures = 0
        self._retry_at = 0.0
        self._last_error = ""

    # --- what stubs use

    def unary_unary(self, method: str, *codecs: Any, **options: Any) -> Method:
        return self._method(method, codecs, options, is_request_unary=True, is_answer_unary=True)

    def unary_stream(self, method: str, *codecs: Any, **options: Any) -> Method:
        return self._method(method, codecs, options, is_request_unary=True, is_answer_unary=False)

    def stream_unary(self, method: str, *codecs: Any, **options: Any) -> Method:
        return self._method(method, codecs, options, is_request_unary=False, is_answer_unary=True)

    def stream_stream(self, method: str, *codecs: Any, **options: Any) -> Method:
        return self._method(method, codecs, options, is_request_unary=False, is_answer_unary=False)

    def _method(self, name: str, codecs: tuple[Any, ...], options: dict[str, Any], **kind: bool) -> Method:
        method = Method(self, name, **kind)
        method.serialize, method.deserialize = (*codecs, None, None)[:2]
        method.serialize = options.get("request_serializer", method.serialize)
        method.deserialize = options.get("response_deserializer", method.deserialize)
        return method

    async def __aenter__(self) -> SimChannel:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def close(self, grace: float | None = None) -> None:
        """Cancel the calls under way, and hang up."""
        if self._is_closed:
            return
        self._is_closed = True
        calls = [*self._waiting]
        for end in self._ends:
            calls.extend(stream for stream in end.streams if isinstance(stream, SimCall))
        for call in calls:
            call.cancel()
        self._stop_timer()
        for end in list(self._ends):
            end.lose(CLOSED)

    def check_open(self) -> None:
        if self._is_closed:
            raise grpc.aio.UsageError("Channel is closed.")

    # --- what calls use

    def begin(self, call: SimCall) -> None:
        if self._end is not None:
            call.begin(self._end)
        elif self._attempt is None and self._loop.time() < self._retry_at:
            call.refuse(self._last_error)
        else:
            self._waiting[call] = None
            if self._attempt is None:
                self._start_attempt()

    def ended(self, call: SimCall) -> None:
        self._waiting.pop(call, None)

    def repeat(self, end: End, opening: Opening, size: int) -> None:
        """Have a unary call served twice, sometimes: as by a client that has lost the answer."""
        network = self._network
        if network.duplicate_probability and network.generator.random() < network.duplicate_probability:
            network.stats["calls_duplicated"] += 1
            delay_s = DUPLICATE_DELAY_S * network.generator.random()
            self._loop.call_later(delay_s, end.out.send, open_at_server, (end, None, opening), size)

    # --- the connection

    def _start_attempt(self) -> None:
        end = self._connect()
        end.owner = self
        end.certificate = self._network.verdicts.chain(self._identity.certificate)
        self._ends[end] = None
        self._attempt = end
        self._timer = self._loop.call_later(RPC_CONNECT_TIMEOUT_S, end.lose, TIMED_OUT)

    def shown(self, end: End, pem: bytes) -> None:
        verdicts, identity = self._network.verdicts, self._identity
        leaf = verdicts.leaf(pem)
        if not verdicts.is_server_trusted(pem, identity.roots, self._now()):
            end.lose(UNTRUSTED)
        elif verdicts.role_of(leaf) is not self._server_role:
            end.lose(WRONG_ROLE)
        else:
            show(end, end.certificate)

    def ready(self, end: End) -> None:
        if end is not self._attempt or end.is_broken:
            return
        self._attempt = None
        self._stop_timer()
        self._end = end
        self._failures = 0
        waiting, self._waiting = self._waiting, {}
        for call in waiting:
            call.begin(end)

    def open(self, end: End, call: SimCall | None, opening: Opening) -> None:
        """Servers call nobody."""

    def going_away(self, end: End) -> None:
        if self._end is end:
            self._end = None

    def end_lost(self, end: End, reason: str) -> None:
        self._ends.pop(end, None)
        if self._end is end:
            self._end = None
        if self._attempt is not end:
            return
        self._attempt = None
        self._stop_timer()
        why = f"Failed to connect to remote host: {REFUSED}" if reason == REFUSED else reason
        self._last_error = (
            f"failed to connect to all addresses; last error: UNAVAILABLE: ipv4:{self._address}: {why}"
        )
        backoff_s = min(RPC_RECONNECT_MIN_S * RECONNECT_FACTOR**self._failures, RPC_RECONNECT_MAX_S)
        self._failures += 1
        self._retry_at = self._loop.time() + backoff_s
        waiting, self._waiting = self._waiting, {}
        for call in waiting:
            call.refuse(self._last_error)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
