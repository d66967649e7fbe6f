"""The store against plain dictionaries, whatever groups come: accepted, refused, stale, contradictory.

The model is what a watcher would build from events alone; every read of the store, of a draft and of a
restored copy has to be what can be computed from it from scratch.
"""

from __future__ import annotations

import itertools
from typing import Any

from budget import machine_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec.structs import replace
from store_values import AT, config, network, node, revision, secret, service, task, volume

from manager.store.draft import Draft
from manager.store.events import Commit, Event, Resync
from manager.store.store import Store
from manager.store.view import View
from swarmpy import codec
from swarmpy.model.changes import (
    Applied,
    Batch,
    Change,
    Create,
    Delete,
    Group,
    NodeReport,
    Order,
    Refusal,
    Report,
    Update,
)
from swarmpy.model.ids import NodeId, RevisionId, ServiceId, TaskId, Timestamp
from swarmpy.model.objects import (
    Cluster,
    Endpoint,
    Kind,
    ManagerStatus,
    Node,
    NodeDescription,
    NodeStatus,
    Object,
    Service,
    Task,
    TaskStatus,
)
from swarmpy.model.specs import PortConfig
from swarmpy.model.states import Owner, PortProtocol, PublishMode, TaskState

INGRESS, HOST = PublishMode.INGRESS, PublishMode.HOST

Rows = dict[Kind, dict[str, Any]]

SERVICES = ("s1", "s2")
NODES = ("n1", "n2")
TASKS = ("t1", "t2", "t3", "t4")
REVISIONS = ("s1-r", "s2-r", "s1-r2")
FILES = ("x1", "x2")
NAMES = ("web", "WEB", "db")
POOLS: dict[Kind, tuple[str, ...]] = {
    Kind.CLUSTER: ("c1", "c2"),
    Kind.NODE: NODES,
    Kind.NETWORK: FILES,
    Kind.SECRET: FILES,
    Kind.CONFIG: FILES,
    Kind.VOLUME: FILES,
    Kind.SERVICE: SERVICES,
    Kind.REVISION: REVISIONS,
    Kind.TASK: TASKS,
}
PORT_FIELDS: dict[str, Any] = {
    "published_port": st.sampled_from([0, 80, 81]),
    "protocol": st.sampled_from([PortProtocol.UNSPECIFIED, PortProtocol.TCP, PortProtocol.UDP]),
    "publish_mode": st.sampled_from(PublishMode),
}
PORTS = list(itertools.product((PortProtocol.TCP, PortProtocol.UDP), (80, 81), (INGRESS, HOST)))
PREFIXES = ("", "s", "s1", "s1-r", "t", "x", "n2", "zz")
NAMED = (Kind.NETWORK, Kind.SECRET, Kind.CONFIG, Kind.VOLUME, Kind.SERVICE)


# --- what may come


@st.composite
def task_statuses(draw: st.DrawFn) -> TaskStatus:
    state = draw(st.sampled_from(TaskState))
    return TaskStatus(state=state, report=draw(st.integers(0, 2)), err=draw(st.sampled_from(["", "full"])))


@st.composite
def created(draw: st.DrawFn) -> Object:
    kind = draw(st.sampled_from(list(Kind) + [Kind.TASK] * 4 + [Kind.SERVICE, Kind.NODE]))
    id_ = draw(st.sampled_from(POOLS[kind]))
    name = draw(st.sampled_from(NAMES))
    match kind:
        case Kind.CLUSTER:
            return Cluster(id=id_)  # type: ignore[arg-type]
        case Kind.NODE:
            return node(id_)
        case Kind.NETWORK:
            return network(id_, name)
        case Kind.SECRET:
            return secret(id_, draw(st.sampled_from([id_, name])))
        case Kind.CONFIG:
            return config(id_, draw(st.sampled_from([id_, name])))
        case Kind.VOLUME:
            return volume(id_, name, on=draw(st.sampled_from(NODES)))
        case Kind.REVISION:
            return revision(id_, id_[:2])
        case Kind.SERVICE:
            return draw(services(id_))
        case Kind.TASK:
            made = draw(st.sampled_from([task(id_), task(id_), task(id_, on="n1"), task(id_, "s2")]))
            revision_id = draw(st.sampled_from([made.revision_id] * 3 + [RevisionId("s1-r2")]))
            return replace(made, revision_id=revision_id)


