"""What a node's networks look like, record by record."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from agent import events
from agent.dataplane.base import Endpoint, Leg, NetworkConfig, RemoteEndpoint
from agent.discovery import Directory, network_config
from swarmpy.model.addresses import mac_of
from swarmpy.model.cluster_specs import IPAMConfig, IPAMOptions, NetworkSpec
from swarmpy.model.container_ids import short_container_id
from swarmpy.model.discovery import (
    EndpointState,
    NetworkEndpoint,
    NetworkService,
    NetworkSettings,
    NodePeer,
    RecordKind,
)
from swarmpy.model.ids import NetworkId, NodeId, ServiceId, TaskId
from swarmpy.model.objects import Kind, Network
from swarmpy.model.specs import Driver, PortConfig
from swarmpy.model.states import PortProtocol

HERE, THERE = NodeId("here"), NodeId("there")
NET, INGRESS = NetworkId("net1"), NetworkId("ingress1")
ACTIVE, PRESENT, LOST = EndpointState.ACTIVE, EndpointState.PRESENT, EndpointState.LOST
WEB = NetworkService(
    network_id=NET, service_id=ServiceId("web"), name="Web", aliases=("www",), addresses=("10.0.9.9/24",)
)


def endpoint(
    number: int, state: EndpointState = ACTIVE, *, node: NodeId = THERE, network: NetworkId = NET
) -> NetworkEndpoint:
    task_id = TaskId(f"task{number:021}")
    return NetworkEndpoint(
        network_id=network,
        task_id=task_id,
        service_id=ServiceId("web"),
        node_id=node,
        addresses=(f"10.0.9.{number}/24",),
        name=f"Web.{number}.{task_id}",
        state=state,
    )


def directory(*known: events.NetworkChange) -> Directory:
    made = Directory(HERE)
    for change in (Network(id=NET, spec=NetworkSpec(name="net")), *known):
        made.take(change)
    made.take_records()
    return made


def names(of: Directory, network: NetworkId = NET) -> dict[str, tuple[str, ...]]:
    return dict(of.node_state().networks[network].names.addresses)


def removed(record: NetworkEndpoint | NetworkService) -> events.RecordRemoval:
    kind = RecordKind.ENDPOINT if isinstance(record, NetworkEndpoint) else RecordKind.SERVICE
    return events.RecordRemoval(kind, record.record_id)


def local(record: NetworkEndpoint, *, hostname: str = "") -> Endpoint:
    leg = Leg(network=NetworkConfig(id=record.network_id), link="eth0", addresses=record.addresses)
    return Endpoint(task_id=record.task_id, hostname=hostname, legs=(leg,))


# --- names and virtual addresses


def test_a_service_is_called_by_name_and_alias_and_its_tasks_by_theirs() -> None:
    known = directory(WEB, endpoint(2), endpoint(1), endpoint(3, PRESENT))
    found = names(known)
    assert found["web"] == found["www"] == ("10.0.9.9",)
    assert found["tasks.web"] == found["tasks.www"] == ("10.0.9.1", "10.0.9.2")
    assert found[endpoint(1).name.lower()] == ("10.0.9.1",)
    assert endpoint(3).name.lower() not in found
    balancer = known.node_state().networks[NET].balancers[WEB.service_id]
    assert (balancer.vips, balancer.backends) == (("10.0.9.9",), ("10.0.9.1", "10.0.9.2"))


def test_without_a_virtual_address_the_name_leads_to_all_tasks() -> None:
    known = directory(replace(WEB, addresses=()), endpoint(2), endpoint(1))
    assert names(known)["web"] == ("10.0.9.1", "10.0.9.2")
    assert known.node_state().networks[NET].balancers == {}


def test_a_service_without_running_tasks_keeps_its_names() -> None:
    """Or the servers outside would be asked for them."""
    for addresses in ((), WEB.addresses):
        known = directory(replace(WEB, addresses=addresses), endpoint(1))
        known.take(endpoint(1, PRESENT))
        assert names(known)["tasks.web"] == names(known)["tasks.www"] == ()
        assert names(known)["web"] == tuple(address.partition("/")[0] for address in addresses)
        known.take(removed(WEB))
        assert names(known) == {}


def test_who_is_told_to_stop_is_out_of_names_but_frames_find_it() -> None:
    known = directory(WEB, endpoint(1), endpoint(2))
    known.take(endpoint(1, PRESENT))
    state = known.node_state().networks[NET]
    assert state.balancers[WEB.service_id].backends == ("10.0.9.2",)
    assert endpoint(1).name.lower() not in state.names.addresses
    assert state.remotes[endpoint(1).task_id] == RemoteEndpoint(
        node_id=THERE, addresses=("10.0.9.1",), mac="02:42:0a:00:09:01"
    )
    assert state.names.pointers["10.0.9.1"] == endpoint(1).name.lower()
    known.take(removed(endpoint(1)))
    state = known.node_state().networks[NET]
    assert endpoint(1).task_id not in state.remotes
    assert "10.0.9.1" not in state.names.pointers


def test_addresses_lead_back_to_names() -> None:
    known = directory(WEB, endpoint(1))
    pointers = known.node_state().networks[NET].names.pointers
    assert pointers == {"10.0.9.1": endpoint(1).name.lower(), "10.0.9.9": "web"}
    known.take(removed(WEB))
    assert set(known.node_state().networks[NET].names.pointers) == {"10.0.9.1"}
    assert "web" not in names(known)


def test_two_services_may_share_an_alias() -> None:
    other = replace(WEB, service_id=ServiceId("db"), name="db", addresses=("10.0.9.8/24",))
    known = directory(WEB, other)
    assert names(known)["www"] == ("10.0.9.8", "10.0.9.9")
    known.take(replace(other, aliases=()))
    assert names(known)["www"] == ("10.0.9.9",)


def test_an_own_task_has_the_names_of_its_container_while_it_lives() -> None:
    record = endpoint(1, node=HERE)
    known = directory(WEB, record)
    assert names(known)["tasks.web"] == (), "it has no place here yet"
    known.put_local(local(record, hostname="MyHost"))
    found = names(known)
    assert found["myhost"] == found[short_container_id(record.task_id)] == found["tasks.web"] == ("10.0.9.1",)
    assert known.node_state().networks[NET].remotes == {}
    known.put_local(local(record, hostname="MyHost"), is_reachable=False)
    assert names(known)["tasks.web"] == (), "it has ended, and no manager has heard of it"
    assert record.task_id in known.node_state().endpoints
    known.drop_local(record.task_id)
    assert known.node_state().endpoints == {}


# --- what did not change


def test_what_did_not_change_is_the_same_object() -> None:
    other = NetworkId("net2")
    known = directory(WEB, endpoint(1), Network(id=other), endpoint(7, network=other))
    before = known.node_state()
    known.take(endpoint(1))
    assert known.node_state() is before
    known.take(endpoint(2, PRESENT))
    after = known.node_state()
    assert after.networks[other] is before.networks[other]
    assert after.peers is before.peers
    assert after.networks[NET].balancers is before.networks[NET].balancers
    assert after.networks[NET].remotes is not before.networks[NET].remotes
    assert set(before.networks[NET].remotes) == {endpoint(1).task_id}, "what was given out stays as it was"


# --- published ports and other nodes


def test_ports_of_the_ingress_network_are_published() -> None:
    port = PortConfig(protocol=PortProtocol.TCP, target_port=80, published_port=8080)
    udp = replace(port, protocol=PortProtocol.UDP, source_nat=True)
    service = replace(WEB, network_id=INGRESS, ports=(udp, port))
    ingress = Network(id=INGRESS, spec=NetworkSpec(name="ingress", ingress=True))
    known = directory(ingress, service, endpoint(4, network=INGRESS), endpoint(5, PRESENT, network=INGRESS))
    tcp_port, udp_port = known.node_state().published
    assert (tcp_port.protocol, tcp_port.published_port, tcp_port.target_port) == ("tcp", 8080, 80)
    assert tcp_port.backends == udp_port.backends == ("10.0.9.4",)
    assert (tcp_port.is_source_nat, udp_port.is_source_nat) == (False, True)
    assert names(known, INGRESS) == {}
    before = known.node_state().published
    known.take(NodePeer(node_id=THERE, addr="192.0.2.2", ingress_addresses=("10.0.9.200/24",)))
    known.take(NodePeer(node_id=HERE, addr="192.0.2.1", ingress_addresses=("10.0.9.201/24",)))
    state = known.node_state()
    assert state.published is before
    assert state.peers[THERE].ingress_addresses == ("10.0.9.200",)
    gateways = {id_ for id_ in state.networks[INGRESS].remotes if id_.startswith("node:")}
    assert gateways == {f"node:{THERE}"}
    known.take(events.RecordRemoval(RecordKind.PEER, THERE))
    assert not any(id_.startswith("node:") for id_ in known.node_state().networks[INGRESS].remotes)


def test_settings_reach_the_state() -> None:
    known = directory(NetworkSettings(data_path_port=7777))
    assert known.node_state().data_path_port == 7777


# --- who is gone


def test_connections_to_the_lost_are_cut_once() -> None:
    known = directory(WEB, endpoint(1), endpoint(2, PRESENT), endpoint(3))
    for record in (endpoint(1, LOST), endpoint(2, LOST)):
        known.take(record)
    assert known.take_cut() == {NET: ("10.0.9.1", "10.0.9.2")}
    assert set(known.node_state().networks[NET].remotes) == {endpoint(3).task_id}
    known.take(endpoint(1, LOST))
    known.take(removed(endpoint(1)))
    known.take(removed(endpoint(3)))
    assert known.take_cut() == {}, "known already, or ended in order"


def test_who_went_while_nobody_told_us_is_cut() -> None:
    known = directory(WEB, endpoint(1), endpoint(2), endpoint(3, node=HERE))
    known.take_complete([Network(id=NET), WEB, endpoint(2)])
    assert known.take_cut() == {NET: ("10.0.9.1",)}
    known.take_complete([])
    assert known.take_cut() == {}, "of a network that we are not on there is nothing to cut"
    assert known.node_state().networks == {}


def test_an_address_with_a_new_owner_is_not_cut() -> None:
    known = directory(WEB, endpoint(1))
    heir = replace(endpoint(2), addresses=endpoint(1).addresses)
    known.take_complete([Network(id=NET), WEB, heir])
    assert known.take_cut() == {}
    assert known.node_state().networks[NET].names.pointers["10.0.9.1"] == heir.name.lower()


# --- the journal


def test_the_journal_is_told_of_what_changed_and_no_more() -> None:
    known = directory(WEB)
    known.take(WEB)
    assert known.take_records() == []
    known.take(endpoint(1))
    known.take(endpoint(1, PRESENT))
    assert known.take_records() == [events.SaveDiscovery(endpoint(1, PRESENT))]
    known.take(removed(endpoint(1)))
    known.take(events.Removal(Kind.NETWORK, NET))
    assert known.take_records() == [
        events.DropDiscovery(RecordKind.ENDPOINT, endpoint(1).record_id),
        events.DropDiscovery(None, NET),
    ]


def test_the_journal_keeps_only_so_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.discovery.JOURNAL_DISCOVERY_MAX", 10)
    known = directory(WEB)
    for number in range(1, 20):
        known.take(endpoint(number))
    assert len(known.take_records()) == 8, "the network and the service are two"
    known.take(removed(endpoint(1)))
    known.take(endpoint(99))
    assert known.take_records() == [
        events.DropDiscovery(RecordKind.ENDPOINT, endpoint(1).record_id),
        events.SaveDiscovery(endpoint(99)),
    ]
    assert len(known.node_state().networks[NET].remotes) == 19


# --- networks


def test_what_a_network_is() -> None:
    spec = NetworkSpec(
        name="back",
        internal=True,
        driver_configuration=Driver(
            name="overlay", options={"encrypted": "", "com.docker.network.driver.mtu": "1400"}
        ),
    )
    config = network_config(
        Network(
            id=NET,
            spec=spec,
            driver_state=Driver(options={"com.docker.network.driver.overlay.vxlanid_list": "4099"}),
            ipam_options=IPAMOptions(configs=(IPAMConfig(subnet="10.0.9.0/24", gateway="10.0.9.1/24"),)),
        )
    )
    assert (config.driver, config.vni, config.mtu) == ("overlay", 4099, 1400)
    assert (config.is_internal, config.is_encrypted, config.is_ingress) == (True, True, False)
    assert [(each.cidr, each.gateway) for each in config.subnets] == [("10.0.9.0/24", "10.0.9.1")]


def test_macs_follow_from_addresses() -> None:
    assert mac_of("10.0.9.1/24") == "02:42:0a:00:09:01"
    assert mac_of("fd00::1:2") == "02:42:00:01:00:02"
