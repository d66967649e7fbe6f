"""Health checks and readiness: the check that a task gets, the core with its probes, and the whole agent."""

from __future__ import annotations

import pytest
from agent_rig import NET, NODE, FakeManager, Rig, in_virtual_time, make_revision, make_task
from core_steps import bring_up, only, started, states, tell
from msgspec.structs import replace

from agent import events
from agent.core import Core
from agent.executor.base import Command, Exit, Found, ImageConfig, Output
from agent.executor.fake import FakeExecutor
from agent.executor.fake_exec import Reply
from agent.health import Check, check_of, readiness_of
from agent.prober import run_probe
from swarmpy.errors import Unavailable
from swarmpy.limits import (
    HEALTH_OUTPUT_BYTES_MAX,
    HEALTH_PROBES_PARALLEL_MAX,
    HEALTH_REPORT_CHARS_MAX,
    READY_AGAIN_MIN_S,
    UNHEALTHY_DRAIN_S,
)
from swarmpy.model.ids import SECOND_NS, Duration, TaskId
from swarmpy.model.objects import Revision, Task, TaskStatus
from swarmpy.model.specs import ContainerSpec, Healthcheck
from swarmpy.model.states import HealthState, TaskState

CMD = Healthcheck(test=("CMD", "healthy"), interval=Duration(10 * SECOND_NS), retries=2)
READY = Healthcheck(test=("CMD", "ready"), interval=Duration(2 * SECOND_NS), retries=1)


def revision(
    *, healthcheck: Healthcheck | None = CMD, readiness: Healthcheck | None = None, name: str = "web"
) -> Revision:
    spec = ContainerSpec(image="host", healthcheck=healthcheck, readiness=readiness)
    return make_revision(name, container=spec)


WEB = revision()


# --- the check that a task gets


def test_a_check_with_nothing_said_has_dockers_defaults() -> None:
    assert check_of(Healthcheck(test=("CMD", "a", "b"))) == Check(
        argv=("a", "b"), interval_s=30, timeout_s=30, start_period_s=0, start_interval_s=5, retries=3
    )


def test_a_shell_runs_what_is_for_a_shell() -> None:
    check = check_of(Healthcheck(test=("CMD-SHELL", "a || b")))
    assert check is not None
    assert check.argv == ("/bin/sh", "-c", "a || b")


@pytest.mark.parametrize("test", [(), ("NONE",), ("CMD",), ("NONE", "a"), ("OTHER", "a")])
def test_no_check(test: tuple[str, ...]) -> None:
    assert check_of(Healthcheck(test=test)) is None


def test_what_a_service_leaves_open_is_its_images() -> None:
    image = Healthcheck(test=("CMD", "from-image"), interval=Duration(SECOND_NS), retries=7)
    assert check_of(None, image) == check_of(image)
    own = Healthcheck(timeout=Duration(2 * SECOND_NS), retries=1)
    assert check_of(own, image) == Check(
        argv=("from-image",), interval_s=1, timeout_s=2, start_period_s=0, start_interval_s=5, retries=1
    )
    assert check_of(Healthcheck(test=("NONE",)), image) is None, "--no-healthcheck"
    assert check_of(None, None) is None


def test_readiness_has_an_interval_of_its_own() -> None:
    check = readiness_of(Healthcheck(test=("CMD", "a")))
    assert check is not None
    assert check.interval_s == 10
    assert readiness_of(None) is None


# --- the core by itself


def probe(core: Core, *, at: float) -> events.Probe:
    """The only one that is asked for at that time."""
    assert core.wake_at == pytest.approx(at)
    return only(tell(core, events.Tick(), at=at), events.Probe)


def status_of(core: Core, task: Task) -> TaskStatus:
    return core.runs[task.id].status


