"""TLS under the API's connections, with halves that close one by one.

asyncio's own TLS ends a connection as soon as the other side has closed its half, and can't close one by
itself. A docker client does just that: it ends its input to ``docker exec -i`` and reads on. So here is the
same as over TCP: ``eof_received`` when the client sends no more, ``write_eof`` to send no more.

``serve`` makes the factory of connections that a listener wants out of one of protocols. A protocol hears of
its connection after the handshake, which has to be done in ``API_HEAD_TIMEOUT_S``; so many may be under way.
A handshake is milliseconds of arithmetic that anybody may ask for: one step of one is made at a time, and all
else that the loop has to do comes between.
What OpenSSL has to send is written at once: the plain transport's buffer is the only one, and bounds writers.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import structlog

from manager.api.connection_bounds import API_HEAD_TIMEOUT_S

log = structlog.get_logger(__name__)

Factory = Callable[[], asyncio.Protocol]
API_HANDSHAKES_MAX: Final = 256
"""Of clients that have not shown a certificate yet."""
_READ_BYTES: Final = 1 << 16


def serve(factory: Factory, context: Callable[[], ssl.SSLContext]) -> Factory:
    """``context`` is asked at every connection, so that new files are obeyed from then on."""
    shaking = _Shaking()
    return lambda: _Wire(factory, context(), shaking)


class _Shaking:
    """Connections whose clients have not shown a certificate yet. Each is asked in its turn."""

    def __init__(self) -> None:
        self.wires: set[_Wire] = set()
        self._due: deque[_Wire] = deque()

    def ask(self, wire: _Wire) -> None:
        """Its client has sent something. It reads no more until it has had its turn."""
        self._due.append(wire)
        if len(self._due) == 1:
            asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        wire = self._due[0]
        try:
            wire.shake_hands()
        finally:
            self._due.popleft()
            if self._due:
                asyncio.get_running_loop().call_soon(self._next)


class _Wire(asyncio.Protocol):
    """The encrypted side: bytes to and from OpenSSL."""

    def __init__(self, factory: Factory, context: ssl.SSLContext, shaking: _Shaking) -> None:
        self._factory = factory
        self._shaking = shaking
        self.incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self._outgoing, server_side=True)
        self.plain: asyncio.Transport
        self._transport: TlsTransport | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.plain = transport
        if len(self._shaking.wires) >= API_HANDSHAKES_MAX:
            transport.abort()
            return
        self._shaking.wires.add(self)
        self._timer = asyncio.get_running_loop().call_later(API_HEAD_TIMEOUT_S, transport.abort)

    def data_received(self, data: bytes) -> None:
        self.incoming.write(data)
        if self._transport is None:
            self.plain.pause_reading()
            self._shaking.ask(self)
        else:
            self._transport.pump()

    def eof_received(self) -> bool:
        """The client has closed, with or without saying so in TLS."""
        self.incoming.write_eof()
        if self._transport is None:
            return False
        self._transport.pump()
        return not self._transport.is_closing()

    def pause_writing(self) -> None:
        if self._transport is not None:
            self._transport.get_protocol().pause_writing()

    def resume_writing(self) -> None:
        if self._transport is not None:
            self._transport.get_protocol().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        if self._transport is not None:
            self._transport.lost(exc)

    def flush(self) -> None:
        """Send what OpenSSL has made."""
        if self._outgoing.pending and not self.plain.is_closing():
            self.plain.write(self._outgoing.read())

    def shake_hands(self) -> None:
        """One step, in its turn."""
        if self.plain.is_closing():
            return
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            self.flush()
            self.plain.resume_reading()
            return
        except ssl.SSLError as error:
            self.flush()  # the alert, which tells the client why
            peer = self.plain.get_extra_info("peername")
            log.info("api_handshake_failed", peer=str(peer), reason=error.reason or str(error))
            self.plain.close()
            return
        self.flush()
        self._stop_timer()
        self.plain.resume_reading()
        protocol = self._factory()
        self._transport = TlsTransport(self, protocol)
        protocol.connection_made(self._transport)
        self._transport.pump()  # what has come along with the client's last word

    def _stop_timer(self) -> None:
        self._shaking.wires.discard(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class TlsTransport(asyncio.Transport):
    """The readable side of one connection, for its protocol."""

    def __init__(self, wire: _Wire, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self._wire = wire
        self._protocol = protocol
        self._is_paused = self._is_eof_told = self._is_eof_sent = False

    # --- reading

    def pump(self) -> None:
        """Hand on what has come, as long as the protocol takes it."""
        while not self._is_paused and not self._is_eof_told and not self.is_closing():
            try:
                data = self._wire.tls.read(_READ_BYTES)
            except ssl.SSLWantReadError:
                break
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                data = b""
            except ssl.SSLError as error:
                log.info("api_connection_broken", reason=error.reason or str(error))
                self.abort()
                return
            if data:
                self._protocol.data_received(data)
            else:
                self._is_eof_told = True
                if not self._protocol.eof_received():
                    self.close()
        self._wire.flush()  # TLS may have something to answer by itself

    def is_reading(self) -> bool:
        return not self._is_paused and not self.is_closing()

    def pause_reading(self) -> None:
        self._is_paused = True
        if not self.is_closing():
            self._wire.plain.pause_reading()

    def resume_reading(self) -> None:
        if self._is_paused and not self.is_closing():
            self._is_paused = False
            self._wire.plain.resume_reading()
            asyncio.get_running_loop().call_soon(self.pump)  # OpenSSL may hold some already

    # --- writing

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._is_eof_sent:
            raise RuntimeError("write after write_eof")
        if self.is_closing() or not data:
            return
        try:
            self._wire.tls.write(data)
        except ssl.SSLError as error:
            log.info("api_connection_broken", reason=error.reason or str(error))
            self.abort()
            return
        self._wire.flush()

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        """Say in TLS that no more will come; what the client sends still does."""
        if self._is_eof_sent or self.is_closing():
            return
        self._is_eof_sent = True
        try:
            self._wire.tls.unwrap()
        except ssl.SSLError:
            pass  # the client has not closed its half: so it is meant
        self._wire.flush()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._wire.plain.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        return self._wire.plain.get_write_buffer_size()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._wire.plain.get_write_buffer_limits()

    # --- the end

    def is_closing(self) -> bool:
        return self._wire.plain.is_closing()

    def close(self) -> None:
        self.write_eof()
        self._wire.plain.close()

    def abort(self) -> None:
        self._wire.plain.abort()

    def lost(self, exc: Exception | None) -> None:
        self._protocol.connection_lost(exc)

    # --- the rest

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.Protocol)
        self._protocol = protocol

    def get_protocol(self) -> asyncio.Protocol:
        return self._protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Not ``sslcontext``: who asks for that believes that halves can't be closed."""
        match name:
            case "peercert":
                return self._wire.tls.getpeercert()
            case "ssl_object":
                return self._wire.tls
            case "sslcontext":
                return default
        return self._wire.plain.get_extra_info(name, default)
