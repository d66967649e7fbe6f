"""What nodes are told of networks: records from the store, who holds them, and in which order they come."""

from __future__ import annotations

import pytest
from clusters import apply, make_service, store_with
from dispatcher_rig import ScriptedAgent, dispatching, until
from msgspec.structs import replace

from manager.assignments import Item, NodeAssignments, Removed
from manager.audience import Audience
from manager.discovery import (
    STICKY_LABEL,
    RecordBook,
    endpoint_key,
    host_of,
    peer_key,
    record_of,
    service_key,
)
from manager.dispatcher import Dispatcher
from manager.node_records import RecordRemoved
from manager.session import Session
from manager.store.events import Event
from manager.store.store import Store
from manager.store.watch import Watch
from swarmpy.model.changes import Create, Delete, NodeReport, Order, Report, Update
from swarmpy.model.cluster_specs import NetworkSpec
from swarmpy.model.discovery import (
    EndpointState,
    NetworkEndpoint,
    NetworkService,
    NetworkSettings,
    NodePeer,
)
from swarmpy.model.ids import NetworkId, NodeId, ServiceId, TaskId
from swarmpy.model.objects import (
    Endpoint,
    Kind,
    Network,
    NetworkAttachment,
    NetworkKey,
    NodeStatus,
    Task,
    TaskStatus,
    VirtualIP,
)
from swarmpy.model.specs import (
    ContainerSpec,
    Driver,
    EndpointSpec,
    NetworkAttachmentConfig,
    PortConfig,
    TaskSpec,
)
from swarmpy.model.states import NodeState, Owner, PublishMode, TaskState
from swarmpy.pb import dispatcher_pb2 as pb

NET, SEALED, INGRESS = NetworkId("net1"), NetworkId("sealed1"), NetworkId("ingress1")
NODE = NodeId("node-1")
PORT = PortConfig(target_port=80, published_port=8080)


@pytest.fixture
def store() -> Store:
    made = store_with()
    sealed = NetworkSpec(name="sealed", driver_configuration=Driver(options={"encrypted": ""}))
    for id_, spec in (
        (NET, NetworkSpec(name="net")),
        (SEALED, sealed),
        (INGRESS, NetworkSpec(name="ingress", ingress=True)),
    ):
        apply(made, Create(object=Network(id=id_, spec=spec)))
    cluster = made.cluster()
    assert cluster is not None
    apply(made, Update(object=replace(cluster, network_keys=(NetworkKey(tag=1, secret=b"s"),))))
    add_service(made, "web", "net", aliases=("www",))
    return made


def add_service(
    store: Store, name: str, *targets: str, aliases: tuple[str, ...] = (), ports: tuple[PortConfig, ...] = ()
) -> None:
    wishes = tuple(NetworkAttachmentConfig(target=each, aliases=aliases) for each in targets)
    template = TaskSpec(container_spec=ContainerSpec(image="host"), networks=wishes)
    service, revision = make_service(name, template=template)
    spec = replace(service.spec, endpoint_spec=EndpointSpec(ports=ports))
    addr = "10.0.1.9/24" if name == "web" else "10.0.1.8/24"
    vips = (VirtualIP(network_id=NET, addr=addr),) if "net" in targets else ()
    service = replace(service, spec=spec, endpoint=Endpoint(ports=ports, virtual_ips=vips))
    apply(store, Create(object=service), Create(object=revision))


def add_task(
    store: Store, number: int, *networks: NetworkId, node: str = NODE, service: str = "web"
) -> TaskId:
    task = Task(
        id=TaskId(f"t{number}"),
        service_id=ServiceId(f"{service}-s"),
        slot=number,
        node_id=NodeId(node),
        revision_id=make_service(service)[0].revision_id,
        status=TaskStatus(state=TaskState.ASSIGNED),
        networks=tuple(
            NetworkAttachment(network_id=each, addresses=(f"10.0.{place + 1}.{number + 10}/24",))
            for place, each in enumerate(networks)
        ),
    )
    apply(store, Create(object=task), owner=Owner.ORCHESTRATOR)
    return task.id


def report(
    store: Store, task_id: TaskId, state: TaskState, *, number: int = 0, is_unready: bool = False
) -> None:
    status = TaskStatus(state=state, report=number, is_unready=is_unready)
    apply(store, Report(task_id=task_id, status=status), owner=Owner.AGENT)


def order(store: Store, task_id: TaskId) -> None:
    stop = Order(task_id=task_id, desired_state=TaskState.SHUTDOWN)
    apply(store, stop, owner=Owner.ORCHESTRATOR)


def set_node(store: Store, node: str, state: NodeState) -> None:
    status = NodeStatus(state=state, addr="10.0.0.1")
    apply(store, NodeReport(node_id=NodeId(node), status=status), owner=Owner.DISPATCHER)