@st.composite
def services(draw: st.DrawFn, id_: str) -> Service:
    some = st.lists(st.sampled_from(FILES), max_size=1).map(tuple)
    made = service(
        id_,
        draw(st.sampled_from(NAMES)),
        networks=draw(st.lists(st.sampled_from([*FILES, *NAMES, "host"]), max_size=1).map(tuple)),
        secrets=draw(some),
        configs=draw(some),
    )
    revision_id = draw(st.sampled_from([f"{id_}-r", ""]))
    ports = draw(st.lists(st.builds(PortConfig, **PORT_FIELDS), max_size=2).map(tuple))
    return replace(made, revision_id=RevisionId(revision_id), endpoint=Endpoint(ports=ports))


@st.composite
def updates(draw: st.DrawFn, view: View) -> Object:
    """An object as it is stored, with something changed; sometimes of an old version."""
    kinds = [kind for kind in (*Kind, Kind.TASK, Kind.TASK, Kind.SERVICE) if view.all(kind)]
    if not kinds:
        return draw(created())
    old = draw(st.sampled_from(list(view.all(draw(st.sampled_from(kinds))))))
    version = old.version - draw(st.sampled_from([0, 0, 0, 1]))
    match old:
        case Task():
            new: Object = replace(
                old,
                node_id=NodeId(draw(st.sampled_from([old.node_id, *NODES]))),
                status=draw(st.one_of(st.just(old.status), task_statuses())),
                desired_state=draw(st.sampled_from(TaskState)),
                revision_id=RevisionId(draw(st.sampled_from([old.revision_id, *REVISIONS]))),
                not_before=Timestamp(draw(st.integers(0, 3))),
            )
        case Service():
            wish = draw(services(old.id))
            new = replace(wish, spec=replace(wish.spec, name=draw(st.sampled_from([old.spec.name, "web"]))))
        case Node():
            new = replace(old, status=NodeStatus(message="never taken from an update"))
        case _:
            new = old
    return replace(new, version=version)


def changes(view: View) -> st.SearchStrategy[Change]:
    present = [each.id for each in view.tasks()]
    task_ids = st.sampled_from([*present * 3, *(TaskId(id_) for id_ in TASKS)])
    node_status = st.builds(NodeStatus, epoch=st.integers(0, 3), message=st.sampled_from(["a", "b"]))
    kinds = st.sampled_from(Kind)
    return st.one_of(
        st.builds(Create, object=created()),
        st.builds(Create, object=created()),
        st.builds(Update, object=updates(view)),
        kinds.flatmap(
            lambda kind: st.builds(
                Delete,
                kind=st.just(kind),
                id=st.sampled_from(POOLS[kind]),
                version=st.sampled_from([0, 0, view.version]),
            )
        ),
        st.builds(Order, task_id=task_ids, desired_state=st.sampled_from(TaskState)),
        st.builds(Report, task_id=task_ids, status=task_statuses()),
        st.builds(
            NodeReport,
            node_id=st.sampled_from([NodeId(id_) for id_ in NODES]),
            status=st.one_of(st.none(), node_status),
            description=st.one_of(st.none(), st.just(NodeDescription(hostname="h"))),
            manager_status=st.one_of(st.none(), st.just(ManagerStatus(addr="a"))),
            is_manager_removed=st.booleans(),
        ),
    )


def groups(view: View) -> st.SearchStrategy[Group]:
    owners = st.sampled_from([Owner.ORCHESTRATOR] * 6 + [Owner.AGENT] * 3 + list(Owner))
    one = st.tuples(changes(view))
    some_changes = st.one_of(one, one, st.lists(changes(view), min_size=2, max_size=3).map(tuple))
    return st.builds(Group, owner=owners, changes=some_changes)


# --- every read, from a view and from plain dictionaries


def by_id(objects: Any) -> dict[str, Any]:
    listed = list(objects)
    found = {each.id: each for each in listed}
    assert len(found) == len(listed) == len(objects)
    return found


