"""Tells the leader what tasks use, of those services that it asked about.

Runs beside a session and ends with it; the next leader asks anew. CPU is the difference of two readings, so a
task's first reading tells nothing yet. What cannot be read now is left out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from itertools import islice

import structlog

from agent.executor.base import Executor
from swarmpy.errors import SwarmError
from swarmpy.limits import AUTOSCALE_PERIOD_S, USAGE_MESSAGE_TASKS_MAX, USAGE_PERIOD_MIN_S
from swarmpy.model.ids import SECOND_NS, ServiceId, TaskId
from swarmpy.pb import dispatcher_pb2 as pb
from swarmpy.runtime import Env

log = structlog.get_logger(__name__)

Send = Callable[[pb.AgentMessage], Awaitable[None]]


class UsageMeter:
    """``tasks_of`` names this node's running tasks of some services."""

    def __init__(
        self, executor: Executor, env: Env, *, tasks_of: Callable[[frozenset[ServiceId]], Iterable[TaskId]]
    ) -> None:
        self._executor = executor
        self._env = env
        self._tasks_of = tasks_of
        self._services: frozenset[ServiceId] = frozenset()
        self._period_s = AUTOSCALE_PERIOD_S
        self._ordered = asyncio.Event()
        self._read: dict[TaskId, tuple[float, int]] = {}
        """When each task was read last (monotonic seconds), and its CPU time then."""

    def take(self, order: pb.UsageOrder) -> None:
        self._services = frozenset(ServiceId(id_) for id_ in order.service_ids)
        self._period_s = max(order.period / SECOND_NS, USAGE_PERIOD_MIN_S)
        self._ordered.set()

    async def run(self, send: Send) -> None:
        """For one session, until cancelled. Nothing is read before the leader asks."""
        self._services = frozenset()
        self._read.clear()
        while True:
            self._ordered.clear()
            if not self._services:
                await self._ordered.wait()
                continue
            usage = await self._measure()
            if usage.tasks:
                await send(pb.AgentMessage(usage=usage))
            try:
                async with asyncio.timeout(self._period_s):
                    await self._ordered.wait()
            except TimeoutError:
                pass  # the next figures are due

    async def _measure(self) -> pb.Usage:
        usage = pb.Usage()
        before, self._read = self._read, {}
        for task_id in islice(self._tasks_of(self._services), USAGE_MESSAGE_TASKS_MAX):
            try:
                stats = await self._executor.stats(task_id)
            except SwarmError as error:
                log.info("usage_unread", task_id=task_id, reason=str(error))
                continue
            now = self._env.clock.monotonic()
            self._read[task_id] = now, stats.cpu_ns
            then, cpu_ns = before.get(task_id, (now, 0))
            if now > then and stats.cpu_ns >= cpu_ns:
                nano_cpus = round((stats.cpu_ns - cpu_ns) / (now - then))
                usage.tasks.add(task_id=task_id, nano_cpus=nano_cpus, memory_bytes=stats.memory_bytes)
        return usage
