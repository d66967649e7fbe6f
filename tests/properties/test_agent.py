"""Whatever happens to an agent, in whatever order: states only grow, no task is started twice, and at quiet
what stands on the machine is what is assigned.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from agent_rig import NET, FakeManager, Rig, make_revision, make_task
from budget import machine_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec import structs

from agent import events
from agent.executor.base import Command, Launch
from agent.executor.fake import Behaviour, FakeMachine
from agent.executor.fake_exec import Reply
from swarmpy.errors import TaskRejected, Unavailable
from swarmpy.model.ids import SECOND_NS, Duration, TaskId
from swarmpy.model.objects import TaskStatus
from swarmpy.model.specs import ContainerSpec, Healthcheck
from swarmpy.model.states import HealthState, TaskState, is_terminal
from swarmpy.sim.loop import SimLoop

T = TypeVar("T")

_CHECKED = ContainerSpec(
    image="host",
    healthcheck=Healthcheck(test=("CMD", "healthy"), interval=Duration(4 * SECOND_NS), retries=2),
    readiness=Healthcheck(
        test=("CMD", "ready"), interval=Duration(3 * SECOND_NS), timeout=Duration(SECOND_NS), retries=1
    ),
)
CHECKED = make_revision("checked", container=_CHECKED)
REVISIONS = [make_revision("web"), make_revision("api"), make_revision("port", port=8080), CHECKED]
CHECKED_MAX = 2
"""Tasks with checks at a time: each probe costs some time."""
WELL = Reply(takes_s=0.02)
_REPLIES = st.sampled_from(
    [WELL, WELL, Reply(exit_code=1), Reply(takes_s=None), Reply(refusal="no such command")]
)
_RUNS = st.sampled_from([None, None, None, 0.0, 0.4, 3.0])


@dataclasses.dataclass
class Listening(FakeManager):
    """A manager with somebody who hears of every report."""

    hear: Callable[[TaskId, TaskStatus], None] = lambda task_id, status: None

    def report(self, task_id: TaskId, status: TaskStatus) -> None:
        self.hear(task_id, status)
        super().report(task_id, status)


class AgentMachine(RuleBasedStateMachine):
    """Rules are what managers, tasks, executors and the power supply do; time passes between them."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = SimLoop()
        self.behaviours: dict[TaskId, Behaviour] = {}
        self.troubles: dict[tuple[str, str], int] = {}
        self.delay_s = 0.0
        self.count = 0
        self.is_down = False
        self.is_cut = False
        self.replies: dict[tuple[TaskId, str], Reply] = {}
        self.failed: set[tuple[TaskId, str]] = set()
        """Checks of tasks that have failed once."""
        self.were_ready: set[TaskId] = set()
        self.condemned: set[TaskId] = set()
        """Those that managers were told are unhealthy."""
        self.wrong: list[str] = []
        self.rig = self.run(self._make_rig())
        self.run(self.rig.start())

    async def _make_rig(self) -> Rig:
        machine = FakeMachine(plan=self._plan, script=self._script)
        machine.answer = self._answer
        rig = Rig(machine=machine, manager=Listening(hear=self._hear))
        rig.network.script = self._script
        rig.manager.tell(NET)
        return rig

    def _plan(self, launch: Launch) -> Behaviour:
        return self.behaviours[launch.task_id]

    def _answer(self, task_id: TaskId, command: Command) -> Reply:
        reply = self.replies.get((task_id, command.argv[0]), WELL)
        if reply is not WELL:
            self.failed.add((task_id, command.argv[0]))
        return reply

    def _script(self, verb: str, subject: str) -> float:
        left = self.troubles.get((verb, ""), 0)
        if left:
            self.troubles[(verb, "")] = left - 1
            if left % 4:
                raise Unavailable(f"{verb} does not work just now")
            if verb == "exec":  # a check that is not there has failed, whichever it is
                self.failed |= {(TaskId(subject), check) for check in ("healthy", "ready")}
            raise TaskRejected("it never will")
        return self.delay_s

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        result: T = self.loop.run_until_complete(work)
        return result

    def post(self, event: events.Event) -> None:
        if not self.is_down and not self.is_cut:
            self.run(self.rig.post(event))
            self.run(asyncio.sleep(0.01))

    # --- what managers do

    @rule(
        which=st.integers(0, 2),
        is_waiting=st.booleans(),
        is_networked=st.booleans(),
        run_s=_RUNS,
        exit_code=st.sampled_from([0, 1]),
        stop_s=st.sampled_from([0.0, 0.0, 0.2, None]),
        fails=st.sampled_from(["", "", "", "exec format error"]),
    )
    def assign(self, which: int, is_waiting: bool, is_networked: bool, **how: Any) -> None:
        self.count += 1
        revision = REVISIONS[which]
        desired = TaskState.READY if is_waiting else TaskState.RUNNING
        task = make_task(self.count, revision, desired=desired, is_networked=is_networked)
        self.behaviours[task.id] = Behaviour(fails_to_start=how.pop("fails"), **how)
        self.post(self.rig.manager.assign(task, revision=revision))

    @precondition(lambda self: self.rig.manager.tasks)
    @rule(
        pick=st.integers(0, 99),
        desired=st.sampled_from([TaskState.RUNNING, TaskState.SHUTDOWN, TaskState.REMOVE]),
    )
    def order(self, pick: int, desired: TaskState) -> None:
        self.post(self.rig.manager.order(self._pick(pick), desired))

    @precondition(lambda self: self.rig.manager.tasks)
    @rule(pick=st.integers(0, 99))
    def repeat_an_old_order(self, pick: int) -> None:
        task = self.rig.manager.tasks[self._pick(pick)]
        update = self.rig.manager.order(task.id, TaskState.READY)
        old = structs.replace(task, desired_state=TaskState.READY)
        self.post(dataclasses.replace(update, changes=(old,)))

    @precondition(lambda self: self.rig.manager.tasks)
    @rule(pick=st.integers(0, 99))
    def release(self, pick: int) -> None:
        self.post(self.rig.manager.release(self._pick(pick)))

    def _pick(self, pick: int) -> TaskId:
        ids = sorted(self.rig.manager.tasks)
        return ids[pick % len(ids)]

    @rule(is_long=st.booleans())
    def lose_the_session(self, is_long: bool) -> None:
        self.post(events.SessionDown())
        self._cut(is_long=is_long)

    def _cut(self, *, is_long: bool) -> None:
        self.is_cut = True
        if not is_long and not self.is_down:
            self.find_the_manager_again()

    @precondition(lambda self: self.is_cut and not self.is_down)
    @rule()
    def find_the_manager_again(self) -> None:
        self.is_cut = False
        self.run(self.rig.connect())

    @precondition(lambda self: not self.is_down and not self.is_cut)
    @rule(is_long=st.booleans())
    def lose_a_message(self, is_long: bool) -> None:
        """The next one shows the gap, and a new session is asked for."""
        self.rig.manager.chain += 1
        asked = len(self.rig.manager.ended)
        self.post(self.rig.manager.assign())
        assert len(self.rig.manager.ended) == asked + 1
        self._cut(is_long=is_long)

    # --- what tasks say of themselves

    @precondition(lambda self: not self.is_down and not self.is_cut and len(self._checked()) < CHECKED_MAX)
    @rule(stop_s=st.sampled_from([0.0, 0.2, None]))
    def assign_a_checked_one(self, stop_s: float | None) -> None:
        """One that comes up, unless there is trouble."""
        self.count += 1
        task = make_task(self.count, CHECKED, is_networked=bool(self.count % 2))
        self.behaviours[task.id] = Behaviour(stop_s=stop_s)
        self.post(self.rig.manager.assign(task, revision=CHECKED))
        self.let_time_pass(4.5)

    @precondition(lambda self: self._checked())
    @rule(
        pick=st.integers(0, 99),
        check=st.sampled_from(["healthy", "ready", "ready"]),
        reply=_REPLIES,
        seconds=st.sampled_from([0.0, 3.1, 9.0]),
    )
    def say(self, pick: int, check: str, reply: Reply, seconds: float) -> None:
        ids = self._checked()
        self.replies[(ids[pick % len(ids)], check)] = reply
        self.let_time_pass(seconds)

    def _checked(self) -> list[TaskId]:
        """Those whose process runs, and is asked how it is."""
        tasks = self.rig.manager.tasks
        return [id_ for id_ in sorted(tasks) if tasks[id_].revision_id == CHECKED.id and self._runs(id_)]

    def _runs(self, task_id: TaskId) -> bool:
        task = self.rig.machine.tasks.get(task_id)
        return task is not None and task.pid != 0 and task.exit is None

    # --- what machines do

    @rule(seconds=st.sampled_from([0.001, 0.05, 0.3, 1.0, 12.0]))
    def let_time_pass(self, seconds: float) -> None:
        self.run(asyncio.sleep(seconds))

    @rule(
        verb=st.sampled_from(
            ["ensure_image", "create", "start", "stop", "remove", "attach", "detach", "apply", "exec"]
        ),
        count=st.integers(1, 8),
    )
    def have_trouble(self, verb: str, count: int) -> None:
        self.troubles[(verb, "")] = count

    @rule(seconds=st.sampled_from([0.0, 0.03, 0.03, 0.5]))
    def be_slow(self, seconds: float) -> None:
        self.delay_s = seconds

    @precondition(lambda self: not self.is_down)
    @rule(is_long=st.booleans())
    def crash(self, is_long: bool) -> None:
        self.run(self.rig.crash())
        self.is_down = True
        if not is_long:
            self.restart(has_session=True)

    @precondition(lambda self: self.is_down)
    @rule(has_session=st.booleans())
    def restart(self, has_session: bool) -> None:
        self.is_down = False
        self.is_cut = not has_session
        self.run(self.rig.start(has_session=has_session))

    # --- what must hold

    @invariant()
    def starts_at_most_once(self) -> None:
        assert all(count == 1 for count in self.rig.machine.starts.values())

    @invariant()
    def states_only_grow(self) -> None:
        for history in self.rig.manager.history.values():
            assert history == sorted(history)

    @invariant()
    def nobody_is_out_of_service_without_a_reason(self) -> None:
        assert not self.wrong

    def _hear(self, task_id: TaskId, status: TaskStatus) -> None:
        """Every report, also one that another follows at once."""
        if is_terminal(status.state):
            return
        is_ill = status.health is HealthState.UNHEALTHY
        if is_ill and (task_id, "healthy") not in self.failed:
            self.wrong.append(f"{task_id} is called unhealthy, and its check never failed")
        if task_id in self.condemned and not is_ill:
            self.wrong.append(f"{task_id} was given up, and goes on: {status}")
        if is_ill:
            self.condemned.add(task_id)
        elif status.state is TaskState.RUNNING and not status.is_unready:
            self.were_ready.add(task_id)
        elif task_id in self.were_ready and (task_id, "ready") not in self.failed:
            self.wrong.append(f"{task_id} is called unready, and its check never failed")

    @invariant()
    def the_core_is_sound(self) -> None:
        if not self.is_down:
            assert self.rig.running is not None
            assert not self.rig.running.done(), self.rig.running
            self.rig.core.check()

    def teardown(self) -> None:
        """At quiet all is as it should be: the convergence property."""
        self.troubles.clear()
        self.replies.clear()
        self.delay_s = 0.0
        self.run(self._quiet())
        self.loop.close()

    async def _quiet(self) -> None:
        rig = self.rig
        if self.is_down:
            await rig.start()
        else:
            await rig.post(events.SessionDown())
            await rig.connect()
        for task_id, task in rig.manager.tasks.items():
            if not is_terminal(task.status.state):
                await rig.post(rig.manager.order(task_id, TaskState.RUNNING))
        # Two tasks may want one host port for ever; then the second one waits, and that is right.
        ports = [id_ for id_, task in rig.manager.tasks.items() if task.revision_id == REVISIONS[2].id]
        for task_id in ports:
            await rig.post(rig.manager.order(task_id, TaskState.SHUTDOWN))
        await asyncio.sleep(120)
        assert rig.is_converged(), rig.differences()
        assert rig.core.is_idle
        rig.core.check()
        assert not self.wrong
        for task in rig.manager.tasks.values():
            if not is_terminal(task.status.state):
                assert task.id not in self.condemned
                is_checked = task.revision_id == CHECKED.id
                health = HealthState.HEALTHY if is_checked else HealthState.UNSPECIFIED
                assert (task.status.health, task.status.is_unready) == (health, False)
        await rig.crash()


AgentMachine.TestCase.settings = machine_settings(examples=100, steps=40)
TestAgent = AgentMachine.TestCase
