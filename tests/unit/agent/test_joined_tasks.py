"""A running task is joined to a network and taken off it: what its node does, and what it says of it."""

from __future__ import annotations

from agent_rig import NET, NODE, NODE_ID, Rig, in_virtual_time, make_revision, make_task
from msgspec.structs import replace

from agent import environment, events
from agent.discovery import Directory, network_config
from swarmpy.errors import TaskRejected, Unavailable
from swarmpy.model.cluster_specs import NetworkSpec
from swarmpy.model.discovery import EndpointState, NetworkEndpoint
from swarmpy.model.ids import NetworkId, TaskId
from swarmpy.model.objects import Network, NetworkAttachment, NetworkJoin, Task
from swarmpy.model.specs import NetworkAttachmentConfig
from swarmpy.model.states import TaskState

SIDE = Network(id=NetworkId("side1"), spec=NetworkSpec(name="side", attachable=True))
WEB = make_revision()
TASK = make_task(1, WEB, is_networked=True)


def joined(task: Task, *, version: int, number: int = 1, network: Network = SIDE) -> Task:
    wish = NetworkAttachmentConfig(target=network.id, aliases=("nick",))
    address = f"10.9.{number}.2/24"
    place = NetworkAttachment(network_id=network.id, addresses=(address,), aliases=wish.aliases)
    return replace(
        task,
        version=version,
        joins=(*task.joins, NetworkJoin(wish=wish, number=number)),
        networks=(*task.networks, place),
    )


def leaving(task: Task, *, version: int, network: Network = SIDE) -> Task:
    joins = tuple(
        replace(join, is_leaving=True) if join.network_id == network.id else join for join in task.joins
    )
    return replace(task, version=version, joins=joins)


def links(task: Task, *networks: Network) -> dict[str, str]:
    configs = {network.id: network_config(network) for network in networks}
    endpoint = environment.make_endpoint(task, WEB, NODE, networks=configs)
    return {leg.network.name: leg.link for leg in endpoint.legs}


def test_no_link_is_named_by_what_else_has_come_or_gone() -> None:
    """The task's own come first, then the one to its node (eth1 here), then those that joined."""
    more = Network(id=NetworkId("more1"), spec=NetworkSpec(name="more"))
    two = joined(joined(TASK, version=2), version=3, number=2, network=more)
    assert links(two, NET, SIDE, more) == {"net": "eth0", "side": "eth2", "more": "eth3"}
    assert links(leaving(two, version=4), NET, SIDE, more) == {"net": "eth0", "more": "eth3"}
    assert links(joined(make_task(1, WEB), version=2), SIDE) == {"side": "eth1"}


async def _running(rig: Rig) -> None:
    await rig.start()
    await rig.post(rig.manager.tell(NET, SIDE))
    await rig.post(rig.manager.assign(TASK, revision=WEB))
    await rig.wait_state(TaskState.RUNNING, TASK.id)


def status_of(rig: Rig) -> tuple[int, str, int]:
    status = rig.manager.tasks[TASK.id].status
    return status.places_version, status.places_err, len(status.addresses)


def update(rig: Rig, task: Task) -> events.AssignmentsReceived:
    return rig.manager.assign(replace(task, status=rig.manager.tasks[task.id].status))


@in_virtual_time
async def test_a_joined_task_runs_on_and_its_node_says_when_it_is_done() -> None:
    rig = Rig()
    await _running(rig)
    starts, before = dict(rig.machine.starts), rig.network.sandboxes[TASK.id]
    await rig.post(update(rig, joined(TASK, version=5)))
    await rig.wait(lambda: status_of(rig)[0] == 5)
    assert [leg.network.id for leg in rig.network.endpoints[TASK.id].legs] == [NET.id, SIDE.id]
    assert rig.network.sandboxes[TASK.id].addresses == (
        before.addresses[0],
        "10.9.1.2/24",
        *before.addresses[1:],
    )
    assert status_of(rig) == (5, "", 3)
    await rig.post(update(rig, leaving(joined(TASK, version=5), version=6)))
    await rig.wait(lambda: status_of(rig)[0] == 6)
    assert rig.network.sandboxes[TASK.id] == before
    await rig.post(update(rig, replace(TASK, version=7)))
    await rig.wait_quiet()
    assert (status_of(rig)[0], rig.machine.starts) == (6, starts)


