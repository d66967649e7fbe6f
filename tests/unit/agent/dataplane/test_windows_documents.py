"""Requests as published and as Docker sends them, to the letter; answers are read in either spelling."""

from __future__ import annotations

from typing import Any

import hns_schema as schema
import pytest

from agent.dataplane.windows import v1, v2
from agent.dataplane.windows.objects import (
    Acl,
    FoundEndpoint,
    HnsBalancer,
    HnsEndpoint,
    HnsNetwork,
    HnsSubnet,
    NetworkKind,
    PortMap,
    PortPair,
    namespace_id,
)
from swarmpy.model.ids import TaskId

GUID = "0a1b2c3d-0001-4002-8003-000000000004"
SCHEMA = {"Major": 2, "Minor": 0}
NETWORK = HnsNetwork(
    name="net1",
    kind=NetworkKind.OVERLAY,
    subnets=(HnsSubnet(cidr="10.0.9.0/24", gateway="10.0.9.1", vsid=4097),),
)
LOCAL = HnsEndpoint(
    name="ep6",
    network="net1",
    address="10.0.9.6",
    prefix_length=24,
    mac="02:42:0a:00:09:06",
    gateway="10.0.9.1",
    provider_address="192.0.2.11",
    has_outbound_nat=True,
    ports=(PortMap(protocol=6, internal_port=80, external_port=8080),),
    has_internal_dns=True,
)
REMOTE = HnsEndpoint(
    name="ep7",
    network="net1",
    address="10.0.9.7",
    mac="02:42:0a:00:09:07",
    is_remote=True,
    provider_address="192.0.2.12",
)
VIP = HnsBalancer(network="net1", backends=("ep6",), source="10.0.9.2", vips=("10.0.9.3",), is_internal=True)
PUBLISHED = HnsBalancer(
    network="ingress",
    backends=("ep6",),
    source="10.255.0.2",
    mappings=(PortPair(protocol=6, internal_port=80, external_port=8080),),
)
BLOCK = Acl(
    action="Block", direction="In", priority=200, protocol=6, remote_addresses="10.0.9.0/24", local_ports="22"
)


def test_networks() -> None:
    first = v1.network_document(
        HnsNetwork(name="net1", kind=NetworkKind.OVERLAY, subnets=NETWORK.subnets, has_internal_dns=True)
    )
    assert first == {
        "Name": "net1",
        "Type": "overlay",
        "Subnets": [
            {
                "AddressPrefix": "10.0.9.0/24",
                "GatewayAddress": "10.0.9.1",
                "Policies": [{"Type": "VSID", "VSID": 4097}],
            }
        ],
        "AutomaticDNS": True,
    }
    second = v2.network_document(NETWORK)
    assert second == {
        "Name": "net1",
        "Type": "Overlay",
        "Ipams": [
            {
                "Type": "Static",
                "Subnets": [
                    {
                        "IpAddressPrefix": "10.0.9.0/24",
                        "Routes": [{"NextHop": "10.0.9.1", "DestinationPrefix": "0.0.0.0/0"}],
                        "Policies": [{"Type": "VSID", "Settings": {"IsolationId": 4097}}],
                    }
                ],
            }
        ],
        "SchemaVersion": SCHEMA,
    }
    assert schema.faults(first, schema.NETWORK_1) == schema.faults(second, schema.NETWORK_2) == []


def test_local_endpoints() -> None:
    first = v1.endpoint_document(LOCAL, GUID)
    assert first == {
        "Name": "ep6",
        "VirtualNetwork": GUID,
        "MacAddress": "02:42:0a:00:09:06",
        "IPAddress": "10.0.9.6",
        "GatewayAddress": "10.0.9.1",
        "EnableInternalDNS": True,
        "Policies": [
            {"Type": "PA", "PA": "192.0.2.11"},
            {"Type": "OutBoundNAT", "PA": ""},
            {
                "Type": "NAT",
                "Protocol": "tcp",
                "InternalPort": 80,
                "ExternalPort": 8080,
                "ExternalPortReserved": True,
            },
        ],
    }
    second = v2.endpoint_document(LOCAL, GUID)
    assert second == {
        "Name": "ep6",
        "HostComputeNetwork": GUID,
        "IpConfigurations": [{"IpAddress": "10.0.9.6", "PrefixLength": 24}],
        "MacAddress": "02-42-0A-00-09-06",
        "Routes": [{"NextHop": "10.0.9.1", "DestinationPrefix": "0.0.0.0/0"}],
        "Policies": [
            {"Type": "ProviderAddress", "Settings": {"ProviderAddress": "192.0.2.11"}},
            {"Type": "OutBoundNAT", "Settings": {}},
            {
                "Type": "PortMapping",
                "Settings": {"Protocol": 6, "InternalPort": 80, "ExternalPort": 8080},
            },
        ],
        "SchemaVersion": SCHEMA,
    }
    assert schema.faults(first, schema.ENDPOINT_1) == schema.faults(second, schema.ENDPOINT_2) == []


