"""Replicas of the store: fed one log, however it reaches them, they are one.

One replica applies each entry as it comes. Another lags: it applies in bursts, is restored from snapshots
that were frozen at any time, encoded later (while the first went on) and cut anywhere, and then goes on from
there. Watchers with small queues rebuild the state from what they are told, over overflows and restores.
Objects and entries carry fields of newer versions. ``test_store_machine.py`` says what the state must be;
here it must be the same everywhere.
"""

from __future__ import annotations

from typing import Any

from budget import machine_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec.structs import replace
from store_values import AT, creates, node, revision, service, task

from manager.store.events import Commit, Event, Resync
from manager.store.snapshot import Frozen
from manager.store.store import Store
from manager.store.watch import Watch
from swarmpy import codec
from swarmpy.model.changes import Applied, Batch, Change, Create, Delete, Group, Order, Report, Update
from swarmpy.model.ids import RevisionId, ServiceId, TaskId
from swarmpy.model.objects import Kind, TaskStatus
from swarmpy.model.states import Owner, TaskState
from tests.strategies import unknown_fields

TASKS = tuple(TaskId(f"t{number}") for number in range(5))
SERVICES = ("s1", "s2")
Rows = dict[tuple[Kind, str], Any]


@st.composite
def changes(draw: st.DrawFn, store: Store) -> Change:
    """Something about tasks and services; versions are mostly those of now, sometimes those of before."""
    task_id = draw(st.sampled_from(TASKS))
    unknown = draw(st.one_of(st.just(b""), unknown_fields()))
    stored = store.task(task_id)
    match draw(
        st.sampled_from(["create", "create", "update", "update", "order", "report", "delete", "service"])
    ):
        case "create":
            made = task(task_id, on=draw(st.sampled_from(["", "n1"])))
            return Create(object=replace(made, unknown_fields=unknown))
        case "update" if stored is not None:
            version = stored.version - draw(st.sampled_from([0, 0, 0, 1]))
            return Update(object=replace(stored, version=version, restarts=draw(st.integers(0, 3))))
        case "report":
            state = draw(st.sampled_from([TaskState.PREPARING, TaskState.RUNNING, TaskState.FAILED]))
            status = TaskStatus(state=state, report=draw(st.integers(0, 2)), unknown_fields=unknown)
            return Report(task_id=task_id, status=status)
        case "delete":
            version = stored.version if stored is not None and draw(st.booleans()) else 0
            return Delete(kind=Kind.TASK, id=task_id, version=version)
        case "service":
            id_ = draw(st.sampled_from(SERVICES))
            found = store.service(ServiceId(id_))
            if found is None:
                return Create(
                    object=replace(service(id_), revision_id=RevisionId(""), unknown_fields=unknown)
                )
            labels = {"at": draw(st.sampled_from(["x", "y"]))}
            return Update(object=replace(found, spec=replace(found.spec, labels=labels)))
        case _:
            desired = draw(st.sampled_from([TaskState.RUNNING, TaskState.SHUTDOWN, TaskState.REMOVE]))
            return Order(task_id=task_id, desired_state=desired)


def dump(store: Store) -> bytes:
    return b"".join(store.encode(store.freeze()))


def rows_of(store: Store) -> Rows:
    return {(kind, each.id): each for kind in Kind for each in store.all(kind)}


class Watcher:
    """Knows the store by its notices alone, and by a look at it after each Resync."""

    def __init__(self, store: Store, limit: int) -> None:
        self.store = store
        self.limit = limit
        self.watch: Watch = store.watch(limit=limit)
        self.rows = rows_of(store)
        self.version = store.version
        self.resyncs = 0

    def follow(self) -> None:
        notices = self.watch.take()
        # Resync stands for all that was dropped, and a Commit closes each batch
        assert sum(isinstance(each, Event) for each in notices) < self.limit
        for notice in notices:
            match notice:
                case Event(kind=kind, old=old, new=new):
                    known = new if new is not None else old
                    assert known is not None
                    assert self.resyncs or self.rows.get((kind, known.id)) == old
                    if new is None:
                        self.rows.pop((kind, known.id), None)
                    else:
                        self.rows[kind, known.id] = new
                case Commit(version=version):
                    assert version >= self.version
                    self.version = version
                case Resync():
                    self.resyncs += 1
        if any(isinstance(each, Resync) for each in notices):
            self.rows = rows_of(self.store)
        self.resyncs = 0
        assert self.version == self.store.version
        assert self.rows == rows_of(self.store)