def test_running_waits_for_the_first_success() -> None:
    manager, task = FakeManager(), make_task(1, WEB)
    core = started(manager)
    bring_up(core, manager, task, WEB)
    status = status_of(core, task)
    assert (status.state, status.health) == (TaskState.STARTING, HealthState.STARTING)
    assert not tell(core, events.Tick(), at=9.9)
    asked = probe(core, at=10.0)
    assert (asked.task_id, asked.argv, asked.timeout_s) == (task.id, ("healthy",), 30.0)
    assert core.wake_at is None, "one probe of a check at a time"
    assert not tell(core, events.Probed(asked.attempt, 1, "no"), at=10.5), "one failure is no news"
    asked = probe(core, at=20.5)
    out = tell(core, events.Probed(asked.attempt, 0, "yes"), at=20.6)
    assert states(out) == ["RUNNING"]
    status = status_of(core, task)
    assert (status.health, status.is_unready, status.health_output) == (HealthState.HEALTHY, False, "")
    asked = probe(core, at=30.6)
    assert not tell(core, events.Probed(asked.attempt, 0, "yes"), at=30.7), "no write per probe"


def test_a_task_without_a_check_runs_at_once() -> None:
    manager, task = FakeManager(), make_task(1, WEB)
    core = started(manager)
    bring_up(
        core,
        manager,
        task,
        revision(healthcheck=Healthcheck(test=("NONE",))),
        image=ImageConfig(reference="host", healthcheck=CMD),
    )
    assert status_of(core, task).state is TaskState.RUNNING
    assert status_of(core, task).health is HealthState.UNSPECIFIED
    assert core.wake_at is None


def fail_it(core: Core, *, at: float, output: str = "no") -> list[events.Instruction]:
    """Two probes that fail, 10 s apart."""
    tell(core, events.Probed(probe(core, at=at).attempt, 1, ""), at=at)
    return tell(core, events.Probed(probe(core, at=at + 10).attempt, 1, output), at=at + 10)


def test_an_unhealthy_task_leaves_names_first_and_fails_then() -> None:
    manager, task = FakeManager(), make_task(1, WEB, is_networked=True)
    core = started(manager)
    tell(core, manager.tell(NET))
    bring_up(core, manager, task, WEB)
    tell(core, events.Probed(probe(core, at=10.0).attempt, 0, ""), at=10.0)
    out = fail_it(core, at=20.0, output="x" * 1000)
    status = only(out, events.ReportStatus).status
    assert (status.state, status.health, status.is_unready) == (
        TaskState.RUNNING,
        HealthState.UNHEALTHY,
        True,
    )
    assert len(status.health_output) == HEALTH_REPORT_CHARS_MAX
    assert not any(isinstance(each, events.Stop) for each in out)
    assert core.wake_at == pytest.approx(30.0 + UNHEALTHY_DRAIN_S)
    stop = only(tell(core, events.Tick(), at=30.0 + UNHEALTHY_DRAIN_S), events.Stop)
    assert core.wake_at is None
    out = tell(core, events.Stopped(task.id, stop.attempt, Exit(code=143)), at=31.0)
    ended = only(out, events.ReportStatus).status
    assert (ended.state, ended.message) == (TaskState.FAILED, "started")
    assert ended.err == "task: non-zero exit (143): dockerexec: unhealthy container"
    assert ended.health is HealthState.UNHEALTHY
    assert ended.health_output
    assert not ended.is_unready


def test_a_task_that_was_never_healthy_is_stopped_at_once() -> None:
    manager, task = FakeManager(), make_task(1, WEB, is_networked=True)
    core = started(manager)
    tell(core, manager.tell(NET))
    bring_up(core, manager, task, WEB)
    stop = only(fail_it(core, at=10.0), events.Stop)
    out = tell(core, events.Stopped(task.id, stop.attempt, Exit(code=0)), at=21.0)
    status = only(out, events.ReportStatus).status
    assert (status.state, status.message, status.err) == (
        TaskState.FAILED,
        "starting",
        "dockerexec: unhealthy container",
    ), "also if it has ended as well as it could"


