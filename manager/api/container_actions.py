"""What the API does with a container beyond storing what is asked for: waiting until it is so, signals.

A task of a service is stopped by its process's end: what is wished for it stays as it is, so its service does
what its restart policy says.
"""

from __future__ import annotations

from aiohttp import web

from manager.api import container_changes as changes
from manager.api import container_waits
from manager.api.container_limits import (
    CONTAINER_KILL_WAIT_S,
    CONTAINER_START_WAIT_S,
    CONTAINER_STOP_MARGIN_S,
)
from manager.api.container_refs import ContainerRef, run_order
from manager.api.container_waits import Condition, Seen
from manager.api.context import Api
from manager.api.docker_json import Json
from manager.reconcile.standalone import has_not_started
from manager.store.view import View
from swarmpy.errors import Conflict, InvalidArgument, NotFound, SwarmError, Unavailable
from swarmpy.model import signals
from swarmpy.model.defaults import stop_grace_period
from swarmpy.model.ids import SECOND_NS, Duration
from swarmpy.model.objects import Service, StopWish, Task
from swarmpy.model.specs import ContainerSpec
from swarmpy.model.states import TaskState, is_terminal
from swarmpy.pb import streams_pb2 as pb


class ContainerActions:
    def __init__(self, api: Api) -> None:
        self._api = api

    def is_met(
        self, condition: Condition, container: ContainerRef, seen: Seen, ended: frozenset[str]
    ) -> bool:
        view = self._api.cluster().view
        is_gone = not container_waits.exists(view, container)
        match condition:
            case Condition.REMOVED:
                return is_gone and all(is_terminal(task.status.state) for task in seen.values())
            case Condition.NEXT_EXIT:
                return is_gone or any(
                    is_terminal(task.status.state) and id_ not in ended for id_, task in seen.items()
                )
            case Condition.NOT_RUNNING:
                return container_waits.is_at_rest(view, container, seen, self._api.now())

    async def until_started(
        self, container: ContainerRef, run: int, *, patience_s: float | None = CONTAINER_START_WAIT_S
    ) -> None:
        """Raises why it was not."""

        def is_decided(seen: Seen) -> bool:
            view = self._api.cluster().view
            service = view.service(container.service.id) if container.service is not None else None
            mode = service.spec.mode.standalone if service is not None else None
            if mode is not None and (mode.run != run or not mode.is_wanted):
                return True  # somebody has stopped it, or started it again
            task = container_waits.newest_of_run(seen, run)
            if task is None:
                return service is None
            return (
                container_waits.has_come_up(task)
                or is_terminal(task.status.state)
                or bool(task.status.state is TaskState.PENDING and task.status.err)
            )

        seen = await container_waits.until(self._api.cluster(), container, is_decided, within_s=patience_s)
        if seen is None:
            raise Unavailable(
                f"the node of container {container.id} has not started it in time: it will once it can"
            )
        task = container_waits.newest_of_run(seen, run)
        if task is None:
            return
        if task.status.state is TaskState.PENDING:
            await self._api.decide(lambda view: changes.withdraw(self.service(view, container), run))
            raise SwarmError(f"container {container.id} cannot be started: {task.status.err}")
        if is_terminal(task.status.state) and has_not_started(task) and not task.restarts:
            raise _start_error(task)

    async def until_at_rest(self, container: ContainerRef, within_s: float | None) -> bool:
        access = self._api.cluster()

        def is_so(seen: Seen) -> bool:
            return container_waits.is_at_rest(access.view, container, seen, self._api.now())

        return await container_waits.until(access, container, is_so, within_s=within_s) is not None

    # --- the process

    async def stop_task(self, container: ContainerRef, wish: StopWish) -> bool:
        """Whether it ran. Its service starts another one if its policy says so."""
        task = task_of(container)
        if is_terminal(task.status.state) or not task.node_id:
            return False
        grace = self.grace(container, wish)
        number = signals.signal_number(wish.signal) if wish.signal else 0
        if grace is None or grace > 0:
            await self.send(container, number)
        if grace is not None and not await self.until_at_rest(container, grace / SECOND_NS):
            await self.send(container, signals.SIGKILL)
            await self.until_at_rest(container, CONTAINER_KILL_WAIT_S)
        elif grace is None:
            await self.until_at_rest(container, None)
        return True

    async def send(self, container: ContainerRef, number: int) -> None:
        task = self.running_task(container)
        body = pb.SignalStart(task_id=task.id, signal=number).SerializeToString()
        try:
            await self._api.streams.call(task.node_id, "task.signal", body)
        except (NotFound, Conflict):
            raise Conflict(f"Container {container.id} is not running") from None

    def running_task(self, container: ContainerRef) -> Task:
        task = container.task
        live = self._api.cluster().view.task(task.id) if task is not None else None
        if live is None or not TaskState.STARTING <= live.status.state <= TaskState.RUNNING:
            raise Conflict(f"Container {container.id} is not running")
        return live

    # --- what is stored of it now

    def service(self, view: View, container: ContainerRef) -> Service:
        service = view.service(container.service.id) if container.service is not None else None
        if service is None:
            raise NotFound(f"No such container: {container.id}")
        return service

    def task(self, view: View, container: ContainerRef) -> Task:
        task = view.task(task_of(container).id)
        if task is None:
            raise NotFound(f"No such container: {container.id}")
        return task

    def grace(self, container: ContainerRef, wish: StopWish) -> Duration | None:
        """None: for ever."""
        if wish.timeout is not None:
            return wish.timeout if wish.timeout >= 0 else None
        return stop_grace_period(_spec_of(self._api.cluster().view, container))

    def patience(self, container: ContainerRef, wish: StopWish) -> float | None:
        grace = self.grace(container, wish)
        return None if grace is None else grace / SECOND_NS + CONTAINER_STOP_MARGIN_S


