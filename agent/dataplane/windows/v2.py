"""HNS's second schema (HCN): documents, and what is read from answers. Pure.

Every document says its schema's version: HCN reads one that does not as V1. Enumerations go out as integers
or words as Microsoft's own tools send them; both are read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from agent.dataplane.windows.objects import (
    ANY_PROTOCOL,
    Acl,
    FoundBalancer,
    FoundEndpoint,
    FoundNamespace,
    FoundNetwork,
    HnsBalancer,
    HnsEndpoint,
    HnsNetwork,
    HnsSubnet,
    NetworkKind,
    PortMap,
    PortPair,
    plain_id,
    plain_mac,
)
from agent.dataplane.windows.v1 import Document, dashed, dropping_empty, network_of

SCHEMA = {"Major": 2, "Minor": 0}
QUERY: Document = {"SchemaVersion": SCHEMA, "Flags": 0}

_REMOTE = 1
_INTERNAL_LOAD_BALANCER, _LOCAL_ROUTED_VIP = 1, 2
_DSR = 1
_BY_SOURCE = 2
"""How connections are spread: 0 by flow, 1 by source and protocol."""
_ANYWHERE = "0.0.0.0/0"
_KINDS = {kind.value.lower(): kind for kind in NetworkKind}
_WORDS = {"none": 0, "remoteendpoint": _REMOTE, "dsr": _DSR, "ilb": _INTERNAL_LOAD_BALANCER}


def _flags(value: object) -> int:
    """The published tables say words, separated by commas; Microsoft's own tools send and get numbers."""
    if isinstance(value, str) and not value.isdecimal():
        return sum(_WORDS.get(word.strip().lower(), 0) for word in value.split(","))
    return int(str(value or 0))


def _policy(type_: str, **settings: Any) -> Document:
    return {"Type": type_, "Settings": settings}


def _settings(answer: Mapping[str, Any], type_: str) -> list[Mapping[str, Any]]:
    return [
        each.get("Settings") or {}
        for each in answer.get("Policies") or ()
        if isinstance(each, Mapping) and each.get("Type") == type_
    ]


# --- networks


def network_document(network: HnsNetwork) -> Document:
    policies = []
    if network.adapter:
        policies.append(_policy("NetAdapterName", NetworkAdapterName=network.adapter))
    if network.vxlan_port:
        policies.append(_policy("VxlanPort", Port=network.vxlan_port))
    if network.has_internal_dns:
        policies.append(_policy("AutomaticDNS", Enable=True))
    subnets = [_subnet(each, network.vlan) for each in network.subnets]
    pool = network.mac_pool
    ranges = [{"StartMacAddress": dashed(pool[0]), "EndMacAddress": dashed(pool[-1])}] if pool else []
    return {
        "Name": network.name,
        "Type": network.kind.value,
        **dropping_empty(
            Policies=policies,
            MacPool={"Ranges": ranges} if ranges else None,
            Ipams=[{"Type": "Static", "Subnets": subnets}] if subnets else [],
        ),
        "SchemaVersion": SCHEMA,
    }


def _subnet(subnet: HnsSubnet, vlan: int) -> Document:
    policies = [_policy("VSID", IsolationId=subnet.vsid)] if subnet.vsid else []
    policies += [_policy("VLAN", IsolationId=vlan)] if vlan else []
    return {
        "IpAddressPrefix": subnet.cidr,
        **dropping_empty(Routes=_routes(subnet.gateway), Policies=policies),
    }


def _routes(gateway: str) -> list[Document]:
    return [{"NextHop": gateway, "DestinationPrefix": _ANYWHERE}] if gateway else []


def _read_gateway(answer: Mapping[str, Any]) -> str:
    routes = answer.get("Routes") or ()
    return next(
        (str(each.get("NextHop")) for each in routes if each.get("DestinationPrefix") == _ANYWHERE), ""
    )


