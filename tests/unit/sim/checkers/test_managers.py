"""Replicas, raft terms, and the facade over a real store."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace
from store_values import accept, batch, creates, group, node, revision, service, task

from agent.events import SaveStatus
from manager.raft.proposer import RaftStatus
from manager.store.events import Commit, Event, Resync
from manager.store.store import Store
from manager.store.watch import Watch
from swarmpy.model.changes import Delete, Order, Report
from swarmpy.model.ids import NodeId, TaskId
from swarmpy.model.objects import Kind, TaskStatus
from swarmpy.model.specs import EndpointSpec, PortConfig, ServiceSpec
from swarmpy.model.states import Owner, PublishMode, TaskState
from swarmpy.sim.checkers import Checkers, Options, Violations
from swarmpy.sim.checkers.raft_terms import RaftTerms
from swarmpy.sim.checkers.replicas import Replicas, compare_stores, digest_of


class Manager:
    """A store with its watch, heard by a checker."""

    def __init__(self, name: str, heard: Checkers | Replicas, store: Store | None = None) -> None:
        self.name = name
        self.store = store if store is not None else Store()
        self._heard = heard
        self._watch: Watch = self.store.watch()
        heard.started(name, self.store)

    def accept(self, *groups: Any) -> None:
        accept(self.store, *groups)
        self.tell()

    def tell(self) -> None:
        for notice in self._watch.take():
            if isinstance(notice, Resync):
                self._heard.resynced(self.name, self.store)
            else:
                self._heard.committed(self.name, notice)


def report(task_id: str, state: TaskState, owner: Owner = Owner.AGENT) -> Any:
    return group(Report(task_id=TaskId(task_id), status=TaskStatus(state=state)), owner=owner)


def some_batches() -> list[tuple[Any, ...]]:
    return [
        (creates(node("n1"), service("s1"), revision("s1-r", "s1")),),
        (creates(task("t1", on="n1", slot=1)), creates(task("t2", on="n1", slot=2))),
        (report("t1", TaskState.RUNNING), report("t2", TaskState.REJECTED)),
        (group(Order(task_id=TaskId("t2"), desired_state=TaskState.SHUTDOWN)),),
        (group(Delete(kind=Kind.TASK, id="t2"), owner=Owner.REAPER),),
    ]


def sentences(violations: Violations) -> list[str]:
    return [violation.sentence for violation in violations]


# --- replicas


def restored(store: Store) -> Store:
    other = Store()
    other.restore(store.encode(store.freeze()))
    return other


def test_equal_managers_are_fine_however_far_apart() -> None:
    violations = Violations()
    batches: list[tuple[list[Event], bool]] = []
    replicas = Replicas(violations, lambda events, is_gap: batches.append((events, is_gap)))
    first, second = Manager("m1", replicas), Manager("m2", replicas)
    for groups in some_batches():
        first.accept(*groups)
    for groups in some_batches():
        second.accept(*groups)
    assert not violations
    assert [len(events) for events, _ in batches] == [3, 2, 2, 1, 1]
    assert not any(is_gap for _, is_gap in batches)
    assert replicas.version == first.store.version
    assert replicas.mirror[Kind.TASK].keys() == {"t1"}


def test_managers_that_take_turns_in_being_first_make_one_history() -> None:
    violations = Violations()
    seen: list[int] = []
    replicas = Replicas(violations, lambda events, is_gap: seen.append(len(events)))
    managers = [Manager("m1", replicas), Manager("m2", replicas)]
    for turn, groups in enumerate(some_batches()):
        for manager in managers if turn % 2 else reversed(managers):
            manager.accept(*groups)
    assert not violations
    assert seen == [3, 2, 2, 1, 1]


def test_a_manager_that_applied_something_else() -> None:
    violations = Violations()
    replicas = Replicas(violations)
    first, second = Manager("m1", replicas), Manager("m2", replicas)
    for manager in (first, second):
        manager.accept(creates(node("n1")))
    first.accept(creates(node("n2")))
    second.accept(creates(node("n3")))
    assert sentences(violations) == ["manager m2: version 2 differs from that of m1"]


def test_a_batch_that_rests_on_another_past() -> None:
    violations = Violations()
    replicas = Replicas(violations)
    first = Manager("m1", replicas)
    first.accept(creates(node("n1")))
    changed = replace(node("n1"), version=5)
    replicas.committed("m1", Event(Kind.NODE, changed, replace(changed, version=6)))
    replicas.committed("m1", Commit(2))
    assert "was another one before" in sentences(violations)[0]


def test_a_manager_that_jumps_past_the_others() -> None:
    violations = Violations()
    replicas = Replicas(violations)
    first, second = Manager("m1", replicas), Manager("m2", replicas)
    first.accept(creates(node("n1")))
    accept(second.store, creates(node("n1")), creates(node("n2")))
    second.tell()
    assert "went from version 0 to 2 at once, past 1" in sentences(violations)[0]


def test_a_restart_from_an_older_snapshot_replays_and_is_compared_as_a_whole() -> None:
    violations = Violations()
    replicas = Replicas(violations)
    first = Manager("m1", replicas)
    batches = some_batches()
    for groups in batches[:2]:
        first.accept(*groups)
    old = restored(first.store)
    for groups in batches[2:]:
        first.accept(*groups)
    second = Manager("m2", replicas, old)
    for groups in batches[2:]:
        second.accept(*groups)
    assert not violations


def test_a_restart_that_lost_an_object_is_seen_at_once() -> None:
    violations = Violations()
    replicas = Replicas(violations)
    first = Manager("m1", replicas)
    first.accept(creates(node("n1"), node("n2")))
    broken = restored(first.store)
    broken._tables.remove(Kind.NODE, "n2")
    Manager("m1", replicas, broken)
    assert sentences(violations) == ["manager m1: has another node n2 at version 1"]


def test_a_restart_that_lost_an_object_is_seen_when_it_has_caught_up() -> None:
    violations = Violations()
    replicas = Replicas(violations)
    first = Manager("m1", replicas)
    first.accept(creates(node("n1"), node("n2")))
    broken = restored(first.store)
    broken._tables.remove(Kind.NODE, "n2")
    first.accept(creates(node("n3")))
    second = Manager("m2", replicas, broken)
    assert not violations
    second.accept(creates(node("n3")))
    assert sentences(violations) == ["manager m2: has another node n2 at version 2"]


def test_a_snapshot_ahead_of_all_is_a_gap() -> None:
    violations = Violations()
    gaps: list[bool] = []
    replicas = Replicas(violations, lambda events, is_gap: gaps.append(is_gap))
    ahead = Store()
    for groups in some_batches():
        accept(ahead, *groups)
    Manager("m1", replicas, ahead)
    assert gaps == [True]
    assert replicas.version == ahead.version
    assert not violations


def test_a_resync_takes_the_store_as_it_is_and_skips_what_it_holds() -> None:
    violations = Violations()
    replicas = Replicas(violations)
    first, second = Manager("m1", replicas), Manager("m2", replicas)
    for groups in some_batches():
        first.accept(*groups)
    second.store.restore(first.store.encode(first.store.freeze()))
    accept(second.store, creates(node("n9")))
    second.tell()
    first.accept(creates(node("n9")))
    assert not violations


def test_a_manager_that_goes_back_within_one_life() -> None:
    violations = Violations()
    replicas = Replicas(violations)
    first = Manager("m1", replicas)
    empty = Store()
    first.accept(creates(node("n1")))
    replicas.resynced("m1", empty)
    assert "went back from version 1 to 0" in sentences(violations)[0]


def test_digests_are_bounded_and_what_is_not_compared_is_counted() -> None:
    replicas = Replicas(Violations(), versions_kept=2)
    first, second = Manager("m1", replicas), Manager("m2", replicas)
    for groups in some_batches():
        first.accept(*groups)
    for groups in some_batches():
        second.accept(*groups)
    assert len(replicas._digests) == 2
    assert replicas.unseen_versions > 0


def test_digests_are_the_same_in_every_process_and_for_any_order_of_maps() -> None:
    def event(labels: dict[str, str]) -> Event:
        known = node("n1")
        return Event(Kind.NODE, None, replace(known, spec=replace(known.spec, labels=labels)))

    one, other = event({"a": "1", "b": "2"}), event({"b": "2", "a": "1"})
    assert digest_of([one]) == digest_of([other])
    assert digest_of([one]) != digest_of([event({"a": "2", "b": "1"})])
    assert digest_of([Event(Kind.NODE, node("n1"), None)]) != digest_of([Event(Kind.NODE, node("n2"), None)])
    assert digest_of([Event(Kind.NODE, None, node("n1"))]) == 3591419026


def test_compare_stores() -> None:
    first = Store()
    for groups in some_batches():
        accept(first, *groups)
    same = restored(first)
    assert compare_stores({"m1": first, "m2": same}) == []
    same._tables.put(Kind.NODE, replace(node("n1"), version=77))
    assert compare_stores({"m1": first, "m2": same}) == ["node n1 differs between m1 and m2"]
    assert "m1 is at version" in compare_stores({"m1": first, "m2": Store()})[0]


def test_compare_stores_sees_another_order() -> None:
    first, second = Store(), Store()
    accept(first, creates(node("n1"), node("n2")))
    accept(second, creates(node("n2"), node("n1")))
    assert "another order" in compare_stores({"m1": first, "m2": second})[0]


# --- raft


def status(raft_id: str, term: int, *, leads: bool = False, commit: int = 0, applied: int = 0) -> RaftStatus:
    return RaftStatus(
        raft_id=raft_id,
        term=term,
        leader=None,
        is_leader=leads,
        is_ready_leader=False,
        commit=commit,
        applied=applied,
        members=(),
    )


def raft(*statuses: tuple[str, RaftStatus] | str) -> list[str]:
    violations = Violations()
    terms = RaftTerms(violations)
    for each in statuses:
        if isinstance(each, str):
            terms.started(each)
        else:
            terms.status(*each)
    return sentences(violations)


def test_one_leader_after_the_other_is_fine() -> None:
    assert (
        raft(
            "m1",
            "m2",
            ("m1", status("a", 1, leads=True, commit=3, applied=3)),
            ("m2", status("b", 2, leads=True, commit=2)),
            ("m1", status("a", 2, commit=4, applied=4)),
            "m1",
            ("m1", status("a", 2)),
            ("m1", status("a", 3, leads=True)),
            ("m1", status("c", 0)),  # it joined anew, as another member
        )
        == []
    )


@pytest.mark.parametrize(
    ("statuses", "said"),
    [
        ((("m1", status("a", 1, leads=True)), ("m2", status("b", 1, leads=True))), "has a second leader"),
        ((("m1", status("a", 1, leads=True)), "m1", ("m1", status("a", 1, leads=True))), "after a restart"),
        ((("m1", status("a", 3)), ("m1", status("a", 2))), "went back from term 3 to 2"),
        ((("m1", status("a", 3, leads=True)), "m1", ("m1", status("a", 2))), "went back from term 3 to 2"),
        ((("m1", status("a", 1, commit=5)), ("m1", status("a", 1, commit=4))), "committed went back"),
        ((("m1", status("a", 1, applied=5)), ("m1", status("a", 1, applied=4))), "applied went back"),
    ],
)
def test_raft_that_goes_wrong(statuses: Any, said: str) -> None:
    (sentence,) = raft("m1", *statuses)
    assert said in sentence


def test_a_late_status_says_only_who_led() -> None:
    violations = Violations()
    terms = RaftTerms(violations)
    terms.status("m1", status("a", 3, commit=9))
    terms.status("m1", status("a", 2, commit=5, leads=True), is_late=True)
    assert not violations
    terms.status("m2", status("b", 2, leads=True), is_late=True)
    assert sentences(violations) == ["term 2 has a second leader"]


# --- the facade


def test_the_facade_judges_each_batch_once_whoever_brings_it() -> None:
    checkers = Checkers(lambda: 1.0)
    managers = [Manager("m1", checkers), Manager("m2", checkers)]
    checkers.persisted(NodeId("n1"), (SaveStatus(TaskId("t1"), TaskStatus(state=TaskState.RUNNING)),))
    for groups in some_batches():
        for manager in managers:
            manager.accept(*groups)
    assert sentences(checkers.violations) == []
    for manager in managers:
        manager.accept(creates(task("t3", on="n1", slot=1)))
    assert sentences(checkers.violations) == ["slot 1 of service s1 has 2 tasks that are wanted"]


def test_the_facade_notices_a_state_out_of_nowhere_and_a_second_start() -> None:
    checkers = Checkers(lambda: 1.0)
    manager = Manager("m1", checkers)
    for groups in some_batches():
        manager.accept(*groups)
    assert sentences(checkers.violations) == ["task t1 is stored as running, which no agent has reported"]
    checkers.machine_started(NodeId("n1"), TaskId("t1"))
    checkers.machine_started(NodeId("n2"), TaskId("t1"))
    checkers.status("m1", status("a", 1, leads=True))
    checkers.status("m2", status("b", 1, leads=True))
    assert checkers.violations.counts == {"task life": 1, "starts": 1, "raft": 1}


def test_what_is_held_is_known_across_a_gap() -> None:
    """A manager was killed before it was heard, and another one begins where nobody saw it go."""
    checkers = Checkers(lambda: 1.0, options=Options(has_reports=False))
    ports = (PortConfig(target_port=80, published_port=80, publish_mode=PublishMode.HOST),)
    spec = ServiceSpec(name="s1", endpoint_spec=EndpointSpec(ports=ports))
    first = Manager("m1", checkers)
    first.accept(
        creates(node("n1"), node("n2"), service("s1"), replace(revision("s1-r", "s1"), spec=spec)),
        creates(task("t1", on="n1", slot=1), task("t2", on="n2", slot=2)),
    )
    ahead = restored(first.store)
    accept(ahead, report("t1", TaskState.RUNNING), report("t2", TaskState.FAILED))
    second = Manager("m2", checkers, ahead)
    second.accept(creates(task("t3", on="n2", slot=3)))
    assert sentences(checkers.violations) == []
    second.accept(creates(task("t4", on="n1", slot=4)))
    assert sentences(checkers.violations) == ["host port n1 tcp 80 is held twice"]


def test_the_end_compares_the_stores() -> None:
    checkers = Checkers(lambda: 1.0)
    manager = Manager("m1", checkers)
    manager.accept(creates(node("n1")))
    assert checkers.final({"m1": manager.store, "m2": restored(manager.store)}).is_clean
    assert not checkers.final({"m1": manager.store, "m2": Store()}).is_clean
    assert checkers.violations.counts == {"replicas": 1}


def test_a_refused_batch_is_no_event() -> None:
    checkers = Checkers(lambda: 1.0)
    manager = Manager("m1", checkers)
    assert manager.store.apply_batch(batch(group(Delete(kind=Kind.NODE, id="n7")))).refused
    manager.tell()
    assert checkers.replicas.version == 0
