"""HNS's first schema: documents that ``HNSCall`` takes, and what is read from its answers. Pure.

Written after the published tables and Docker's recorded calls. Answers hold far more than is asked for here;
what is not known is passed over.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from agent.dataplane.windows.objects import (
    ANY_PROTOCOL,
    TCP,
    UDP,
    Acl,
    FoundBalancer,
    FoundEndpoint,
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

Document = dict[str, Any]

NETWORKS, ENDPOINTS, LISTS, VERSION = "/networks/", "/endpoints/", "/policylists/", "/globals/version"
_RULE_TYPE = "Switch"
"""Access lists are kept by the virtual switch's filter (VFP), where other policies are too."""
_KINDS = {kind.value.lower(): kind for kind in NetworkKind}


def dropping_empty(**fields: Any) -> Document:
    return {name: value for name, value in fields.items() if value not in ("", 0, None, [], False)}


# --- networks


def network_document(network: HnsNetwork) -> Document:
    vlan = [{"Type": "VLAN", "VLAN": network.vlan}] if network.vlan else []
    port = [{"Type": "VxlanPort", "Port": network.vxlan_port}] if network.vxlan_port else []
    return {
        "Name": network.name,
        "Type": network.kind.value.lower(),
        **dropping_empty(
            Subnets=[_subnet(each) for each in network.subnets],
            NetworkAdapterName=network.adapter,
            Policies=vlan + port,
            MacPools=_mac_pools(network.mac_pool),
            AutomaticDNS=network.has_internal_dns,
        ),
    }


def _subnet(subnet: HnsSubnet) -> Document:
    policies = [{"Type": "VSID", "VSID": subnet.vsid}] if subnet.vsid else []
    return {
        "AddressPrefix": subnet.cidr,
        **dropping_empty(GatewayAddress=subnet.gateway, Policies=policies),
    }


def _mac_pools(pool: Sequence[str]) -> list[Document]:
    if not pool:
        return []
    return [{"StartMacAddress": dashed(pool[0]), "EndMacAddress": dashed(pool[-1])}]


def dashed(mac: str) -> str:
    return plain_mac(mac).replace(":", "-").upper()


def read_network(answer: Mapping[str, Any]) -> FoundNetwork | None:
    """None for a kind that we know nothing of."""
    kind = _KINDS.get(str(answer.get("Type", "")).lower())
    if kind is None:
        return None
    policies = _policies(answer)
    subnets = tuple(
        HnsSubnet(
            cidr=str(each.get("AddressPrefix", "")),
            gateway=str(each.get("GatewayAddress") or ""),
            vsid=int(next((p.get("VSID", 0) for p in _policies(each) if p.get("Type") == "VSID"), 0)),
        )
        for each in answer.get("Subnets") or ()
    )
    pools = answer.get("MacPools") or ()
    value = HnsNetwork(
        name=str(answer.get("Name", "")),
        kind=kind,
        subnets=subnets,
        adapter=str(answer.get("NetworkAdapterName") or ""),
        vlan=int(next((p.get("VLAN", 0) for p in policies if p.get("Type") == "VLAN"), 0)),
        vxlan_port=int(next((p.get("Port", 0) for p in policies if p.get("Type") == "VxlanPort"), 0)),
        mac_pool=tuple(
            plain_mac(each[end]) for each in pools[:1] for end in ("StartMacAddress", "EndMacAddress")
        ),
        has_internal_dns=bool(answer.get("AutomaticDNS")),
    )
    address = str(answer.get("ManagementIP") or "").partition("/")[0]
    return FoundNetwork(id=plain_id(str(answer["ID"])), value=value, provider_address=address)


# --- endpoints


def endpoint_document(endpoint: HnsEndpoint, network_id: str) -> Document:
    """A local one comes with its policies in Docker's order: tunnel address, outbound, ports."""
    return {
        "Name": endpoint.name,
        "VirtualNetwork": network_id,
        **dropping_empty(
            IPAddress=endpoint.address,
            MacAddress=endpoint.mac,
            GatewayAddress=endpoint.gateway,
            DNSServerList=",".join(endpoint.dns_servers),
            DNSSuffix=",".join(endpoint.dns_search),
            EnableInternalDNS=endpoint.has_internal_dns,
            IsRemoteEndpoint=endpoint.is_remote,
            Policies=endpoint_policies(endpoint),
        ),
    }


def endpoint_policies(endpoint: HnsEndpoint) -> list[Document]:
    policies: list[Document] = []
    if endpoint.provider_address:
        policies.append({"Type": "PA", "PA": endpoint.provider_address})
    if endpoint.has_outbound_nat:
        policies.append({"Type": "OutBoundNAT", "PA": ""})
    policies += [_port(each) for each in endpoint.ports]
    policies += [_acl(each) for each in endpoint.acls]
    if endpoint.rate_out_bytes:
        policies.append({"Type": "QOS", "MaximumOutgoingBandwidthInBytes": endpoint.rate_out_bytes})
    return policies


def _port(port: PortMap) -> Document:
    return {
        "Type": "NAT",
        "Protocol": "udp" if port.protocol == UDP else "tcp",
        "InternalPort": port.internal_port,
        "ExternalPort": port.external_port,
        "ExternalPortReserved": True,
    }


