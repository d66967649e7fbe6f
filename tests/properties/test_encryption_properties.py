"""Encrypted networks: whatever the kernel holds it converges, no key counts twice, and both ends agree."""

from __future__ import annotations

import tempfile
from pathlib import Path

from fake_ipsec import FakeIpsec, FakePort
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.dataplane.base import Peer
from agent.dataplane.linux.encryption import esp, routes, wireguard
from agent.dataplane.linux.encryption.associations import Associations, Wanted, tags_of
from agent.dataplane.linux.encryption.epoch import Epoch
from agent.dataplane.linux.encryption.keys import Party
from agent.dataplane.linux.encryption.userspace.orders import Configure
from agent.dataplane.linux.encryption.xfrm import Policy, State
from manager.keys import next_ring
from swarmpy.model.ids import NodeId, Timestamp
from swarmpy.model.objects import NetworkKey

PORT = 4790
BASE = esp.base_policies(PORT)
Ring = tuple[NetworkKey, ...]


def ring_of(version: int) -> Ring:
    """The ring after so many rotations, as the managers make it."""
    ring: Ring = ()
    for tag in range(1, version + 3):
        ring = next_ring(ring, now=Timestamp(tag), secrets=(bytes([tag]) * 32,))
    return ring


def node(number: int, epoch: str = "e") -> esp.Node:
    return esp.Node(Party(f"node{number}", number, f"{epoch}{number}"), f"192.0.2.{number}")


def plan_of(own: int, peers: set[int], version: int, epoch: str = "e") -> esp.Plan:
    return esp.make_plan(node(own, epoch), [node(peer, epoch) for peer in peers], ring_of(version), base=BASE)


plans = st.builds(
    plan_of,
    st.just(1),
    st.sets(st.integers(2, 6)),
    st.integers(0, 4),
    st.sampled_from(["e", "f"]),
)
strays = st.builds(
    Policy,
    direction=st.sampled_from([0, 1]),
    family=st.just(2),
    source=st.sampled_from(["", "192.0.2.1", "192.0.2.3"]),
    target=st.sampled_from(["", "192.0.2.2", "192.0.2.3"]),
    port=st.sampled_from([PORT, 53]),
    priority=st.sampled_from([1, 100, 9_000]),
    request=st.sampled_from([0, 7]),
    is_open=st.just(False),
).filter(lambda policy: bool(policy.source) == bool(policy.target))
foreign = st.builds(
    State,
    source=st.just("192.0.2.2"),
    target=st.just("192.0.2.1"),
    spi=st.integers(256, 260),
    request=st.just(9),
    key=st.just(bytes(36)),
)


@st.composite
def kernels(draw: st.DrawFn) -> FakeIpsec:
    """What a former life of the daemon, an outsider and chance have left."""
    former: esp.Plan = draw(plans)
    kernel = FakeIpsec()
    for state in (*former.states, *draw(st.lists(foreign, max_size=2))):
        known = {(each.target, each.spi) for each in kernel.found}
        if draw(st.booleans()) and (state.target, state.spi) not in known:
            kernel.found.append(state)
    for policy in (*former.base, *former.policies, *draw(st.lists(strays, max_size=4))):
        known_policies = {(each.selector, each.priority) for each in kernel.rules}
        if draw(st.booleans()) and (policy.selector, policy.priority) not in known_policies:
            kernel.rules.append(policy)
    return kernel


@given(kernels(), plans)
def test_whatever_the_kernel_holds_it_converges(kernel: FakeIpsec, plan: esp.Plan) -> None:
    kernel.do(*esp.diff(plan, kernel.states(), kernel.policies()).messages)

    again = esp.diff(plan, kernel.states(), kernel.policies())
    assert (again.messages, again.fresh) == ((), ())
    assert set(plan.states) <= set(kernel.found)
    of_ours = {policy for policy in kernel.rules if policy.port == PORT}
    assert of_ours == {*plan.base, *plan.policies}


@given(kernels(), plans)
def test_the_base_comes_first_and_never_goes(kernel: FakeIpsec, plan: esp.Plan) -> None:
    """But where the kernel has another policy for the same packets, with another priority: it deletes by what
    a policy is for, so all of those go, and then the right one is set; before anything is opened."""
    mistaken = {
        policy.selector
        for policy in plan.base
        if any(
            each.selector == policy.selector and each.priority != policy.priority
            for each in kernel.policies()
        )
    }
    messages = esp.diff(plan, kernel.states(), kernel.policies()).messages
    kernel.do(*messages)

    complete = [set(plan.base) <= set(policies) for policies in kernel.history]
    opening = [
        any(policy.port == PORT and policy.request & 0x5A0000 == 0x5A0000 for policy in policies)
        for policies in kernel.history
    ]
    if complete:
        first = complete.index(True) if True in complete else len(complete)
        if mistaken and False in complete:
            first = len(complete) - complete[::-1].index(False)
        assert all(complete[first:])
        fresh = [position for position, message in enumerate(messages) if message.kind == 0x10]
        assert all(position >= first for position in fresh)
        assert len(opening) == len(complete)


@given(st.lists(foreign, max_size=3, unique_by=lambda state: state.spi), plans)
def test_states_of_others_are_left_alone(states: list[State], plan: esp.Plan) -> None:
    kernel = FakeIpsec(found=list(states))

    kernel.do(*esp.diff(plan, kernel.states(), kernel.policies()).messages)

    assert set(states) <= set(kernel.found)


@given(kernels())
def test_a_node_that_does_not_know_itself_only_closes(kernel: FakeIpsec) -> None:
    before = set(kernel.found)
    kernel.do(*esp.diff(esp.base_plan(PORT), kernel.states(), kernel.policies()).messages)

    assert set(kernel.found) == before
    assert set(BASE) <= set(kernel.rules)


