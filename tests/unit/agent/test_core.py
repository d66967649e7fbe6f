"""The core by itself: events in, instructions out."""

from __future__ import annotations

from itertools import count

import pytest
from agent_rig import NODE, FakeManager, make_revision, make_task
from core_steps import only, started, states, tell
from msgspec.structs import replace

from agent import environment, events
from agent.core import Core
from agent.events import Removal
from agent.executor.base import Exit, Found, ImageConfig, Sandbox
from swarmpy.model.ids import SessionId, TaskId
from swarmpy.model.objects import Kind, Task
from swarmpy.model.specs import EndpointSpec, PortConfig
from swarmpy.model.states import PublishMode, TaskState

WEB = make_revision()
TASK = make_task(1, WEB)
IMAGE = ImageConfig(reference="host")
SANDBOX = Sandbox(netns="/n", addresses=("10.0.0.2",))


def test_one_task_step_by_step() -> None:
    manager = FakeManager()
    core = started(manager)
    out = tell(core, manager.assign(TASK, revision=WEB))
    assert isinstance(out[0], events.Persist), "records come first"
    assert states(out) == ["PREPARING"]
    image = only(out, events.EnsureImage)
    out = tell(core, events.ImageReady(image.reference, image.attempt, IMAGE))
    attach = only(out, events.Attach)
    out = tell(core, events.Attached(TASK.id, attach.attempt, SANDBOX))
    create = only(out, events.Create)
    assert create.launch.sandbox == SANDBOX
    out = tell(core, events.Created(TASK.id, create.attempt))
    assert states(out) == ["STARTING"]
    persisted = only(out, events.Persist).records
    assert any(isinstance(r, events.SaveStatus) and r.status.state is TaskState.STARTING for r in persisted)
    start = only(out, events.Start)
    out = tell(core, events.Started(TASK.id, start.attempt, Found(task_id=TASK.id, pid=7)))
    assert states(out) == ["RUNNING"]
    status = only(out, events.ReportStatus).status
    assert status.report == 5
    assert status.addresses == ("10.0.0.2",)


def test_old_outcomes_are_ignored() -> None:
    manager = FakeManager()
    core = started(manager)
    image = only(tell(core, manager.assign(TASK, revision=WEB)), events.EnsureImage)
    stale = image.attempt + 100
    for event in (
        events.ImageReady(image.reference, stale, IMAGE),
        events.Attached(TASK.id, stale, SANDBOX),
        events.Created(TASK.id, stale),
        events.Started(TASK.id, stale, Found(task_id=TASK.id, pid=1)),
        events.Stopped(TASK.id, stale, None),
        events.Removed(TASK.id, stale, False),
        events.Detached(TASK.id, stale),
        events.Failed(attempt=stale, error="old", is_final=True, task_id=TASK.id),
        events.Failed(attempt=stale, error="old", is_final=True, reference=image.reference),
        events.Created(TaskId("unknown"), image.attempt),
    ):
        assert tell(core, event) == []
    assert core.runs[TASK.id].status.state is TaskState.PREPARING


def test_a_gap_ends_the_session_once() -> None:
    manager = FakeManager()
    core = started(manager)
    tell(core, manager.assign(revision=WEB))
    manager.chain += 1
    out = tell(core, manager.assign(TASK))
    assert "lost" in only(out, events.EndSession).reason
    assert tell(core, manager.assign(make_task(2, WEB))) == []
    assert core.runs == {}
    out = tell(core, events.SessionDown(), events.SessionUp(SessionId("s2")), manager.complete())
    assert set(core.runs) == set(manager.tasks)


def test_messages_before_the_first_set_end_the_session() -> None:
    core = Core(NODE)
    manager = FakeManager()
    tell(core, events.Restored(), events.SessionUp(SessionId("s")))
    only(tell(core, manager.assign(TASK, revision=WEB)), events.EndSession)


def test_a_task_without_its_revision_waits_for_it() -> None:
    manager = FakeManager()
    core = started(manager)
    assert states(tell(core, manager.assign(TASK))) == []
    assert states(tell(core, manager.assign(revision=WEB))) == ["PREPARING"]


def test_stopping_does_not_wait_for_an_image() -> None:
    manager = FakeManager()
    core = started(manager)
    tell(core, manager.assign(TASK, revision=WEB))
    out = tell(core, manager.order(TASK.id, TaskState.SHUTDOWN))
    assert states(out) == ["SHUTDOWN"]


def test_one_request_per_image() -> None:
    manager = FakeManager()
    core = started(manager)
    out = tell(core, manager.assign(*(make_task(n, WEB) for n in range(1, 101)), revision=WEB))
    only(out, events.EnsureImage)


def test_an_end_may_overtake_the_start() -> None:
    manager = FakeManager()
    core = started(manager)
    image = only(tell(core, manager.assign(TASK, revision=WEB)), events.EnsureImage)
    attach = only(tell(core, events.ImageReady("host", image.attempt, IMAGE)), events.Attach)
    create = only(tell(core, events.Attached(TASK.id, attach.attempt, SANDBOX)), events.Create)
    start = only(tell(core, events.Created(TASK.id, create.attempt)), events.Start)
    out = tell(core, events.TaskExited(TASK.id, Exit(code=3)))
    assert states(out) == ["FAILED"]
    out = tell(core, events.Started(TASK.id, start.attempt, Found(task_id=TASK.id, exit=Exit(code=3))))
    assert states(out) == []
    assert only(out, events.Remove).keep_log


