"""Tasks on networks: what a task is given there, when its node's networks are asked for, how it leaves."""

from __future__ import annotations

from agent_rig import NET, NODE, NODE_ID, FakeManager, Rig, in_virtual_time, make_revision, make_task
from core_steps import only, started, tell
from msgspec.structs import replace

from agent import environment, events
from agent.core import Core
from agent.dataplane.base import NetworkConfig, NodeState
from agent.executor.base import Exit, Found, ImageConfig, Sandbox
from swarmpy.errors import Unavailable
from swarmpy.limits import DRAIN_S
from swarmpy.model.cluster_specs import NetworkSpec
from swarmpy.model.discovery import EndpointState, NetworkEndpoint, NetworkService
from swarmpy.model.ids import NetworkId, NodeId, SessionId, TaskId
from swarmpy.model.objects import Network, NetworkAttachment, Revision, Task
from swarmpy.model.specs import NetworkAttachmentConfig
from swarmpy.model.states import TaskState

WEB = make_revision()
TASK = make_task(1, WEB, is_networked=True)
SERVICE = NetworkService(
    network_id=NET.id, service_id=WEB.service_id, name="web", addresses=("10.0.200.1/16",)
)


def record(task: Task, state: EndpointState = EndpointState.ACTIVE) -> NetworkEndpoint:
    return NetworkEndpoint(
        network_id=NET.id,
        task_id=task.id,
        service_id=task.service_id,
        node_id=task.node_id,
        addresses=task.networks[0].addresses,
        name=f"web.{task.slot}.{task.id}",
        state=state,
    )


def running(core: Core, manager: FakeManager, *tasks: Task) -> None:
    """Have the tasks run."""
    out = tell(core, manager.assign(*tasks, revision=WEB))
    image = only(out, events.EnsureImage)
    pending = tell(core, events.ImageReady("host", image.attempt, ImageConfig(reference="host")))
    while pending:
        match pending.pop(0):
            case events.Attach(task_id=task_id, attempt=attempt):
                pending += tell(core, events.Attached(task_id, attempt, Sandbox(netns="/n", addresses=())))
            case events.Create(task_id=task_id, attempt=attempt):
                pending += tell(core, events.Created(task_id, attempt))
            case events.Start(task_id=task_id, attempt=attempt):
                pending += tell(core, events.Started(task_id, attempt, Found(task_id=task_id, pid=7)))
            case _:
                pass
    assert all(core.runs[task.id].status.state is TaskState.RUNNING for task in tasks)


# --- what is asked for


def test_networks_are_asked_for_at_the_start_and_when_they_change() -> None:
    manager = FakeManager()
    core = Core(NODE)
    state = only(tell(core, events.Restored()), events.ApplyNetworks).state
    assert state == NodeState(node_id=NODE_ID)
    out = tell(core, events.SessionUp(SessionId("s")), manager.complete())
    assert not any(isinstance(item, events.ApplyNetworks) for item in out), "nothing has changed"
    state = only(tell(core, manager.tell(NET, SERVICE)), events.ApplyNetworks).state
    assert set(state.networks[NET.id].balancers) == {SERVICE.service_id}


def test_a_task_waits_for_its_network_and_comes_after_it() -> None:
    manager = FakeManager()
    core = started(manager)
    image = only(tell(core, manager.assign(TASK, revision=WEB)), events.EnsureImage)
    out = tell(core, events.ImageReady("host", image.attempt, ImageConfig(reference="host")))
    assert not any(isinstance(item, events.Attach) for item in out)
    out = tell(core, manager.tell(NET))
    kinds = [type(item) for item in out]
    assert kinds.index(events.Persist) < kinds.index(events.ApplyNetworks) < kinds.index(events.Attach)
    (leg,) = only(out, events.Attach).endpoint.legs
    assert (leg.link, leg.network.id, leg.addresses) == ("eth0", NET.id, TASK.networks[0].addresses)
    assert leg.mac == "02:42:0a:00:00:03"
    assert set(only(out, events.ApplyNetworks).state.endpoints) == {TASK.id}


def test_what_nobody_knows_of_yet_is_not_taken_down() -> None:
    """The journal was lost: the tasks that are found here may be ours all the same."""
    core = Core(NODE)
    manager = FakeManager()
    found = Found(task_id=TASK.id, pid=5)
    out = tell(core, events.Restored(found=(found,), attached=(TASK.id,)))
    assert not any(isinstance(item, events.ApplyNetworks) for item in out)
    manager.tell(NET)
    manager.assign(TASK, revision=WEB)
    out = tell(core, events.SessionUp(SessionId("s")), manager.complete())
    state = only(out, events.ApplyNetworks).state
    assert set(state.endpoints) == {TASK.id}