@given(st.integers(0, 6), st.sampled_from([-1, 0, 1]))
def test_neighbouring_rings_understand_each_other(version: int, step: int) -> None:
    """Nodes hear of a rotation one after the other: what one sends, the other has a state for."""
    here = plan_of(1, {2}, version)
    there = plan_of(2, {1}, max(version + step, 0))

    sent = [state for state in here.states if state.source == here.own_addr]
    assert len(sent) == 1
    assert sent[0] in there.states


@given(st.sets(st.integers(1, 50), min_size=2, max_size=8), st.integers(0, 3))
def test_no_two_senders_share_a_key_or_an_index(numbers: set[int], version: int) -> None:
    found: list[State] = []
    for own in numbers:
        found += [
            state for state in plan_of(own, numbers - {own}, version).states if state.source == node(own).addr
        ]

    assert len({state.key for state in found}) == len(found)
    assert len({(state.target, state.spi) for state in found}) == len(found)


# --- keys over time


steps = st.lists(
    st.one_of(
        st.tuples(st.just("apply"), st.sets(st.integers(2, 5)), st.integers(0, 1)),
        st.tuples(st.just("lose"), st.sets(st.integers(0, 20)), st.just(0)),
        st.tuples(st.just("restart"), st.just(set()), st.just(0)),
        st.tuples(st.just("die"), st.just(set()), st.just(0)),
    ),
    max_size=12,
)


def peer(number: int) -> Peer:
    return Peer(node_id=NodeId(f"node{number}"), addr=f"192.0.2.{number}", boot_id="e", number=number)


@settings(max_examples=60)
@given(steps)
def test_no_key_ever_counts_from_the_beginning_twice(
    doings: list[tuple[str, set[int], int]],
) -> None:
    """Peers come and go, rings turn, the kernel forgets, the daemon starts anew, the port is killed."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "epoch.json"
        kernel, port, version = FakeIpsec(), FakePort(), 0
        epoch = Epoch(path)
        epoch.load()
        for doing, numbers, turn in doings:
            if doing == "apply":
                version += turn
                ring = ring_of(version)
                wanted = Wanted(
                    own=peer(1),
                    ring=ring,
                    by_ipsec=tuple(peer(number) for number in sorted(numbers) if number % 2),
                    by_port=tuple(peer(number) for number in sorted(numbers) if not number % 2),
                    others=(),
                    base=BASE,
                )
                members = Associations(epoch, port).settle(wanted, kernel)
                if members is not None:
                    port.configure(
                        Configure(
                            addr="192.0.2.1",
                            port=1,
                            secure_port=PORT,
                            piece_bytes=1400,
                            members=tuple(members),
                            tags=tags_of(ring),
                        )
                    )
            elif doing == "lose":
                kernel.found = [state for place, state in enumerate(kernel.found) if place not in numbers]
            elif doing == "restart":
                epoch = Epoch(path)
                epoch.load()
            else:
                port.die()
        began = kernel.began + port.began
        assert len(set(began)) == len(began)


# --- routes and WireGuard


addresses = st.integers(2, 9).map(lambda number: f"192.0.2.{number}")
observations = st.builds(
    routes.Observed,
    st.frozensets(st.builds(routes.Rule, st.sampled_from([2, 10]), st.sampled_from([PORT, 9]))),
    st.frozensets(st.builds(routes.Route, st.just(2), addresses, st.sampled_from([0, 3, 4]))),
)


@given(st.dictionaries(st.sampled_from([0, 3]), st.frozensets(addresses)), observations)
def test_routes_end_dead_before_they_lead(
    by_link: dict[int, frozenset[str]], observed: routes.Observed
) -> None:
    taken: set[str] = set()
    clean = {}
    for link, members in sorted(by_link.items()):
        clean[link] = members - taken
        taken |= members
    wanted = routes.wanted_routes(clean)
    messages = routes.diff(wanted, PORT, observed)

    dead_ends = {routes.add_route(route) for route in wanted if not route.target}
    rules = {routes.add_rule(routes.Rule(family, PORT)) for family in routes.FAMILIES}
    leads = {routes.add_route(route) for route in wanted if route.target}
    order = [
        0 if each in dead_ends else 1 if each in rules else 2
        for each in messages
        if each in leads | rules | dead_ends
    ]
    assert order == sorted(order)
    there = frozenset(routes.Rule(family, PORT) for family in routes.FAMILIES)
    assert routes.diff(wanted, PORT, routes.Observed(there, wanted)) == []


wireguard_peers = st.builds(
    wireguard.WireguardPeer,
    st.integers(1, 5).map(lambda number: bytes([number]) * 32),
    addresses,
    st.sampled_from([4791, 5000]),
)


@given(
    st.lists(wireguard_peers, unique_by=lambda each: each.key),
    st.lists(wireguard_peers, unique_by=lambda each: each.key),
    st.binary(min_size=32, max_size=32),
)
def test_wireguard_has_whom_it_should(
    wanted: list[wireguard.WireguardPeer], standing: list[wireguard.WireguardPeer], key: bytes
) -> None:
    device = wireguard.Device(b"other", 1, frozenset(standing))
    change = wireguard.diff(key, 4791, wanted, device)
    after = {each.key: each for each in standing}
    for each in change.gone:
        del after[each.key]
    after |= {each.key: each for each in change.wanted}

    assert set(after.values()) == set(wanted)
    done = wireguard.Device(wireguard.public_key_of(key), 4791, frozenset(wanted))
    assert wireguard.diff(key, 4791, wanted, done).is_empty
