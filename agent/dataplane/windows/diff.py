"""From what HNS has to what it should have: the steps, in an order that HNS accepts. Pure.

Taking down: balancers, namespaces, endpoints, networks, since each holds what comes after it. Building up:
networks, remote endpoints, local endpoints, namespaces, balancers, since one that names a missing endpoint is
refused whole. A balancer is changed in place only where HNS can; else it is removed and made anew.

What has not our name stays, unless it is in the way: on a network of ours that has to go, or with an address
there that somebody of ours should have. Carrying out the steps and asking again gives no steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network

from msgspec.structs import replace

from agent.dataplane.windows.objects import (
    FoundBalancer,
    FoundEndpoint,
    FoundNamespace,
    FoundNetwork,
    HnsBalancer,
    HnsEndpoint,
    HnsNetwork,
    Observed,
    is_ours,
    namespace_id,
    plain_mac,
    task_of,
)
from swarmpy.model.ids import TaskId
from swarmpy.model.value import Value


class Desired(Value, frozen=True, kw_only=True):
    """What should be there. ``namespaces``: by task, the names of the endpoints that are in it, in order;
    ``guests``: tasks in virtual machines of their own.

    Not ``is_complete``: what is not named here is not known to be wrong, and stays, but for what is left of
    the tasks in ``gone``.
    """

    networks: tuple[HnsNetwork, ...] = ()
    endpoints: tuple[HnsEndpoint, ...] = ()
    balancers: tuple[HnsBalancer, ...] = ()
    namespaces: Mapping[TaskId, tuple[str, ...]] = {}
    guests: frozenset[TaskId] = frozenset()
    is_complete: bool = True
    gone: frozenset[TaskId] = frozenset()


# --- steps


class DeleteBalancer(Value, frozen=True, kw_only=True):
    id: str


class DeleteNamespace(Value, frozen=True, kw_only=True):
    id: str


class LeaveNamespace(Value, frozen=True, kw_only=True):
    id: str
    endpoint_id: str


class DeleteEndpoint(Value, frozen=True, kw_only=True):
    id: str


class DeleteNetwork(Value, frozen=True, kw_only=True):
    id: str


class CreateNetwork(Value, frozen=True, kw_only=True):
    network: HnsNetwork


class CreateEndpoint(Value, frozen=True, kw_only=True):
    endpoint: HnsEndpoint


class ModifyEndpoint(Value, frozen=True, kw_only=True):
    """Access list and cap, while a task runs behind it."""

    found: FoundEndpoint
    endpoint: HnsEndpoint


class CreateNamespace(Value, frozen=True, kw_only=True):
    id: str
    is_guest: bool = False


class JoinNamespace(Value, frozen=True, kw_only=True):
    id: str
    endpoint: str


class CreateBalancer(Value, frozen=True, kw_only=True):
    balancer: HnsBalancer


class UpdateBalancer(Value, frozen=True, kw_only=True):
    id: str
    balancer: HnsBalancer


Step = (
    DeleteBalancer
    | DeleteNamespace
    | LeaveNamespace
    | DeleteEndpoint
    | DeleteNetwork
    | CreateNetwork
    | CreateEndpoint
    | ModifyEndpoint
    | CreateNamespace
    | JoinNamespace
    | CreateBalancer
    | UpdateBalancer
)


@dataclass
class _Verdict:
    """Ids that stay, by name, and ids that go."""

    kept: dict[str, str] = field(default_factory=dict)
    doomed: set[str] = field(default_factory=set)


def diff(desired: Desired, observed: Observed, *, can_update: bool = False) -> tuple[Step, ...]:
    networks = _judge_networks(desired, observed.networks)
    endpoints, modified = _judge_endpoints(desired, observed, networks)
    alive = {each.id: each for each in observed.endpoints if each.id not in endpoints.doomed}
    shrunk, built = _balancer_steps(desired, observed, alive, can_update=can_update)
    left, entered = _namespace_steps(desired, observed.namespaces, endpoints)
    new = [each for each in desired.endpoints if each.name not in endpoints.kept]
    return (
        *shrunk,
        *left,
        *(DeleteEndpoint(id=id_) for id_ in sorted(endpoints.doomed)),
        *(DeleteNetwork(id=id_) for id_ in sorted(networks.doomed)),
        *(CreateNetwork(network=each) for each in desired.networks if each.name not in networks.kept),
        *(CreateEndpoint(endpoint=each) for each in sorted(new, key=_build_order)),
        *modified,
        *entered,
        *built,
    )


def _build_order(endpoint: HnsEndpoint) -> tuple[bool, str]:
    return not endpoint.is_remote, endpoint.name


# --- networks


def _judge_networks(desired: Desired, found: Iterable[FoundNetwork]) -> _Verdict:
    wished = {each.name: each for each in desired.networks}
    verdict = _Verdict()
    for each in found:
        name = each.value.name
        wish = wished.get(name)
        if wish is None:
            if not is_ours(name):
                verdict.kept.setdefault(name, each.id)
            elif desired.is_complete:
                verdict.doomed.add(each.id)
            else:
                verdict.kept[name] = each.id
        elif name not in verdict.kept and is_same_network(wish, each.value):
            verdict.kept[name] = each.id
        else:
            verdict.doomed.add(each.id)
    return verdict


def is_same_network(wish: HnsNetwork, found: HnsNetwork) -> bool:
    """Where nothing is wished for, whatever HNS chose is right. How HNS spells a gateway is its own."""
    return (
        wish.kind is found.kind
        and (not wish.subnets or wish.subnets == found.subnets)
        and (not wish.adapter or wish.adapter == found.adapter)
        and wish.vlan == found.vlan
        and wish.vxlan_port == found.vxlan_port
    )


# --- endpoints


def _judge_endpoints(
    desired: Desired, observed: Observed, networks: _Verdict
) -> tuple[_Verdict, list[ModifyEndpoint]]:
    wished = {each.name: each for each in desired.endpoints}
    addresses = {(each.network, each.address): each.name for each in desired.endpoints if each.address}
    kept_networks = {id_: name for name, id_ in networks.kept.items()}
    verdict, modified = _Verdict(), []
    for each in observed.endpoints:
        value = each.value
        network = kept_networks.get(each.network_id, "")
        wish = wished.get(value.name)
        is_displaced = addresses.get((network, value.address), value.name) != value.name
        if each.network_id in networks.doomed:
            verdict.doomed.add(each.id)
        elif wish is not None and wish.network == network and value.name not in verdict.kept:
            if not is_same_endpoint(wish, value):
                verdict.doomed.add(each.id)
                continue
            verdict.kept[value.name] = each.id
            if not has_same_policy(wish, value):
                modified.append(ModifyEndpoint(found=each, endpoint=wish))
        elif wish is not None or is_displaced or _is_surplus(value.name, desired):
            verdict.doomed.add(each.id)
        else:
            verdict.kept.setdefault(value.name, each.id)
    return verdict, modified


def _is_surplus(name: str, desired: Desired) -> bool:
    return is_ours(name) and (desired.is_complete or task_of(name) in desired.gone)


def is_same_endpoint(wish: HnsEndpoint, found: HnsEndpoint) -> bool:
    """But for what can be changed in place."""
    return (
        wish.is_remote == found.is_remote
        and (not wish.address or wish.address == found.address)
        and (not wish.mac or plain_mac(wish.mac) == plain_mac(found.mac))
        and (not wish.is_remote or wish.provider_address == found.provider_address)
        and wish.has_outbound_nat == found.has_outbound_nat
        and set(wish.ports) == set(found.ports)
    )


def has_same_policy(wish: HnsEndpoint, found: HnsEndpoint) -> bool:
    return wish.rate_out_bytes == found.rate_out_bytes and set(wish.acls) == set(found.acls)


# --- namespaces


def _namespace_steps(
    desired: Desired, found: Iterable[FoundNamespace], endpoints: _Verdict
) -> tuple[list[Step], list[Step]]:
    """Those that take down, and those that build up."""
    wished = {namespace_id(task_id): names for task_id, names in desired.namespaces.items()}
    guests = {namespace_id(task_id) for task_id in desired.guests}
    gone_ids = {namespace_id(task_id) for task_id in desired.gone}
    left: list[Step] = []
    entered: list[Step] = []
    inside: dict[str, tuple[str, ...]] = {}
    for each in found:
        if each.id not in wished and (desired.is_complete or each.id in gone_ids):
            left.append(DeleteNamespace(id=each.id))
            continue
        names = wished.get(each.id)
        kept = {endpoints.kept.get(name) for name in names} if names is not None else None
        gone = [
            id_
            for id_ in each.endpoint_ids
            if id_ in endpoints.doomed or (kept is not None and id_ not in kept)
        ]
        left += [LeaveNamespace(id=each.id, endpoint_id=id_) for id_ in gone]
        inside[each.id] = tuple(id_ for id_ in each.endpoint_ids if id_ not in gone)
    for id_, names in sorted(wished.items()):
        if id_ not in inside:
            entered.append(CreateNamespace(id=id_, is_guest=id_ in guests))
        members = inside.get(id_, ())
        entered += [
            JoinNamespace(id=id_, endpoint=name) for name in names if endpoints.kept.get(name) not in members
        ]
    return left, entered


# --- balancers


def _balancer_steps(
    desired: Desired, observed: Observed, alive: Mapping[str, FoundEndpoint], *, can_update: bool
) -> tuple[list[Step], list[Step]]:
    """Those that take down, and those that build up. ``alive``: endpoints that stay, by id."""
    wished = {each.front: each for each in desired.balancers}
    sources = {each.value.address for each in observed.endpoints if is_ours(each.value.name)}
    sources |= {each.address for each in desired.endpoints if not each.is_remote}
    shrunk: list[Step] = []
    built: list[Step] = []
    kept: set[tuple[object, ...]] = set()
    for each in observed.balancers:
        value = each.value
        survivors = tuple(sorted(alive[id_].value.name for id_ in each.backend_ids if id_ in alive))
        is_whole = len(survivors) == len(each.backend_ids)
        wish = wished.get(value.front) or _orphans_wish(each, desired)
        if wish is None:
            if (desired.is_complete and _is_own(each, sources, observed)) or not is_whole:
                shrunk.append(DeleteBalancer(id=each.id))
            continue
        is_first = wish.front not in kept
        if is_first and value == wish and is_whole:
            kept.add(wish.front)
        elif is_first and can_update and survivors and _differs_in_backends(value, wish):
            kept.add(wish.front)
            if not is_whole:
                shrunk.append(UpdateBalancer(id=each.id, balancer=replace(wish, backends=survivors)))
            if survivors != wish.backends:
                built.append(UpdateBalancer(id=each.id, balancer=wish))
        else:
            shrunk.append(DeleteBalancer(id=each.id))
    built += [CreateBalancer(balancer=each) for each in desired.balancers if each.front not in kept]
    return shrunk, built


def _is_own(found: FoundBalancer, sources: AbstractSet[str], observed: Observed) -> bool:
    """One that leads nowhere is known by its source; if that is gone as well, by the network it was on."""
    value = found.value
    if any(is_ours(name) for name in value.backends):
        return True
    if value.network:
        return False
    return bool(found.backend_ids) or value.source in sources or _is_on_ours(value.source, observed)


def _is_on_ours(address: str, observed: Observed) -> bool:
    return bool(address) and any(
        ip_address(address) in ip_network(subnet.cidr, strict=False)
        for network in observed.networks
        if is_ours(network.value.name)
        for subnet in network.value.subnets
    )


def _differs_in_backends(value: HnsBalancer, wish: HnsBalancer) -> bool:
    """At most in those; and what leads to everything is HNS V1's, which never changes in place."""
    return not wish.is_all_ports and replace(value, backends=wish.backends) == wish


def _orphans_wish(found: FoundBalancer, desired: Desired) -> HnsBalancer | None:
    """One that leads nowhere tells no network: it is in the way of any with the same virtual addresses."""
    value = found.value
    if value.network or not value.vips:
        return None
    return next(
        (each for each in desired.balancers if (each.vips, each.mappings) == (value.vips, value.mappings)),
        None,
    )