def test_a_task_that_ends_before_it_is_healthy_says_that_it_never_was() -> None:
    manager, task = FakeManager(), make_task(1, WEB)
    core = started(manager)
    bring_up(core, manager, task, WEB)
    out = tell(core, events.TaskExited(task.id, Exit(code=1)), at=50.0)
    status = only(out, events.ReportStatus).status
    assert (status.state, status.health) == (TaskState.FAILED, HealthState.STARTING)
    assert status.err == "task: non-zero exit (1)"


def test_a_task_that_is_told_to_stop_is_checked_no_more() -> None:
    manager, task = FakeManager(), make_task(1, WEB)
    core = started(manager)
    bring_up(core, manager, task, WEB)
    asked = probe(core, at=10.0)
    stop = only(tell(core, manager.order(task.id, TaskState.SHUTDOWN), at=11.0), events.Stop)
    assert not tell(core, events.Probed(asked.attempt, 1, "no"), at=12.0)
    assert core.wake_at is None
    out = tell(core, events.Stopped(task.id, stop.attempt, Exit(code=143)), at=13.0)
    assert states(out) == ["SHUTDOWN"]


def test_a_probe_that_could_not_be_run_says_nothing() -> None:
    manager, task = FakeManager(), make_task(1, WEB)
    core = started(manager)
    bring_up(core, manager, task, WEB)
    for at in (10.0, 20.0, 30.0, 40.0):
        assert not tell(core, events.Probed(probe(core, at=at).attempt, None, "no room"), at=at)
    assert status_of(core, task).state is TaskState.STARTING


def ready_core() -> tuple[Core, Task]:
    """A task that is ready since 1.0; the next probe is due at 3.0."""
    manager, task = FakeManager(), make_task(1, WEB)
    core = started(manager)
    of = revision(healthcheck=None, readiness=READY)
    out = bring_up(core, manager, task, of)
    assert only(out, events.ReportStatus).status.is_unready, "it was not asked yet"
    asked = only(out, events.Probe)
    out = tell(core, events.Probed(asked.attempt, 0, ""), at=1.0)
    assert not only(out, events.ReportStatus).status.is_unready
    return core, task


def test_unready_is_told_at_once_and_ready_after_a_moment() -> None:
    core, task = ready_core()
    before = status_of(core, task)
    out = tell(core, events.Probed(probe(core, at=3.0).attempt, 1, "busy"), at=3.0)
    status = only(out, events.ReportStatus).status
    assert (status.state, status.is_unready, status.health_output) == (TaskState.RUNNING, True, "busy")
    assert status.report == before.report + 1
    assert not any(isinstance(each, events.Stop) for each in out)
    for at in (5.0, 7.0, 9.0):
        assert not tell(core, events.Probed(probe(core, at=at).attempt, 1, "busy"), at=at), "never killed"
    out = tell(core, events.Probed(probe(core, at=11.0).attempt, 0, ""), at=11.0)
    status = only(out, events.ReportStatus).status
    assert (status.is_unready, status.health_output) == (False, "")


def test_a_task_does_not_flap_faster_than_so() -> None:
    core, task = ready_core()
    asked = probe(core, at=3.0)
    tell(core, events.Probed(asked.attempt, 1, "busy"), at=3.0)
    soon = 3.0 + READY_AGAIN_MIN_S / 2
    run = core.runs[task.id]
    (monitor,) = [each for each in core._probes._idle if each is not None]
    monitor.due_at = soon
    core._probes._is_stale = True
    assert not tell(core, events.Probed(probe(core, at=soon).attempt, 0, ""), at=soon)
    assert run.status.is_unready


# --- restarts


