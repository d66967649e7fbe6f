"""Whatever happens in the store, an agent that has taken every push makes of it exactly what the store says.

Joined are the store, the dispatcher's fan-out, sessions, the wire's bytes and the agents' cores; the
expectation is the simulator's checker, which works it out from the store alone. Also: what an agent's journal
keeps is enough to have it all again, and parts that are equal are the same objects.
"""

from __future__ import annotations

import itertools

from budget import machine_settings
from clusters import apply, make_node
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from msgspec.structs import replace

from agent import events
from agent.assembly import Assembly
from agent.core import Core
from agent.dataplane.base import NodeState
from agent.environment import NodeContext
from agent.executor.base import Found, ImageConfig, Sandbox
from agent.journal import IN_MEMORY, Journal
from manager.dispatcher import Dispatcher
from manager.session import Session
from manager.store.events import Event, Resync
from manager.store.store import Store
from swarmpy.model.changes import Create, Delete, NodeReport, Order, Report, Update
from swarmpy.model.cluster_specs import NetworkSpec
from swarmpy.model.ids import (
    ClusterId,
    NetworkId,
    NodeId,
    RevisionId,
    ServiceId,
    SessionId,
    TaskId,
    Timestamp,
)
from swarmpy.model.objects import (
    Cluster,
    Endpoint,
    Kind,
    Network,
    NetworkAttachment,
    NetworkKey,
    NodeStatus,
    Revision,
    Service,
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
    ServiceSpec,
    TaskSpec,
)
from swarmpy.model.states import NodeState as Liveness
from swarmpy.model.states import Owner, TaskState, is_terminal
from swarmpy.pb import dispatcher_pb2 as pb
from swarmpy.sim.checkers.discovery import differences, reachable

NODES = [NodeId(f"n{number}") for number in range(3)]
NETWORKS = [NetworkId(f"net{number}") for number in range(3)]
INGRESS = NetworkId("ingress-id")
"""The last of the others is encrypted."""
ON: list[tuple[int, ...]] = [(), (0,), (0, 1), (1, 2), (2,)]
"""Which networks each service is on."""
NOW = events.Now(Timestamp(0), 0.0)


class Agent:
    """A node's core, and a machine on which everything works at once."""

    def __init__(self, node_id: NodeId) -> None:
        self.node_id = node_id
        self.journal = Journal(IN_MEMORY)
        self.session: Session | None = None
        self.assembly = Assembly()
        self.running: dict[TaskId, int] = {}
        self.attached: set[TaskId] = set()
        self.start()

    def start(self) -> None:
        self.core = Core(NodeContext(node_id=self.node_id))
        self.applied = NodeState()
        kept = self.journal.load()
        self.post(
            events.Restored(
                tasks=kept.tasks,
                revisions=kept.revisions,
                networks=kept.networks,
                discovery=kept.discovery,
                found=tuple(Found(task_id=id_, pid=pid) for id_, pid in sorted(self.running.items())),
                attached=tuple(sorted(self.attached)),
            )
        )

    def post(self, event: events.Event) -> None:
        for instruction in self.core.handle(event, NOW):
            self.core.check()
            match instruction:
                case events.Persist(records=records):
                    self.journal.commit(records)
                case events.ApplyNetworks(state=state):
                    _check_sharing(self.applied, state)
                    self.applied = state
                case events.EnsureImage(reference=reference, attempt=attempt):
                    self.post(events.ImageReady(reference, attempt, ImageConfig(reference=reference)))
                case events.Attach(task_id=task_id, attempt=attempt, endpoint=endpoint):
                    assert self.applied.endpoints[task_id] == endpoint, "the state of the round comes first"
                    assert all(leg.network.id in self.applied.networks for leg in endpoint.legs)
                    self.attached.add(task_id)
                    self.post(events.Attached(task_id, attempt, Sandbox(netns="/n", addresses=())))
                case events.Create(task_id=task_id, attempt=attempt):
                    self.post(events.Created(task_id, attempt))
                case events.Start(task_id=task_id, attempt=attempt):
                    self.running[task_id] = 7
                    self.post(events.Started(task_id, attempt, Found(task_id=task_id, pid=7)))
                case events.Stop(task_id=task_id, attempt=attempt):
                    self.running.pop(task_id, None)
                    self.post(events.Stopped(task_id, attempt, None))
                case events.Remove(task_id=task_id, attempt=attempt, keep_log=keep_log):
                    self.post(events.Removed(task_id, attempt, keep_log))
                case events.Detach(task_id=task_id, attempt=attempt):
                    self.attached.discard(task_id)
                    self.post(events.Detached(task_id, attempt))
                case _:
                    pass


