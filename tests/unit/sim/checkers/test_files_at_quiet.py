"""What the checker of files finds: other data than the task should have, and files that nobody uses."""

from __future__ import annotations

from clusters import apply, make_service, store_with
from msgspec.structs import replace

from agent.core import Core
from agent.environment import NodeContext
from agent.executor.base import ImageConfig, Launch, LaunchFile, Sandbox
from agent.executor.fake import Behaviour, FakeMachine, FakeTask
from manager.store.store import Store
from swarmpy.model.changes import Create, Report, Update
from swarmpy.model.cluster_specs import SecretSpec
from swarmpy.model.ids import NodeId, SecretId, TaskId
from swarmpy.model.objects import FileVersion, Kind, Secret, Task, TaskStatus
from swarmpy.model.specs import ContainerSpec, FileTarget, SecretReference, TaskSpec
from swarmpy.model.states import Owner, TaskState
from swarmpy.sim.checkers import files

NODE = NodeId("node-1")
KEY = Secret(
    id=SecretId("key"),
    number=2,
    spec=SecretSpec(name="key", data=b"new"),
    older=(FileVersion(number=1, data=b"old"),),
)


def scene(given: bytes, *, version: int) -> tuple[Store, FakeMachine, Core]:
    """A node with one task that runs with this file, as it should be but for that."""
    store = store_with()
    apply(store, Create(object=KEY))
    reference = SecretReference(
        secret_id="key", secret_name="key", version=version, file=FileTarget(name="key")
    )
    template = TaskSpec(container_spec=ContainerSpec(image="host", secrets=(reference,)))
    service, revision = make_service("web", template=template)
    apply(store, Create(object=service), Create(object=revision))
    task = Task(
        id=TaskId("t1"),
        service_id=service.id,
        slot=1,
        node_id=NODE,
        revision_id=revision.id,
        status=TaskStatus(state=TaskState.ASSIGNED),
    )
    apply(store, Create(object=task), owner=Owner.ORCHESTRATOR)
    report = Report(task_id=task.id, status=TaskStatus(state=TaskState.RUNNING, report=1))
    apply(store, report, owner=Owner.AGENT)
    launch = Launch(
        task_id=task.id,
        name="web.1",
        spec=ContainerSpec(),
        image=ImageConfig(reference="host"),
        sandbox=Sandbox(netns=""),
        files=(LaunchFile(target="/run/secrets/key", data=given),),
    )
    machine = FakeMachine()
    machine.tasks[task.id] = FakeTask(launch=launch, behaviour=Behaviour(), pid=7)
    core = Core(NodeContext(node_id=NODE))
    core.files.take(KEY)
    return store, machine, core


def test_all_as_it_should_be() -> None:
    for given, version in ((b"old", 1), (b"new", 2), (b"new", 0)):
        store, machine, core = scene(given, version=version)
        assert list(files.differences(store, NODE, machine, core)) == []


def test_other_data_than_are_pinned() -> None:
    store, machine, core = scene(b"new", version=1)
    assert list(files.differences(store, NODE, machine, core)) == [
        "task t1 has the files [b'new'], and should have [b'old']"
    ]


def test_a_task_that_finds_no_room_on_its_node_needs_nothing_there() -> None:
    store, machine, core = scene(b"new", version=1)
    running = store.task(TaskId("t1"))
    assert running is not None
    waiting = replace(
        running, id=TaskId("t2"), slot=0, status=TaskStatus(state=TaskState.PENDING, err="full")
    )
    apply(store, Create(object=waiting), owner=Owner.ORCHESTRATOR)
    assert store.task(waiting.id) is not None
    gone = replace(running, desired_state=TaskState.SHUTDOWN)
    apply(store, Update(object=gone), owner=Owner.ORCHESTRATOR)
    core.files.drop(Kind.SECRET, "key")
    assert list(files.differences(store, NODE, machine, core)) == []


def test_who_holds_what_nobody_uses() -> None:
    store, machine, core = scene(b"new", version=2)
    core.files.take(Secret(id=SecretId("other"), spec=SecretSpec(name="other", data=b"x")))
    core.files.drop(Kind.SECRET, "key")
    assert list(files.differences(store, NODE, machine, core)) == [
        "node node-1 holds secret other, which none of its tasks uses",
        "node node-1 lacks secret key, which one of its tasks uses",
    ]