def restored(
    state: HealthState, *, is_unready: bool = False, task_state: TaskState = TaskState.RUNNING
) -> Core:
    core = Core(NODE)
    of = revision(readiness=READY)
    status = TaskStatus(state=task_state, report=9, health=state, is_unready=is_unready)
    stored = events.StoredTask(task=make_task(1, of), status=status)
    found = (Found(task_id=stored.task.id, pid=7),)
    out = tell(core, events.Restored(tasks=(stored,), revisions=(of,), found=found), at=100.0)
    assert not [each for each in out if isinstance(each, events.ReportStatus)], "nothing is news"
    return core


def test_a_restart_leaves_a_healthy_task_in_service() -> None:
    core = restored(HealthState.HEALTHY)
    (run,) = core.runs.values()
    assert (run.health, run.is_unready) == (HealthState.HEALTHY, False)
    assert core.wake_at == pytest.approx(110.0), "readiness is asked at once, health as docker does"


def test_a_restart_goes_on_where_it_was() -> None:
    (run,) = restored(HealthState.HEALTHY, is_unready=True).runs.values()
    assert run.is_unready
    (run,) = restored(HealthState.STARTING, task_state=TaskState.STARTING).runs.values()
    assert run.status.state is TaskState.STARTING


def test_a_verdict_outlives_a_restart() -> None:
    core = Core(NODE)
    status = TaskStatus(state=TaskState.RUNNING, report=9, health=HealthState.UNHEALTHY, is_unready=True)
    stored = events.StoredTask(task=make_task(1, WEB), status=status)
    found = Found(task_id=stored.task.id, pid=7)
    out = tell(core, events.Restored(tasks=(stored,), revisions=(WEB,), found=(found,)), at=100.0)
    only(out, events.Stop)


def test_the_images_check_is_known_after_a_restart() -> None:
    core = Core(NODE)
    of = revision(healthcheck=None)
    status = TaskStatus(state=TaskState.RUNNING, health=HealthState.HEALTHY)
    stored = events.StoredTask(task=make_task(1, of), status=status, image_check=CMD)
    found = Found(task_id=stored.task.id, pid=7)
    tell(core, events.Restored(tasks=(stored,), revisions=(of,), found=(found,)), at=100.0)
    assert probe(core, at=110.0).argv == ("healthy",)


# --- many


def test_few_probes_run_at_a_time() -> None:
    manager, of = FakeManager(), revision(healthcheck=None, readiness=READY)
    tasks = [make_task(n, of) for n in range(1, 4 * HEALTH_PROBES_PARALLEL_MAX)]
    core = Core(NODE)
    stored = tuple(events.StoredTask(task=task, status=TaskStatus(state=TaskState.RUNNING)) for task in tasks)
    found = tuple(Found(task_id=task.id, pid=7) for task in tasks)
    out = tell(core, events.Restored(tasks=stored, revisions=(of,), found=found))
    asked = [each for each in out if isinstance(each, events.Probe)]
    assert len(asked) == HEALTH_PROBES_PARALLEL_MAX
    seen = [each.task_id for each in asked]
    while asked and len(seen) < len(tasks):
        done = asked.pop(0)
        out = tell(core, events.Probed(done.attempt, 0, ""))
        asked += (more := [each for each in out if isinstance(each, events.Probe)])
        seen += [each.task_id for each in more]
        assert len(asked) <= HEALTH_PROBES_PARALLEL_MAX
    assert sorted(seen) == sorted(task.id for task in tasks), "each in its turn"
    assert manager.history == {}


# --- the probe itself, and the agent around it


class Answers:
    """What commands in tasks do; changed while they run."""

    def __init__(self, **replies: Reply) -> None:
        self.replies = replies
        self.asked: list[str] = []

    def __call__(self, task_id: TaskId, command: Command) -> Reply:
        self.asked.append(command.argv[0])
        return self.replies[command.argv[0]]


async def running_rig(answers: Answers, of: Revision) -> tuple[Rig, Task]:
    rig = Rig()
    rig.machine.answer = answers
    await rig.start()
    task = make_task(1, of)
    await rig.post(rig.manager.assign(task, revision=of))
    return rig, task


