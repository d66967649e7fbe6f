"""The daemon is killed before and after every single call that it makes of its machine and its journal.

Whatever the moment, the next daemon converges: nothing is left over, nothing runs twice, and what ran runs
on with the same process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

from agent_rig import Rig, in_virtual_time, make_revision, make_task

from agent.driver import Node
from agent.executor.fake import Behaviour, FakeMachine
from swarmpy.model.objects import Task
from swarmpy.model.states import TaskState

WEB = make_revision()
ONCE = make_revision("once")
_WATCHED = {"ensure_image", "create", "start", "stop", "remove", "attach", "detach", "commit"}


class Killed(BaseException):
    """The daemon is no more. Not an Exception: nothing may catch it."""


class Saboteur:
    """Counts the calls; at call number ``at`` the daemon dies, before or after the call's effect."""

    def __init__(self, at: int, *, is_after: bool) -> None:
        self.at = at
        self.is_after = is_after
        self.calls = 0
        self.struck = ""

    def wrap(self, node: Node) -> Node:
        return Node(
            executor=self.proxy(node.executor),
            backend=self.proxy(node.backend),
            journal=self.proxy(node.journal),
        )

    def proxy(self, target: Any) -> Any:
        saboteur = self

        class Proxy:
            def __getattr__(self, name: str) -> Any:
                method = getattr(target, name)
                if name not in _WATCHED:
                    return method
                if name == "commit":
                    return lambda records: saboteur.call(name, method, records)

                async def call(*args: Any, **kwargs: Any) -> Any:
                    for _ in saboteur.around(name):
                        result = await method(*args, **kwargs)
                    return result

                return call

        return Proxy()

    def call(self, name: str, method: Any, records: Any) -> None:
        for _ in self.around(name):
            method(records)

    def around(self, name: str) -> Iterator[None]:
        number = self.calls
        self.calls += 1
        if number == self.at and not self.is_after:
            self.struck = f"before {name}"
            raise Killed
        yield
        if number == self.at:
            self.struck = f"after {name}"
            raise Killed


def _plan(launch: Any) -> Behaviour:
    return Behaviour(run_s=0.2) if launch.name.startswith("once") else Behaviour()


async def _live_through(rig: Rig, tasks: dict[str, Task]) -> None:
    """The script: tasks come, run, end, are stopped and released. Each step may find a new daemon."""
    manager = rig.manager
    await rig.post(manager.assign(tasks["stays"], tasks["stopped"], revision=WEB))
    await rig.post(manager.assign(tasks["once"], revision=ONCE))
    await rig.post(manager.assign(tasks["waits"]))
    await rig.wait_state(TaskState.RUNNING, tasks["stays"].id, tasks["stopped"].id)
    await rig.wait_state(TaskState.READY, tasks["waits"].id)
    await rig.post(manager.order(tasks["stopped"].id, TaskState.SHUTDOWN))
    await rig.post(manager.order(tasks["waits"].id, TaskState.RUNNING))
    await rig.wait_state(TaskState.SHUTDOWN, tasks["stopped"].id)
    await rig.wait_state(TaskState.COMPLETE, tasks["once"].id)
    await rig.post(manager.release(tasks["once"].id))
    await rig.wait_quiet()


async def _run_with(saboteur: Saboteur) -> None:
    rig = Rig(machine=FakeMachine(plan=_plan), wrap=saboteur.wrap)
    tasks = {
        "stays": make_task(1, WEB),
        "stopped": make_task(2, WEB),
        "once": make_task(3, ONCE),
        "waits": make_task(4, WEB, desired=TaskState.READY),
    }
    await rig.start()
    try:
        await _live_through(rig, tasks)
    except* Killed:
        pass
    alive = {id_: task.pid for id_, task in rig.machine.tasks.items() if task.pid and task.exit is None}
    await rig.crash()

    # The manager goes on meanwhile: whatever the script had reached, this is the end that is wished for.
    manager = rig.manager
    for name, task in tasks.items():
        if name == "once" and task.id not in rig.machine.starts:
            continue
        manager.tasks.setdefault(task.id, task)
    manager.revisions.update({WEB.id: WEB, ONCE.id: ONCE})
    manager.order(tasks["stopped"].id, TaskState.SHUTDOWN)
    manager.order(tasks["waits"].id, TaskState.RUNNING)
    manager.tasks.pop(tasks["once"].id, None)
    rig.wrap = lambda node: node
    await rig.start()
    await rig.wait_quiet()
    assert rig.manager.state(tasks["stays"].id) is TaskState.RUNNING, saboteur.struck
    assert rig.manager.state(tasks["stopped"].id) is TaskState.SHUTDOWN, saboteur.struck
    for id_, process in rig.machine.tasks.items():
        assert alive.get(id_, process.pid) == process.pid, f"{id_} was restarted: killed {saboteur.struck}"
    assert all(count == 1 for count in rig.machine.starts.values()), saboteur.struck
    await rig.crash()


async def _count_calls() -> int:
    saboteur = Saboteur(-1, is_after=False)
    await _run_with(saboteur)
    return saboteur.calls


@in_virtual_time
async def test_killed_before_any_call() -> None:
    calls = await _count_calls()
    assert calls > 20
    for at in range(calls):
        saboteur = Saboteur(at, is_after=False)
        await _run_with(saboteur)
        assert saboteur.struck


@in_virtual_time
async def test_killed_after_any_call() -> None:
    for at in range(await _count_calls()):
        saboteur = Saboteur(at, is_after=True)
        await _run_with(saboteur)
        assert saboteur.struck


@in_virtual_time
async def test_killed_between_any_two_outcomes() -> None:
    """Kills by the clock: every operation takes a while, and the daemon dies at each moment in between."""
    for milliseconds in range(0, 1200, 10):
        machine = FakeMachine(plan=_plan, script=lambda verb, subject: 0.03)
        rig = Rig(machine=machine)
        rig.network.script = lambda verb, task_id: 0.03
        tasks = {
            "stays": make_task(1, WEB),
            "stopped": make_task(2, WEB),
            "once": make_task(3, ONCE),
            "waits": make_task(4, WEB, desired=TaskState.READY),
        }
        await rig.start()
        script = asyncio.create_task(_live_through(rig, tasks))
        await asyncio.sleep(milliseconds / 1000)
        script.cancel()
        await asyncio.gather(script, return_exceptions=True)
        alive = {id_: task.pid for id_, task in machine.tasks.items() if task.pid and task.exit is None}
        await rig.crash()
        await rig.start()
        await rig.wait_quiet()
        for id_, task in machine.tasks.items():
            assert alive.get(id_, task.pid) == task.pid, f"{id_} was restarted at {milliseconds} ms"
        await rig.crash()