class Replicas(RuleBasedStateMachine):
    """See the module's docstring."""

    @initialize(limit=st.sampled_from([1, 3, 8, 1000]))
    def start(self, limit: int) -> None:
        self.first, self.laggard = Store(), Store()
        self.log: list[bytes] = []
        self.outcomes: list[Applied] = []
        self.behind = 0
        """The first entry that the laggard has not applied."""
        self.frozen: tuple[int, Frozen, bytes] | None = None
        self.append(Batch(groups=(creates(node("n1"), service("s1"), revision("s1-r", "s1")),), at=AT))
        self.watchers = [Watcher(self.first, limit), Watcher(self.laggard, limit)]

    def append(self, batch: Batch) -> Applied:
        entry = codec.encode(batch)
        self.log.append(entry)
        self.outcomes.append(self.first.apply(entry, len(self.log)))
        return self.outcomes[-1]

    @rule(
        data=st.data(),
        epoch=st.sampled_from([0] * 6 + [1, 2]),
        request_id=st.sampled_from(["", "", "", "r1", "r2"]),
    )
    def propose(self, data: st.DataObject, epoch: int, request_id: str) -> None:
        """A batch of groups; each stands or falls alone."""
        lists = st.lists(changes(self.first), min_size=1, max_size=3).map(tuple)
        owners = st.sampled_from([Owner.ORCHESTRATOR, Owner.ORCHESTRATOR, Owner.AGENT])
        groups = data.draw(st.lists(st.builds(Group, owner=owners, changes=lists), min_size=1, max_size=4))
        unknown = data.draw(st.one_of(st.just(b""), unknown_fields()))
        is_repeated = request_id in self.first._tables.requests
        earlier, before = self.first._tables.requests.get(request_id), dump(self.first)
        batch = Batch(groups=tuple(groups), at=AT, epoch=epoch, request_id=request_id, unknown_fields=unknown)
        applied = self.append(batch)
        if is_repeated:
            assert (applied, dump(self.first)) == (earlier, before)
        else:
            indexes = [refusal.index for refusal in applied.refused]
            assert indexes == sorted(set(indexes))
            assert set(indexes) <= set(range(len(groups)))

    @rule(garbage=st.binary(max_size=20))
    def propose_garbage(self, garbage: bytes) -> None:
        self.log.append(garbage)
        self.outcomes.append(self.first.apply(garbage, len(self.log)))

    @rule()
    def keep_an_old_entry_for_later(self) -> None:
        """A new leader's retry: the same entry again."""
        entry = self.log[len(self.log) // 2]
        self.log.append(entry)
        self.outcomes.append(self.first.apply(entry, len(self.log)))

    @precondition(lambda self: self.behind < len(self.log))
    @rule(count=st.integers(1, 6))
    def catch_up(self, count: int) -> None:
        for position in range(self.behind, min(self.behind + count, len(self.log))):
            assert self.laggard.apply(self.log[position], position + 1) == self.outcomes[position]
            self.behind = position + 1

    @rule()
    def freeze(self) -> None:
        """A picture is taken, to be encoded later; what it shows now is noted."""
        self.frozen = (len(self.log), self.first.freeze(), dump(self.first))

    @precondition(lambda self: self.frozen is not None)
    @rule(size=st.integers(1, 300))
    def install(self, size: int) -> None:
        """The picture is encoded only now, cut into chunks, and installed where the log was lost."""
        assert self.frozen is not None
        at, frozen, expected = self.frozen
        data = b"".join(self.first.encode(frozen))
        assert data == expected, "what was changed since shows in the picture"
        self.laggard.restore(data[start : start + size] for start in range(0, len(data), size))
        self.behind = at
        self.frozen = None

    @rule()
    def restart_the_first(self) -> None:
        """From its own snapshot, as after a crash."""
        self.first.restore([dump(self.first)])

    @rule()
    def watchers_look(self) -> None:
        for watcher in self.watchers:
            watcher.follow()

    @invariant()
    def replicas_at_one_entry_are_equal(self) -> None:
        if self.behind == len(self.log):
            assert dump(self.laggard) == dump(self.first)
            for kind in Kind:
                assert [x.id for x in self.laggard.all(kind)] == [x.id for x in self.first.all(kind)]

    @rule()
    def nothing_of_newer_versions_is_lost(self) -> None:
        copy = Store()
        copy.restore([dump(self.first)])
        assert rows_of(copy) == rows_of(self.first)

    def teardown(self) -> None:
        if not hasattr(self, "first"):
            return
        if self.behind < len(self.log):
            self.catch_up(len(self.log))
        self.replicas_at_one_entry_are_equal()
        self.watchers_look()


TestReplicas = Replicas.TestCase
TestReplicas.settings = machine_settings(examples=15, steps=25)