@pytest.mark.parametrize(
    ("reply", "code", "output"),
    [
        (Reply(output=(Output(1, b"fine\n"),)), 0, "fine"),
        (Reply(exit_code=7, output=(Output(2, b"a"), Output(1, b"b"))), 7, "ab"),
        (Reply(takes_s=None), -1, "Health check exceeded timeout (2.5s)"),
        (
            Reply(takes_s=None, output=(Output(1, b"slow"),)),
            -1,
            "Health check exceeded timeout (2.5s): slow",
        ),
        (Reply(refusal='exec: "healthy": not found'), -1, 'exec: "healthy": not found'),
        (Reply(output=(Output(1, b"x" * 3000), Output(1, b"y" * 9000))), 0, "x" * 3000 + "y" * 1096),
    ],
)
@in_virtual_time
async def test_what_a_probe_says(reply: Reply, code: int, output: str) -> None:
    rig, task = await running_rig(Answers(healthy=reply), revision(healthcheck=None))
    await rig.wait_state(TaskState.RUNNING, task.id)
    executor = FakeExecutor(rig.machine)
    said = await run_probe(executor, events.Probe(task.id, 5, ("healthy",), 2.5))
    assert said == events.Probed(5, code, output)
    assert len(said.output) <= HEALTH_OUTPUT_BYTES_MAX
    assert all(channel.has_ended for channel in rig.machine.tasks[task.id].channels), "it was killed"

    def trouble(verb: str, subject: str) -> float:
        raise Unavailable("too many commands")

    rig.machine.script = trouble
    assert (await run_probe(executor, events.Probe(task.id, 6, ("healthy",), 2.5))).exit_code is None
    rig.machine.script = lambda verb, subject: 0.0
    await rig.crash()


@in_virtual_time
async def test_from_healthy_to_failed() -> None:
    answers = Answers(healthy=Reply(), ready=Reply())
    quick = replace(CMD, interval=Duration(3 * SECOND_NS))
    rig, task = await running_rig(answers, revision(healthcheck=quick, readiness=READY))
    await rig.wait_state(TaskState.RUNNING, task.id)
    status = rig.manager.tasks[task.id].status
    assert (status.health, status.is_unready) == (HealthState.HEALTHY, False)
    await rig.wait_quiet()
    answers.replies["ready"] = Reply(exit_code=1)
    await rig.wait(lambda: rig.manager.tasks[task.id].status.is_unready)
    answers.replies["ready"] = Reply()
    await rig.wait(lambda: not rig.manager.tasks[task.id].status.is_unready)
    before = rig.manager.tasks[task.id].status
    await rig.crash()
    answers.asked.clear()
    await rig.start()
    await rig.wait(lambda: answers.asked.count("healthy") == 2)
    assert rig.manager.tasks[task.id].status == before, "a restart is no news"
    answers.replies["healthy"] = Reply(exit_code=1, output=(Output(2, b"no answer"),))
    await rig.wait_state(TaskState.FAILED, task.id)
    status = rig.manager.tasks[task.id].status
    assert status.err == "task: non-zero exit (143): dockerexec: unhealthy container"
    assert status.health_output == "no answer"
    await rig.wait_quiet()
    await rig.crash()


@in_virtual_time
async def test_the_journal_keeps_the_images_check() -> None:
    rig = Rig()
    await rig.start()
    of = revision(healthcheck=None)
    task = make_task(1, of)
    rig.journal.commit([events.SaveTask(task, False, 15, CMD), events.SaveTask(replace(task), False, 15)])
    (stored,) = rig.journal.load().tasks
    assert stored.image_check == CMD
    rig.journal.commit([events.DropTask(task.id)])
    rig.journal.commit([events.SaveTask(task, False, 15)])
    (stored,) = rig.journal.load().tasks
    assert stored.image_check is None
    rig.journal.commit([events.DropTask(task.id)])
    await rig.crash()
