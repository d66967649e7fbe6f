"""A Host Networking Service without Windows: it keeps networks, endpoints, balancers and namespaces, and
refuses what the real one is known to refuse, by the same codes.

One set of objects stands behind both schemas. Every request is held against ``hns_schema``. Where the real
service's behaviour is not known, this one is strict: nothing goes while something refers to it.

``script(verb, subject)`` is asked before each call and may raise, or do anything else to the service.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any

import fake_hns_forms as forms
import hns_schema as schema

from agent.dataplane.windows import errors
from agent.dataplane.windows.service import Kind
from swarmpy.errors import Unavailable

Json = dict[str, Any]
NAT_SUBNET = "172.25.0.0/20"


def nothing(verb: str, subject: str) -> None:
    """The script in which all is well."""


@dataclass
class Call:
    """What was asked, in order. ``subject``: a kind, or a kind and what it is about."""

    verb: str
    kind: str
    name: str


@dataclass
class FakeHns:
    """``version`` (0, 0): as old as not to say. ``late_reads``: for so many looks at a new network it is not
    bound to an adapter."""

    version: tuple[int, int] = (13, 0)
    address: str = "192.0.2.11"
    adapters: tuple[str, ...] = ("Ethernet",)
    has_vfp: bool = True
    late_reads: int = 0
    script: Callable[[str, str], None] = nothing
    networks: dict[str, Json] = field(default_factory=dict)
    endpoints: dict[str, Json] = field(default_factory=dict)
    balancers: dict[str, Json] = field(default_factory=dict)
    namespaces: dict[str, Json] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    requests: list[tuple[str, Json]] = field(default_factory=list)
    """Documents as they came, with the name of their schema."""
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    # --- V1

    def call(self, method: str, path: str, body: str) -> str:
        """As HNSCall: failures of the service itself come inside the answer."""
        _, place, *rest = path.split("/")
        self._note(method, place, rest[0] if rest else "")
        try:
            output = self._route(method, place, rest[0] if rest else "", body)
        except (errors.HnsUnavailable, errors.HnsRejected) as error:
            return json.dumps({"Success": False, "Error": str(error), "ErrorCode": error.code})
        return json.dumps({"Success": True, "Output": output})

    def _route(self, method: str, place: str, id_: str, body: str) -> Any:
        if place == "globals":
            return self._globals()
        if place == "policylists" and self.version < (7, 2):
            raise errors.failure(errors.BAD_POLICY, "")
        store, show = {
            "networks": (self.networks, self._network_v1),
            "endpoints": (self.endpoints, forms.endpoint_v1),
            "policylists": (self.balancers, forms.balancer_v1),
        }[place]
        match method, id_:
            case "GET", "":
                return [show(each) for _, each in sorted(store.items())]
            case "GET", _:
                return show(self._get(store, id_))
            case "DELETE", _:
                self._delete(store, id_)
                return None
            case _:
                document = json.loads(body)
                made = getattr(self, f"_take_{place}_v1")(document, id_)
                return show(made)

    def _globals(self) -> Json:
        if self.version < (7, 2):
            raise errors.failure(errors.NOT_FOUND, "")
        return {"Version": {"Major": self.version[0], "Minor": self.version[1]}}

    def _take_networks_v1(self, document: Json, id_: str) -> Json:
        self._check(document, schema.NETWORK_1, "NETWORK_1")
        return self._add_network(forms.network_from_v1(document))

    def _take_endpoints_v1(self, document: Json, id_: str) -> Json:
        self._check(document, schema.ENDPOINT_1, "ENDPOINT_1")
        taken = forms.endpoint_from_v1(document)
        if not id_:
            return self._add_endpoint(taken)
        former = self._get(self.endpoints, id_)
        former["policies"] = taken["policies"]
        return former

    def _take_policylists_v1(self, document: Json, id_: str) -> Json:
        self._check(document, schema.BALANCER_1, "BALANCER_1")
        return self._add_balancer(forms.balancer_from_v1(document))

    def _network_v1(self, network: Json) -> Json:
        return forms.network_v1(network, self._bound_address(network))

    # --- V2

    def enumerate(self, kind: Kind, query: str) -> str:
        self._note("enumerate", kind.value, "")
        self._check(json.loads(query), schema.QUERY_2, "QUERY_2")
        return json.dumps([id_.upper() for id_ in sorted(self._store(kind))])

    def query(self, kind: Kind, id_: str, query: str) -> str:
        self._note("query", kind.value, id_)
        return json.dumps(self._show(kind, self._get(self._store(kind), id_)))

    def create(self, kind: Kind, settings: str, *, id_: str = "", network_id: str = "") -> str:
        document = json.loads(settings)
        self._note("create", kind.value, str(document.get("Name", id_)))
        match kind:
            case Kind.NETWORK:
                self._check(document, schema.NETWORK_2, "NETWORK_2")
                made = self._add_network(forms.network_from_v2(document))
            case Kind.ENDPOINT:
                self._check(document, schema.ENDPOINT_2, "ENDPOINT_2")
                assert document["HostComputeNetwork"].lower() == network_id
                made = self._add_endpoint(forms.endpoint_from_v2(document))
            case Kind.BALANCER:
                self._check(document, schema.BALANCER_2, "BALANCER_2")
                if any(
                    0 in (each["InternalPort"], each["ExternalPort"]) for each in document["PortMappings"]
                ):
                    raise errors.failure(errors.ZERO_PORT, "")
                made = self._add_balancer(forms.balancer_from_v2(document))
            case Kind.NAMESPACE:
                self._check(document, schema.NAMESPACE_2, "NAMESPACE_2")
                if id_ in self.namespaces:
                    raise errors.failure(errors.NETWORK_EXISTS, "")
                made = self.namespaces[id_] = {"id": id_, "type": document["Type"], "endpoints": []}
        return json.dumps(self._show(kind, made))

    def modify(self, kind: Kind, id_: str, settings: str) -> None:
        document = json.loads(settings)
        self._note("modify", kind.value, id_)
        target = self._get(self._store(kind), id_)
        match kind:
            case Kind.ENDPOINT:
                self._check(document, schema.ENDPOINT_CHANGE_2, "ENDPOINT_CHANGE_2")
                policies = document["Settings"]["Policies"]
                if document["RequestType"] == "Add":
                    target["policies"] += policies
                else:
                    target["policies"] = [each for each in target["policies"] if each not in policies]
            case Kind.NAMESPACE:
                self._check(document, schema.NAMESPACE_CHANGE_2, "NAMESPACE_CHANGE_2")
                self._change_members(target, document)
            case Kind.BALANCER:
                if self.version < (15, 4):
                    raise errors.failure(errors.BAD_POLICY, "balancers cannot be changed")
                self._check(document, schema.BALANCER_2, "BALANCER_2")
                self._add_balancer(forms.balancer_from_v2(document), id_=id_)
            case Kind.NETWORK:
                raise AssertionError("nothing changes networks")

    def delete(self, kind: Kind, id_: str) -> None:
        self._note("delete", kind.value, id_)
        self._delete(self._store(kind), id_)

    def _show(self, kind: Kind, value: Json) -> Json:
        match kind:
            case Kind.NETWORK:
                return forms.network_v2(value, self._bound_address(value))
            case Kind.ENDPOINT:
                return forms.endpoint_v2(value)
            case Kind.BALANCER:
                return forms.balancer_v2(value)
            case Kind.NAMESPACE:
                return forms.namespace_v2(value)

    # --- what it keeps to

    def _add_network(self, network: Json) -> Json:
        vsids = {subnet["vsid"] for subnet in network["subnets"]} - {0}
        for other in self.networks.values():
            taken = {subnet["vsid"] for subnet in other["subnets"]}
            is_second_nat = network["type"] == other["type"] == "nat"
            if other["name"] == network["name"] or vsids & taken or is_second_nat:
                raise errors.failure(errors.NETWORK_EXISTS, "A network exists already. ")
        if network["adapter"] and network["adapter"] not in self.adapters:
            raise errors.failure(errors.ADAPTER_NOT_FOUND, "")
        if network["type"] == "overlay" and not self.has_vfp:
            raise errors.failure(errors.VFP_MISSING, "")
        if network["port"] and self.version < (10, 3):
            raise errors.failure(errors.BAD_POLICY, "")
        if network["type"] == "nat" and not network["subnets"]:
            gateway = str(ip_network(NAT_SUBNET)[1])
            network["subnets"] = [{"prefix": NAT_SUBNET, "gateway": gateway, "vsid": 0}]
        network |= {"id": self._new_id(), "unbound_reads": self.late_reads}
        self.networks[network["id"]] = network
        return network

    def _add_endpoint(self, endpoint: Json) -> Json:
        network = self.networks.get(endpoint["network"])
        if network is None:
            raise errors.failure(errors.NETWORK_NOT_FOUND, "")
        if self.version < (7, 2) and any(each["Type"] == "ACL" for each in endpoint["policies"]):
            raise errors.failure(errors.BAD_POLICY, "")
        taken = {each["ip"] for each in self.endpoints.values() if each["network"] == network["id"]}
        subnets = [(ip_network(each["prefix"]), each["gateway"]) for each in network["subnets"]]
        if not endpoint["ip"]:
            subnet, gateway = subnets[0]
            free = (str(each) for each in subnet.hosts() if str(each) not in taken | {gateway})
            endpoint["ip"], endpoint["prefix"] = next(free), subnet.prefixlen
        address = ip_address(endpoint["ip"])
        fits = [(subnet, gateway) for subnet, gateway in subnets if address in subnet]
        if not fits:
            raise errors.failure(errors.SUBNET_NOT_FOUND, "")
        subnet, gateway = fits[0]
        if endpoint["ip"] in taken | {gateway, str(subnet[0]), str(subnet[-1])}:
            raise errors.failure(errors.RESERVED_ADDRESS, "An address provided is invalid or reserved. ")
        for port in forms.host_ports(endpoint):
            if port in self._used_ports():
                raise errors.failure(errors.PORT_EXISTS, "")
        endpoint |= {"id": self._new_id(), "prefix": endpoint["prefix"] or subnet.prefixlen}
        number = int(endpoint["id"][-4:], 16)
        endpoint["mac"] = endpoint["mac"] or f"00:15:5d:00:{number >> 8:02x}:{number & 255:02x}"
        self.endpoints[endpoint["id"]] = endpoint
        return endpoint

    def _add_balancer(self, balancer: Json, *, id_: str = "") -> Json:
        """One missing backend, and there is no balancer."""
        missing = [each for each in balancer["backends"] if each not in self.endpoints]
        if missing:
            raise errors.failure(errors.ENDPOINT_NOT_FOUND, f"no endpoint {missing[0]}")
        network = self.endpoints[balancer["backends"][0]]["network"]
        local = {
            each["ip"]
            for each in self.endpoints.values()
            if each["network"] == network and not each["is_remote"]
        }
        if balancer["source"] not in local:
            raise errors.failure(errors.BAD_ADDRESS, "the source is no endpoint of this node")
        others = {key: each for key, each in self.balancers.items() if key != id_}
        fronts = {front for each in others.values() for front in self._fronts(each)}
        ports = {key for each in self.endpoints.values() for key in forms.host_ports(each)}
        own = self._fronts(balancer)
        if own & fronts or own & {("", "", *port) for port in ports}:
            raise errors.failure(errors.PORT_EXISTS, "")
        balancer["id"] = id_ or self._new_id()
        self.balancers[balancer["id"]] = balancer
        return balancer

    def _fronts(self, balancer: Json) -> set[tuple[Any, ...]]:
        known = [self.endpoints[each]["network"] for each in balancer["backends"] if each in self.endpoints]
        network = known[0] if known else ""
        places = [(network, vip) for vip in balancer["vips"]] or [("", "")]
        return {
            (*place, protocol, pair["external"])
            for place in places
            for pair in balancer["ports"]
            for protocol in ([pair["protocol"]] if pair["protocol"] or not pair["external"] else [6, 17])
        }

    def _used_ports(self) -> set[tuple[int, int]]:
        used = {port for each in self.endpoints.values() for port in forms.host_ports(each)}
        for each in self.balancers.values():
            used |= {(front[2], front[3]) for front in self._fronts(each) if not front[1]}
        return used

    def _change_members(self, namespace: Json, document: Json) -> None:
        id_ = document["Settings"]["EndpointId"].lower()
        if document["RequestType"] == "Remove":
            namespace["endpoints"].remove(id_)
            return
        if id_ not in self.endpoints:
            raise errors.failure(errors.ENDPOINT_NOT_FOUND, "")
        if any(id_ in each["endpoints"] for each in self.namespaces.values()):
            raise errors.failure(errors.ENDPOINT_IN_NAMESPACE, "")
        namespace["endpoints"].append(id_)

    def _delete(self, store: dict[str, Json], id_: str) -> None:
        self._get(store, id_)
        holders = [*itertools.chain.from_iterable(each["endpoints"] for each in self.namespaces.values())]
        for balancer in self.balancers.values():
            holders += balancer["backends"]
        holders += [each["network"] for each in self.endpoints.values()]
        if store is not self.namespaces and id_ in holders:
            raise errors.failure(errors.STILL_REFERENCED, "")
        del store[id_]

    # --- inside

    def _bound_address(self, network: Json) -> str:
        if network["type"] != "overlay":
            return ""
        if network["unbound_reads"] > 0:
            network["unbound_reads"] -= 1
            return ""
        return self.address

    def _store(self, kind: Kind) -> dict[str, Json]:
        if self.version < (9, 2):
            raise Unavailable("this Windows has no HCN")
        return {
            Kind.NETWORK: self.networks,
            Kind.ENDPOINT: self.endpoints,
            Kind.BALANCER: self.balancers,
            Kind.NAMESPACE: self.namespaces,
        }[kind]

    def _get(self, store: dict[str, Json], id_: str) -> Json:
        if id_ not in store:
            codes = {
                id(self.networks): errors.NETWORK_NOT_FOUND,
                id(self.endpoints): errors.ENDPOINT_NOT_FOUND,
            }
            raise errors.failure(codes.get(id(store), errors.NOT_FOUND), f"no {id_}")
        return store[id_]

    def _check(self, document: object, wanted: schema.Schema, name: str) -> None:
        assert isinstance(document, dict)
        wrong = schema.faults(document, wanted)
        assert not wrong, f"{name}: {wrong} in {document}"
        self.requests.append((name, document))

    def _new_id(self) -> str:
        return f"{next(self._numbers):08x}-0000-4000-8000-{next(self._numbers):012x}"

    def _note(self, verb: str, kind: str, name: str) -> None:
        self.calls.append(Call(verb, kind, name))
        self.script(verb, f"{kind} {name}")
