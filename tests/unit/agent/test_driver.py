"""The core, the driver and the journal together, on a fake machine."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from agent_rig import Rig, in_virtual_time, loop_env, make_revision, make_task
from clusters import Firing

from agent import events
from agent.executor.base import Launch
from agent.executor.fake import Behaviour, FakeMachine
from swarmpy.errors import TaskRejected, Unavailable
from swarmpy.limits import TASK_STARTS_PARALLEL_MAX
from swarmpy.model.container_ids import short_container_id
from swarmpy.model.specs import ContainerSpec
from swarmpy.model.states import TaskState

WEB = make_revision()


@in_virtual_time
async def test_a_task_runs_and_is_taken_down() -> None:
    rig = Rig()
    await rig.start()
    task = make_task(1, WEB)
    await rig.post(rig.manager.assign(task, revision=WEB))
    await rig.wait_state(TaskState.RUNNING, task.id)
    status = rig.manager.tasks[task.id].status
    assert status.message == "started"
    assert status.container_status is not None
    assert status.container_status.pid > 0
    assert status.addresses
    launch = rig.machine.tasks[task.id].launch
    assert launch.name == f"web.1.{task.id}"
    assert launch.hostname == short_container_id(task.id)
    assert launch.labels["com.docker.swarm.service.name"] == "web"
    await rig.wait_quiet()

    await rig.post(rig.manager.order(task.id, TaskState.SHUTDOWN))
    await rig.wait_state(TaskState.SHUTDOWN, task.id)
    await rig.wait_quiet()
    assert task.id in rig.machine.logs, "the log stays while the task is known"

    await rig.post(rig.manager.release(task.id))
    await rig.wait_quiet()
    assert rig.machine.logs == {}
    assert rig.journal.load().tasks == ()
    await rig.crash()


@pytest.mark.parametrize(
    ("code", "state", "message", "err"),
    [
        (0, TaskState.COMPLETE, "finished", ""),
        (1, TaskState.FAILED, "started", "task: non-zero exit (1)"),
    ],
)
@in_virtual_time
async def test_exit_codes(code: int, state: TaskState, message: str, err: str) -> None:
    rig = Rig(machine=FakeMachine(plan=lambda launch: Behaviour(run_s=0.0, exit_code=code)))
    await rig.start()
    task = make_task(1, WEB)
    await rig.post(rig.manager.assign(task, revision=WEB))
    await rig.wait_state(state, task.id)
    status = rig.manager.tasks[task.id].status
    assert (status.message, status.err) == (message, err)
    assert status.container_status is not None
    assert status.container_status.exit_code == code
    await rig.wait_quiet()
    await rig.crash()


@in_virtual_time
async def test_a_missing_image_rejects() -> None:
    rig = Rig()
    rig.machine.missing_images.add("gone:1")
    await rig.start()
    revision = make_revision("gone", container=ContainerSpec(image="gone:1"))
    tasks = [make_task(n, revision) for n in (1, 2)]
    await rig.post(rig.manager.assign(*tasks, revision=revision))
    await rig.wait_state(TaskState.REJECTED, *(task.id for task in tasks))
    status = rig.manager.tasks[tasks[0].id].status
    assert (status.message, status.err) == ("preparing", "No such image: gone:1")
    await rig.wait_quiet()
    await rig.crash()


@in_virtual_time
async def test_failing_to_start_fails() -> None:
    rig = Rig(machine=FakeMachine(plan=lambda launch: Behaviour(fails_to_start="no such file: /bin/x")))
    await rig.start()
    task = make_task(1, WEB)
    await rig.post(rig.manager.assign(task, revision=WEB))
    await rig.wait_state(TaskState.FAILED, task.id)
    assert rig.manager.tasks[task.id].status.err == "no such file: /bin/x"
    await rig.wait_quiet()
    await rig.crash()


@in_virtual_time
async def test_passing_trouble_is_outlasted() -> None:
    failures = {"attach": 2, "create": 1, "start": 1, "stop": 3, "remove": 1, "detach": 2}

    def script(verb: str, subject: str) -> float:
        if failures.get(verb, 0) > 0:
            failures[verb] -= 1
            raise Unavailable(f"{verb} does not work just now")
        return 0.0

    rig = Rig()
    rig.machine.script = script
    rig.network.script = script
    await rig.start()
    task = make_task(1, WEB)
    await rig.post(rig.manager.assign(task, revision=WEB))
    await rig.wait_state(TaskState.RUNNING, task.id)
    await rig.post(rig.manager.order(task.id, TaskState.REMOVE))
    await rig.wait_state(TaskState.SHUTDOWN, task.id)
    await rig.wait_quiet()
    assert not any(failures.values())
    await rig.crash()


@in_virtual_time
async def test_a_fault_point_has_operations_repeated() -> None:
    """Each may be: the task is started once all the same, and taken down."""
    point = Firing("driver.outcome_lost", 0)
    rig = Rig(env=replace(loop_env(), buggify=point))
    await rig.start()
    for number in range(1, 6):
        point.left = number
        task = make_task(number, WEB)
        await rig.post(rig.manager.assign(task, revision=WEB))
        await rig.wait_state(TaskState.RUNNING, task.id)
        await rig.wait_quiet()
        assert rig.machine.starts[task.id] == 1
        point.left += 2
        await rig.post(rig.manager.order(task.id, TaskState.SHUTDOWN))
        await rig.wait_state(TaskState.SHUTDOWN, task.id)
        await rig.wait_quiet()
        assert point.left == 0
    await rig.crash()


@in_virtual_time
async def test_lasting_trouble_rejects() -> None:
    rig = Rig()

    def script(verb: str, subject: str) -> float:
        if verb == "attach":
            raise Unavailable("no addresses are left", delay_s=0.0)
        return 0.0

    rig.network.script = script
    await rig.start()
    task = make_task(1, WEB)
    await rig.post(rig.manager.assign(task, revision=WEB))
    await rig.wait_state(TaskState.REJECTED, task.id)
    assert rig.manager.tasks[task.id].status.err == "no addresses are left"
    await rig.crash()


@in_virtual_time
async def test_ready_waits_for_the_order_to_run() -> None:
    rig = Rig()
    await rig.start()
    task = make_task(1, WEB, desired=TaskState.READY)
    await rig.post(rig.manager.assign(task, revision=WEB))
    await rig.wait_state(TaskState.READY, task.id)
    await rig.wait_quiet()
    assert rig.machine.starts == {}
    await rig.post(rig.manager.order(task.id, TaskState.RUNNING))
    await rig.wait_state(TaskState.RUNNING, task.id)
    assert rig.machine.starts == {task.id: 1}
    await rig.crash()


@in_virtual_time
async def test_starts_are_bounded_and_stops_are_not() -> None:
    gate = asyncio.Event()
    peak = 0
    busy = 0

    class SlowMachine(FakeMachine):
        pass

    rig = Rig(machine=SlowMachine())
    running = make_task(1000, WEB)
    await rig.start()
    await rig.post(rig.manager.assign(running, revision=WEB))
    await rig.wait_state(TaskState.RUNNING, running.id)

    attach = rig.network.script

    def count(verb: str, subject: str) -> float:
        nonlocal busy, peak
        if verb == "attach":
            busy += 1
            peak = max(peak, busy)
        return attach(verb, running.id)

    rig.network.script = count
    rig.machine.script = lambda verb, subject: 3600.0 if verb == "create" and not gate.is_set() else 0.0
    tasks = [make_task(n, WEB) for n in range(1, 41)]
    await rig.post(rig.manager.assign(*tasks))
    await rig.wait(lambda: busy == TASK_STARTS_PARALLEL_MAX)
    await rig.post(rig.manager.order(running.id, TaskState.REMOVE))
    await rig.wait_state(TaskState.SHUTDOWN, running.id)
    waiting = tasks[-1].id
    await rig.post(rig.manager.release(waiting))
    await rig.wait(lambda: waiting not in rig.core.runs)
    assert peak == TASK_STARTS_PARALLEL_MAX
    rig.core.check()
    gate.set()
    await rig.crash()  # the sixteen that hang in create are picked up by the next agent
    await rig.start()
    await rig.wait_state(TaskState.RUNNING, *(task.id for task in tasks[:-1]))
    await rig.wait_quiet()
    await rig.crash()


@in_virtual_time
async def test_a_host_port_is_handed_over() -> None:
    rig = Rig()
    await rig.start()
    revision = make_revision(port=8080)
    old, new = make_task(1, revision), make_task(2, revision)
    await rig.post(rig.manager.assign(old, revision=revision))
    await rig.wait_state(TaskState.RUNNING, old.id)
    ports = rig.manager.tasks[old.id].status.port_status
    assert ports is not None
    assert [port.published_port for port in ports.ports] == [8080]
    rig.network.script = lambda verb, task_id: 0.05 if verb == "detach" else 0.0
    await rig.post(rig.manager.order(old.id, TaskState.SHUTDOWN))
    await rig.post(rig.manager.assign(new))
    await rig.wait_state(TaskState.RUNNING, new.id)
    await rig.wait_quiet()
    assert set(rig.network.sandboxes) == {new.id}
    await rig.crash()


@in_virtual_time
async def test_a_task_that_ignores_the_signal_is_killed() -> None:
    rig = Rig(machine=FakeMachine(plan=lambda launch: Behaviour(stop_s=None)))
    await rig.start()
    revision = make_revision(container=ContainerSpec(image="host", stop_grace_period=50_000_000))  # type: ignore[arg-type]
    task = make_task(1, revision)
    await rig.post(rig.manager.assign(task, revision=revision))
    await rig.wait_state(TaskState.RUNNING, task.id)
    await rig.post(rig.manager.order(task.id, TaskState.SHUTDOWN))
    await rig.wait_state(TaskState.SHUTDOWN, task.id)
    container = rig.manager.tasks[task.id].status.container_status
    assert container is not None
    assert container.exit_code == 137
    await rig.crash()


@in_virtual_time
async def test_a_restart_adopts() -> None:
    rig = Rig()
    await rig.start()
    tasks = [make_task(n, WEB) for n in (1, 2, 3)]
    await rig.post(rig.manager.assign(*tasks, revision=WEB))
    await rig.wait_state(TaskState.RUNNING, *(task.id for task in tasks))
    pids = {id_: task.pid for id_, task in rig.machine.tasks.items()}
    await rig.crash()
    rig.machine.end(tasks[1].id, 7)
    await rig.start(has_session=False)
    # Without any manager: ended ones are seen, the others run on.
    await rig.wait_state(TaskState.FAILED, tasks[1].id)
    assert rig.manager.tasks[tasks[1].id].status.err == "task: non-zero exit (7)"
    await rig.connect()
    await rig.wait_quiet()
    assert {id_: task.pid for id_, task in rig.machine.tasks.items()} == {
        id_: pid for id_, pid in pids.items() if id_ != tasks[1].id
    }
    await rig.crash()


@in_virtual_time
async def test_strangers_stay_until_the_first_assignments() -> None:
    """A lost journal: tasks that are still assigned are adopted, the others removed."""
    rig = Rig()
    await rig.start()
    kept, dropped = make_task(1, WEB), make_task(2, WEB)
    await rig.post(rig.manager.assign(kept, dropped, revision=WEB))
    await rig.wait_state(TaskState.RUNNING, kept.id, dropped.id)
    await rig.crash()
    fresh = Rig(machine=rig.machine, network=rig.network, manager=rig.manager)
    del rig.manager.tasks[dropped.id]
    await fresh.start(has_session=False)
    await fresh.post(events.Tick())
    await fresh.wait(lambda: fresh.core.is_idle)
    assert set(rig.machine.tasks) == {kept.id, dropped.id}
    await fresh.connect()
    await fresh.wait_quiet()
    assert set(rig.machine.tasks) == {kept.id}
    assert rig.machine.starts[kept.id] == 1
    await fresh.crash()


@in_virtual_time
async def test_a_lost_task_fails_and_is_not_started_again() -> None:
    """The node's power was cut: the manager knows of a run that this machine does not."""
    rig = Rig()
    await rig.start()
    task = make_task(1, WEB)
    await rig.post(rig.manager.assign(task, revision=WEB))
    await rig.wait_state(TaskState.RUNNING, task.id)
    await rig.crash()
    blank = Rig(manager=rig.manager)
    await blank.start()
    await blank.wait_state(TaskState.FAILED, task.id)
    assert blank.machine.starts == {}
    assert "lost" in rig.manager.tasks[task.id].status.err
    await blank.crash()


