"""What IPsec should hold on this node for encrypted networks, and how to get there. Pure.

Encrypted networks have a data port of their own, and base policies say of it: nothing leaves in the clear,
and nothing is taken that did not come encrypted. They come before everything else and never go, so whatever
is missing (a key, a peer, the rest of a plan) means silence, not clear text. Of peers to which another way
leads IPsec keeps out, by a policy that is open: the lock and the routes see to it then.

Per peer there is one state per secret of the ring for what it sends, one state for what is sent to it (with
the secret that is sent with), and a policy that leads to that. A state is kept as long as its secret is in
the ring, even if its peer has gone: made a second time with the same key it would count from the beginning.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from socket import AF_INET, AF_INET6
from typing import Final, NamedTuple

from agent.dataplane.linux.encryption.keys import (
    KEY_BYTES,
    SALT_BYTES,
    TAGS,
    Party,
    derive,
    sending_key,
    spi,
)
from agent.dataplane.linux.encryption.xfrm import (
    DIRECTION_IN,
    DIRECTION_OUT,
    Policy,
    State,
    add_state,
    delete_policy,
    delete_state,
    family_of,
    set_policy,
)
from agent.dataplane.linux.netlink import Message
from swarmpy.model.objects import NetworkKey

_PURPOSE: Final = "esp"
_REQUESTS: Final = 0x5A0000
"""Our states' request numbers are this and the tag in the lowest byte: known as ours in a dump."""
_PEER_PRIORITY: Final = 100
_BASE_PRIORITY: Final = 9_000
FAMILIES: Final = (AF_INET, AF_INET6)


def families(has_ipv6: bool) -> tuple[int, ...]:
    return FAMILIES if has_ipv6 else (AF_INET,)


class Node(NamedTuple):
    """One end, and the address of its underlay."""

    party: Party
    addr: str


class Plan(NamedTuple):
    """Desired states and policies. ``base`` come before everything else."""

    own_addr: str
    base: tuple[Policy, ...]
    states: tuple[State, ...] = ()
    policies: tuple[Policy, ...] = ()
    tags: frozenset[int] = frozenset()
    """Of the ring, modulo ``TAGS``."""
    is_known: bool = True
    """Whether this node knows its own address and number; else what stands is left alone but for the base."""


def base_policies(port: int, families: Iterable[int] = FAMILIES) -> tuple[Policy, ...]:
    """Nothing to ``port`` in the clear, either way, of either family."""
    return tuple(
        Policy(direction, family, "", "", port, _BASE_PRIORITY)
        for family in families
        for direction in (DIRECTION_OUT, DIRECTION_IN)
    )


def base_plan(port: int, families: Iterable[int] = FAMILIES) -> Plan:
    """Of a node that does not know enough of itself yet."""
    return Plan("", base_policies(port, families), is_known=False)


def make_plan(
    own: Node,
    peers: Iterable[Node],
    ring: tuple[NetworkKey, ...],
    *,
    base: tuple[Policy, ...],
    others: Iterable[str] = (),
) -> Plan:
    """Peers of which something is not known yet wait. ``others``: addresses that another way leads to."""
    if not own.party.is_known or not own.addr:
        return Plan("", base, is_known=False)
    port = base[0].port
    states: list[State] = []
    policies: list[Policy] = []
    family = family_of(own.addr)
    sending = sending_key(ring)
    for peer in sorted(peers):
        if sending is None or not peer.party.is_known or not peer.addr or family_of(peer.addr) != family:
            continue
        states += [_state(key, peer, own) for key in ring]
        states.append(_state(sending, own, peer))
        request = _request(sending.tag)
        policies.append(Policy(DIRECTION_OUT, family, own.addr, peer.addr, port, _PEER_PRIORITY, request))
    for addr in sorted(set(others)):
        for direction, source, target in (
            (DIRECTION_OUT, own.addr, addr),
            (DIRECTION_IN, addr, own.addr),
        ):
            policies.append(
                Policy(direction, family, source, target, port, _PEER_PRIORITY, is_open=True),
            )
    tags = frozenset(key.tag % TAGS for key in ring)
    return Plan(own.addr, base, tuple(states), tuple(policies), tags)


def _state(key: NetworkKey, source: Node, target: Node) -> State:
    material = derive(
        key.secret,
        source.party,
        target.party,
        purpose=_PURPOSE,
        size=KEY_BYTES + SALT_BYTES,
    )
    index = spi(key.tag, source.party.number)
    return State(source.addr, target.addr, index, _request(key.tag), material)


def _request(tag: int) -> int:
    return _REQUESTS | tag % TAGS


class Work(NamedTuple):
    """``fresh``: states that count from the beginning; their keys are to be written down before that."""

    messages: tuple[Message, ...]
    fresh: tuple[State, ...]


def diff(plan: Plan, states: Iterable[State], policies: Iterable[Policy]) -> Work:
    """From what the kernel has to the plan: first what closes, then what opens, then what is over."""
    has = set(states)
    messages = _fix_policies(plan.base, policies)
    if not plan.is_known:
        return Work(tuple(messages), ())
    by_index = {(state.target, state.spi): state for state in has}
    wanted = set(plan.states)
    fresh = [state for state in plan.states if state not in has]
    for state in fresh:
        former = by_index.get((state.target, state.spi))
        if former is not None:
            messages.append(delete_state(former))
        messages.append(add_state(state))
    messages += _fix_policies(plan.policies, policies)
    port = plan.base[0].port
    kept = {policy.selector for policy in (*plan.base, *plan.policies)}
    messages += [
        delete_policy(policy)
        for policy in sorted(policies)
        if policy.port == port and policy.selector not in kept
    ]
    taken = {(state.target, state.spi) for state in wanted}
    messages += [
        delete_state(state)
        for state in sorted(has - wanted)
        if _is_ours(state) and (state.target, state.spi) not in taken and _is_over(state, plan)
    ]
    return Work(tuple(messages), tuple(fresh))


def _fix_policies(wanted: Iterable[Policy], policies: Iterable[Policy]) -> list[Message]:
    """Set those that are not there. Where there is another for the same packets, all of them go first: the
    kernel deletes by what a policy is for, not by its priority."""
    present = Counter(policies)
    by_selector: dict[tuple[int, int, str, str, int], list[Policy]] = {}
    for policy in present.elements():
        by_selector.setdefault(policy.selector, []).append(policy)
    messages = []
    for policy in wanted:
        standing = by_selector.get(policy.selector, [])
        if standing == [policy]:
            continue
        if all(each.priority == policy.priority for each in standing):
            messages.append(set_policy(policy))
        else:
            messages += [delete_policy(each) for each in standing]
            messages.append(set_policy(policy))
    return messages


def _is_ours(state: State) -> bool:
    return state.request >> 8 == _REQUESTS >> 8


def _is_over(state: State, plan: Plan) -> bool:
    is_own = plan.own_addr in (state.source, state.target)
    return not is_own or state.request & 0xFF not in plan.tags
