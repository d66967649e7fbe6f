"""One gRPC stream between two managers: a bounded queue of frames to send, batched, and the frames received.

A peer that takes too little is disconnected, not buffered: the leader sends it a snapshot when it is back.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import grpc.aio
import structlog

from swarmpy import limits
from swarmpy.pb import raft_pb2 as pb

log = structlog.get_logger(__name__)

Write = Callable[[pb.RaftFrames], Awaitable[Any]]
Read = Callable[[], Awaitable[Any]]


class Connection:
    """One stream: its queue of frames to send, and its end."""

    def __init__(self, peer: str, *, is_ours: bool, write: Write, read: Read) -> None:
        self.peer, self.is_ours = peer, is_ours
        self.backlog_bytes = 0
        self._write, self._read = write, read
        self._queue: deque[tuple[pb.RaftFrame, int]] = deque()
        self._has_frames = asyncio.Event()
        self._closed = asyncio.Event()

    def send(self, frame: pb.RaftFrame) -> bool:
        size = frame.ByteSize()
        if self._closed.is_set():
            return False
        if self.backlog_bytes + size > limits.RAFT_FRAME_BYTES_MAX:
            log.warning("raft peer too slow", peer=self.peer, backlog_bytes=self.backlog_bytes)
            self.close()
            return False
        self._queue.append((frame, size))
        self.backlog_bytes += size
        self._has_frames.set()
        return True

    def close(self) -> None:
        self._closed.set()

    async def run(self, take: Callable[[pb.RaftFrame], None]) -> None:
        """Carry frames both ways until either end is done."""
        steps = [
            asyncio.create_task(self._send_all()),
            asyncio.create_task(self._receive_all(take)),
            asyncio.create_task(self._wait_closed()),
        ]
        try:
            await asyncio.wait(steps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._closed.set()
            for step in steps:
                step.cancel()
            results = await asyncio.gather(*steps, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result

    async def _wait_closed(self) -> None:
        await self._closed.wait()

    async def _send_all(self) -> None:
        while True:
            await self._has_frames.wait()
            message, size = pb.RaftFrames(), 0
            while self._queue and len(message.frames) < limits.RAFT_FRAMES_PER_MESSAGE_MAX:
                if message.frames and size + self._queue[0][1] > limits.RAFT_BATCH_BYTES_MAX:
                    break
                frame, frame_size = self._queue.popleft()
                message.frames.append(frame)
                size += frame_size
            if not self._queue:
                self._has_frames.clear()
            await self._write(message)
            self.backlog_bytes -= size

    async def _receive_all(self, take: Callable[[pb.RaftFrame], None]) -> None:
        while (message := await self._read()) is not grpc.aio.EOF:
            for frame in message.frames:
                if self._closed.is_set():
                    return
                take(frame)
