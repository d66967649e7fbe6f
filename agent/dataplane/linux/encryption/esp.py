"""What IPsec should hold on this node for encrypted networks, and how to get there. Pure.

Encrypted networks have a data port of their own, and two base policies say of it: nothing leaves in the
clear, and nothing is taken that did not come encrypted. They come before everything else and never go, so
whatever is missing (a key, a peer, the rest of a plan) means silence, not clear text.

Per peer there is one state per secret of the ring for what it sends, one state for what is sent to it (with
the secret that is sent with), and a policy that leads to that. A sending state is kept as long as its secret
is in the ring, even if its peer has gone: made a second time it would count its nonces from the beginning.
"""

from __future__ import annotations

from collections.abc import Iterable
from socket import AF_INET, AF_INET6
from typing import Final, NamedTuple

from agent.dataplane.linux.encryption.keys import (
    KEY_BYTES,
    SALT_BYTES,
    TAGS,
    Sender,
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


class Node(NamedTuple):
    """One end: who sends, and the address of its underlay."""

    sender: Sender
    addr: str


class Plan(NamedTuple):
    """Desired states and policies, in the order in which they are to come."""

    own_addr: str
    states: tuple[State, ...]
    policies: tuple[Policy, ...]
    tags: frozenset[int]
    """Of the ring, modulo ``TAGS``."""


def base_policies(port: int) -> tuple[Policy, ...]:
    """Nothing to ``port`` in the clear, either way, of either family."""
    return tuple(
        Policy(direction, family, "", "", port, _BASE_PRIORITY)
        for family in (AF_INET, AF_INET6)
        for direction in (DIRECTION_OUT, DIRECTION_IN)
    )


def make_plan(own: Node, peers: Iterable[Node], ring: tuple[NetworkKey, ...], *, port: int) -> Plan:
    """Peers of which something is not known yet, or of another address family, wait."""
    states: list[State] = []
    policies = list(base_policies(port))
    sending = sending_key(ring)
    if own.sender.is_known and own.addr and sending is not None:
        family = family_of(own.addr)
        for peer in sorted(peers):
            if not peer.sender.is_known or not peer.addr or family_of(peer.addr) != family:
                continue
            states += [_state(key, peer, own) for key in ring]
            states.append(_state(sending, own, peer))
            request = _request(sending.tag)
            policies.append(Policy(DIRECTION_OUT, family, own.addr, peer.addr, port, _PEER_PRIORITY, request))
    tags = frozenset(key.tag % TAGS for key in ring)
    return Plan(own.addr, tuple(states), tuple(policies), tags)


def _state(key: NetworkKey, source: Node, target: Node) -> State:
    material = derive(
        key.secret,
        source.sender,
        target.sender.node_id,
        purpose=_PURPOSE,
        size=KEY_BYTES + SALT_BYTES,
    )
    index = spi(key.tag, source.sender.number)
    return State(source.addr, target.addr, index, _request(key.tag), material)


def _request(tag: int) -> int:
    return _REQUESTS | tag % TAGS


class Work(NamedTuple):
    """``sending``: the keys that this starts to send with; to be written down before it is done."""

    messages: tuple[Message, ...]
    sending: tuple[bytes, ...]


def diff(plan: Plan, states: Iterable[State], policies: Iterable[Policy], *, port: int) -> Work:
    """From what the kernel has to the plan: first what closes and opens, then what is no longer wanted."""
    has = set(states)
    has_policies = set(policies)
    wanted = set(plan.states)
    by_index = {(state.target, state.spi): state for state in has}
    messages = [set_policy(policy) for policy in plan.policies[:4] if policy not in has_policies]
    sending = []
    for state in plan.states:
        if state in has:
            continue
        former = by_index.get((state.target, state.spi))
        if former is not None:
            messages.append(delete_state(former))
        messages.append(add_state(state))
        if state.source == plan.own_addr:
            sending.append(state.key)
    messages += [set_policy(policy) for policy in plan.policies[4:] if policy not in has_policies]
    wanted_selectors = {policy[:5] for policy in plan.policies}
    messages += [
        delete_policy(policy)
        for policy in sorted(has_policies)
        if policy.port == port and policy[:5] not in wanted_selectors
    ]
    replaced = {(state.target, state.spi) for state in wanted}
    messages += [
        delete_state(state)
        for state in sorted(has - wanted)
        if _is_ours(state) and (state.target, state.spi) not in replaced and _is_over(state, plan)
    ]
    return Work(tuple(messages), tuple(sending))


def _is_ours(state: State) -> bool:
    return state.request >> 8 == _REQUESTS >> 8


def _is_over(state: State, plan: Plan) -> bool:
    is_sending = state.source == plan.own_addr
    return not is_sending or state.request & 0xFF not in plan.tags