def test_connections_to_the_lost_are_cut_after_the_networks_are_asked_for() -> None:
    manager = FakeManager()
    core = started(manager)
    elsewhere = replace(record(TASK), node_id=NodeId("other"))
    tell(core, manager.tell(NET, SERVICE, elsewhere))
    out = tell(core, manager.tell(replace(elsewhere, state=EndpointState.LOST)))
    kinds = [type(item) for item in out]
    assert kinds.index(events.ApplyNetworks) < kinds.index(events.CutConnections)
    assert only(out, events.CutConnections).addresses == {NET.id: ("10.0.0.3",)}


# --- tasks that leave


def test_a_task_is_stopped_a_moment_after_the_order() -> None:
    manager = FakeManager()
    core = started(manager)
    tell(core, manager.tell(NET, SERVICE))
    running(core, manager, TASK)
    tell(core, manager.tell(record(TASK)))
    assert core.networks.networks[NET.id].balancers[SERVICE.service_id].backends == ("10.0.0.3",)
    out = tell(core, manager.tell(record(TASK, EndpointState.PRESENT)), at=10.0)
    assert only(out, events.ApplyNetworks).state.networks[NET.id].balancers[SERVICE.service_id].backends == ()
    out = tell(core, manager.order(TASK.id, TaskState.SHUTDOWN), at=10.0)
    assert not any(isinstance(item, events.Stop) for item in out)
    assert not core.is_idle
    assert core.wake_at == 10.0 + DRAIN_S
    assert tell(core, events.Tick(), at=10.0 + DRAIN_S / 2) == []
    out = tell(core, manager.order(TASK.id, TaskState.REMOVE), at=10.0 + DRAIN_S / 2)
    assert not any(isinstance(item, events.Stop) for item in out), "nor does another order start it anew"
    assert core.wake_at == 10.0 + DRAIN_S
    only(tell(core, events.Tick(), at=10.0 + DRAIN_S), events.Stop)
    assert core.wake_at is None


def test_many_leave_together() -> None:
    manager = FakeManager()
    core = started(manager)
    tell(core, manager.tell(NET))
    tasks = [make_task(number, WEB, is_networked=True) for number in range(1, 101)]
    running(core, manager, *tasks)
    for task in tasks:
        tell(core, manager.order(task.id, TaskState.SHUTDOWN), at=10.0)
    out = tell(core, events.Tick(), at=10.0 + DRAIN_S)
    assert len([item for item in out if isinstance(item, events.Stop)]) == 100


def test_who_ends_meanwhile_is_not_waited_for() -> None:
    manager = FakeManager()
    core = started(manager)
    tell(core, manager.tell(NET))
    running(core, manager, TASK)
    tell(core, manager.order(TASK.id, TaskState.SHUTDOWN), at=10.0)
    out = tell(core, events.TaskExited(TASK.id, Exit(code=0)), at=10.1)
    assert only(out, events.ReportStatus).status.state is TaskState.SHUTDOWN
    assert core.wake_at is None


def test_who_is_given_up_meanwhile_is_stopped_at_once_and_wakes_nobody() -> None:
    manager = FakeManager()
    core = started(manager)
    tell(core, manager.tell(NET))
    running(core, manager, TASK)
    tell(core, manager.order(TASK.id, TaskState.SHUTDOWN), at=10.0)
    given_up = replace(
        TASK,
        desired_state=TaskState.SHUTDOWN,
        status=replace(TASK.status, state=TaskState.ORPHANED, report=99),
    )
    only(tell(core, manager.assign(given_up), at=10.1), events.Stop)
    assert core.wake_at is None, "it would be looked at again and again until the process has ended"


def test_a_task_without_networks_is_stopped_at_once() -> None:
    manager = FakeManager()
    core = started(manager)
    plain = make_task(2, WEB)
    running(core, manager, plain)
    only(tell(core, manager.order(plain.id, TaskState.SHUTDOWN)), events.Stop)


def test_a_restarted_agent_waits_once_more() -> None:
    core = Core(NODE)
    task = replace(TASK, desired_state=TaskState.SHUTDOWN)
    status = replace(TASK.status, state=TaskState.RUNNING)
    stored = events.StoredTask(task=task, status=status)
    restored = events.Restored(
        tasks=(stored,), revisions=(WEB,), networks=(NET,), found=(Found(task_id=TASK.id, pid=5),)
    )
    out = tell(core, restored, at=3.0)
    assert not any(isinstance(item, events.Stop) for item in out)
    assert set(only(out, events.ApplyNetworks).state.endpoints) == {TASK.id}
    only(tell(core, events.Tick(), at=3.0 + DRAIN_S), events.Stop)