def told(items: list[Item]) -> list[str]:
    """Each item in a word."""
    words = []
    for item in items:
        match item:
            case NetworkEndpoint():
                words.append(f"{item.task_id} {item.state.name.lower()}")
            case NetworkService():
                words.append(f"service {item.name}")
            case NodePeer():
                words.append(f"peer {item.node_id}")
            case NetworkSettings():
                words.append(f"settings {len(item.keys)}")
            case RecordRemoved():
                words.append(f"-{item.kind.value} {item.id}")
            case Removed():
                words.append(f"-{item.id}")
            case _:
                words.append(item.id)
    return words


# --- records


def test_an_endpoints_state_follows_its_task_and_node(store: Store) -> None:
    task_id = add_task(store, 1, NET)

    def state() -> EndpointState | None:
        record = record_of(store, endpoint_key(NET, task_id))
        assert record is None or isinstance(record, NetworkEndpoint)
        return record.state if record is not None else None

    assert state() is EndpointState.PRESENT
    report(store, task_id, TaskState.RUNNING)
    assert state() is EndpointState.ACTIVE
    report(store, task_id, TaskState.RUNNING, number=2, is_unready=True)
    assert state() is EndpointState.PRESENT, "it wants no requests now"
    report(store, task_id, TaskState.RUNNING, number=1)
    assert state() is EndpointState.PRESENT, "an older report"
    report(store, task_id, TaskState.RUNNING, number=3)
    assert state() is EndpointState.ACTIVE
    set_node(store, NODE, NodeState.DISCONNECTED)
    assert state() is EndpointState.ACTIVE
    set_node(store, NODE, NodeState.DOWN)
    assert state() is EndpointState.LOST
    set_node(store, NODE, NodeState.READY)
    order(store, task_id)
    assert state() is EndpointState.PRESENT
    report(store, task_id, TaskState.SHUTDOWN)
    assert state() is None


def test_an_endpoint_says_who_and_where_it_is(store: Store) -> None:
    task_id = add_task(store, 1, NET)
    assert record_of(store, endpoint_key(NET, task_id)) == NetworkEndpoint(
        network_id=NET,
        task_id=task_id,
        service_id=ServiceId("web-s"),
        node_id=NODE,
        addresses=("10.0.1.11/24",),
        name="web.1.t1",
        state=EndpointState.PRESENT,
    )
    assert record_of(store, endpoint_key(SEALED, task_id)) is None


def test_a_service_has_its_aliases_and_virtual_addresses(store: Store) -> None:
    record = record_of(store, service_key(NET, "web-s"))
    assert record == NetworkService(
        network_id=NET,
        service_id=ServiceId("web-s"),
        name="web",
        aliases=("www",),
        addresses=("10.0.1.9/24",),
    )
    assert record_of(store, service_key(SEALED, "web-s")) is None


def test_ports_are_told_in_the_ingress_network_alone(store: Store) -> None:
    host_mode = replace(PORT, published_port=9090, publish_mode=PublishMode.HOST)
    add_service(store, "shop", "net", ports=(PORT, host_mode))
    plain = record_of(store, service_key(NET, "shop-s"))
    assert isinstance(plain, NetworkService)
    assert plain.ports == ()
    record = record_of(store, service_key(INGRESS, "shop-s"))
    assert isinstance(record, NetworkService)
    assert [(port.protocol.value, port.published_port) for port in record.ports] == [("tcp", 8080)]
    assert not record.is_sticky


def test_a_label_makes_clients_stick(store: Store) -> None:
    service = store.service(ServiceId("web-s"))
    assert service is not None
    spec = replace(service.spec, labels={STICKY_LABEL: "source"})
    apply(store, Update(object=replace(service, spec=spec)))
    record = record_of(store, service_key(NET, "web-s"))
    assert isinstance(record, NetworkService)
    assert record.is_sticky


def test_labels_make_policies_of_each_network(store: Store) -> None:
    """A label that got into the store though it makes no sense closes what it stands for."""
    service = store.service(ServiceId("web-s"))
    assert service is not None
    labels = {"swarmpy.network.*.acl": "deny in tcp 22", "swarmpy.network.*.rate-out": "1mbit"}
    for given, acl in (
        (labels, "deny in tcp 22"),
        ({"swarmpy.network.*.acl": "deny some"}, "deny in\ndeny out"),
        ({}, ""),
    ):
        now = store.service(ServiceId("web-s"))
        assert now is not None
        apply(store, Update(object=replace(now, spec=replace(now.spec, labels=given))))
        record = record_of(store, service_key(NET, "web-s"))
        assert isinstance(record, NetworkService)
        assert (record.acl, record.rate_out_bps) == (acl, 1_000_000 if given is labels else 0)