def reads(view: View) -> dict[object, object]:
    out: dict[object, object] = {"cluster": view.cluster(), "version": view.version}
    for kind in Kind:
        out["all", kind] = by_id(view.all(kind))
        out |= {("get", kind, id_): view.get(kind, id_) for id_ in POOLS[kind]}
        out |= {("prefix", kind, p, n): view.by_prefix(kind, p, limit=n) for p in PREFIXES for n in (1, 2, 9)}
    for kind in NAMED:
        out |= {("like", kind, name): by_id(view.names_like(kind, name)) for name in NAMES}
    for kind in (Kind.NETWORK, Kind.SECRET, Kind.CONFIG, Kind.REVISION):
        keys = {*POOLS[kind], *NAMES}
        out |= {("using", kind, key): by_id(view.services_using(kind, key)) for key in keys}
    out |= {("publishing", *each): by_id(view.services_publishing(*each)) for each in PORTS}
    out["nodes"], out["services"], out["tasks"] = map(by_id, (view.nodes(), view.services(), view.tasks()))
    out |= {("tasks of service", s): by_id(view.tasks_of_service(ServiceId(s))) for s in SERVICES}
    out |= {("revisions", s): by_id(view.revisions_of(ServiceId(s))) for s in SERVICES}
    out |= {("tasks of node", n): by_id(view.tasks_of_node(NodeId(n))) for n in NODES}
    out |= {("tasks of revision", r): by_id(view.tasks_of_revision(RevisionId(r))) for r in REVISIONS}
    out["unplaced"] = by_id(view.unplaced_tasks())
    out["joined"] = by_id(view.joined_tasks())
    out["managers"] = by_id(view.manager_nodes())
    out["services with tasks"] = set(view.service_ids_with_tasks())
    return out


def expected_reads(rows: Rows, version: int) -> dict[object, object]:
    """The same, the slow and obvious way."""
    tasks: dict[str, Task] = rows[Kind.TASK]
    out: dict[object, object] = {"version": version}
    out["cluster"] = next(iter(rows[Kind.CLUSTER].values()), None)
    for kind in Kind:
        out["all", kind] = rows[kind]
        out |= {("get", kind, id_): rows[kind].get(id_) for id_ in POOLS[kind]}
        for p in PREFIXES:
            matching = [rows[kind][id_] for id_ in sorted(rows[kind]) if id_.startswith(p)]
            out |= {("prefix", kind, p, n): tuple(matching[:n]) for n in (1, 2, 9)}
    for kind in NAMED:
        for name in NAMES:
            out["like", kind, name] = where(rows[kind], lambda x, n=name: x.spec.name.lower() == n.lower())
    for kind in (Kind.NETWORK, Kind.SECRET, Kind.CONFIG, Kind.REVISION):
        for key in {*POOLS[kind], *NAMES}:
            out["using", kind, key] = where(rows[Kind.SERVICE], lambda s, k=kind, i=key: refers(s, k, i))
    for port in PORTS:
        out["publishing", *port] = where(rows[Kind.SERVICE], lambda s, p=port: p in published(s))
    out["nodes"], out["services"], out["tasks"] = rows[Kind.NODE], rows[Kind.SERVICE], tasks
    for id_ in SERVICES:
        out["tasks of service", id_] = where(tasks, lambda t, i=id_: t.service_id == i)
        out["revisions", id_] = where(rows[Kind.REVISION], lambda r, i=id_: r.service_id == i)
    out |= {("tasks of node", n): where(tasks, lambda t, n=n: t.node_id == n) for n in NODES}
    out |= {("tasks of revision", r): where(tasks, lambda t, r=r: t.revision_id == r) for r in REVISIONS}
    wished = (TaskState.READY, TaskState.RUNNING, TaskState.COMPLETE)
    waiting = (TaskState.NEW, TaskState.PENDING)
    out["managers"] = where(rows[Kind.NODE], lambda n: n.manager_status is not None)
    out["joined"] = where(tasks, lambda t: bool(t.joins) and t.status.state <= TaskState.RUNNING)
    out["unplaced"] = where(tasks, lambda t: t.status.state in waiting and t.desired_state in wished)
    out["services with tasks"] = {each.service_id for each in tasks.values()}
    return out


def where(rows: dict[str, Any], is_wanted: Any) -> dict[str, Any]:
    return {id_: each for id_, each in rows.items() if is_wanted(each)}


def published(made: Service) -> list[tuple[PortProtocol, int, PublishMode]]:
    return [
        (port.protocol or PortProtocol.TCP, port.published_port, port.publish_mode or INGRESS)
        for port in made.endpoint.ports
    ]


