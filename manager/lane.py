"""``Lane``: one direction of a stream through a manager, bounded: who sends faster than is taken has to wait.

One sender, one taker. What was sent before the lane was closed is still taken.
"""

from __future__ import annotations

import asyncio
from collections import deque

from swarmpy.errors import SwarmError
from swarmpy.limits import STREAM_QUEUE_PARTS_MAX
from swarmpy.pb import streams_pb2


class Lane:
    def __init__(self) -> None:
        self._parts: deque[streams_pb2.StreamPart] = deque()
        self._filled = asyncio.Event()
        self._emptied = asyncio.Event()
        self._is_closed = False
        self._error: SwarmError | None = None

    async def put(self, part: streams_pb2.StreamPart) -> bool:
        """Wait for room. False if nobody will ever take it."""
        while len(self._parts) >= STREAM_QUEUE_PARTS_MAX and not self._is_closed:
            self._emptied.clear()
            await self._emptied.wait()
        if self._is_closed:
            return False
        self._parts.append(part)
        self._filled.set()
        return True

    async def take(self) -> streams_pb2.StreamPart | None:
        """The next part. At the end None, or the error that the lane was closed with."""
        while not self._parts:
            if self._is_closed:
                if self._error is not None:
                    raise self._error
                return None
            self._filled.clear()
            await self._filled.wait()
        part = self._parts.popleft()
        self._emptied.set()
        return part

    def close(self, error: SwarmError | None = None) -> None:
        """The first word is the last: closing again changes nothing."""
        if not self._is_closed:
            self._is_closed = True
            self._error = error
        self._filled.set()
        self._emptied.set()
