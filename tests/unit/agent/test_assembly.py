"""A COMPLETE set in parts: the manager cuts it, the agent joins it, and nothing less takes effect."""

from __future__ import annotations

import pytest
from store_values import accept, config, creates, node, service, small_cluster, store_with, task

from agent.assembly import Assembly
from manager.session import Session
from manager.store.store import Store
from swarmpy.limits import ASSIGNMENT_BYTES_MAX, ASSIGNMENT_CHANGES_MAX, RPC_MESSAGE_BYTES_MAX
from swarmpy.model.cluster_specs import ConfigSpec
from swarmpy.model.discovery import NetworkSettings, NodePeer
from swarmpy.model.ids import NodeId, SessionId, TaskId
from swarmpy.model.objects import Config, Revision, Task
from swarmpy.pb import dispatcher_pb2 as pb

TASKS = 2 * ASSIGNMENT_CHANGES_MAX + 7


def updates(session: Session, store: Store) -> list[pb.AssignmentUpdate]:
    return [message.assignments for message in session.next_messages(store)]


@pytest.fixture
def store() -> Store:
    return small_cluster(*(task(f"t{number}", on="n1") for number in range(TASKS)))


@pytest.fixture
def session() -> Session:
    return Session(NodeId("n1"), SessionId("s"))


def test_a_large_set_comes_in_parts_and_takes_effect_as_a_whole(store: Store, session: Session) -> None:
    parts = updates(session, store)
    assert [len(part.changes) for part in parts] == [ASSIGNMENT_CHANGES_MAX, ASSIGNMENT_CHANGES_MAX, 10]
    assert [part.continues for part in parts] == [True, True, False]
    assembly = Assembly()
    told = [assembly.take(part) for part in parts]
    assert told[:-1] == [None, None]
    whole = told[-1]
    assert whole is not None
    assert whole.is_complete
    assert (whole.applies_to, whole.results_in) == (0, 3)
    assert {change.id for change in whole.changes if isinstance(change, Task)} == {
        f"t{number}" for number in range(TASKS)
    }


def test_what_follows_is_chained_to_the_last_part(store: Store, session: Session) -> None:
    assembly = Assembly()
    for part in updates(session, store):
        assembly.take(part)
    accept(store, creates(task("late", on="n1")))
    session.task_changed(TaskId("late"))
    (update,) = updates(session, store)
    assert not update.continues
    late = assembly.take(update)
    assert late is not None
    assert (late.is_complete, late.applies_to, late.results_in) == (False, 3, 4)


def test_large_objects_do_not_make_a_message_too_large(session: Session) -> None:
    data = b"x" * 400_000
    configs = [Config(id=config(f"c{n}").id, spec=ConfigSpec(name=f"c{n}", data=data)) for n in range(60)]
    wanted = service("s1", configs=tuple(each.id for each in configs))
    made = Revision(id=wanted.revision_id, service_id=wanted.id, spec=wanted.spec)
    store = store_with(node(), *configs, wanted, made, task("t1", on="n1"))
    parts = updates(session, store)
    sizes = [part.ByteSize() for part in parts]
    assert sum(sizes) > RPC_MESSAGE_BYTES_MAX
    assert max(sizes) < ASSIGNMENT_BYTES_MAX + 2 * len(data)
    assembly = Assembly()
    whole = [assembly.take(part) for part in parts][-1]
    assert whole is not None
    assert sum(isinstance(change, Config) for change in whole.changes) == 60


@pytest.mark.parametrize("lost", [0, 1])
def test_without_one_of_its_parts_a_set_never_takes_effect(store: Store, session: Session, lost: int) -> None:
    assembly = Assembly()
    parts = updates(session, store)
    told = [assembly.take(part) for number, part in enumerate(parts) if number != lost]
    passed_on = [each for each in told if each is not None]
    assert passed_on, "the core must see that something was lost"
    assert not any(each.is_complete for each in passed_on)
    assert passed_on[0].applies_to > 0, "no core stands there, so it ends the session"


def test_a_set_that_begins_anew_replaces_its_beginning(store: Store, session: Session) -> None:
    assembly = Assembly()
    assembly.take(updates(session, store)[0])
    session.resync()
    whole = [assembly.take(part) for part in updates(session, store)][-1]
    assert whole is not None
    assert sum(isinstance(change, Task) for change in whole.changes) == TASKS


def test_an_empty_set_is_one_message(session: Session) -> None:
    (update,) = updates(session, small_cluster())
    received = Assembly().take(update)
    assert received is not None
    assert (received.is_complete, received.applies_to, received.results_in) == (True, 0, 1)
    assert [type(change) for change in received.changes] == [NetworkSettings, NodePeer]
