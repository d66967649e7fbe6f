"""A change of the root: who is asked when, what it waits for, and who may come back afterwards."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from clusters import apply, make_node
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from manager.reconcile.plan import Plan
from manager.reconcile.root_rotation import RootRotations, issuer_of
from manager.store.store import Store
from swarmpy import pki
from swarmpy.model.changes import Create, Delete, NodeReport
from swarmpy.model.ids import SECOND_NS, ClusterId, NodeId, Timestamp
from swarmpy.model.objects import Cluster, Kind, Node, NodeDescription, NodeStatus, TLSInfo
from swarmpy.model.root_ca import RootCA
from swarmpy.model.states import NodeRole, NodeState, Owner
from swarmpy.pki import Issuer
from swarmpy.pki.limits import ROOT_DOWN_GRACE_S, ROOT_RENEWALS_MAX, ROOT_RETIRED_KEPT_S

NOW = Timestamp(1_790_000_000 * SECOND_NS)
GRACE = int(ROOT_DOWN_GRACE_S * SECOND_NS)


def _roots() -> tuple[RootCA, RootCA]:
    """One root, and it again while it is being changed: keys are dear, so all tests share them."""
    secrets = (b"w" * pki.SECRET_BYTES, b"m" * pki.SECRET_BYTES)
    old = pki.create_root_ca(NOW, key=b"1" * pki.KEY_BYTES, serial=b"1" * pki.SERIAL_BYTES, secrets=secrets)
    new = pki.make_root(NOW, key=b"2" * pki.KEY_BYTES, serial=b"2" * pki.SERIAL_BYTES)
    return old, pki.begin_rotation(old, new, serial=b"3" * pki.SERIAL_BYTES, secrets=secrets)


STILL, CHANGING = _roots()
OLD = pki.issuer_in(STILL.ca_cert)
NEW = pki.issuer_in(pki.issuer_of(CHANGING)[0])


def node(
    name: str,
    issuer: Issuer | None = OLD,
    state: NodeState = NodeState.READY,
    *,
    since: int = 0,
    role: NodeRole = NodeRole.WORKER,
    wanted: bytes = b"",
) -> Node:
    told = None
    if issuer is not None:
        told = TLSInfo(cert_issuer_subject=issuer.subject, cert_issuer_public_key=issuer.public_key)
    return replace(
        make_node(name),
        role=role,
        description=NodeDescription(hostname=name, tls_info=told),
        status=NodeStatus(state=state, since=Timestamp(NOW + since)),
        wanted_issuer=wanted,
    )


def world(root: RootCA, *nodes: Node) -> Store:
    store = Store()
    apply(store, Create(object=Cluster(id=ClusterId("c"), root_ca=root)))
    apply(store, *(Create(object=each) for each in nodes))
    return store


def step(store: Store, after: int = 0) -> Plan:
    """One decision, carried out."""
    rotations = RootRotations()
    (key,) = rotations.keys(store)
    plan = rotations.reconcile(store, key, Timestamp(NOW + after))
    for group in plan.groups:
        apply(store, *group.changes)
    return plan


def turn(store: Store, name: str) -> None:
    """The node has its new certificate, and says so."""
    description = node(name, NEW).description
    report(store, NodeReport(node_id=NodeId(name), description=description))


def go_down(store: Store, name: str, after: int) -> None:
    status = NodeStatus(state=NodeState.DOWN, since=Timestamp(NOW + after))
    report(store, NodeReport(node_id=NodeId(name), status=status))


def report(store: Store, told: NodeReport) -> None:
    apply(store, told, owner=Owner.DISPATCHER)


def root_of(store: Store) -> RootCA:
    cluster = store.cluster()
    assert cluster is not None
    return cluster.root_ca


def asked(store: Store) -> set[str]:
    return {node.id for node in store.nodes() if node.wanted_issuer == NEW.mark}


def test_without_a_change_nothing_is_asked_for() -> None:
    store = world(STILL, node("a"), node("b", None), node("c", state=NodeState.DOWN))
    assert step(store) == Plan()


def test_all_who_are_there_are_asked_and_the_end_comes_when_they_have_turned() -> None:
    store = world(CHANGING, node("a"), node("b"), node("c", NEW))
    step(store)
    assert asked(store) == {"a", "b"}
    assert step(store) == Plan(), "nobody is asked twice"
    for name in ("a", "b"):
        assert root_of(store).rotation is not None
        turn(store, name)
        step(store)
    assert root_of(store) == replace(pki.finish_rotation(CHANGING, (), NOW))


def test_managers_come_first_and_their_number_is_bounded() -> None:
    count = ROOT_RENEWALS_MAX + 5
    nodes = [node(f"w{number:03}") for number in range(count)]
    managers = [node(f"z{number}", role=NodeRole.MANAGER) for number in range(3)]
    store = world(CHANGING, *nodes, *managers)
    step(store)
    assert len(asked(store)) == ROOT_RENEWALS_MAX
    assert {"z0", "z1", "z2"} < asked(store)
    step(store)
    assert len(asked(store)) == ROOT_RENEWALS_MAX
    turn(store, "z0")
    step(store)
    assert len(asked(store)) == ROOT_RENEWALS_MAX + 1


@pytest.mark.parametrize("state", [NodeState.UNKNOWN, NodeState.DISCONNECTED, NodeState.READY])
def test_a_node_that_may_be_there_is_waited_for(state: NodeState) -> None:
    store = world(CHANGING, node("a", NEW), node("b", state=state, since=-1000 * GRACE))
    step(store)
    assert root_of(store).rotation is not None


def test_a_dead_node_holds_nothing_up_for_long_and_is_named() -> None:
    store = world(CHANGING, node("a", NEW), node("b", state=NodeState.DOWN))
    assert step(store, GRACE - 1).wake_at == NOW + GRACE
    assert root_of(store).rotation is not None
    step(store, GRACE)
    (retired,) = root_of(store).retired
    assert (retired.ca_cert, retired.node_ids) == (STILL.ca_cert, (NodeId("b"),))
    assert step(store, GRACE).wake_at == retired.expires_at


def test_one_that_is_dead_but_has_turned_is_not_named() -> None:
    store = world(CHANGING, node("a", NEW, NodeState.DOWN))
    step(store)
    assert root_of(store).rotation is None
    assert root_of(store).retired == ()


@pytest.mark.parametrize("how", ["back", "removed", "expired"])
def test_the_old_root_is_forgotten_when_nobody_needs_it(how: str) -> None:
    left = pki.finish_rotation(CHANGING, [NodeId("a"), NodeId("b")], NOW)
    store = world(left, node("a", NEW), node("b", state=NodeState.DOWN))
    step(store)
    assert [retired.node_ids for retired in root_of(store).retired] == [(NodeId("b"),)]
    after = 0
    match how:
        case "back":
            turn(store, "b")
        case "removed":
            apply(store, Delete(kind=Kind.NODE, id=NodeId("b")))
        case _:
            after = int(ROOT_RETIRED_KEPT_S) * SECOND_NS
    step(store, after)
    assert root_of(store).retired == ()


def test_a_change_that_was_called_off_is_undone_on_nodes() -> None:
    store = world(
        pki.cancel_rotation(CHANGING),
        node("turned", NEW, wanted=NEW.mark),
        node("asked", wanted=NEW.mark),
        node("neither"),
        node("away", NEW, NodeState.DOWN, wanted=NEW.mark),
    )
    step(store)
    wishes = {node.id: node.wanted_issuer for node in store.nodes()}
    assert wishes == {"turned": OLD.mark, "asked": OLD.mark, "neither": b"", "away": OLD.mark}


def test_only_what_matters_makes_work() -> None:
    rotations, store = RootRotations(), world(CHANGING, node("a"))
    one = node("a")
    assert rotations.dirty(store, None, one)
    assert rotations.dirty(store, one, None)
    assert rotations.dirty(store, one, node("a", NEW))
    assert rotations.dirty(store, one, node("a", state=NodeState.DOWN))
    assert not rotations.dirty(store, one, replace(one, number=7))
    cluster = store.cluster()
    assert cluster is not None
    assert rotations.dirty(store, None, cluster)
    assert not rotations.dirty(store, cluster, replace(cluster, store_format=9))


_NODES = st.lists(
    st.tuples(
        st.sampled_from([None, OLD, NEW]),
        st.sampled_from([NodeState.READY, NodeState.DOWN, NodeState.UNKNOWN, NodeState.DISCONNECTED]),
        st.integers(-2 * GRACE, 0),
    ),
    max_size=8,
)


@given(nodes=_NODES)
def test_the_end_leaves_nobody_behind_who_was_there(
    nodes: Iterable[tuple[Issuer | None, NodeState, int]],
) -> None:
    made = [node(f"n{place}", *each[:2], since=each[2]) for place, each in enumerate(nodes)]
    store = world(CHANGING, *made)
    step(store)
    root = root_of(store)
    late = {each.id for each in made if issuer_of(each) != NEW}
    if root.rotation is None:
        assert all(each.status.state is NodeState.DOWN for each in made if each.id in late)
        assert {node_id for retired in root.retired for node_id in retired.node_ids} == late
    else:
        assert any(
            each.status.state is not NodeState.DOWN or each.status.since + GRACE > NOW
            for each in made
            if each.id in late
        )


@given(nodes=_NODES)
def test_it_always_comes_to_an_end(nodes: Iterable[tuple[Issuer | None, NodeState, int]]) -> None:
    """Every node turns once it is asked, or goes down."""
    made = [node(f"n{place}", *each[:2], since=each[2]) for place, each in enumerate(nodes)]
    store = world(CHANGING, *made)
    for after in range(0, 5 * GRACE, GRACE):
        step(store, after)
        for each in list(store.nodes()):
            if each.wanted_issuer == NEW.mark:
                turn(store, each.id)
            elif issuer_of(each) != NEW and each.status.state is not NodeState.DOWN:
                go_down(store, each.id, after)
    assert root_of(store).rotation is None
