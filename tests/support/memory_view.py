"""A View kept in plain dictionaries, for tests of decisions: put objects in, apply plans to it.

``apply`` carries out changes as the store does (merged fields grow, guarded ones need their base version)
but checks nothing that a correct plan could not trip over; it raises where a plan is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any, cast

from msgspec.structs import replace

from manager.reconcile.plan import PROVISIONAL_PREFIX, Plan
from swarmpy.model.changes import Change, Create, Delete, Group, NodeReport, Order, Report, Update
from swarmpy.model.ids import NodeId, RevisionId, ServiceId, TaskId, Timestamp
from swarmpy.model.objects import KINDS, Cluster, Kind, Node, Object, Revision, Service, Task, TaskStatus
from swarmpy.model.states import CREATED_STATES, TRANSITIONS, Owner, TaskState


class MemoryView:
    """See the module's docstring."""

    def __init__(self, *objects: Object) -> None:
        self.version = 0
        self._rows: dict[Kind, dict[str, Any]] = {kind: {} for kind in Kind}
        self._by_service: dict[str, dict[str, Task]] = {}
        self._by_node: dict[str, dict[str, Task]] = {}
        self._node_versions: dict[str, int] = {}
        self._next_id = 0
        for each in objects:
            self.put(each)

    # --- changing

    def put(self, new: Object) -> None:
        self.version += 1
        kind = KINDS[type(new)]
        old = self._rows[kind].get(new.id)
        self._rows[kind][new.id] = new
        if isinstance(new, Task):
            self._forget(old)
            self._by_service.setdefault(new.service_id, {})[new.id] = new
            self._by_node.setdefault(new.node_id, {})[new.id] = new
            self._node_versions[new.node_id] = self.version

    def delete(self, kind: Kind, id_: str) -> None:
        self.version += 1
        self._forget(self._rows[kind].pop(id_))

    def _forget(self, old: object) -> None:
        if isinstance(old, Task):
            del self._by_service[old.service_id][old.id]
            del self._by_node[old.node_id][old.id]
            self._node_versions[old.node_id] = self.version

    def apply_plan(self, plan: Plan, now: Timestamp) -> None:
        for group in plan.groups:
            self.apply(group, at=now)

    def apply(self, group: Group, *, at: Timestamp = Timestamp(0)) -> None:
        for change in group.changes:
            self._apply(group.owner, change, at)

    def _apply(self, owner: Owner, change: Change, at: Timestamp) -> None:
        match change:
            case Create(object=new):
                if isinstance(new, Task):
                    assert owner in CREATED_STATES[new.status.state], f"{owner} created {new.status.state!r}"
                    new = replace(new, id=self._task_id(new.id))
                assert self.get(KINDS[type(new)], new.id) is None, f"{new.id} exists"
                self.put(replace(new, version=self.version + 1, created_at=at, updated_at=at))
            case Update(object=new):
                old = self.get(KINDS[type(new)], new.id)
                assert old is not None, f"update of nothing: {new}"
                assert old.version == new.version, f"stale: {old.version} != {new.version}"
                if isinstance(new, Task):
                    assert isinstance(old, Task)
                    new = replace(
                        new, status=_merged(owner, old.status, new.status), desired_state=old.desired_state
                    )
                self.put(replace(new, version=self.version + 1, updated_at=at))
            case Delete(kind=kind, id=id_, version=version):
                stored = self.get(kind, id_)
                assert stored is not None, f"delete of nothing: {id_}"
                assert version in (0, stored.version), "stale delete"
                self.delete(kind, id_)
            case Order(task_id=task_id, desired_state=desired):
                assert owner == Owner.ORCHESTRATOR
                task = self._rows[Kind.TASK][task_id]
                self.put(replace(task, desired_state=max(task.desired_state, desired)))
            case Report(task_id=task_id, status=status):
                task = self._rows[Kind.TASK][task_id]
                self.put(replace(task, status=_merged(owner, task.status, status)))
            case NodeReport(node_id=node_id, status=node_status):
                node = self._rows[Kind.NODE][node_id]
                if node_status is not None and node_status.epoch >= node.status.epoch:
                    self.put(replace(node, status=node_status))

    def _task_id(self, id_: str) -> TaskId:
        if not id_.startswith(PROVISIONAL_PREFIX):
            return TaskId(id_)
        self._next_id += 1
        return TaskId(f"task{self._next_id:06}")

    # --- reading

    def get(self, kind: Kind, id_: str) -> Object | None:
        return self._rows[kind].get(id_)

    def all(self, kind: Kind) -> Collection[Object]:
        return self._rows[kind].values()

    def by_name(self, kind: Kind, name: str) -> Object | None:
        named: Iterable[Any] = self._rows[kind].values()
        return next((each for each in named if each.spec.name == name), None)

    def by_prefix(self, kind: Kind, prefix: str, *, limit: int = 2) -> tuple[Object, ...]:
        found = [each for id_, each in sorted(self._rows[kind].items()) if id_.startswith(prefix)]
        return tuple(found[:limit])

    def cluster(self) -> Cluster | None:
        return next(iter(self._rows[Kind.CLUSTER].values()), None)

    def node(self, id_: NodeId) -> Node | None:
        return self._rows[Kind.NODE].get(id_)

    def nodes(self) -> Collection[Node]:
        return self._rows[Kind.NODE].values()

    def service(self, id_: ServiceId) -> Service | None:
        return self._rows[Kind.SERVICE].get(id_)

    def services(self) -> Collection[Service]:
        return self._rows[Kind.SERVICE].values()

    def revision(self, id_: RevisionId) -> Revision | None:
        return self._rows[Kind.REVISION].get(id_)

    def revisions_of(self, service_id: ServiceId) -> Collection[Revision]:
        revisions = cast(Iterable[Revision], self._rows[Kind.REVISION].values())
        return [each for each in revisions if each.service_id == service_id]

    def task(self, id_: TaskId) -> Task | None:
        return self._rows[Kind.TASK].get(id_)

    def tasks(self) -> Collection[Task]:
        return self._rows[Kind.TASK].values()

    def tasks_of_service(self, service_id: ServiceId) -> Collection[Task]:
        return self._by_service.get(service_id, {}).values()

    def tasks_of_node(self, node_id: NodeId) -> Collection[Task]:
        return self._by_node.get(node_id, {}).values()

    def tasks_of_revision(self, revision_id: RevisionId) -> Collection[Task]:
        return self._tasks_where(lambda task: task.revision_id == revision_id)

    def unplaced_tasks(self) -> Collection[Task]:
        return self._tasks_where(
            lambda task: task.status.state < TaskState.ASSIGNED and task.desired_state <= TaskState.COMPLETE
        )

    def service_ids_with_tasks(self) -> Collection[ServiceId]:
        return [ServiceId(id_) for id_, tasks in self._by_service.items() if tasks]

    def node_tasks_version(self, node_id: NodeId) -> int:
        return self._node_versions.get(node_id, 0)

    def _tasks_where(self, is_wanted: Callable[[Task], bool]) -> list[Task]:
        return [task for task in self.tasks() if is_wanted(task)]


def _merged(owner: Owner, old: TaskStatus, new: TaskStatus) -> TaskStatus:
    if (new.state, new.report) <= (old.state, old.report):
        return old
    if new.state != old.state:
        assert owner in TRANSITIONS.get((old.state, new.state), frozenset()), (
            f"{owner} may not move a task from {old.state!r} to {new.state!r}"
        )
    return new
