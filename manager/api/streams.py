"""Answers that go on: opened within a bound, closed with their reader, never an error after the fact.

A reader that leaves shows in one of two ways, a write that fails or a connection that is gone while nothing
is written; both simply end the stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from datetime import datetime

import structlog
from aiohttp import web

from manager.api.connections import Connection
from manager.api.context import Api
from swarmpy.errors import InvalidArgument, SwarmError
from swarmpy.model.ids import SECOND_NS, Timestamp

_FRACTION_DIGITS = 9

log = structlog.get_logger(__name__)


@asynccontextmanager
async def open_stream(api: Api, request: web.Request, content_type: str) -> AsyncIterator[web.StreamResponse]:
    """Send the head of the answer now; whatever the body yields is the caller's to write."""
    api.begin_stream()
    try:
        response = web.StreamResponse(headers={"Content-Type": content_type})
        await response.prepare(request)
        try:
            yield response
            await response.write_eof()
        except ConnectionResetError:
            pass  # the reader has gone, and with it the reason to write
        except SwarmError as error:
            # too late for another answer: what has begun ends without its end, and the reader knows
            log.info("api_stream_broken_off", path=request.path, reason=str(error))
            if request.transport is not None:
                request.transport.close()
    finally:
        api.end_stream()


def is_gone(request: web.Request) -> bool:
    """Whether the stream is over: its reader has left, or the daemon stops."""
    connection = request.protocol
    if isinstance(connection, Connection):
        return connection.has_left
    return request.transport is None or request.transport.is_closing()


async def wait_unless_gone(request: web.Request, waited: Awaitable[object], timeout_s: float | None) -> None:
    """Until it is so, the time is up, or the stream is over; which of them, the caller looks."""
    connection = request.protocol
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout_s) as bound:
            if not isinstance(connection, Connection):
                await waited
                return

            def stop_waiting() -> None:
                if not bound.expired():  # else it is ending already
                    bound.reschedule(loop.time())

            with connection.telling(stop_waiting):
                await waited
    except TimeoutError:
        return


def parse_moment(text: str) -> Timestamp | None:
    """``1700000000``, ``1700000000.123456789`` or RFC 3339; None for an empty one."""
    if not text or text == "0":
        return None
    seconds, _, fraction = text.partition(".")
    if (
        seconds.isascii()
        and seconds.isdigit()
        and (not fraction or (fraction.isascii() and fraction.isdigit()))
    ):
        nanoseconds = int(fraction[:_FRACTION_DIGITS].ljust(_FRACTION_DIGITS, "0"))
        return Timestamp(int(seconds[:18]) * SECOND_NS + nanoseconds)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidArgument(f"invalid time {text!r}: give a Unix timestamp or RFC 3339") from None
    return Timestamp(int(moment.timestamp() * 1_000_000) * 1_000)