def _check_sharing(before: NodeState, after: NodeState) -> None:
    """What is equal is the same object; or a backend would do work for nothing."""
    for name in ("peers", "networks", "published", "endpoints"):
        old, new = getattr(before, name), getattr(after, name)
        assert old is new or old != new or not old, f"{name} was made anew without need"
    for id_ in before.networks.keys() & after.networks.keys():
        old_net, new_net = before.networks[id_], after.networks[id_]
        assert old_net is new_net or old_net != new_net
        for name in ("remotes", "balancers", "names"):
            old, new = getattr(old_net, name), getattr(new_net, name)
            assert old is new or old != new or not old, f"{name} of {id_} was made anew without need"


class Discovery(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.store = Store()
        self.numbers = itertools.count(1)
        apply(self.store, Create(object=Cluster(id=ClusterId("c"), network_keys=(NetworkKey(tag=1),))))
        for number, network_id in enumerate(NETWORKS):
            options = {"encrypted": ""} if number == 2 else {}
            driver = Driver(name="overlay", options=options)
            spec = NetworkSpec(name=f"name{number}", driver_configuration=driver)
            apply(self.store, Create(object=Network(id=network_id, spec=spec)))
        ingress = Network(id=INGRESS, spec=NetworkSpec(name="ingress", ingress=True))
        apply(self.store, Create(object=ingress))
        for node_id in NODES:
            place = NetworkAttachment(network_id=INGRESS, addresses=(f"10.0.0.{200 + int(node_id[1])}/24",))
            apply(self.store, Create(object=replace(make_node(node_id), attachments=(place,))))
        for number in range(len(ON)):
            self.make_service(number)
        self.dispatcher = Dispatcher(self.store, None, None, epoch=1)  # type: ignore[arg-type]
        self.watch = self.store.watch()
        self.agents = {node_id: Agent(node_id) for node_id in NODES[:2]}

    # --- what there is

    def make_service(self, number: int, *, aliases: tuple[str, ...] = ()) -> None:
        id_, revision_id = ServiceId(f"s{number}"), RevisionId(f"r{number}.{next(self.numbers)}")
        # by name and by id, and every other one publishes a port
        targets = [f"name{each}" if number % 2 else NETWORKS[each] for each in ON[number]]
        wishes = tuple(NetworkAttachmentConfig(target=each, aliases=aliases) for each in targets)
        port = PortConfig(target_port=80, published_port=8000 + number)
        ports = (port,) if number % 2 == 0 else ()
        template = TaskSpec(container_spec=ContainerSpec(image="host"), networks=wishes)
        spec = ServiceSpec(
            name=f"Svc{number}", task_template=template, endpoint_spec=EndpointSpec(ports=ports)
        )
        vips = tuple(
            VirtualIP(network_id=NETWORKS[each], addr=f"10.{each + 1}.9.{number + 1}/16")
            for each in ON[number]
            if number != 3  # that one is for DNS round robin
        )
        endpoint = Endpoint(spec=EndpointSpec(ports=ports), ports=ports, virtual_ips=vips)
        known = self.store.service(id_)
        service = Service(
            id=id_, spec=spec, revision_id=revision_id, template_id=revision_id, endpoint=endpoint
        )
        revision = Revision(id=revision_id, service_id=id_, number=1, spec=spec)
        change = (
            Create(object=service)
            if known is None
            else Update(object=replace(service, version=known.version))
        )
        apply(self.store, Create(object=revision), change)

    @rule(number=st.integers(0, len(ON) - 1), alias=st.sampled_from(["", "Db", "cache"]))
    def change_service(self, number: int, alias: str) -> None:
        self.make_service(number, aliases=(alias,) if alias else ())

    @rule(number=st.integers(0, len(ON) - 1), node=st.integers(0, 2))
    def create_task(self, number: int, node: int) -> None:
        service = self.store.service(ServiceId(f"s{number}"))
        assert service is not None
        count = next(self.numbers)
        places = [(NETWORKS[each], each + 1) for each in ON[number]]
        if service.endpoint.ports:
            places.append((INGRESS, 0))
        networks = tuple(
            NetworkAttachment(network_id=id_, addresses=(f"10.{each}.{count // 250}.{count % 250}/16",))
            for id_, each in places
        )
        task = Task(
            id=TaskId(f"t{count:024}"),
            service_id=service.id,
            revision_id=service.revision_id,
            node_id=NODES[node],
            slot=count,
            networks=networks,
            status=TaskStatus(state=TaskState.ASSIGNED),
        )
        apply(self.store, Create(object=task), owner=Owner.ORCHESTRATOR)

    def pick(self, pick: int) -> Task | None:
        tasks = sorted(self.store.tasks(), key=lambda task: task.id)
        return tasks[pick % len(tasks)] if tasks else None

    @rule(
        pick=st.integers(0, 99),
        state=st.sampled_from([TaskState.RUNNING] * 4 + [TaskState.READY, TaskState.FAILED]),
    )
    def report(self, pick: int, state: TaskState) -> None:
        task = self.pick(pick)
        if task is not None and task.status.state < state:
            apply(self.store, Report(task_id=task.id, status=TaskStatus(state=state)), owner=Owner.AGENT)

    @rule(pick=st.integers(0, 99))
    def order(self, pick: int) -> None:
        task = self.pick(pick)
        if task is not None:
            stop = Order(task_id=task.id, desired_state=TaskState.SHUTDOWN)
            apply(self.store, stop, owner=Owner.ORCHESTRATOR)

    @rule(pick=st.integers(0, 99))
    def delete(self, pick: int) -> None:
        task = self.pick(pick)
        if task is not None and is_terminal(task.status.state):
            apply(self.store, Delete(kind=Kind.TASK, id=task.id), owner=Owner.REAPER)

    @rule(node=st.integers(0, 2), state=st.sampled_from([Liveness.DOWN, Liveness.READY]), port=st.booleans())
    def report_node(self, node: int, state: Liveness, port: bool) -> None:
        status = NodeStatus(state=state, addr="10.9.9.9" if port else "10.9.9.8")
        change = NodeReport(node_id=NODES[node], status=status)
        apply(self.store, change, owner=Owner.DISPATCHER)

    @rule()
    def rotate_keys(self) -> None:
        cluster = self.store.cluster()
        assert cluster is not None
        keys = (*cluster.network_keys[-2:], NetworkKey(tag=next(self.numbers) + 1))
        apply(self.store, Update(object=replace(cluster, network_keys=keys)))

    # --- pushes

    @rule()
    def push(self) -> None:
        for notice in self.watch.take():
            match notice:
                case Event(old=old, new=new):
                    self.dispatcher._spread(old, new)
                case Resync():
                    for agent in self.agents.values():
                        if agent.session is not None:
                            agent.session.resync()
                case _:
                    pass
        for agent in self.agents.values():
            if agent.session is not None:
                self.deliver(agent, agent.session)
                found = list(
                    differences(self.store, agent.node_id, agent.core.networks, reachable(agent.core))
                )
                assert found == []
                assert agent.applied is agent.core.networks

    def deliver(self, agent: Agent, session: Session) -> None:
        for message in session.next_messages(self.store):
            told = pb.ManagerMessage.FromString(message.SerializeToString())
            if told.HasField("assignments"):
                received = agent.assembly.take(told.assignments)
                if received is not None:
                    agent.post(received)

    @rule(which=st.integers(0, 1))
    def open_session(self, which: int) -> None:
        agent = self.agents[NODES[which]]
        self.end_session(which)
        agent.session = self.dispatcher.make_session(agent.node_id, "s")
        agent.assembly = Assembly()
        self.dispatcher._sessions[agent.node_id] = agent.session
        agent.post(events.SessionUp(SessionId("s")))
        self.push()

    @rule(which=st.integers(0, 1))
    def end_session(self, which: int) -> None:
        agent = self.agents[NODES[which]]
        if agent.session is not None:
            agent.session.close("the end")
            self.dispatcher._sessions.pop(agent.node_id, None)
            agent.session = None
            agent.post(events.SessionDown())

    @rule(which=st.integers(0, 1))
    def resync(self, which: int) -> None:
        session = self.agents[NODES[which]].session
        if session is not None:
            session.resync()

    @rule(which=st.integers(0, 1))
    def restart_agent(self, which: int) -> None:
        """Without a manager it has all that it had, but for tasks that were reported here to have ended: of
        them the agent hears as it starts, which else would have ended them itself."""
        agent = self.agents[NODES[which]]
        before = self._of_the_living(agent.core.networks)
        self.end_session(which)
        agent.start()
        assert self._of_the_living(agent.core.networks) == before
        assert agent.applied == agent.core.networks

    def _of_the_living(self, state: NodeState) -> NodeState:
        ended = {task.id for task in self.store.tasks() if is_terminal(task.status.state)}
        living = {task_id: each for task_id, each in state.endpoints.items() if task_id not in ended}
        return replace(state, endpoints=living)

    @invariant()
    def nobody_hears_of_networks_that_are_not_its_own(self) -> None:
        for agent in self.agents.values():
            known = self.dispatcher._shared.audience.members(INGRESS)
            assert agent.session is None or agent.session in known or agent.session._is_complete_due

    def teardown(self) -> None:
        for which in range(2):
            self.open_session(which)
        self.push()
        self.watch.close()
        for agent in self.agents.values():
            agent.journal.close()


TestDiscovery = Discovery.TestCase
TestDiscovery.settings = machine_settings(examples=60, steps=40)
