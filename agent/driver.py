"""The shell around the core: feeds it events, carries out what it asks for, returns the outcomes.

One loop: take the events that have come in, let the core decide, persist, then act. Operations run as
tasks of their own; the core sees to it that one task's operations never overlap. The node's networks are
applied beside them; only attaching a task waits for that. Nothing is decided here.

An operation that fails in a way its seam does not allow is logged with its traceback and tried again, since
one task's trouble must not end the agent that all others depend on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, assert_never

import structlog

from agent import events
from agent.applier import Applier
from agent.core import Core
from agent.dataplane.base import Backend
from agent.events import Event, Instruction, Now, Operation, Record
from agent.executor.base import Executor
from agent.journal import Content, Journal
from agent.prober import run_probe
from swarmpy.errors import Retry, TaskFailed, TaskRejected, Unavailable
from swarmpy.limits import AGENT_EVENTS_MAX, AGENT_ROUND_EVENTS_MAX
from swarmpy.model.ids import TaskId
from swarmpy.model.objects import TaskStatus
from swarmpy.model.states import TaskState
from swarmpy.runtime import Env

log = structlog.get_logger(__name__)


class Reports(Protocol):
    """Where statuses go: the session."""

    def report(self, task_id: TaskId, status: TaskStatus) -> None: ...

    def drop(self, task_id: TaskId) -> None: ...

    def end(self, reason: str) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Node:
    """What the driver works with on this machine."""

    executor: Executor
    backend: Backend
    journal: Journal


class Driver:
    """Runs one core. ``restore`` first, then ``run`` until cancelled."""

    def __init__(self, core: Core, node: Node, reports: Reports, env: Env) -> None:
        self._core = core
        self._executor = node.executor
        self._backend = node.backend
        self._journal = node.journal
        self._reports = reports
        self._env = env
        self._thread = env.threads("agent-journal", 1)
        self._applier = Applier(node.backend)
        self._inbox: asyncio.Queue[Event] = asyncio.Queue(AGENT_EVENTS_MAX)
        self._timer: asyncio.TimerHandle | None = None

    async def restore(self, content: Content) -> None:
        """Find out what a former life has left on this machine; it is the core's first event."""
        await self._backend.start_up()
        await self._executor.start_up()
        found = await self._executor.list()
        attached = await self._backend.list()
        log.info("agent_restored", tasks=len(content.tasks), found=len(found), attached=len(attached))
        await self._inbox.put(
            events.Restored(
                tasks=content.tasks,
                revisions=content.revisions,
                networks=content.networks,
                discovery=content.discovery,
                found=found,
                attached=attached,
                stop_after=content.stop_after,
            )
        )

    @property
    def backlog(self) -> dict[str, int]:
        """Events that wait for the core."""
        return {"agent_events": self._inbox.qsize()}

    async def post(self, event: Event) -> None:
        """Hand an event to the core; waits while too many are queued."""
        await self._inbox.put(event)

    async def run(self) -> None:
        """Until cancelled. Operations under way are cancelled as well: each may be repeated."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._watch_exits())
                tasks.create_task(self._applier.run())
                while True:
                    await self._round(tasks)
        finally:
            if self._timer is not None:
                self._timer.cancel()
            self._thread.shutdown(wait=False, cancel_futures=True)

    async def _round(self, tasks: asyncio.TaskGroup) -> None:
        taken = [await self._inbox.get()]
        while len(taken) < AGENT_ROUND_EVENTS_MAX and not self._inbox.empty():
            taken.append(self._inbox.get_nowait())
        records: list[Record] = []
        others: list[Instruction] = []
        for event in taken:
            for instruction in self._core.handle(event, self._now()):
                if isinstance(instruction, events.Persist):
                    records.extend(instruction.records)
                else:
                    others.append(instruction)
        await self._persist(records)
        for instruction in others:
            self._carry_out(instruction, tasks)
        if self._journal.claim_checkpoint():
            tasks.create_task(self._checkpoint())
        self._arm_timer()

    async def _checkpoint(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._journal.checkpoint)

    def _now(self) -> Now:
        return Now(self._env.clock.now(), self._env.clock.monotonic())

    async def _persist(self, records: Iterable[Record]) -> None:
        """Nothing is done that is not on record, so a full disk holds everything up."""
        if not records:
            return
        while True:
            try:
                self._journal.commit(records)
            except Unavailable as error:
                log.error("journal_blocked", error=str(error))
                await asyncio.sleep(error.delay_s)
            else:
                return

    def _arm_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        wake_at = self._core.wake_at
        if wake_at is not None:
            delay_s = max(0.0, wake_at - self._env.clock.monotonic())
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._tick)

    def _tick(self) -> None:
        # A full inbox means that a round is near, and after it the timer is armed anew.
        if not self._inbox.full():
            self._inbox.put_nowait(events.Tick())

    async def _watch_exits(self) -> None:
        async for ended in self._executor.events():
            log.info("task_exited", task_id=ended.task_id, exit_code=ended.exit.code)
            await self._inbox.put(events.TaskExited(ended.task_id, ended.exit))

    # --- instructions

    def _carry_out(self, instruction: Instruction, tasks: asyncio.TaskGroup) -> None:
        match instruction:
            case events.ReportStatus(task_id=task_id, status=status):
                self._log_status(task_id, status)
                self._reports.report(task_id, status)
            case events.DropStatus(task_id=task_id):
                self._reports.drop(task_id)
            case events.ApplyNetworks(state=state):
                self._applier.ask(state)
            case events.CutConnections(addresses=addresses):
                self._applier.cut(addresses)
            case events.EndSession(reason=reason):
                self._reports.end(reason)
            case events.Probe():
                tasks.create_task(self._probe(instruction))
            case events.Persist():
                raise AssertionError("records are persisted before anything is carried out")
            case _:
                tasks.create_task(self._operate(instruction, networks=self._applier.number))

    def _log_status(self, task_id: TaskId, status: TaskStatus) -> None:
        error = status.err or status.places_err
        fields = {"err": error} if error else {}
        log.info(
            "task_networks_changed" if _is_about_places(status) else "task_state_changed",
            task_id=task_id,
            state=status.state.name.lower(),
            message=status.message,
            **fields,
            **_health_fields(status),
        )

    async def _operate(self, operation: Operation, *, networks: int) -> None:
        """``networks``: the number of the state that the operation's round left the node's networks in."""
        try:
            if isinstance(operation, events.Attach):
                await self._applier.wait_tried(networks)
            outcome: events.Outcome = await self._call(operation)
            if self._env.buggify("driver.outcome_lost"):
                outcome = _failed(operation, "a fault point lost the outcome", is_final=False)
        except TaskRejected as error:
            outcome = _failed(operation, str(error), is_final=True)
        except TaskFailed as error:
            outcome = _failed(operation, str(error), is_final=True, exit_code=error.exit_code)
        except Retry as error:
            outcome = _failed(operation, str(error), is_final=False, delay_s=error.delay_s)
        except Exception as error:  # the top of every operation: one that broke must not end the agent
            log.error("operation_broke", operation=type(operation).__name__, exc_info=error)
            outcome = _failed(operation, f"{type(error).__name__}: {error}", is_final=False)
        await self._inbox.put(outcome)

    async def _probe(self, probe: events.Probe) -> None:
        try:
            outcome = await run_probe(self._executor, probe)
        except Exception as error:  # the top of every probe: one that broke must not end the agent
            log.error("probe_broke", task_id=probe.task_id, exc_info=error)
            outcome = events.Probed(probe.attempt, None, f"{type(error).__name__}: {error}")
        if self._env.buggify("driver.probe_lost"):
            outcome = events.Probed(probe.attempt, None, "a fault point lost the outcome")
        await self._inbox.put(outcome)

    async def _call(self, operation: Operation) -> events.Outcome:
        match operation:
            case events.EnsureImage(reference=reference, attempt=attempt, registry_auth=auth):
                image = await self._executor.ensure_image(reference, registry_auth=auth)
                return events.ImageReady(reference, attempt, image)
            case events.Attach(task_id=task_id, attempt=attempt, endpoint=endpoint):
                return events.Attached(task_id, attempt, await self._backend.attach(endpoint))
            case events.Create(task_id=task_id, attempt=attempt, launch=launch):
                await self._executor.create(launch)
                return events.Created(task_id, attempt)
            case events.Start(task_id=task_id, attempt=attempt):
                return events.Started(task_id, attempt, await self._executor.start(task_id))
            case events.Reload(task_id=task_id, attempt=attempt, files=files):
                await self._executor.reload(task_id, files)
                return events.Reloaded(task_id, attempt)
            case events.Stop(task_id=task_id, attempt=attempt, signal=signal, grace_s=grace_s):
                exit = await self._executor.stop(task_id, signal=signal, grace_s=grace_s)
                return events.Stopped(task_id, attempt, exit)
            case events.Remove(task_id=task_id, attempt=attempt, keep_log=keep_log):
                await self._executor.remove(task_id, keep_log=keep_log)
                return events.Removed(task_id, attempt, keep_log)
            case events.Detach(task_id=task_id, attempt=attempt):
                await self._backend.detach(task_id)
                return events.Detached(task_id, attempt)
            case _:
                assert_never(operation)


def _health_fields(status: TaskStatus) -> dict[str, str | bool]:
    fields: dict[str, str | bool] = {"health": status.health.value} if status.health else {}
    return {**fields, "is_unready": True} if status.is_unready else fields


def _is_about_places(status: TaskStatus) -> bool:
    return status.state is TaskState.RUNNING and bool(status.places_version)


def _failed(
    operation: Operation,
    error: str,
    *,
    is_final: bool,
    exit_code: int | None = None,
    delay_s: float = 0.0,
) -> events.Failed:
    return events.Failed(
        attempt=operation.attempt,
        error=error,
        is_final=is_final,
        task_id=None if isinstance(operation, events.EnsureImage) else operation.task_id,
        reference=operation.reference if isinstance(operation, events.EnsureImage) else "",
        exit_code=exit_code,
        delay_s=delay_s,
    )
