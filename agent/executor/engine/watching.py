"""Hearing of containers' ends, whatever becomes of the engine meanwhile.

The engine's stream of events says which container has died; that is a hint, and the container's inspection
the truth. The stream begins a few seconds before the last comparison of all containers with what is known of
them, and such a comparison is made after each reconnection and from time to time: so no end is lost, and none
is told twice, since an end that is known is not looked for again.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import structlog

from agent.executor.engine.body import own_filter
from agent.executor.engine.client import Engine
from agent.executor.engine.limits import (
    ENGINE_EVENT_BYTES_MAX,
    ENGINE_EVENTS_OVERLAP_S,
    ENGINE_RECONCILE_S,
    ENGINE_RETRY_MAX_S,
    ENGINE_RETRY_MIN_S,
)
from swarmpy.errors import SwarmError, Unavailable
from swarmpy.model.ids import SECOND_NS
from swarmpy.runtime import Clock

log = structlog.get_logger(__name__)

_ENDS: Final = frozenset({"die", "died", "remove", "destroy"})


class Watch:
    """``reconcile`` compares everything; ``heard`` is told a container's id; ``broke_off`` that the stream of
    events has ended, and not by us. All may be called in vain."""

    def __init__(
        self,
        engine: Engine,
        node: str,
        *,
        clock: Clock,
        reconcile: Callable[[], Awaitable[None]],
        heard: Callable[[str], None],
        broke_off: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._node = node
        self._clock = clock
        self._reconcile = reconcile
        self._heard = heard
        self._broke_off = broke_off

    async def run(self) -> None:
        """For ever."""
        delay = ENGINE_RETRY_MIN_S
        while True:
            begun = self._clock.monotonic()
            try:
                since = self._clock.now() // SECOND_NS - ENGINE_EVENTS_OVERLAP_S
                await self._reconcile()
                if await self._listen(since):
                    delay = ENGINE_RETRY_MIN_S
                    continue
            except (SwarmError, OSError) as error:
                log.warning("engine_not_heard", engine=self._engine.flavour, reason=str(error))
            except Exception:  # ends have to be heard of, whatever it was
                log.exception("engine_watch_failed")
            self._broke_off()
            if self._clock.monotonic() - begun > ENGINE_RETRY_MAX_S:
                delay = ENGINE_RETRY_MIN_S  # it did answer for a while
            await asyncio.sleep(delay)
            delay = min(2 * delay, ENGINE_RETRY_MAX_S)

    async def _listen(self, since: int) -> bool:
        """Until it is time to compare; False if the stream ends before that. An engine may say nothing at all
        until there is an event."""
        params = {"since": str(since), "filters": own_filter(self._node)}
        try:
            async with (
                asyncio.timeout(ENGINE_RECONCILE_S),
                self._engine.stream("GET", "/events", params=params) as answer,
            ):
                async for event in events_of(self._engine.chunks(answer)):
                    if event.get("Action") in _ENDS and event.get("Type") == "container":
                        self._heard(str((event.get("Actor") or {}).get("ID") or ""))
        except TimeoutError:
            return True
        return False


async def events_of(chunks: AsyncIterator[bytes]) -> AsyncIterator[dict[str, Any]]:
    """The events in a stream of JSON, one to a line; what is none is passed over."""
    rest = b""
    async for piece in chunks:
        *lines, rest = (rest + piece).split(b"\n")
        if len(rest) > ENGINE_EVENT_BYTES_MAX:
            raise Unavailable("the engine's stream of events has no line ends")
        for line in lines:
            try:
                event = json.loads(line) if line.strip() else None
            except ValueError:
                continue
            if isinstance(event, dict):
                yield event