@pytest.mark.parametrize(
    ("addr", "host"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("10.0.0.1:2377", "10.0.0.1"),
        ("fd00::1", "fd00::1"),
        ("[fd00::1]", "fd00::1"),
        ("[fd00::1]:2377", "fd00::1"),
        ("", ""),
    ],
)
def test_the_host_of_an_address(addr: str, host: str) -> None:
    assert host_of(addr) == host


def test_a_book_gives_the_same_object_while_a_record_is_the_same(store: Store) -> None:
    book, key = RecordBook(), endpoint_key(NET, add_task(store, 1, NET))
    before = book.record(store, key)
    add_task(store, 2, NET)
    assert book.record(store, key) is before
    order(store, TaskId("t1"))
    report(store, TaskId("t1"), TaskState.SHUTDOWN)
    assert book.record(store, key) is None


# --- who holds them


def test_a_node_without_tasks_holds_the_ingress_network(store: Store) -> None:
    add_service(store, "shop", ports=(PORT,))
    add_task(store, 1, INGRESS, node="node-2", service="shop")
    items = told(NodeAssignments(NODE).complete(store))
    assert items == ["settings 0", f"peer {NODE}", INGRESS, "service shop", "peer node-2", "t1 present"]


def test_a_network_comes_before_its_first_task_and_goes_after_its_last(store: Store) -> None:
    elsewhere = add_task(store, 1, NET, node="node-2")
    assignments = NodeAssignments(NODE)
    assignments.complete(store)
    task_id = add_task(store, 2, NET)
    items = told(assignments.changes(store, [task_id]))
    assert items == [NET, "service web", "peer node-2", f"{elsewhere} present", "t2 present", "web-r1", "t2"]

    report(store, task_id, TaskState.RUNNING)
    order(store, task_id)
    assert told(assignments.changes(store, [task_id])) == ["t2"], "it still has connections"
    report(store, task_id, TaskState.SHUTDOWN)
    gone = told(assignments.changes(store, [task_id]))
    assert gone[-1] == f"-{NET}"
    assert set(gone[:-1]) == {
        f"-service {NET}.web-s",
        f"-endpoint {NET}.t1",
        f"-endpoint {NET}.t2",
        "-peer node-2",
    }


def test_keys_and_all_nodes_are_for_nodes_with_an_encrypted_network(store: Store) -> None:
    add_service(store, "vault", "sealed")
    assignments = NodeAssignments(NODE)
    assert told(assignments.complete(store))[0] == "settings 0"
    task_id = add_task(store, 1, SEALED, service="vault")
    items = told(assignments.changes(store, [task_id]))
    assert items.index("settings 1") < items.index("t1")
    assert {"peer node-2", "peer node-3"} <= set(items[: items.index("t1")])
    report(store, task_id, TaskState.FAILED)
    items = told(assignments.changes(store, [task_id]))
    assert {"settings 0", "-peer node-2", "-peer node-3"} <= set(items)


def test_who_is_behind_a_published_port_knows_all_nodes(store: Store) -> None:
    add_service(store, "shop", ports=(PORT,))
    assignments = NodeAssignments(NODE)
    assignments.complete(store)
    task_id = add_task(store, 1, INGRESS, service="shop")
    items = told(assignments.changes(store, [task_id]))
    assert items == ["shop-r1", "peer node-2", "peer node-3", task_id]


def test_what_is_the_same_is_not_sent_again(store: Store) -> None:
    task_id = add_task(store, 1, NET)
    assignments = NodeAssignments(NODE)
    assignments.complete(store)
    keys = [endpoint_key(NET, task_id), service_key(NET, "web-s"), peer_key(NODE)]
    assert assignments.records(store, keys) == []
    report(store, task_id, TaskState.PREPARING)
    assert assignments.records(store, keys) == []
    report(store, task_id, TaskState.RUNNING)
    assert told(assignments.records(store, keys)) == ["t1 active"]
    assert assignments.records(store, [endpoint_key(SEALED, task_id)]) == []


@pytest.mark.parametrize("is_removed", [False, True], ids=["down", "removed"])
def test_who_ended_with_its_node_is_lost_before_it_is_removed(store: Store, is_removed: bool) -> None:
    """Else connections to it would stand, where a slow session misses what was in between."""
    for number, node in ((1, "node-1"), (2, "node-2"), (3, "node-2")):
        report(store, add_task(store, number, NET, node=node), TaskState.RUNNING)
    assignments = NodeAssignments(NODE)
    assignments.complete(store)
    report(store, TaskId("t3"), TaskState.COMPLETE)
    assert told(assignments.records(store, [endpoint_key(NET, "t3")])) == ["-endpoint net1.t3"]
    if is_removed:
        apply(store, Delete(kind=Kind.NODE, id="node-2"))
    else:
        set_node(store, "node-2", NodeState.DOWN)
    orphaned = Report(task_id=TaskId("t2"), status=TaskStatus(state=TaskState.ORPHANED))
    apply(store, orphaned, owner=Owner.ORCHESTRATOR)
    found = told(assignments.records(store, [endpoint_key(NET, "t2")]))
    assert found == ["t2 lost", "-endpoint net1.t2", "-peer node-2"]


