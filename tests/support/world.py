"""A cluster without I/O: the store's real tables, the real reconcilers, and scripted agents.

``World.settle`` does what the control loop does (dirty keys, one draft per round, wake-ups), so a
reconciler that does not mark a key dirty when it should is caught here. ``World.assert_quiet`` then asks for
everything anew. Time moves only by ``pass_time``.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from msgspec.structs import replace

from manager.api import job_plan
from manager.reconcile import all_reconcilers
from manager.reconcile.plan import PROVISIONAL_PREFIX, Plan, Reconciler
from manager.reports import report_groups
from manager.store.apply import apply_group, is_predicted
from manager.store.draft import Draft
from manager.store.tables import Tables
from swarmpy.limits import BATCH_GROUPS_MAX
from swarmpy.model.changes import Create, Group, NodeReport, Refusal
from swarmpy.model.cluster_specs import IPAMConfig, IPAMOptions, NetworkSpec, NodeSpec
from swarmpy.model.ids import SECOND_NS, NetworkId, NodeId, RevisionId, ServiceId, TaskId, Timestamp
from swarmpy.model.objects import (
    KINDS,
    Kind,
    Network,
    Node,
    NodeDescription,
    NodeStatus,
    Object,
    Revision,
    Service,
    Task,
    TaskStatus,
)
from swarmpy.model.specs import Driver, Platform, Replicated, Resources, ServiceMode, ServiceSpec
from swarmpy.model.states import NodeAvailability, NodeState, Owner, TaskState
from swarmpy.sim.checkers.quiet import wanted_changes

START = Timestamp(1_700_000_000 * SECOND_NS)
GIB = 1 << 30
ROUNDS_MAX = 500
STEPS_MAX = 2_000


def seconds(amount: float) -> int:
    return int(amount * SECOND_NS)


def make_node(id_: str, **fields: Any) -> Node:
    """A ready, active worker with 8 CPUs and 32 GiB."""
    known: dict[str, Any] = {
        "id": NodeId(id_),
        "spec": NodeSpec(
            labels=fields.pop("labels", {}),
            availability=fields.pop("availability", NodeAvailability.ACTIVE),
        ),
        "status": NodeStatus(state=fields.pop("state", NodeState.READY), since=START, addr="10.1.0.1"),
        "description": NodeDescription(
            hostname=id_,
            platform=Platform(architecture="x86_64", os="linux"),
            resources=Resources(nano_cpus=8 * 10**9, memory_bytes=32 * GIB),
        ),
        "created_at": START,
    }
    return Node(**{**known, **fields})


def make_network(id_: str, *configs: IPAMConfig, **fields: Any) -> Network:
    """An overlay network that has nothing yet but what ``configs`` ask for."""
    driver = Driver(name=fields.pop("driver", "overlay"), options=fields.pop("options", {}))
    ipam = IPAMOptions(configs=configs)
    spec = NetworkSpec(name=f"{id_}-net", driver_configuration=driver, ipam_options=ipam, **fields)
    return Network(id=NetworkId(id_), spec=spec, created_at=START)


class World:
    """See the module's docstring."""

    def __init__(self, *objects: Object, reconcilers: Sequence[Reconciler] | None = None) -> None:
        self.tables = Tables()
        self.now = START
        self.reconcilers = tuple(all_reconcilers() if reconcilers is None else reconcilers)
        self.groups_applied: list[Group] = []
        self._dirty: dict[tuple[int, str], None] = {}
        self._wakes: list[tuple[int, int, str]] = []
        self._ids = itertools.count(1)
        self._revisions: dict[str, int] = {}
        for each in objects:
            self.put(each)

    # --- what the outside does

    def put(self, new: Object) -> None:
        """Lay an object into the store, whatever the rules say."""
        kind = KINDS[type(new)]
        old = self.tables.get(kind, new.id)
        self.tables.version += 1
        stored: Any = new
        if isinstance(new, Task | Service | Revision) and new.version == 0:
            created_at = new.created_at or self.now
            stored = replace(new, version=self.tables.version, created_at=created_at)
        self.tables.put(kind, stored)
        self._mark(old, stored)

    def delete(self, kind: Kind, id_: str) -> None:
        old = self.tables.get(kind, id_)
        self.tables.version += 1
        self.tables.remove(kind, id_)
        self._mark(old, None)

    def create_service(self, id_: str, spec: ServiceSpec | None = None, *, replicas: int = 1) -> Service:
        """As the API does: the revision and the service."""
        if spec is None:
            spec = ServiceSpec(name=id_, mode=ServiceMode(replicated=Replicated(replicas=replicas)))
        revision_id = self._new_revision_id(id_)
        self.put(Revision(id=revision_id, service_id=ServiceId(id_), number=1, spec=spec))
        service = Service(id=ServiceId(id_), spec=spec, revision_id=revision_id, template_id=revision_id)
        self.put(job_plan.begun(service, now=self.now))
        return self.service(id_)

    def _new_revision_id(self, service_id: str) -> RevisionId:
        """Never used before, as ids are, also if the service's name had another life."""
        number = self._revisions[service_id] = self._revisions.get(service_id, 0) + 1
        return RevisionId(f"{service_id}-r{number}")

    def update_service(self, id_: str, spec: ServiceSpec) -> None:
        """As the API does: a new revision, and a new template if tasks must change."""
        service = self.service(id_)
        number = 1 + max(each.number for each in self.tables.revisions_of(service.id))
        revision_id = self._new_revision_id(id_)
        self.put(Revision(id=revision_id, service_id=service.id, number=number, spec=spec))
        is_same = (service.spec.task_template, service.spec.endpoint_spec) == (
            spec.task_template,
            spec.endpoint_spec,
        )
        changed = replace(service, version=0, spec=spec, revision_id=revision_id)
        if not is_same:
            changed = replace(
                changed, template_id=revision_id, previous_id=service.template_id, update_status=None
            )
        self.put(job_plan.begun_again(changed, of=service, now=self.now))

    def scale(self, id_: str, replicas: int) -> None:
        mode = ServiceMode(replicated=Replicated(replicas=replicas))
        self.update_service(id_, replace(self.service(id_).spec, mode=mode))

    def change_node(self, id_: str, **fields: Any) -> None:
        self.put(replace(self.node(id_), **fields))

    def set_node_state(self, id_: str, state: NodeState, *, message: str = "") -> None:
        status = replace(self.node(id_).status, state=state, since=self.now, message=message)
        self.apply(Group(owner=Owner.DISPATCHER, changes=(NodeReport(node_id=NodeId(id_), status=status),)))

    def set_availability(self, id_: str, availability: NodeAvailability) -> None:
        self.change_node(id_, spec=replace(self.node(id_).spec, availability=availability))

    def report(self, task_id: str, state: TaskState, *, err: str = "", output: str = "") -> None:
        """As an agent does; ``output`` is that of the last check."""
        status = TaskStatus(
            timestamp=self.now, state=state, message=state.name.lower(), err=err, health_output=output
        )
        for group in report_groups(self.tables, [(TaskId(task_id), status)], self.now):
            self.apply(group)

    def pass_time(self, seconds_: float) -> None:
        self.now = Timestamp(self.now + seconds(seconds_))

    # --- agents

    def run_agents(self, *, may_run: Callable[[Task], bool] = lambda task: True) -> bool:
        """Every agent that is heard brings its tasks to where they should be. Whether anything moved."""
        moved = False
        for task in list(self.tables.tasks()):
            node = self.tables.node(task.node_id) if task.node_id else None
            state = task.status.state
            if node is None or node.status.state != NodeState.READY:
                continue
            if not TaskState.ASSIGNED <= state <= TaskState.RUNNING:
                continue
            target = self._agent_target(task, may_run)
            if target > state:
                self.report(task.id, target)
                moved = True
        return moved

    @staticmethod
    def _agent_target(task: Task, may_run: Callable[[Task], bool]) -> TaskState:
        if task.desired_state > TaskState.COMPLETE:
            return TaskState.SHUTDOWN
        if task.desired_state == TaskState.READY:
            return TaskState.READY
        return TaskState.RUNNING if may_run(task) else TaskState.FAILED

    # --- the control loop

    def successor(self) -> World:
        """A new leader over the same store: it remembers nothing, and every key is dirty."""
        world = World()
        world.tables, world.now = self.tables, self.now
        world._ids, world._revisions = self._ids, self._revisions
        for index, reconciler in enumerate(world.reconcilers):
            for key in reconciler.keys(world.tables):
                world._dirty[(index, key)] = None
        return world

    def _mark(self, old: object | None, new: object | None) -> None:
        for index, reconciler in enumerate(self.reconcilers):
            for key in reconciler.dirty(self.tables, old, new):
                self._dirty[(index, key)] = None

    def apply(self, group: Group) -> None:
        outcome = apply_group(self.tables, group, at=self.now)
        assert not isinstance(outcome, Refusal), f"{outcome.reason}: {group}"
        self.groups_applied.append(group)
        for event in outcome:
            self._mark(event.old, event.new)

    def try_apply(self, group: Group) -> bool:
        """False if it is refused since its base has moved on; that is the one reason that may occur."""
        outcome = apply_group(self.tables, group, at=self.now)
        if isinstance(outcome, Refusal):
            assert outcome.is_stale or outcome.code == "NOT_FOUND", f"{outcome.reason}: {group}"
            return False
        self.groups_applied.append(group)
        for event in outcome:
            self._mark(event.old, event.new)
        return True

    def settle(self) -> int:
        """Reconcile until nothing is dirty now; the number of groups that it took."""
        count = 0
        for _ in range(ROUNDS_MAX):
            if not self.has_work():
                return count
            count += self.run_once()
        raise AssertionError(f"not quiet after {ROUNDS_MAX} rounds: {list(self._dirty)[:5]}")

    def has_work(self) -> bool:
        """Whether a key is dirty now."""
        while self._wakes and self._wakes[0][0] <= self.now:
            _, index, key = heapq.heappop(self._wakes)
            self._dirty[(index, key)] = None
        return bool(self._dirty)

    def run_once(self, *, meanwhile: Callable[[], None] = lambda: None) -> int:
        """One round of the control loop; the number of groups that it stored.

        ``meanwhile`` is what others do while the round's proposal is under way; what is stale then is decided
        again.
        """
        draft = Draft(self.tables, at=self.now)
        groups: list[tuple[Group, tuple[int, str]]] = []
        while self._dirty and len(groups) < BATCH_GROUPS_MAX:
            index, key = next(iter(self._dirty))
            del self._dirty[(index, key)]
            plan = self.reconcilers[index].reconcile(draft, key, self.now)
            for group in plan.groups:
                stamped = self.stamp(group)
                refusal = draft.apply(stamped)
                assert refusal is None, f"{self.reconcilers[index].name}: {refusal.reason}: {group}"
                groups.append((stamped, (index, key)))
            self._note_wake(index, key, plan)
        before = self.tables.version
        meanwhile()
        is_raced = self.tables.version != before
        for group, source in groups:
            if not is_raced:
                self.apply(group)
            elif is_predicted(group, base=before) or not self.try_apply(group):
                self._dirty[source] = None
        return len(groups)

    def lose_once(self) -> None:
        """A round whose proposal never gets into the log: planned, and to be decided again."""
        dirty = dict(self._dirty)
        draft = Draft(self.tables, at=self.now)
        for index, key in dirty:
            for group in self.reconcilers[index].reconcile(draft, key, self.now).groups:
                assert draft.apply(self.stamp(group)) is None

    def _note_wake(self, index: int, key: str, plan: Plan) -> None:
        if plan.wake_at is not None:
            heapq.heappush(self._wakes, (plan.wake_at, index, key))
        if plan.is_partial:
            self._dirty[(index, key)] = None

    def stamp(self, group: Group) -> Group:
        changes: list[Any] = []
        for change in group.changes:
            if isinstance(change, Create) and change.object.id.startswith(PROVISIONAL_PREFIX):
                assert isinstance(change.object, Task)
                new_id = TaskId(f"task{next(self._ids):05}")
                change = Create(object=replace(change.object, id=new_id))
            changes.append(change)
        return replace(group, changes=tuple(changes))

    def live(self, seconds_: float = 0.0, *, may_run: Callable[[Task], bool] = lambda task: True) -> None:
        """Let managers and agents work until all is still, and on for ``seconds_``, from event to event."""
        until = self.now + seconds(seconds_)
        for _ in range(STEPS_MAX):
            self.settle()
            if self.run_agents(may_run=may_run):
                continue
            if not self._wakes or self._wakes[0][0] > until:
                break
            self.now = Timestamp(max(self.now, self._wakes[0][0]))
        else:
            raise AssertionError(f"not still after {STEPS_MAX} steps")
        self.now = Timestamp(max(self.now, until))

    def next_wake(self) -> int | None:
        return self._wakes[0][0] if self._wakes else None

    def assert_quiet(self) -> None:
        """Asked for everything anew, no reconciler wants anything (see ``wanted_changes``)."""
        wanted = list(wanted_changes(self.tables, self.now, reconcilers=self.reconcilers))
        assert not wanted, f"not quiet: {wanted[:3]}"

    # --- looking

    def node(self, id_: str) -> Node:
        node = self.tables.node(NodeId(id_))
        assert node is not None
        return node

    def has_node(self, id_: str) -> bool:
        return self.tables.node(NodeId(id_)) is not None

    def service(self, id_: str) -> Service:
        service = self.tables.service(ServiceId(id_))
        assert service is not None
        return service

    def has_service(self, id_: str) -> bool:
        return self.tables.service(ServiceId(id_)) is not None

    def task(self, id_: str) -> Task:
        task = self.tables.task(TaskId(id_))
        assert task is not None
        return task

    def tasks(self, service_id: str = "") -> list[Task]:
        """Tasks in the order in which they were stored."""
        found: Iterable[Task] = self.tables.tasks()
        wanted = [task for task in found if not service_id or task.service_id == service_id]
        return sorted(wanted, key=lambda task: (task.version, task.id))

    def live_tasks(self, service_id: str = "") -> list[Task]:
        """Tasks that should run and have not ended."""
        return [
            task
            for task in self.tasks(service_id)
            if task.desired_state <= TaskState.RUNNING and task.status.state <= TaskState.RUNNING
        ]

    def running(self, service_id: str = "") -> list[Task]:
        return [task for task in self.live_tasks(service_id) if task.status.state == TaskState.RUNNING]
