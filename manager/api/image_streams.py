"""Answers of many JSON lines about a pull or a push: begun with the first line, later errors in it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress

from aiohttp import web

from manager.api import image_shapes
from manager.api.context import Api
from manager.api.docker_json import encode
from manager.api.streams import is_gone
from swarmpy.errors import SwarmError, Unavailable
from swarmpy.image_limits import IMAGE_PROGRESS_LINES_MAX, IMAGE_PROGRESS_PERIOD_S
from swarmpy.limits import API_STREAM_IDLE_S
from swarmpy.model.images import Progress

_LINE_END = b"\r\n"


class Board:
    """What has happened and was not told yet. Of what is measured only the newest figure is kept."""

    def __init__(self) -> None:
        self._lines: list[Progress] = []
        self._measured: dict[str, int] = {}
        self._news = asyncio.Event()

    def report(self, step: Progress) -> None:
        if step.total and step.current < step.total:
            known = self._measured.get(step.id)
            if known is not None:
                self._lines[known] = step
                return
            self._measured[step.id] = len(self._lines)
        elif step.total and (known := self._measured.pop(step.id, None)) is not None:
            self._lines[known] = step
            return
        if len(self._lines) < IMAGE_PROGRESS_LINES_MAX or not step.is_measured or step.aux is not None:
            self._lines.append(step)
        self._news.set()

    def take(self) -> list[Progress]:
        lines, self._lines = self._lines, []
        self._measured.clear()
        self._news.clear()
        return lines

    async def wait(self, timeout_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._news.wait()


async def tell(
    api: Api,
    request: web.Request,
    work: Callable[[Callable[[Progress], None]], Awaitable[object]],
    *,
    is_begun: bool = False,
) -> web.StreamResponse:
    """Do the work, which reports its steps. What fails before the first step is an ordinary error, unless
    ``is_begun``. A client that leaves ends the work."""
    board = Board()
    working = asyncio.ensure_future(work(board.report))
    api.begin_stream()
    try:
        response: web.StreamResponse | None = None
        while True:
            waiting = asyncio.ensure_future(board.wait(API_STREAM_IDLE_S))
            await asyncio.wait([working, waiting], return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            is_done = working.done()
            if is_gone(request):
                raise Unavailable("the client has left")
            lines = board.take()
            if response is None and (lines or is_begun or is_done):
                if is_done and not lines and not is_begun:
                    await working  # an error that comes first is an answer of its own
                response = await _begin(request)
            if response is not None and lines:
                await response.write(
                    b"".join(encode(image_shapes.progress(line)) + _LINE_END for line in lines)
                )
            if is_done:
                break
            await asyncio.sleep(IMAGE_PROGRESS_PERIOD_S if lines else 0)
        assert response is not None
        try:
            await working
        except SwarmError as error:
            await response.write(encode(image_shapes.failure(str(error))) + _LINE_END)
        await response.write_eof()
        return response
    except ConnectionResetError:
        raise Unavailable("the client has left") from None
    finally:
        api.end_stream()
        working.cancel()
        await asyncio.wait([working])
        if not working.cancelled():
            working.exception()  # told above, or nobody is there to be told


async def _begin(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    return response


async def send(api: Api, request: web.Request, pieces: AsyncIterator[bytes]) -> web.StreamResponse:
    """An archive. What fails before the first bytes is an ordinary error; after it the answer has no end."""
    first = await anext(pieces, b"")
    api.begin_stream()
    try:
        response = web.StreamResponse(headers={"Content-Type": "application/x-tar"})
        await response.prepare(request)
        try:
            await response.write(first)
            async for piece in pieces:
                await response.write(piece)
        except (SwarmError, OSError):
            if request.transport is not None:
                request.transport.abort()
            return response
        await response.write_eof()
        return response
    finally:
        api.end_stream()
