"""How the fake HNS writes and reads its objects in either schema. Written apart from the production code."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]


# --- networks


def network_from_v1(document: Json) -> Json:
    policies = {each["Type"]: each for each in document.get("Policies", ())}
    return {
        "name": document["Name"],
        "type": document["Type"],
        "adapter": document.get("NetworkAdapterName", ""),
        "vlan": policies.get("VLAN", {}).get("VLAN", 0),
        "port": policies.get("VxlanPort", {}).get("Port", 0),
        "pool": [[each["StartMacAddress"], each["EndMacAddress"]] for each in document.get("MacPools", ())],
        "subnets": [
            {
                "prefix": each["AddressPrefix"],
                "gateway": each.get("GatewayAddress", ""),
                "vsid": next((policy["VSID"] for policy in each.get("Policies", ())), 0),
            }
            for each in document.get("Subnets", ())
        ],
    }


def network_from_v2(document: Json) -> Json:
    policies = {each["Type"]: each["Settings"] for each in document.get("Policies", ())}
    subnets = [each for ipam in document.get("Ipams", ()) for each in ipam["Subnets"]]
    below = [{each["Type"]: each["Settings"] for each in subnet.get("Policies", ())} for subnet in subnets]
    return {
        "name": document["Name"],
        "type": document["Type"].lower(),
        "adapter": policies.get("NetAdapterName", {}).get("NetworkAdapterName", ""),
        "vlan": next((each["VLAN"]["IsolationId"] for each in below if "VLAN" in each), 0),
        "port": policies.get("VxlanPort", {}).get("Port", 0),
        "pool": [
            [each["StartMacAddress"], each["EndMacAddress"]]
            for each in document.get("MacPool", {}).get("Ranges", ())
        ],
        "subnets": [
            {
                "prefix": each["IpAddressPrefix"],
                "gateway": next((route["NextHop"] for route in each.get("Routes", ())), ""),
                "vsid": policy.get("VSID", {}).get("IsolationId", 0),
            }
            for each, policy in zip(subnets, below, strict=True)
        ],
    }


def network_v1(network: Json, address: str) -> Json:
    policies: list[Json] = [{"Type": "VLAN", "VLAN": network["vlan"]}] if network["vlan"] else []
    policies += [{"Type": "VxlanPort", "Port": network["port"]}] if network["port"] else []
    return {
        "ID": network["id"].upper(),
        "Name": network["name"],
        "Type": network["type"],
        "NetworkAdapterName": network["adapter"],
        "ManagementIP": f"{address}/24" if address else "",
        "Policies": policies,
        "MacPools": [{"StartMacAddress": first, "EndMacAddress": last} for first, last in network["pool"]],
        "Subnets": [
            {
                "AddressPrefix": each["prefix"],
                "GatewayAddress": each["gateway"],
                "Policies": [{"Type": "VSID", "VSID": each["vsid"]}] if each["vsid"] else [],
                "ObjectType": 5,
            }
            for each in network["subnets"]
        ],
        "State": 1,
    }


_KINDS = {"nat": "NAT", "l2bridge": "L2Bridge", "l2tunnel": "L2Tunnel", "transparent": "Transparent"}


def network_v2(network: Json, address: str) -> Json:
    policies = [{"Type": "DrMacAddress", "Settings": {"Address": "00-15-5D-5F-A0-45"}}]
    if address:
        policies.append({"Type": "ProviderAddress", "Settings": {"ProviderAddress": address}})
    if network["adapter"]:
        policies.append({"Type": "NetAdapterName", "Settings": {"NetworkAdapterName": network["adapter"]}})
    if network["port"]:
        policies.append({"Type": "VxlanPort", "Settings": {"Port": network["port"]}})
    vlan = [{"Type": "VLAN", "Settings": {"IsolationId": network["vlan"]}}] if network["vlan"] else []
    ranges = [{"StartMacAddress": first, "EndMacAddress": last} for first, last in network["pool"]]
    subnets = [
        {
            "IpAddressPrefix": each["prefix"],
            "Routes": _routes(each["gateway"]),
            "Policies": vlan
            + ([{"Type": "VSID", "Settings": {"IsolationId": each["vsid"]}}] if each["vsid"] else []),
        }
        for each in network["subnets"]
    ]
    return {
        "ID": network["id"].upper(),
        "Name": network["name"],
        "Type": _KINDS.get(network["type"], "Overlay"),
        "Policies": policies,
        "MacPool": {"Ranges": ranges},
        "Dns": {},
        "Ipams": [{"Type": "Static", "Subnets": subnets}],
        "Flags": 0,
        "Health": {"Extra": {"LastErrorCode": 0}},
        "SchemaVersion": {"Major": 2, "Minor": 11},
    }


def _routes(gateway: str) -> list[Json]:
    return [{"NextHop": gateway, "DestinationPrefix": "0.0.0.0/0", "Metric": 0}] if gateway else []


# --- endpoints


def endpoint_from_v1(document: Json) -> Json:
    return {
        "name": document["Name"],
        "network": document["VirtualNetwork"].lower(),
        "ip": document.get("IPAddress", ""),
        "prefix": 0,
        "mac": document.get("MacAddress", ""),
        "gateway": document.get("GatewayAddress", ""),
        "is_remote": document.get("IsRemoteEndpoint", False),
        "dns": [each for each in document.get("DNSServerList", "").split(",") if each],
        "search": [each for each in document.get("DNSSuffix", "").split(",") if each],
        "policies": [_policy_from_v1(each) for each in document.get("Policies", ())],
    }


def _policy_from_v1(policy: Json) -> Json:
    rest = {key: value for key, value in policy.items() if key != "Type"}
    match policy["Type"]:
        case "PA":
            return {"Type": "ProviderAddress", "Settings": {"ProviderAddress": policy["PA"]}}
        case "OutBoundNAT":
            return {"Type": "OutBoundNAT", "Settings": {}}
        case "NAT":
            rest["Protocol"] = {"tcp": 6, "udp": 17}[policy["Protocol"]]
            return {"Type": "PortMapping", "Settings": rest}
        case "ACL":
            protocol = rest.pop("Protocol", 256)
            words = {} if protocol == 256 else {"Protocols": str(protocol)}
            return {"Type": "ACL", "Settings": {**words, **rest}}
        case other:
            return {"Type": other, "Settings": rest}


def endpoint_from_v2(document: Json) -> Json:
    place: Json = next(iter(document.get("IpConfigurations", ())), {})
    return {
        "name": document["Name"],
        "network": document["HostComputeNetwork"].lower(),
        "ip": place.get("IpAddress", ""),
        "prefix": place.get("PrefixLength", 0),
        "mac": document.get("MacAddress", ""),
        "gateway": next((each["NextHop"] for each in document.get("Routes", ())), ""),
        "is_remote": document.get("Flags", 0) == 1,
        "dns": document.get("Dns", {}).get("ServerList", []),
        "search": document.get("Dns", {}).get("Search", []),
        "policies": list(document.get("Policies", ())),
    }


def endpoint_v1(endpoint: Json) -> Json:
    """Its MAC is spelled with dashes here, whatever came in."""
    return {
        "ID": endpoint["id"].upper(),
        "Name": endpoint["name"],
        "VirtualNetwork": endpoint["network"].upper(),
        "IPAddress": endpoint["ip"],
        "PrefixLength": endpoint["prefix"],
        "MacAddress": endpoint["mac"].replace(":", "-").upper(),
        "GatewayAddress": endpoint["gateway"],
        "DNSServerList": ",".join(endpoint["dns"]),
        "DNSSuffix": ",".join(endpoint["search"]),
        "IsRemoteEndpoint": endpoint["is_remote"],
        "Policies": [_policy_v1(each) for each in endpoint["policies"]] + [{"Type": "L2Driver"}],
        "State": 1,
    }


def _policy_v1(policy: Json) -> Json:
    settings = dict(policy["Settings"])
    match policy["Type"]:
        case "ProviderAddress":
            return {"Type": "PA", "PA": settings["ProviderAddress"]}
        case "PortMapping":
            settings["Protocol"] = {6: "TCP", 17: "UDP"}[settings["Protocol"]]
            return {"Type": "NAT", **settings}
        case "ACL":
            settings["Protocol"] = int(settings.pop("Protocols", 256))
            return {"Type": "ACL", "Id": "0", **settings}
        case other:
            return {"Type": other, **settings}


def endpoint_v2(endpoint: Json) -> Json:
    return {
        "ID": endpoint["id"].upper(),
        "Name": endpoint["name"],
        "HostComputeNetwork": endpoint["network"].upper(),
        "HostComputeNamespace": "",
        "IpConfigurations": [{"IpAddress": endpoint["ip"], "PrefixLength": endpoint["prefix"]}],
        "MacAddress": endpoint["mac"].replace(":", "-").lower(),
        "Routes": _routes(endpoint["gateway"]),
        "Dns": {"ServerList": endpoint["dns"], "Search": endpoint["search"]},
        "Flags": 1 if endpoint["is_remote"] else 0,
        "Policies": [*endpoint["policies"], {"Type": "L2Driver", "Settings": {}}],
        "SchemaVersion": {"Major": 2, "Minor": 11},
    }


def host_ports(endpoint: Json) -> list[tuple[int, int]]:
    """Protocol and port of the node, of each."""
    ports = [each["Settings"] for each in endpoint["policies"] if each["Type"] == "PortMapping"]
    return [(each["Protocol"], each["ExternalPort"]) for each in ports]


# --- balancers


def balancer_from_v1(document: Json) -> Json:
    policy = document["Policies"][0]
    return {
        "backends": [each.rpartition("/")[2].lower() for each in document["References"]],
        "source": policy.get("SourceVIP", ""),
        "vips": policy.get("VIPs", []),
        "ports": [
            {
                "protocol": policy.get("Protocol", 0),
                "internal": policy["InternalPort"],
                "external": policy["ExternalPort"],
            }
        ],
        "is_internal": policy.get("ILB", False),
        "is_dsr": policy.get("IsDSR", False),
        "spread": 0,
    }


def balancer_from_v2(document: Json) -> Json:
    pairs = document["PortMappings"]
    return {
        "backends": [each.lower() for each in document["HostComputeEndpoints"]],
        "source": document["SourceVIP"],
        "vips": document["FrontendVIPs"],
        "ports": [
            {
                "protocol": each["Protocol"],
                "internal": each["InternalPort"],
                "external": each["ExternalPort"],
            }
            for each in pairs
        ],
        "is_internal": any(each["Flags"] & 1 for each in pairs),
        "is_dsr": bool(document["Flags"] & 1),
        "spread": max(each.get("DistributionType", 0) for each in pairs),
    }


def balancer_v1(balancer: Json) -> Json:
    return {
        "ID": balancer["id"].upper(),
        "References": [f"/endpoints/{each.upper()}" for each in balancer["backends"]],
        "Policies": [
            {
                "Type": "ELB",
                "Protocol": pair["protocol"],
                "InternalPort": pair["internal"],
                "ExternalPort": pair["external"],
                "SourceVIP": balancer["source"],
                "VIPs": balancer["vips"],
                "ILB": balancer["is_internal"],
                "IsDSR": balancer["is_dsr"],
            }
            for pair in balancer["ports"]
        ],
        "State": 2,
    }


def balancer_v2(balancer: Json) -> Json:
    return {
        "ID": balancer["id"].upper(),
        "HostComputeEndpoints": [each.upper() for each in balancer["backends"]],
        "SourceVIP": balancer["source"],
        "FrontendVIPs": balancer["vips"],
        "PortMappings": [
            {
                "Protocol": pair["protocol"],
                "InternalPort": pair["internal"],
                "ExternalPort": pair["external"],
                "DistributionType": balancer["spread"],
                "Flags": 1 if balancer["is_internal"] else 2,
            }
            for pair in balancer["ports"]
        ],
        "Flags": 1 if balancer["is_dsr"] else 0,
        "SchemaVersion": {"Major": 2, "Minor": 11},
    }


def namespace_v2(namespace: Json) -> Json:
    return {
        "ID": namespace["id"].upper(),
        "NamespaceId": 7,
        "Type": namespace["type"],
        "Resources": [{"Type": "Endpoint", "Data": {"ID": each.upper()}} for each in namespace["endpoints"]],
        "SchemaVersion": {"Major": 2, "Minor": 11},
    }