def read_network(answer: Mapping[str, Any]) -> FoundNetwork | None:
    """None for a kind that we know nothing of."""
    kind = _KINDS.get(str(answer.get("Type", "")).lower())
    if kind is None:
        return None
    subnets = [each for ipam in answer.get("Ipams") or () for each in ipam.get("Subnets") or ()]
    ranges = (answer.get("MacPool") or {}).get("Ranges") or ()
    value = HnsNetwork(
        name=str(answer.get("Name", "")),
        kind=kind,
        subnets=tuple(
            HnsSubnet(
                cidr=str(each.get("IpAddressPrefix", "")),
                gateway=_read_gateway(each),
                vsid=int(next((p.get("IsolationId", 0) for p in _settings(each, "VSID")), 0)),
            )
            for each in subnets
        ),
        adapter=next((str(p["NetworkAdapterName"]) for p in _settings(answer, "NetAdapterName")), ""),
        vlan=int(
            next((p.get("IsolationId", 0) for each in subnets for p in _settings(each, "VLAN")), 0),
        ),
        vxlan_port=int(next((p.get("Port", 0) for p in _settings(answer, "VxlanPort")), 0)),
        mac_pool=tuple(
            plain_mac(each[end]) for each in ranges[:1] for end in ("StartMacAddress", "EndMacAddress")
        ),
        has_internal_dns=any(p.get("Enable") for p in _settings(answer, "AutomaticDNS")),
    )
    address = next((str(p.get("ProviderAddress") or "") for p in _settings(answer, "ProviderAddress")), "")
    return FoundNetwork(id=plain_id(str(answer["ID"])), value=value, provider_address=address)


# --- endpoints


def endpoint_document(endpoint: HnsEndpoint, network_id: str) -> Document:
    configuration = {
        "IpAddress": endpoint.address,
        **dropping_empty(PrefixLength=0 if endpoint.is_remote else endpoint.prefix_length),
    }
    dns = dropping_empty(ServerList=list(endpoint.dns_servers), Search=list(endpoint.dns_search))
    return {
        "Name": endpoint.name,
        "HostComputeNetwork": network_id,
        **dropping_empty(
            IpConfigurations=[configuration] if endpoint.address else [],
            MacAddress=dashed(endpoint.mac) if endpoint.mac else "",
            Routes=_routes(endpoint.gateway),
            Dns=dns or None,
            Flags=_REMOTE if endpoint.is_remote else 0,
            Policies=endpoint_policies(endpoint),
        ),
        "SchemaVersion": SCHEMA,
    }


def endpoint_policies(endpoint: HnsEndpoint) -> list[Document]:
    policies: list[Document] = []
    if endpoint.provider_address:
        policies.append(_policy("ProviderAddress", ProviderAddress=endpoint.provider_address))
    if endpoint.has_outbound_nat:
        policies.append(_policy("OutBoundNAT"))
    for port in endpoint.ports:
        settings = {
            "Protocol": port.protocol,
            "InternalPort": port.internal_port,
            "ExternalPort": port.external_port,
        }
        policies.append(_policy("PortMapping", **settings, **dropping_empty(VIP=port.address)))
    return policies + changeable_policies(endpoint)


def changeable_policies(endpoint: HnsEndpoint) -> list[Document]:
    """What may change while a task runs."""
    policies = [
        _policy(
            "ACL",
            **dropping_empty(Protocols="" if each.protocol == ANY_PROTOCOL else str(each.protocol)),
            Action=each.action,
            Direction=each.direction,
            **dropping_empty(
                RemoteAddresses=each.remote_addresses,
                LocalPorts=each.local_ports,
                RemotePorts=each.remote_ports,
            ),
            RuleType="Switch",
            Priority=each.priority,
        )
        for each in endpoint.acls
    ]
    if endpoint.rate_out_bytes:
        policies.append(_policy("QOS", MaximumOutgoingBandwidthInBytes=endpoint.rate_out_bytes))
    return policies


def policy_request(request: str, policies: list[Document]) -> Document:
    """``request``: Add, Remove or Update."""
    return {"ResourceType": "Policy", "RequestType": request, "Settings": {"Policies": policies}}


def read_endpoint(answer: Mapping[str, Any], networks: Mapping[str, str]) -> FoundEndpoint:
    """``networks``: names by id."""
    network_id = plain_id(str(answer.get("HostComputeNetwork", "")))
    place: Mapping[str, Any] = next(iter(answer.get("IpConfigurations") or ()), {})
    dns = answer.get("Dns") or {}
    value = HnsEndpoint(
        name=str(answer.get("Name", "")),
        network=networks.get(network_id, ""),
        address=str(place.get("IpAddress") or ""),
        prefix_length=int(place.get("PrefixLength") or 0),
        mac=plain_mac(str(answer.get("MacAddress") or "")),
        gateway=_read_gateway(answer),
        is_remote=bool(_flags(answer.get("Flags")) & _REMOTE),
        provider_address=next(
            (
                str(p["ProviderAddress"])
                for p in _settings(answer, "ProviderAddress")
                if p.get("ProviderAddress")
            ),
            "",
        ),
        has_outbound_nat=bool(_settings(answer, "OutBoundNAT")),
        ports=tuple(
            PortMap(
                protocol=int(p.get("Protocol", 0)),
                internal_port=int(p.get("InternalPort", 0)),
                external_port=int(p.get("ExternalPort", 0)),
                address=str(p.get("VIP") or ""),
            )
            for p in _settings(answer, "PortMapping")
        ),
        acls=tuple(
            Acl(
                action=str(p.get("Action", "")),
                direction=str(p.get("Direction", "")),
                priority=int(p.get("Priority", 0)),
                protocol=int(p.get("Protocols") or ANY_PROTOCOL),
                remote_addresses=str(p.get("RemoteAddresses") or ""),
                local_ports=str(p.get("LocalPorts") or ""),
                remote_ports=str(p.get("RemotePorts") or ""),
            )
            for p in _settings(answer, "ACL")
        ),
        rate_out_bytes=sum(int(p["MaximumOutgoingBandwidthInBytes"]) for p in _settings(answer, "QOS")),
        dns_servers=tuple(dns.get("ServerList") or ()),
        dns_search=tuple(dns.get("Search") or ()),
    )
    return FoundEndpoint(id=plain_id(str(answer["ID"])), network_id=network_id, value=value)