def refers(made: Service, kind: Kind, id_: str) -> bool:
    container = made.spec.task_template.container_spec
    assert container is not None
    match kind:
        case Kind.NETWORK:
            return any(each.target == id_ for each in made.spec.task_template.networks)
        case Kind.SECRET:
            return any(each.secret_id == id_ for each in container.secrets)
        case Kind.CONFIG:
            return any(each.config_id == id_ for each in container.configs)
        case _:
            return id_ in (made.revision_id, made.template_id, made.previous_id)


def dump(store: Store) -> bytes:
    return b"".join(store.encode(store.freeze()))


class StoreMachine(RuleBasedStateMachine):
    """A leader's store, a follower that gets the same log, and a watcher's dictionaries."""

    @initialize()
    def start(self) -> None:
        self.leader, self.follower = Store(), Store()
        self.rows: Rows = {kind: {} for kind in Kind}
        self.watch = self.leader.watch()
        self.index = 0
        self.sent: list[tuple[bytes, Applied]] = []
        self.tasks_at: dict[tuple[str, int], dict[str, Any]] = {}
        first_service = service("s1", secrets=("x1",), networks=("x1",))
        objects: list[Any] = [node("n1"), secret("x1"), network("x1"), first_service, revision("s1-r", "s1")]
        objects += [task("t1"), task("t2", on="n1")]
        changes = tuple(Create(object=each) for each in objects)
        first = Group(owner=Owner.ORCHESTRATOR, changes=changes)
        assert self.log(Batch(groups=(first,), at=AT)).refused == ()

    def log(self, batch: Batch) -> Applied:
        """Give both managers the entry; they must agree. Follow the leader's events."""
        self.index += 1
        entry = codec.encode(batch)
        applied = self.leader.apply(entry, self.index)
        assert self.follower.apply(entry, self.index) == applied
        self.sent.append((entry, applied))
        self.follow()
        return applied

    def follow(self) -> None:
        for notice in self.watch.take():
            match notice:
                case Event(kind=kind, old=old, new=new):
                    self.check_growth(kind, old, new)
                    table = self.rows[kind]
                    id_ = (old or new).id  # type: ignore[union-attr]
                    assert table.get(id_) == old
                    if new is None:
                        del table[id_]
                    else:
                        table[id_] = new
                case Commit(version=version):
                    assert version == self.leader.version
                case Resync():
                    self.rows = {kind: by_id(self.leader.all(kind)) for kind in Kind}

    def check_growth(self, kind: Kind, old: Object | None, new: Object | None) -> None:
        if old is None or new is None:
            return
        assert new.version >= old.version
        if isinstance(old, Task) and isinstance(new, Task):
            before, after = old.status, new.status
            assert (after.state, after.report) >= (before.state, before.report)
            assert new.desired_state >= old.desired_state
        if isinstance(old, Node) and isinstance(new, Node):
            assert new.status.epoch >= old.status.epoch

    @rule(data=st.data(), epoch=st.sampled_from([0] * 9 + [1, 2, 3]), at=st.integers(0, 9))
    def apply(self, data: st.DataObject, epoch: int, at: int) -> None:
        some = data.draw(st.lists(groups(self.leader), min_size=1, max_size=4))
        self.plan_and_apply(some, epoch=epoch, at=Timestamp(AT + at), request_id="")

    @rule(data=st.data(), request_id=st.sampled_from(["a", "b"]))
    def apply_named(self, data: st.DataObject, request_id: str) -> None:
        is_repeated = request_id in self.leader._tables.requests
        before = dump(self.leader)
        one = data.draw(groups(self.leader))
        applied = self.log(Batch(groups=(one,), at=AT, request_id=request_id))
        if is_repeated:
            assert dump(self.leader) == before
            assert applied == self.leader._tables.requests[request_id]

    def plan_and_apply(self, some: list[Group], *, epoch: int, at: Timestamp, request_id: str) -> None:
        """Apply the groups to a draft first, in part to a draft of a draft: it must foresee everything."""
        before, version = dump(self.leader), self.leader.version
        draft = Draft(self.leader, at=at)
        middle = len(some) // 2
        foreseen: list[Refusal | None] = [draft.apply(each) for each in some[:middle]]
        upper = Draft(draft, at=at)
        foreseen += [upper.apply(each) for each in some[middle:]]
        planned = reads(upper)
        self.check_tokens(upper)
        assert dump(self.leader) == before
        is_fenced = 0 < epoch < self.leader.epoch
        applied = self.log(Batch(groups=tuple(some), at=at, epoch=epoch, request_id=request_id))
        if is_fenced:
            assert len(applied.refused) == len(some)
            assert dump(self.leader) == before
            return
        refused = [replace(each, index=i) for i, each in enumerate(foreseen) if each is not None]
        assert list(applied.refused) == refused
        assert applied.version == self.leader.version == version + len(some) - len(refused)
        assert planned == reads(self.leader)
        differing = {(e.kind, (e.new or e.old).id): e.new for e in upper.changed()}  # type: ignore[union-attr]
        for (kind, id_), new in differing.items():
            assert self.leader.get(kind, id_) == new

    @rule(garbage=st.binary(max_size=30))
    def apply_garbage(self, garbage: bytes) -> None:
        """Whatever it is: both managers make the same of it."""
        self.index += 1
        assert self.leader.apply(garbage, self.index) == self.follower.apply(garbage, self.index)
        self.follow()

    @rule(size=st.integers(1, 200))
    def restore_follower(self, size: int) -> None:
        data = dump(self.leader)
        self.follower = Store()
        self.follower.restore(data[at : at + size] for at in range(0, len(data), size))

    @rule()
    def restore_leader(self) -> None:
        self.leader.restore([dump(self.leader)])
        self.follow()

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def apply_again(self, data: st.DataObject) -> None:
        """An entry that is repeated (a new leader's retry) breaks nothing either."""
        entry, _ = data.draw(st.sampled_from(self.sent))
        self.index += 1
        assert self.leader.apply(entry, self.index) == self.follower.apply(entry, self.index)
        self.follow()

    def check_tokens(self, view: View) -> None:
        for id_ in NODES:
            tasks = by_id(view.tasks_of_node(NodeId(id_)))
            token = (id_, view.node_tasks_version(NodeId(id_)))
            assert self.tasks_at.setdefault(token, tasks) == tasks

    @invariant()
    def no_port_has_two_holders(self) -> None:
        holders: dict[tuple[PortProtocol, int], dict[str, set[PublishMode]]] = {}
        for each in self.rows[Kind.SERVICE].values():
            for protocol, number, mode in published(each):
                if number:
                    holders.setdefault((protocol, number), {}).setdefault(each.id, set()).add(mode)
        for modes_of in holders.values():
            assert len(modes_of) == 1 or set().union(*modes_of.values()) == {HOST}

    @invariant()
    def every_read_is_right(self) -> None:
        expected = expected_reads(self.rows, self.leader.version)
        assert reads(self.leader) == expected
        self.check_tokens(self.leader)

    @invariant()
    def replicas_are_equal(self) -> None:
        assert dump(self.follower) == dump(self.leader)
        for kind in Kind:
            assert [x.id for x in self.follower.all(kind)] == [x.id for x in self.leader.all(kind)]

    @invariant()
    def nothing_dangles(self) -> None:
        store = self.leader
        for made in store.services():
            container = made.spec.task_template.container_spec
            assert container is not None
            for attachment in made.spec.task_template.networks:
                known = (
                    store.get(Kind.NETWORK, attachment.target),
                    store.by_name(Kind.NETWORK, attachment.target),
                )
                assert any(known) or attachment.target == "host"
            assert all(store.get(Kind.SECRET, each.secret_id) for each in container.secrets)
            assert all(store.get(Kind.CONFIG, each.config_id) for each in container.configs)
            assert not made.revision_id or store.revision(made.revision_id)
        for each in store.tasks():
            assert store.revision(each.revision_id)
            assert each.node_id or not TaskState.ASSIGNED <= each.status.state <= TaskState.RUNNING
        assert len(store.all(Kind.CLUSTER)) <= 1
        for kind in NAMED:
            if kind is not Kind.VOLUME:
                names = [each.spec.name.lower() for each in store.all(kind)]  # type: ignore[union-attr]
                assert len(names) == len(set(names))


StoreMachine.TestCase.settings = machine_settings(examples=15, steps=25)
TestStore = StoreMachine.TestCase
