"""Newer data, rollbacks, revisions that go: whatever a stored revision pins is there, and is what it was; and
a node holds just the data that its tasks use.
"""

from __future__ import annotations

import itertools

from budget import machine_settings
from clusters import apply, make_service, store_with
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec.structs import replace

from manager.api.file_versions import renew
from manager.assignments import Assignable, Item, NodeAssignments, Removed
from manager.reconcile.file_upkeep import FileUpkeep
from manager.reconcile.reaper import Reaper
from manager.store.file_data import pinned_numbers
from swarmpy.model.changes import Create, Delete, Order, Report, Update
from swarmpy.model.cluster_specs import ConfigSpec, SecretSpec
from swarmpy.model.file_versions import NEWEST, data_number, data_of, pins_of, references_of
from swarmpy.model.ids import ConfigId, NodeId, SecretId, ServiceId, TaskId, Timestamp
from swarmpy.model.objects import KINDS, Config, Kind, Revision, Secret, Task, TaskStatus
from swarmpy.model.specs import ConfigReference, ContainerSpec, SecretReference, TaskSpec
from swarmpy.model.states import Owner, TaskState

NODE = NodeId("node-1")
NOW = Timestamp(1)
SERVICES = ("pins", "follows")
FILES = ((Kind.SECRET, "key"), (Kind.CONFIG, "page"))


class FileVersionsMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.store = store_with()
        apply(self.store, Create(object=Secret(id=SecretId("key"), spec=SecretSpec(name="key", data=b"0"))))
        page = Config(id=ConfigId("page"), number=1, spec=ConfigSpec(name="page", data=b"0"))
        apply(self.store, Create(object=page))
        for name, version in zip(SERVICES, (1, NEWEST), strict=True):
            container = ContainerSpec(
                image="host",
                secrets=(SecretReference(secret_id="key", secret_name="key", version=version),),
                configs=(ConfigReference(config_id="page", config_name="page", version=1),),
            )
            service, revision = make_service(name, template=TaskSpec(container_spec=container))
            apply(self.store, Create(object=service), Create(object=revision))
        self.put: dict[tuple[Kind, str, int], bytes] = {(*key, 1): b"0" for key in FILES}
        self.numbers = itertools.count(1)
        self.assignments = NodeAssignments(NODE)
        self.held: dict[tuple[Kind, str], Assignable] = {}
        self.take(self.assignments.complete(self.store))

    def take(self, items: list[Item]) -> None:
        for item in items:
            if isinstance(item, Removed):
                del self.held[(item.kind, item.id)]
            elif isinstance(item, Assignable):
                self.held[(KINDS[type(item)], item.id)] = item

    # --- what users do

    @rule(which=st.integers(0, 1), data=st.sampled_from([b"0", b"1", b"22"]))
    def put_newer_data(self, which: int, data: bytes) -> None:
        item = self.store.get(*FILES[which])
        assert isinstance(item, Secret | Config)
        ids = [f"r{next(self.numbers)}" for _ in SERVICES]
        changes, _ = renew(self.store, item, data, revision_ids=ids, now=NOW)
        apply(self.store, *changes)
        self.put[(*FILES[which], data_number(item) + 1)] = data
        self.take(self.assignments.refreshed(self.store, FILES[which]))

    @rule(name=st.sampled_from(SERVICES), pick=st.integers(0, 99))
    def roll_back(self, name: str, pick: int) -> None:
        service = self.store.service(ServiceId(f"{name}-s"))
        assert service is not None
        kept = sorted(self.store.revisions_of(service.id), key=lambda each: each.number)
        goal = kept[pick % len(kept)]
        changed = replace(
            service,
            spec=goal.spec,
            revision_id=goal.id,
            template_id=goal.id,
            previous_id=service.revision_id,
        )
        apply(self.store, Update(object=changed))

    # --- what managers and agents do

    @rule(name=st.sampled_from(SERVICES))
    def reap(self, name: str) -> None:
        for group in Reaper().reconcile(self.store, f"{name}-s", NOW).groups:
            apply(self.store, *group.changes, owner=group.owner)

    @rule()
    def forget_former_data(self) -> None:
        upkeep = FileUpkeep()
        for key in list(upkeep.keys(self.store)):
            for group in upkeep.reconcile(self.store, key, NOW).groups:
                apply(self.store, *group.changes, owner=group.owner)
        for kind, id_ in FILES:
            item = self.store.get(kind, id_)
            assert isinstance(item, Secret | Config)
            assert {each.number for each in item.older} <= pinned_numbers(self.store, item)
            self.take(self.assignments.refreshed(self.store, (kind, id_)))

    @rule(name=st.sampled_from(SERVICES), is_here=st.booleans())
    def start_a_task(self, name: str, is_here: bool) -> None:
        service = self.store.service(ServiceId(f"{name}-s"))
        assert service is not None
        task = Task(
            id=TaskId(f"t{next(self.numbers)}"),
            service_id=service.id,
            slot=1,
            node_id=NODE if is_here else NodeId("node-2"),
            revision_id=service.revision_id,
            status=TaskStatus(state=TaskState.ASSIGNED),
        )
        apply(self.store, Create(object=task), owner=Owner.ORCHESTRATOR)
        self.take(self.assignments.changes(self.store, [task.id]))

    @precondition(lambda self: self.store.tasks())
    @rule(pick=st.integers(0, 99), how=st.sampled_from(["order", "end", "delete"]))
    def end_a_task(self, pick: int, how: str) -> None:
        tasks = sorted(self.store.tasks(), key=lambda each: each.id)
        task_id = tasks[pick % len(tasks)].id
        if how == "order":
            order = Order(task_id=task_id, desired_state=TaskState.SHUTDOWN)
            apply(self.store, order, owner=Owner.ORCHESTRATOR)
        else:
            status = TaskStatus(state=TaskState.SHUTDOWN)
            apply(self.store, Report(task_id=task_id, status=status), owner=Owner.AGENT)
        if how == "delete":
            apply(self.store, Delete(kind=Kind.TASK, id=task_id), owner=Owner.REAPER)
        self.take(self.assignments.changes(self.store, [task_id]))

    # --- what holds

    @invariant()
    def whatever_is_pinned_is_there_and_is_what_it_was(self) -> None:
        for revision in self.store.all(Kind.REVISION):
            assert isinstance(revision, Revision)
            for pin in pins_of(revision.spec):
                item = self.store.get(pin.kind, pin.id)
                assert isinstance(item, Secret | Config)
                assert data_of(item, pin.number) == self.put[(pin.kind, pin.id, pin.number)]

    @invariant()
    def a_node_holds_what_its_tasks_use(self) -> None:
        used: dict[tuple[Kind, str], set[int]] = {}
        for task in self.store.tasks_of_node(NODE):
            revision = self.store.revision(task.revision_id)
            if revision is None or task.status.state > TaskState.RUNNING:
                continue
            if task.desired_state > TaskState.COMPLETE:
                continue
            for each in references_of(revision.spec):
                kind, id_ = FILES[isinstance(each, ConfigReference)]
                item = self.store.get(kind, id_)
                assert isinstance(item, Secret | Config)
                used.setdefault((kind, id_), set()).add(each.version or data_number(item))
        held = {key: item for key, item in self.held.items() if isinstance(item, Secret | Config)}
        assert {key: _data(item) for key, item in held.items()} == {
            key: {number: self.put[(*key, number)] for number in numbers} for key, numbers in used.items()
        }


def _data(item: Secret | Config) -> dict[int, bytes]:
    """What a node could read."""
    found = {each.number: each.data for each in item.older}
    return {**found, data_number(item): item.spec.data} if item.spec.data else found


TestFileVersions = FileVersionsMachine.TestCase
TestFileVersions.settings = machine_settings(examples=40, steps=30)