@in_virtual_time
async def test_a_node_that_fails_tries_again_and_the_task_runs_on() -> None:
    rig = Rig()
    await _running(rig)
    failures = [Unavailable("not now"), Unavailable("not now")]

    def trouble(verb: str, task_id: TaskId) -> float:
        if verb == "attach" and failures:
            raise failures.pop()
        return 0.0

    rig.network.script = trouble
    await rig.post(update(rig, joined(TASK, version=5)))
    await rig.wait(lambda: status_of(rig)[0] == 5)
    assert (failures, status_of(rig)[1], rig.manager.state(TASK.id)) == ([], "", TaskState.RUNNING)


@in_virtual_time
async def test_a_node_that_never_can_says_so_once_and_the_task_runs_on() -> None:
    rig = Rig()
    await _running(rig)

    def trouble(verb: str, task_id: TaskId) -> float:
        if verb == "attach":
            raise TaskRejected("this node has no way to encrypt")
        return 0.0

    rig.network.script = trouble
    await rig.post(update(rig, joined(TASK, version=5)))
    await rig.wait(lambda: status_of(rig)[0] == 5)
    report = rig.manager.tasks[TASK.id].status.report
    await rig.wait_quiet()
    assert status_of(rig)[1] == "this node has no way to encrypt"
    assert (rig.manager.state(TASK.id), rig.manager.tasks[TASK.id].status.report) == (
        TaskState.RUNNING,
        report,
    )


@in_virtual_time
async def test_a_restarted_agent_has_what_was_joined_and_says_what_it_had_not_said() -> None:
    rig = Rig()
    await _running(rig)
    await rig.post(update(rig, joined(TASK, version=5)))
    await rig.wait(lambda: status_of(rig)[0] == 5)
    await rig.crash()
    rig.manager.tasks[TASK.id] = replace(
        leaving(joined(TASK, version=5), version=6), status=rig.manager.tasks[TASK.id].status
    )
    await rig.start(has_session=False)
    await rig.wait(lambda: TASK.id in rig.core.runs)
    assert [leg.network.id for leg in rig.network.endpoints[TASK.id].legs] == [NET.id, SIDE.id]
    await rig.connect()
    await rig.wait(lambda: status_of(rig)[0] == 6)
    assert [leg.network.id for leg in rig.network.endpoints[TASK.id].legs] == [NET.id]


@in_virtual_time
async def test_a_network_that_is_not_known_yet_is_waited_for() -> None:
    rig = Rig()
    await _running(rig)
    more = Network(id=NetworkId("more1"), spec=NetworkSpec(name="more"))
    await rig.post(update(rig, joined(TASK, version=5, network=more)))
    await rig.wait_quiet()
    assert (status_of(rig)[0], rig.manager.state(TASK.id)) == (0, TaskState.RUNNING)
    await rig.post(rig.manager.tell(more))
    await rig.wait(lambda: status_of(rig)[0] == 5)
    assert rig.network.state.networks[more.id].config.name == "more"


def test_it_goes_by_its_aliases_there_as_long_as_it_is_there() -> None:
    directory = Directory(NODE_ID)
    for network in (NET, SIDE):
        directory.take(network)
    task = joined(TASK, version=5)
    directory.take(
        NetworkEndpoint(
            network_id=SIDE.id,
            task_id=task.id,
            service_id=task.service_id,
            node_id=NODE_ID,
            addresses=task.networks[1].addresses,
            name=f"web.1.{task.id}",
            state=EndpointState.ACTIVE,
            aliases=("Nick",),
        )
    )
    configs = {network.id: network_config(network) for network in (NET, SIDE)}

    def names() -> list[str]:
        return sorted(directory.node_state().networks[SIDE.id].names.addresses)

    directory.put_local(environment.make_endpoint(TASK, WEB, NODE, networks=configs))
    assert names() == []
    directory.put_local(environment.make_endpoint(task, WEB, NODE, networks=configs))
    assert "nick" in names()
    assert f"web.1.{task.id}" in names()
    directory.put_local(environment.make_endpoint(TASK, WEB, NODE, networks=configs))
    assert names() == []
