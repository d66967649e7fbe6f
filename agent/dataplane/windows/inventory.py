"""``Inventory``: what HNS has, as known here, and how a step changes it.

HNS may spell what was asked for in its own way (a policy left out, an address written otherwise). So that
this is not taken for damage, what an object first looks like after it was made here stands for what was
wished: it counts as changed once it looks different from that. After a restart there are only HNS's words.
"""

from __future__ import annotations

from typing import TypeVar, assert_never

from msgspec.structs import replace

from agent.dataplane.windows import diff
from agent.dataplane.windows.objects import (
    FoundBalancer,
    FoundEndpoint,
    FoundNamespace,
    FoundNetwork,
    HnsBalancer,
    HnsEndpoint,
    HnsNetwork,
    NetworkKind,
    Observed,
    task_of,
)
from agent.dataplane.windows.service import Service
from swarmpy.errors import Unavailable
from swarmpy.model.ids import TaskId

Wish = HnsNetwork | HnsEndpoint | HnsBalancer
W = TypeVar("W", HnsNetwork, HnsEndpoint, HnsBalancer)


class NotBound(Unavailable):
    """HNS does not know yet where this node's tunnels end; it does within seconds."""


class Inventory:
    """Not for two threads at once. ``refresh`` before anything else."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._networks: dict[str, FoundNetwork] = {}
        self._endpoints: dict[str, FoundEndpoint] = {}
        self._ids: dict[str, str] = {}
        """Of endpoints, by name."""
        self._balancers: dict[str, FoundBalancer] = {}
        self._namespaces: dict[str, FoundNamespace] = {}
        self._wishes: dict[str, Wish] = {}
        """What was made here, by id."""
        self._echoes: dict[str, Wish] = {}
        """How it first looked."""

    # --- looking

    def refresh(self) -> None:
        observed = self._service.observe()
        self._networks = {
            each.id: replace(each, value=self._judged(each.id, each.value)) for each in observed.networks
        }
        self._endpoints = {
            each.id: replace(each, value=_completed(self._judged(each.id, each.value), each.value))
            for each in observed.endpoints
        }
        self._ids = {each.value.name: each.id for each in observed.endpoints}
        self._balancers = {
            each.id: replace(each, value=self._judged(each.id, each.value)) for each in observed.balancers
        }
        self._namespaces = {each.id: each for each in observed.namespaces}
        there = self._networks.keys() | self._endpoints.keys() | self._balancers.keys()
        for known in (self._wishes, self._echoes):
            for id_ in [id_ for id_ in known if id_ not in there]:
                del known[id_]

    def _judged(self, id_: str, value: W) -> W:
        """As wished, unless it has changed since it was first seen."""
        wish = self._wishes.get(id_)
        if not isinstance(wish, type(value)):
            return value
        if id_ not in self._echoes and not _is_its_spelling(wish, value):
            return value
        return wish if self._echoes.setdefault(id_, value) == value else value

    def observed(self) -> Observed:
        return Observed(
            networks=tuple(self._networks.values()),
            endpoints=tuple(self._endpoints.values()),
            balancers=tuple(self._balancers.values()),
            namespaces=tuple(self._namespaces.values()),
        )

    def tasks(self) -> frozenset[TaskId]:
        """Those with an endpoint."""
        found = (task_of(each.value.name) for each in self._endpoints.values())
        return frozenset(task_id for task_id in found if task_id is not None)

    def endpoint(self, name: str) -> FoundEndpoint | None:
        return self._endpoints.get(self._ids.get(name, ""))

    def endpoints_of(self, task_id: TaskId) -> tuple[FoundEndpoint, ...]:
        found = [each for each in self._endpoints.values() if task_of(each.value.name) == task_id]
        return tuple(sorted(found, key=lambda each: each.value.name))

    def provider_addresses(self) -> dict[str, str]:
        """Where tunnels end on this node, by network."""
        return {each.value.name: each.provider_address for each in self._networks.values()}

    # --- changing

    def carry_out(self, step: diff.Step) -> None:
        service = self._service
        match step:
            case diff.DeleteBalancer(id=id_):
                service.delete_balancer(id_)
                self._balancers.pop(id_, None)
            case diff.DeleteNamespace(id=id_):
                service.delete_namespace(id_)
                self._namespaces.pop(id_, None)
            case diff.LeaveNamespace(id=id_, endpoint_id=endpoint_id):
                service.change_namespace(id_, "Remove", endpoint_id)
                self._set_members(id_, tuple(each for each in self._members(id_) if each != endpoint_id))
            case diff.DeleteEndpoint(id=id_):
                service.delete_endpoint(id_)
                former = self._endpoints.pop(id_, None)
                if former is not None:
                    self._forget_name(former.value.name)
            case diff.DeleteNetwork(id=id_):
                service.delete_network(id_)
                self._networks.pop(id_, None)
            case diff.CreateNetwork(network=network):
                found = service.create_network(network)
                self._networks[found.id] = replace(found, value=network)
                self._wishes[found.id] = network
            case diff.CreateEndpoint(endpoint=endpoint):
                self._create_endpoint(endpoint)
            case diff.ModifyEndpoint(found=former, endpoint=endpoint):
                service.modify_endpoint(former, endpoint)
                changed = replace(former.value, acls=endpoint.acls, rate_out_bytes=endpoint.rate_out_bytes)
                self._endpoints[former.id] = replace(former, value=changed)
                self._wishes[former.id] = changed
                self._echoes.pop(former.id, None)
            case diff.CreateNamespace(id=id_, is_guest=is_guest):
                service.create_namespace(id_, is_guest=is_guest)
                self._set_members(id_, ())
            case diff.JoinNamespace(id=id_, endpoint=name):
                endpoint_id = self._id_of(name)
                service.change_namespace(id_, "Add", endpoint_id)
                self._set_members(id_, (*self._members(id_), endpoint_id))
            case diff.CreateBalancer(balancer=balancer):
                backend_ids = tuple(map(self._id_of, balancer.backends))
                self._keep_balancer(service.create_balancer(balancer, backend_ids), balancer, backend_ids)
            case diff.UpdateBalancer(id=id_, balancer=balancer):
                backend_ids = tuple(map(self._id_of, balancer.backends))
                service.update_balancer(id_, balancer, backend_ids)
                self._keep_balancer(id_, balancer, backend_ids)
            case _:
                assert_never(step)

    def _create_endpoint(self, endpoint: HnsEndpoint) -> None:
        network = next(
            (each for each in self._networks.values() if each.value.name == endpoint.network), None
        )
        if network is None:
            raise Unavailable(f"HNS has no network {endpoint.network} yet, which {endpoint.name} is for")
        if network.value.kind is NetworkKind.OVERLAY and not network.provider_address:
            fresh = self._service.refresh_network(network)
            network = replace(network, provider_address=fresh.provider_address)
            self._networks[network.id] = network
            if not network.provider_address and not endpoint.is_remote:
                raise NotBound(f"HNS has not bound the network {endpoint.network} to an adapter yet")
        found = self._service.create_endpoint(endpoint, network)
        self._endpoints[found.id] = replace(found, value=_completed(endpoint, found.value))
        self._wishes[found.id] = endpoint
        self._ids[endpoint.name] = found.id

    def _forget_name(self, name: str) -> None:
        """There may be another one of the same name: whoever made it."""
        self._ids.pop(name, None)
        self._ids.update((name, each.id) for each in self._endpoints.values() if each.value.name == name)

    def _keep_balancer(self, id_: str, balancer: HnsBalancer, backend_ids: tuple[str, ...]) -> None:
        self._balancers[id_] = FoundBalancer(id=id_, value=balancer, backend_ids=backend_ids)
        self._wishes[id_] = balancer
        self._echoes.pop(id_, None)

    def _id_of(self, name: str) -> str:
        found = self.endpoint(name)
        if found is None:
            raise Unavailable(f"HNS has no endpoint {name} yet: what needs it is made once it is there")
        return found.id

    def _members(self, id_: str) -> tuple[str, ...]:
        found = self._namespaces.get(id_)
        return found.endpoint_ids if found is not None else ()

    def _set_members(self, id_: str, members: tuple[str, ...]) -> None:
        self._namespaces[id_] = FoundNamespace(id=id_, endpoint_ids=members)


def _is_its_spelling(wish: Wish, found: Wish) -> bool:
    """Whether they differ at most in what HNS may have put in its own way."""
    if isinstance(wish, HnsEndpoint) and isinstance(found, HnsEndpoint):
        is_moved = wish.is_remote and wish.provider_address != found.provider_address
        return wish.mac in ("", found.mac) and wish.address in ("", found.address) and not is_moved
    if isinstance(wish, HnsBalancer) and isinstance(found, HnsBalancer):
        return (wish.backends, wish.front) == (found.backends, found.front)
    return True


def _completed(wish: HnsEndpoint, found: HnsEndpoint) -> HnsEndpoint:
    """As wished, with what was left to HNS."""
    return replace(
        wish,
        address=wish.address or found.address,
        prefix_length=wish.prefix_length or found.prefix_length,
        mac=wish.mac or found.mac,
    )