@in_virtual_time
async def test_an_unexpected_error_costs_one_task_only(capsys: pytest.CaptureFixture[str]) -> None:
    rig = Rig()

    def script(verb: str, subject: str) -> float:
        if verb == "create" and subject == bad.id:
            raise KeyError("a bug")
        return 0.0

    rig.machine.script = script
    bad, good = make_task(1, WEB), make_task(2, WEB)
    await rig.start()
    await rig.post(rig.manager.assign(bad, good, revision=WEB))
    await rig.wait_state(TaskState.RUNNING, good.id)
    await rig.wait_state(TaskState.REJECTED, bad.id)
    assert "a bug" in rig.manager.tasks[bad.id].status.err
    await rig.crash()


@in_virtual_time
async def test_a_rejecting_create_leaves_nothing() -> None:
    rig = Rig()

    def script(verb: str, subject: str) -> float:
        if verb == "create":
            raise TaskRejected("invalid mount config: bind source path does not exist: /nope")
        return 0.0

    rig.machine.script = script
    await rig.start()
    task = make_task(1, WEB)
    await rig.post(rig.manager.assign(task, revision=WEB))
    await rig.wait_state(TaskState.REJECTED, task.id)
    await rig.wait_quiet()
    await rig.crash()


@in_virtual_time
async def test_templates_are_expanded() -> None:
    rig = Rig()
    await rig.start()
    spec = ContainerSpec(image="host", env=("WHO={{.Service.Name}}-{{.Task.Slot}}@{{.Node.Hostname}}",))
    revision = make_revision("tpl", container=spec)
    bad_spec = ContainerSpec(image="host", env=("X={{.Bogus}}",))
    bad = make_revision("bad", container=bad_spec)
    await rig.post(rig.manager.assign(make_task(1, revision), revision=revision))
    await rig.post(rig.manager.assign(make_task(2, bad), revision=bad))
    await rig.wait_state(TaskState.RUNNING, make_task(1, revision).id)
    launch: Launch = rig.machine.tasks[make_task(1, revision).id].launch
    assert launch.spec.env == ("WHO=tpl-1@host1",)
    await rig.wait_state(TaskState.REJECTED, make_task(2, bad).id)
    assert ".Bogus" in rig.manager.tasks[make_task(2, bad).id].status.err
    await rig.wait_quiet()
    await rig.crash()