def seen_of(view: View, container: ContainerRef) -> Seen:
    tasks = view.tasks_of_service(container.service.id) if container.service is not None else ()
    found = {task.id: task for task in tasks}
    return found if container.service is not None else {task_of(container).id: task_of(container)}


def task_of(container: ContainerRef) -> Task:
    assert container.task is not None
    return container.task


def _spec_of(view: View, container: ContainerRef) -> ContainerSpec:
    if container.service is not None:
        spec = container.service.spec
    else:
        revision = view.revision(task_of(container).revision_id)
        if revision is None:
            return ContainerSpec()
        spec = revision.spec
    return spec.task_template.container_spec or ContainerSpec()


def stop_wish(request: web.Request) -> StopWish:
    text, name = request.query.get("t", ""), request.query.get("signal", "")
    if name:
        signals.signal_number(name)
    if not text:
        return StopWish(signal=name)
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdecimal()) or len(digits) > 9:
        raise SwarmError(f'strconv.Atoi: parsing "{text}": invalid syntax')
    seconds = int(text)
    return StopWish(signal=name, timeout=Duration(seconds * SECOND_NS if seconds >= 0 else -1))


def parse_signal(name: str, reference: str) -> int:
    try:
        return signals.signal_number(name)
    except InvalidArgument:
        if name.isascii() and name.isdecimal() and int(name[:9]) > 0:
            raise SwarmError(
                f"Cannot kill container: {reference}: The linux daemon does not support signal {name[:9]}"
            ) from None
        raise


def result_of(seen: Seen, condition: Condition) -> Json:
    """Why it could not be started is told, as docker does, to who comes too late for more."""
    task = max(
        (task for task in seen.values() if is_terminal(task.status.state)),
        key=run_order,
        default=None,
    )
    is_late = condition is Condition.NOT_RUNNING
    failed = task is not None and is_late and has_not_started(task)
    error = {"Message": task.status.err} if task is not None and failed else None
    return {"Error": error, "StatusCode": container_waits.exit_code(task)}


def _start_error(task: Task) -> SwarmError:
    code = container_waits.exit_code(task)
    known = (container_waits.NOT_FOUND_CODE, container_waits.NOT_EXECUTABLE_CODE)
    return InvalidArgument(task.status.err) if code in known else SwarmError(task.status.err)