# --- balancers


def balancer_document(balancer: HnsBalancer, backend_ids: Iterable[str]) -> Document:
    """Of ports: HCN refuses a balancer for all of them, that is V1's."""
    flags = _INTERNAL_LOAD_BALANCER if balancer.is_internal else _LOCAL_ROUTED_VIP
    how = {"DistributionType": _BY_SOURCE} if balancer.is_sticky else {}
    return {
        "HostComputeEndpoints": list(backend_ids),
        "SourceVIP": balancer.source,
        "FrontendVIPs": list(balancer.vips),
        "PortMappings": [
            {
                "Protocol": each.protocol,
                "InternalPort": each.internal_port,
                "ExternalPort": each.external_port,
                **how,
                "Flags": flags,
            }
            for each in balancer.mappings
        ],
        "Flags": _DSR if balancer.is_dsr else 0,
        "SchemaVersion": SCHEMA,
    }


def read_balancer(
    answer: Mapping[str, Any], names: Mapping[str, str], networks: Mapping[str, str]
) -> FoundBalancer:
    """``names`` and ``networks``: of endpoints, by their id."""
    ids = [plain_id(str(each)) for each in answer.get("HostComputeEndpoints") or ()]
    mappings = list(answer.get("PortMappings") or ())
    value = HnsBalancer(
        network=network_of(ids, networks),
        backends=tuple(sorted(names.get(id_, id_) for id_ in ids)),
        source=str(answer.get("SourceVIP") or ""),
        vips=tuple(str(each) for each in answer.get("FrontendVIPs") or ()),
        mappings=tuple(
            PortPair(
                protocol=int(each.get("Protocol") or 0),
                internal_port=int(each.get("InternalPort") or 0),
                external_port=int(each.get("ExternalPort") or 0),
            )
            for each in mappings
        ),
        is_internal=any(_flags(each.get("Flags")) & _INTERNAL_LOAD_BALANCER for each in mappings),
        is_sticky=any(each.get("DistributionType") in (_BY_SOURCE, str(_BY_SOURCE)) for each in mappings),
        is_dsr=bool(_flags(answer.get("Flags")) & _DSR),
    )
    return FoundBalancer(id=plain_id(str(answer["ID"])), value=value, backend_ids=tuple(ids))


# --- namespaces


def namespace_document(namespace_id: str, *, is_guest: bool = False, is_ready: bool = False) -> Document:
    """Host for a container in the node's kernel, Guest for one in a virtual machine of its own.

    ``is_ready``: with its network's compartment, which HNS 15.2 and newer make on this wish only.
    """
    return {
        "ID": namespace_id,
        "Type": "Guest" if is_guest else "Host",
        **dropping_empty(ReadyOnCreate=is_ready),
        "SchemaVersion": SCHEMA,
    }


def membership_request(request: str, endpoint_id: str) -> Document:
    """``request``: Add or Remove."""
    return {
        "ResourceType": "Endpoint",
        "RequestType": request,
        "Settings": {"EndpointId": endpoint_id},
    }


def read_namespace(answer: Mapping[str, Any]) -> FoundNamespace:
    resources = [each for each in answer.get("Resources") or () if each.get("Type") in ("Endpoint", 1)]
    data = [each.get("Data") or {} for each in resources]
    ids = [plain_id(str(each.get("ID") or each.get("Id") or "")) for each in data]
    return FoundNamespace(id=plain_id(str(answer["ID"])), endpoint_ids=tuple(ids))