def test_remote_endpoints() -> None:
    first = v1.endpoint_document(REMOTE, GUID)
    assert first == {
        "Name": "ep7",
        "VirtualNetwork": GUID,
        "MacAddress": "02:42:0a:00:09:07",
        "IPAddress": "10.0.9.7",
        "IsRemoteEndpoint": True,
        "Policies": [{"Type": "PA", "PA": "192.0.2.12"}],
    }
    second = v2.endpoint_document(REMOTE, GUID)
    assert second == {
        "Name": "ep7",
        "HostComputeNetwork": GUID,
        "IpConfigurations": [{"IpAddress": "10.0.9.7"}],
        "MacAddress": "02-42-0A-00-09-07",
        "Flags": 1,
        "Policies": [{"Type": "ProviderAddress", "Settings": {"ProviderAddress": "192.0.2.12"}}],
        "SchemaVersion": SCHEMA,
    }
    assert schema.faults(first, schema.ENDPOINT_1) == schema.faults(second, schema.ENDPOINT_2) == []


def test_balancers() -> None:
    vip, first = v1.balancer_document(VIP, [GUID]), v1.balancer_document(PUBLISHED, [GUID])
    assert vip == {
        "References": [f"/endpoints/{GUID}"],
        "Policies": [
            {
                "Type": "ELB",
                "InternalPort": 0,
                "ExternalPort": 0,
                "SourceVIP": "10.0.9.2",
                "VIPs": ["10.0.9.3"],
                "ILB": True,
            }
        ],
    }
    assert first == {
        "References": [f"/endpoints/{GUID}"],
        "Policies": [
            {
                "Type": "ELB",
                "Protocol": 6,
                "InternalPort": 80,
                "ExternalPort": 8080,
                "SourceVIP": "10.255.0.2",
            }
        ],
    }
    second = v2.balancer_document(PUBLISHED, [GUID])
    assert second == {
        "HostComputeEndpoints": [GUID],
        "SourceVIP": "10.255.0.2",
        "FrontendVIPs": [],
        "PortMappings": [{"Protocol": 6, "InternalPort": 80, "ExternalPort": 8080, "Flags": 2}],
        "Flags": 0,
        "SchemaVersion": SCHEMA,
    }
    assert schema.faults(vip, schema.BALANCER_1) == schema.faults(first, schema.BALANCER_1) == []
    assert schema.faults(second, schema.BALANCER_2) == []


def test_a_port_for_both_protocols_is_one_list_in_v1_and_two_mappings_in_v2() -> None:
    pairs = tuple(PortPair(protocol=number, internal_port=53, external_port=5353) for number in (6, 17))
    both = HnsBalancer(network="n", backends=("a",), source="10.0.0.2", mappings=pairs, is_sticky=True)
    assert "Protocol" not in v1.balancer_document(both, [GUID])["Policies"][0]
    second = v2.balancer_document(both, [GUID])
    assert [each["Protocol"] for each in second["PortMappings"]] == [6, 17]
    assert {each["DistributionType"] for each in second["PortMappings"]} == {2}
    assert schema.faults(second, schema.BALANCER_2) == []


def test_access_lists_and_caps() -> None:
    endpoint = HnsEndpoint(name="e", network="n", acls=(BLOCK,), rate_out_bytes=125_000)
    assert v1.endpoint_policies(endpoint) == [
        {
            "Type": "ACL",
            "Protocol": 6,
            "Action": "Block",
            "Direction": "In",
            "RemoteAddresses": "10.0.9.0/24",
            "LocalPorts": "22",
            "RuleType": "Switch",
            "Priority": 200,
        },
        {"Type": "QOS", "MaximumOutgoingBandwidthInBytes": 125_000},
    ]
    change = v2.policy_request(
        "Add", v2.changeable_policies(HnsEndpoint(name="e", network="n", acls=(BLOCK,)))
    )
    assert change == {
        "ResourceType": "Policy",
        "RequestType": "Add",
        "Settings": {
            "Policies": [
                {
                    "Type": "ACL",
                    "Settings": {
                        "Protocols": "6",
                        "Action": "Block",
                        "Direction": "In",
                        "RemoteAddresses": "10.0.9.0/24",
                        "LocalPorts": "22",
                        "RuleType": "Switch",
                        "Priority": 200,
                    },
                }
            ]
        },
    }
    assert schema.faults(change, schema.ENDPOINT_CHANGE_2) == []