def _acl(acl: Acl) -> Document:
    return {
        "Type": "ACL",
        "Protocol": acl.protocol,
        "Action": acl.action,
        "Direction": acl.direction,
        **dropping_empty(
            RemoteAddresses=acl.remote_addresses, LocalPorts=acl.local_ports, RemotePorts=acl.remote_ports
        ),
        "RuleType": _RULE_TYPE,
        "Priority": acl.priority,
    }


def read_endpoint(answer: Mapping[str, Any], networks: Mapping[str, str]) -> FoundEndpoint:
    """``networks``: names by id."""
    policies, network_id = _policies(answer), plain_id(str(answer.get("VirtualNetwork", "")))
    by_type: dict[str, list[Mapping[str, Any]]] = {}
    for policy in policies:
        by_type.setdefault(str(policy.get("Type")), []).append(policy)
    servers, search = str(answer.get("DNSServerList") or ""), str(answer.get("DNSSuffix") or "")
    value = HnsEndpoint(
        name=str(answer.get("Name", "")),
        network=networks.get(network_id, ""),
        address=str(answer.get("IPAddress") or "").partition("/")[0],
        prefix_length=int(answer.get("PrefixLength") or 0),
        mac=plain_mac(str(answer.get("MacAddress") or "")),
        gateway=str(answer.get("GatewayAddress") or ""),
        is_remote=bool(answer.get("IsRemoteEndpoint")),
        provider_address=next((str(each["PA"]) for each in by_type.get("PA", ()) if each.get("PA")), ""),
        has_outbound_nat="OutBoundNAT" in by_type,
        ports=tuple(
            PortMap(
                protocol=UDP if str(each.get("Protocol", "")).lower() in ("udp", "17") else TCP,
                internal_port=int(each.get("InternalPort", 0)),
                external_port=int(each.get("ExternalPort", 0)),
            )
            for each in by_type.get("NAT", ())
        ),
        acls=tuple(_read_acl(each) for each in by_type.get("ACL", ())),
        rate_out_bytes=sum(int(each["MaximumOutgoingBandwidthInBytes"]) for each in by_type.get("QOS", ())),
        dns_servers=tuple(filter(None, servers.split(","))),
        dns_search=tuple(filter(None, search.split(","))),
        has_internal_dns=bool(answer.get("EnableInternalDNS")),
    )
    return FoundEndpoint(id=plain_id(str(answer["ID"])), network_id=network_id, value=value)


def _read_acl(policy: Mapping[str, Any]) -> Acl:
    return Acl(
        action=str(policy.get("Action", "")),
        direction=str(policy.get("Direction", "")),
        priority=int(policy.get("Priority", 0)),
        protocol=int(policy.get("Protocol") or policy.get("Protocols") or ANY_PROTOCOL),
        remote_addresses=str(policy.get("RemoteAddresses") or ""),
        local_ports=str(policy.get("LocalPorts") or ""),
        remote_ports=str(policy.get("RemotePorts") or ""),
    )


# --- balancers


def balancer_document(balancer: HnsBalancer, backend_ids: Iterable[str]) -> Document:
    """Without a protocol it is for both; without ports for all."""
    first = balancer.mappings[0]
    protocol = first.protocol if len(balancer.mappings) == 1 else 0
    return {
        "References": [f"{ENDPOINTS}{id_}" for id_ in backend_ids],
        "Policies": [
            {
                "Type": "ELB",
                **dropping_empty(Protocol=protocol),
                "InternalPort": first.internal_port,
                "ExternalPort": first.external_port,
                **dropping_empty(
                    SourceVIP=balancer.source,
                    VIPs=list(balancer.vips),
                    ILB=balancer.is_internal,
                    IsDSR=balancer.is_dsr,
                ),
            }
        ],
    }


def read_balancer(
    answer: Mapping[str, Any], names: Mapping[str, str], networks: Mapping[str, str]
) -> FoundBalancer | None:
    """None for lists that balance nothing. ``names`` and ``networks``: of endpoints, by their id."""
    policy = next((each for each in _policies(answer) if each.get("Type") == "ELB"), None)
    if policy is None:
        return None
    ids = [plain_id(str(each).rstrip("/").rpartition("/")[2]) for each in answer.get("References") or ()]
    protocol = int(policy.get("Protocol") or 0)
    internal, external = int(policy.get("InternalPort") or 0), int(policy.get("ExternalPort") or 0)
    protocols = (TCP, UDP) if not protocol and external else (protocol,)
    value = HnsBalancer(
        network=network_of(ids, networks),
        backends=tuple(sorted(names.get(id_, id_) for id_ in ids)),
        source=str(policy.get("SourceVIP") or ""),
        vips=tuple(str(each) for each in policy.get("VIPs") or ()),
        mappings=tuple(
            PortPair(protocol=each, internal_port=internal, external_port=external) for each in protocols
        ),
        is_internal=bool(policy.get("ILB")),
        is_dsr=bool(policy.get("IsDSR")),
    )
    return FoundBalancer(id=plain_id(str(answer["ID"])), value=value, backend_ids=tuple(ids))


def network_of(endpoint_ids: Iterable[str], networks: Mapping[str, str]) -> str:
    """All backends of a balancer are in one network."""
    return next((networks[id_] for id_ in endpoint_ids if id_ in networks), "")


def _policies(answer: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [each for each in answer.get("Policies") or () if isinstance(each, Mapping)]