def test_the_manager_may_give_a_task_up() -> None:
    manager = FakeManager()
    core = started(manager)
    tell(core, manager.assign(TASK, revision=WEB))
    given_up = replace(TASK, status=replace(TASK.status, state=TaskState.REJECTED, err="does not fit"))
    assert states(tell(core, manager.assign(given_up))) == []
    assert core.runs[TASK.id].status.err == "does not fit"
    assert states(tell(core, manager.order(TASK.id, TaskState.SHUTDOWN))) == []


def test_delays_grow_and_end() -> None:
    manager = FakeManager()
    core = started(manager)
    image = only(tell(core, manager.assign(TASK, revision=WEB)), events.EnsureImage)
    at, delays = 0.0, []
    while True:
        out = tell(
            core,
            events.Failed(attempt=image.attempt, error="registry is down", is_final=False, reference="host"),
            at=at,
        )
        if core.wake_at is None:
            break
        delays.append(round(core.wake_at - at, 3))
        assert tell(core, events.Tick(), at=core.wake_at - 0.01) == []
        at = core.wake_at
        image = only(tell(core, events.Tick(), at=at), events.EnsureImage)
    assert delays == [0.1, 0.2, 0.4, 0.8, 1.6]
    assert states(out) == ["REJECTED"]


@pytest.mark.parametrize(
    "found",
    [None, Found(task_id=TASK.id), Found(task_id=TASK.id, pid=5), Found(task_id=TASK.id, exit=Exit(code=0))],
)
@pytest.mark.parametrize(
    "state", [TaskState.PREPARING, TaskState.READY, TaskState.STARTING, TaskState.RUNNING]
)
def test_adopting_never_starts_what_may_have_run(found: Found | None, state: TaskState) -> None:
    core = Core(NODE)
    status = replace(TASK.status, state=state, report=4)
    restored = events.Restored(
        tasks=(events.StoredTask(task=TASK, status=status),),
        revisions=(WEB,),
        found=(found,) if found is not None else (),
    )
    out = tell(core, restored)
    has_process = found is not None and (found.pid or found.exit)
    is_new = state < TaskState.STARTING or (state is TaskState.STARTING and found is not None)
    assert any(isinstance(item, events.EnsureImage) for item in out) == (is_new and not has_process)
    if found is not None and found.exit is not None:
        assert core.runs[TASK.id].status.state is TaskState.COMPLETE
    elif has_process:
        assert core.runs[TASK.id].status.state is TaskState.RUNNING
    elif not is_new:
        assert core.runs[TASK.id].status.state is TaskState.FAILED


def test_a_task_whose_chosen_port_is_taken_makes_room_for_one_with_another() -> None:
    open_port = PortConfig(target_port=80, publish_mode=PublishMode.HOST)
    revision = replace(WEB, spec=replace(WEB.spec, endpoint_spec=EndpointSpec(ports=(open_port,))))
    holders: dict[int, Task] = {}
    tasks = (make_task(number, revision) for number in count(1))
    for new in tasks:
        [port] = environment.published_ports(revision, new.id)
        if port.published_port in holders:
            break
        holders[port.published_port] = new
    old = holders[port.published_port]
    manager = FakeManager()
    core = started(manager)
    for task in (old, new):
        out = tell(core, manager.assign(task, revision=revision))
        for image in [item for item in out if isinstance(item, events.EnsureImage)]:
            out += tell(core, events.ImageReady(image.reference, image.attempt, IMAGE))
    assert core.runs[old.id].status.state is TaskState.PREPARING
    assert core.runs[new.id].status.state is TaskState.REJECTED
    assert f"{port.published_port}/tcp" in core.runs[new.id].status.err


def test_what_cannot_be_given_is_refused() -> None:
    revision = make_revision("plugin")
    template = replace(revision.spec.task_template, runtime="plugin")
    revision = replace(revision, spec=replace(revision.spec, task_template=template))
    manager = FakeManager()
    core = started(manager)
    task = make_task(1, revision)
    out = tell(core, manager.assign(task, revision=revision))
    assert states(out) == ["REJECTED"]
    assert "containers only" in core.runs[task.id].status.err


def test_revisions_go_with_their_last_task() -> None:
    manager = FakeManager()
    core = started(manager)
    tell(core, manager.assign(TASK, revision=WEB))
    manager.chain += 1
    removals = (Removal(Kind.REVISION, WEB.id), Removal(Kind.TASK, TASK.id))
    dropped = events.AssignmentsReceived(
        is_complete=False, applies_to=manager.chain - 1, results_in=manager.chain, changes=removals
    )
    records = only(tell(core, dropped), events.Persist).records
    assert core.runs == {}
    assert records == (events.DropTask(TASK.id), events.DropRevision(WEB.id))