def test_any_protocol_is_256_in_v1_and_nothing_in_v2() -> None:
    endpoint = HnsEndpoint(
        name="e", network="n", acls=(Acl(action="Allow", direction="Out", priority=65500),)
    )
    assert v1.endpoint_policies(endpoint)[0]["Protocol"] == 256
    assert "Protocols" not in v2.changeable_policies(endpoint)[0]["Settings"]


@pytest.mark.parametrize(
    ("kind", "first", "second"),
    [
        (NetworkKind.NAT, "nat", "NAT"),
        (NetworkKind.TRANSPARENT, "transparent", "Transparent"),
        (NetworkKind.L2BRIDGE, "l2bridge", "L2Bridge"),
        (NetworkKind.L2TUNNEL, "l2tunnel", "L2Tunnel"),
    ],
)
def test_other_modes_with_adapter_and_vlan(kind: NetworkKind, first: str, second: str) -> None:
    network = HnsNetwork(
        name="lan",
        kind=kind,
        adapter="Ethernet 2",
        vlan=12,
        subnets=(HnsSubnet(cidr="10.1.0.0/16", gateway="10.1.0.1"),),
        mac_pool=("00:15:5d:10:00:00", "00:15:5d:10:ff:ff"),
    )
    one, two = v1.network_document(network), v2.network_document(network)
    assert (one["Type"], two["Type"]) == (first, second)
    assert one["NetworkAdapterName"] == "Ethernet 2"
    assert one["Policies"] == [{"Type": "VLAN", "VLAN": 12}]
    assert two["Policies"] == [{"Type": "NetAdapterName", "Settings": {"NetworkAdapterName": "Ethernet 2"}}]
    (subnet,) = two["Ipams"][0]["Subnets"]
    assert subnet["Policies"] == [{"Type": "VLAN", "Settings": {"IsolationId": 12}}]
    assert two["MacPool"] == {
        "Ranges": [{"StartMacAddress": "00-15-5D-10-00-00", "EndMacAddress": "00-15-5D-10-FF-FF"}]
    }
    assert schema.faults(one, schema.NETWORK_1) == schema.faults(two, schema.NETWORK_2) == []


def test_namespaces_by_isolation() -> None:
    id_ = namespace_id(TaskId("t1"))
    shared, own = v2.namespace_document(id_), v2.namespace_document(id_, is_guest=True, is_ready=True)
    assert shared == {"ID": id_, "Type": "Host", "SchemaVersion": SCHEMA}
    assert own == {"ID": id_, "Type": "Guest", "ReadyOnCreate": True, "SchemaVersion": SCHEMA}
    join = v2.membership_request("Add", GUID)
    assert join == {"ResourceType": "Endpoint", "RequestType": "Add", "Settings": {"EndpointId": GUID}}
    for document in (shared, own):
        assert schema.faults(document, schema.NAMESPACE_2) == []
    assert schema.faults(join, schema.NAMESPACE_CHANGE_2) == []


def test_a_namespaces_id_is_a_guid_that_follows_from_the_task() -> None:
    assert namespace_id(TaskId("a")) == namespace_id(TaskId("a")) != namespace_id(TaskId("b"))
    assert schema.faults(namespace_id(TaskId("a")), schema.GUID) == []


# --- answers


def answer(**changes: Any) -> FoundEndpoint:
    plain = {"ID": f"{{{GUID.upper()}}}", "Name": "e", "HostComputeNetwork": GUID}
    return v2.read_endpoint(plain | changes, {GUID: "net1"})


def test_flags_are_read_as_numbers_and_as_words() -> None:
    assert answer(Flags=1).value.is_remote
    assert answer(Flags="RemoteEndpoint, EnableLowInterfaceMetric").value.is_remote
    assert not answer(Flags="None").value.is_remote
    assert not answer().value.is_remote
    assert answer().id == GUID


@pytest.mark.parametrize("spelling", ["00-15-5D-AB-CD-EF", "00:15:5d:ab:cd:ef"])
def test_macs_are_read_in_both_spellings(spelling: str) -> None:
    assert answer(MacAddress=spelling).value.mac == "00:15:5d:ab:cd:ef"
    found = v1.read_endpoint({"ID": GUID, "VirtualNetwork": GUID, "MacAddress": spelling}, {})
    assert found.value.mac == "00:15:5d:ab:cd:ef"


def test_networks_of_other_kinds_are_passed_over() -> None:
    assert v1.read_network({"ID": GUID, "Name": "Default Switch", "Type": "ICS"}) is None
    assert v2.read_network({"ID": GUID, "Name": "Default Switch", "Type": "ICS"}) is None


def test_lists_that_balance_nothing_are_passed_over() -> None:
    route = {"ID": GUID, "References": [], "Policies": [{"Type": "ROUTE", "NeedEncap": True}]}
    assert v1.read_balancer(route, {}, {}) is None
