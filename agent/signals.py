"""Signals that a client sends to the first process of one of this node's tasks.

They act on the process alone: what is wished for the task stays as it is, so if a task of a service ends of
one, that is the task's own end, and its service's restart policy says what follows, as docker's does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from google.protobuf.message import DecodeError

from agent.executor.base import Executor, NotRunning
from agent.streams import Call
from agent.task import Run
from swarmpy.errors import InvalidArgument, NotFound
from swarmpy.model.ids import TaskId
from swarmpy.pb import streams_pb2 as pb


class Signals:
    """``run_of``: what the node knows of a task; None for one that is not its own."""

    def __init__(self, executor: Executor, *, run_of: Callable[[TaskId], Run | None]) -> None:
        self._executor = executor
        self._run_of = run_of

    @property
    def calls(self) -> Mapping[str, Call]:
        return {"task.signal": self.signal}

    async def signal(self, body: bytes) -> bytes:
        start, run = self._read(body)
        await self._executor.signal(run.task.id, start.signal or run.stop_signal)
        return b""

    def _read(self, body: bytes) -> tuple[pb.SignalStart, Run]:
        start = pb.SignalStart()
        try:
            start.ParseFromString(body)
        except DecodeError:
            raise InvalidArgument("the request is damaged: its body cannot be read") from None
        run = self._run_of(TaskId(start.task_id))
        if run is None:
            raise NotFound(f"No such container: {start.task_id}")
        if not run.is_live:
            raise NotRunning(f"Container {start.task_id} is not running")
        return start, run