def test_who_has_ended_is_out_of_names_before_managers_know() -> None:
    manager = FakeManager()
    core = started(manager)
    tell(core, manager.tell(NET, SERVICE))
    running(core, manager, TASK)
    tell(core, manager.tell(record(TASK)))
    out = tell(core, events.TaskExited(TASK.id, Exit(code=1)))
    state = only(out, events.ApplyNetworks).state
    assert state.networks[NET.id].balancers[SERVICE.service_id].backends == ()
    assert set(state.endpoints) == {TASK.id}, "its place is taken down in order"
    remove = only(out, events.Remove)
    out = tell(core, events.Removed(TASK.id, remove.attempt, keep_log=True))
    assert only(out, events.ApplyNetworks).state.endpoints == {}
    only(out, events.Detach)


# --- with a driver


@in_virtual_time
async def test_a_task_is_attached_after_a_try_to_make_its_networks() -> None:
    """Its own attach says whether it has what it needs: one network's trouble is not that of all tasks."""
    rig = Rig()
    failing = [3]
    verbs: list[str] = []

    def script(verb: str, task_id: TaskId) -> float:
        verbs.append(verb)
        if verb == "apply" and failing[0]:
            failing[0] -= 1
            raise Unavailable("the kernel is out of sorts")
        return 0.05

    rig.network.script = script
    rig.manager.tell(NET)
    await rig.start()
    await rig.post(rig.manager.assign(TASK, revision=WEB))
    await rig.wait_state(TaskState.RUNNING, TASK.id)
    assert "apply" in verbs[: verbs.index("attach")]
    await rig.wait_quiet()
    assert rig.network.state == rig.core.networks
    await rig.crash()


@in_virtual_time
async def test_a_restart_without_a_manager_brings_the_networks_back() -> None:
    rig = Rig()
    await rig.start()
    await rig.post(rig.manager.tell(NET, SERVICE))
    await rig.post(rig.manager.assign(TASK, revision=WEB))
    await rig.wait_state(TaskState.RUNNING, TASK.id)
    await rig.post(rig.manager.tell(record(TASK)))

    def backends() -> tuple[str, ...]:
        return rig.network.state.networks[NET.id].balancers[SERVICE.service_id].backends

    await rig.wait(lambda: backends() == ("10.0.0.3",))
    before = rig.network.state
    await rig.crash()
    rig.network.state = NodeState()
    await rig.start(has_session=False)
    await rig.wait(lambda: rig.network.state == before)
    await rig.crash()


@in_virtual_time
async def test_only_the_newest_networks_are_applied_and_the_lost_are_cut_after_them() -> None:
    rig = Rig()
    applied: list[int] = []

    def script(verb: str, task_id: TaskId) -> float:
        if verb == "apply":
            applied.append(len(rig.core.networks.peers))
        return 1.0 if verb == "apply" else 0.0

    rig.network.script = script
    await rig.start()
    elsewhere = replace(record(TASK), node_id=NodeId("other"))
    await rig.post(rig.manager.tell(NET, elsewhere))
    for number in range(50):
        await rig.post(rig.manager.tell(replace(SERVICE, name=f"web{number}")))
    await rig.post(rig.manager.tell(replace(elsewhere, state=EndpointState.LOST)))
    await rig.wait(lambda: bool(rig.network.cuts))
    assert rig.network.cuts == [{NET.id: ("10.0.0.3",)}]
    assert rig.network.state == rig.core.networks
    assert len(applied) <= 3, "one a second, however many were asked for"
    await rig.crash()


# --- what a task is given


def test_legs_are_in_the_order_of_the_networks() -> None:
    other = NetworkAttachment(
        network_id=NetworkId("net2"), addresses=("10.9.0.2/24",), mac="02:00:00:00:00:01"
    )
    task = replace(TASK, networks=(other, *TASK.networks))
    configs = {id_: NetworkConfig(id=id_) for id_ in (NET.id, other.network_id)}
    legs = environment.make_endpoint(task, WEB, NODE, networks=configs).legs
    assert [(leg.link, leg.network.id) for leg in legs] == [("eth0", "net2"), ("eth1", NET.id)]
    assert [leg.mac for leg in legs] == ["02:00:00:00:00:01", "02:42:0a:00:00:03"]


def test_networks_that_every_node_has_are_modes() -> None:
    def mode(target: str) -> str:
        template = replace(WEB.spec.task_template, networks=(NetworkAttachmentConfig(target=target),))
        revision: Revision = replace(WEB, spec=replace(WEB.spec, task_template=template))
        return environment.make_endpoint(make_task(2, revision), revision, NODE).mode

    assert [mode(target) for target in ("host", "none", "bridge", "mine")] == ["host", "none", "", ""]


def test_a_network_that_comes_again_is_known_by_what_it_is() -> None:
    manager = FakeManager()
    core = started(manager)
    tell(core, manager.tell(NET))
    before = core.networks
    tell(core, manager.tell(Network(id=NET.id, version=7, spec=NetworkSpec(name="net"))))
    assert core.networks is before