# --- who is asked to look


def sessions_of(store: Store) -> tuple[Dispatcher, Watch, dict[str, Session]]:
    dispatcher = Dispatcher(store, None, None, epoch=1)  # type: ignore[arg-type]
    watch = store.watch()
    made = {}
    for node in store.nodes():
        made[node.id] = dispatcher._sessions[node.id] = dispatcher.make_session(node.id, "s")
    for session in made.values():
        session.next_messages(store)
    return dispatcher, watch, {str(id_): session for id_, session in made.items()}


def spread(dispatcher: Dispatcher, watch: Watch) -> None:
    for notice in watch.take():
        if isinstance(notice, Event):
            dispatcher._spread(notice.old, notice.new)


def pending(sessions: dict[str, Session]) -> dict[str, int]:
    return {id_: count for id_, session in sessions.items() if (count := session.backlog["session_records"])}


def test_only_nodes_on_the_network_look_and_only_when_it_matters(store: Store) -> None:
    task_id = add_task(store, 1, NET)
    dispatcher, watch, sessions = sessions_of(store)
    report(store, task_id, TaskState.PREPARING)
    spread(dispatcher, watch)
    assert pending(sessions) == {}, "steps on the way up are of no interest"
    report(store, task_id, TaskState.RUNNING)
    spread(dispatcher, watch)
    assert pending(sessions) == {NODE: 1}
    dispatcher._sessions[NODE].close("gone")
    order(store, task_id)
    spread(dispatcher, watch)
    assert sessions["node-2"].backlog["session_records"] == 0


def test_a_nodes_death_concerns_all_who_reach_its_tasks(store: Store) -> None:
    for number in range(1, 4):
        add_task(store, number, NET, node=f"node-{number % 2 + 1}")
    dispatcher, watch, sessions = sessions_of(store)
    set_node(store, "node-2", NodeState.DOWN)
    spread(dispatcher, watch)
    assert pending(sessions) == {"node-1": 2, "node-2": 2}
    (message,) = sessions["node-1"].next_messages(store)
    states = {change.network_endpoint.state for change in message.assignments.changes}
    assert states == {EndpointState.LOST.value}


def test_a_record_is_encoded_once_for_all(store: Store) -> None:
    task_id = add_task(store, 1, NET)
    dispatcher, _, _ = sessions_of(store)
    shared = dispatcher._shared
    record = shared.book.record(store, endpoint_key(NET, task_id))
    assert isinstance(record, NetworkEndpoint)
    first = shared.change_of(record)
    add_task(store, 2, NET)
    again = shared.book.record(store, endpoint_key(NET, task_id))
    assert isinstance(again, NetworkEndpoint)
    assert shared.change_of(again) is first


def test_a_newer_session_takes_the_places_of_the_older() -> None:
    audience: Audience[Session] = Audience()
    dispatcher = Dispatcher(Store(), None, None, epoch=1)  # type: ignore[arg-type]
    old, new = (dispatcher.make_session(NODE, name) for name in ("old", "new"))
    audience.place(old, [NET, INGRESS])
    audience.place(new, [NET])
    audience.leave(old)
    assert list(audience.members(NET)) == [new]
    assert list(audience.members(INGRESS)) == []
    audience.leave(new)
    assert list(audience.members(NET)) == []


async def test_one_commit_is_one_push_and_names_go_before_the_stop(store: Store) -> None:
    """What is told to stop is no longer ACTIVE in the very message that stops it."""
    task_id, other = add_task(store, 1, NET), add_task(store, 2, NET, node="node-2")
    for each in (task_id, other):
        report(store, each, TaskState.RUNNING)
    async with dispatching(store) as dispatcher:
        agent = ScriptedAgent(dispatcher)
        agent.hello()
        await until(lambda: bool(agent.of_kind("assignments")))
        before = len(agent.of_kind("assignments"))
        stops = tuple(Order(task_id=each, desired_state=TaskState.SHUTDOWN) for each in (task_id, other))
        apply(store, *stops, owner=Owner.ORCHESTRATOR)
        await until(lambda: len(agent.of_kind("assignments")) > before)
        (message,) = agent.of_kind("assignments")[before:]
        kinds = [change.WhichOneof("change") for change in message.assignments.changes]
        assert kinds == ["network_endpoint", "network_endpoint", "task"]
        assert all(
            change.network_endpoint.state == EndpointState.PRESENT.value
            for change in message.assignments.changes[:2]
        )
        assert message.assignments.type == pb.AssignmentUpdate.INCREMENTAL
        agent.says.put_nowait(None)
        await agent.call
