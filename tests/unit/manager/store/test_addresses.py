"""Addresses and VNIs have one holder, whatever is proposed; networks that are in use stay."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace
from store_values import (
    accept,
    batch,
    creates,
    group,
    network,
    node,
    refusal_of,
    revision,
    service,
    small_cluster,
    task,
)

from manager.store.draft import Draft
from manager.store.indexes import held_by, vni_of
from manager.store.store import Store
from swarmpy.model.changes import Create, Delete, Order, Report, Update
from swarmpy.model.cluster_specs import NetworkSpec
from swarmpy.model.ids import NetworkId, ServiceId, TaskId
from swarmpy.model.network_rules import VXLAN_IDS_OPTION
from swarmpy.model.objects import (
    Endpoint,
    Kind,
    Network,
    NetworkAttachment,
    Node,
    Service,
    Task,
    TaskStatus,
    VirtualIP,
)
from swarmpy.model.specs import Driver, EndpointSpec, PortConfig
from swarmpy.model.states import Owner, TaskState

NET = NetworkId("net")


def at(
    address: str = "10.1.2.3/24", *, mac: str = "", network_id: str = NET
) -> tuple[NetworkAttachment, ...]:
    return (NetworkAttachment(network_id=NetworkId(network_id), addresses=(address,), mac=mac),)


def virtual(address: str = "10.1.2.3/24") -> Endpoint:
    return Endpoint(virtual_ips=(VirtualIP(network_id=NET, addr=address),))


def holders(store: Store, address: str = "10.1.2.3") -> list[str]:
    return [each.id for each in store.holders_of(NET, address)]


def store_with_task(**fields: Any) -> Store:
    return small_cluster(network("net"), task("t1", on="n1", networks=at(), **fields))


def test_whoever_holds_an_address_is_found() -> None:
    store = store_with_task()
    assert holders(store) == ["t1"]
    assert holders(store, "10.1.2.4") == []
    assert store.holder_count(NET) == 1
    assert [each.id for each in store.tasks_of_network(NET)] == ["t1"]


def test_a_task_that_has_ended_holds_nothing() -> None:
    store = store_with_task()
    status = TaskStatus(state=TaskState.SHUTDOWN)
    accept(store, group(Report(task_id=TaskId("t1"), status=status), owner=Owner.AGENT))
    assert holders(store) == []
    assert store.holder_count(NET) == 0
    accept(store, creates(task("t2", on="n1", networks=at())))
    assert holders(store) == ["t2"]


def test_a_task_that_is_to_stop_still_holds_its_address() -> None:
    store = store_with_task()
    accept(store, group(Order(task_id=TaskId("t1"), desired_state=TaskState.SHUTDOWN)))
    assert holders(store) == ["t1"]


@pytest.mark.parametrize("second", ["task", "service", "node"])
def test_nobody_else_gets_it(second: str) -> None:
    store = store_with_task()
    others: dict[str, Task | Service | Node] = {
        "task": task("t2", on="n1", networks=at()),
        "service": replace(service("s2"), endpoint=virtual()),
        "node": node("n2", attachments=at()),
    }
    more = [revision("s2-r", "s2")] if second == "service" else []
    refused = refusal_of(store, creates(others[second], *more))
    assert refused == "address 10.1.2.3 of network net is already in use by t1"


def test_nor_by_an_update() -> None:
    store = store_with_task()
    accept(store, creates(node("n2")))
    known = store.service(ServiceId("s1"))
    assert known is not None
    expected = "address 10.1.2.3 of network net is already in use by t1"
    assert refusal_of(store, group(Update(object=replace(known, endpoint=virtual())))) == expected
    (member,) = (each for each in store.nodes() if each.id == "n2")
    assert refusal_of(store, group(Update(object=replace(member, attachments=at())))) == expected


def test_a_handover_within_one_group() -> None:
    store = small_cluster(network("net"))
    known = store.service(ServiceId("s1"))
    assert known is not None
    accept(store, group(Update(object=replace(known, endpoint=virtual()))))
    known = store.service(ServiceId("s1"))
    assert known is not None
    given_up = Update(object=replace(known, endpoint=Endpoint()))
    accept(store, group(given_up, Create(object=task("t1", on="n1", networks=at()))))
    assert holders(store) == ["t1"]


def test_a_mac_is_held_too() -> None:
    store = small_cluster(network("net"), task("t1", on="n1", networks=at(mac="02:aa:00:00:00:01")))
    second = task("t2", on="n1", networks=at("10.1.2.4/24", mac="02:aa:00:00:00:01"))
    assert "already in use by t1" in refusal_of(store, creates(second))


def test_the_same_address_in_another_network_is_another_one() -> None:
    store = store_with_task()
    accept(store, creates(network("other"), task("t2", on="n1", networks=at(network_id="other"))))


def test_addresses_are_of_networks_that_there_are() -> None:
    store = small_cluster()
    assert refusal_of(store, creates(task("t1", on="n1", networks=at()))) == "network net not found"


def test_a_refused_holding_can_be_decided_again() -> None:
    store = store_with_task()
    applied = store.apply_batch(batch(creates(task("t2", on="n1", networks=at()))))
    assert applied.refused[0].is_stale


# --- networks


def overlay(id_: str, vni: int = 0, **fields: Any) -> Network:
    options = {VXLAN_IDS_OPTION: str(vni)} if vni else {}
    return Network(
        id=NetworkId(id_),
        spec=NetworkSpec(name=id_, **fields),
        driver_state=Driver(name="overlay", options=options),
    )


def test_a_number_has_one_network() -> None:
    store = small_cluster(overlay("a", 4097))
    assert (
        refusal_of(store, creates(overlay("b", 4097))) == "VXLAN number 4097 is already in use by network a"
    )
    accept(store, creates(overlay("b", 4098)))
    assert [each.id for each in store.networks_with_vni(4098)] == ["b"]
    assert vni_of(overlay("c")) == 0


def test_there_is_one_ingress_network() -> None:
    store = small_cluster(overlay("a", ingress=True))
    assert refusal_of(store, creates(overlay("b", ingress=True))) == "ingress network (a) is already present"
    found = store.ingress_network()
    assert found is not None
    assert found.id == "a"


def test_the_ingress_network_stays_while_a_service_publishes_ports() -> None:
    endpoint = EndpointSpec(ports=(PortConfig(target_port=80),))
    publisher = service("s2")
    publisher = replace(publisher, spec=replace(publisher.spec, endpoint_spec=endpoint))
    store = small_cluster(overlay("a", ingress=True), publisher, revision("s2-r", "s2"))
    removal = group(Delete(kind=Kind.NETWORK, id="a"), owner=Owner.API)
    refused = refusal_of(store, removal)
    assert refused == "ingress network cannot be removed because service s2 depends on it"
    assert [each.id for each in store.services_on_network(NetworkId("a"))] == ["s2"]
    accept(store, group(Delete(kind=Kind.SERVICE, id="s2"), owner=Owner.API))
    accept(store, removal)


def test_a_network_that_a_task_is_on_stays() -> None:
    store = store_with_task()
    removal = group(Delete(kind=Kind.NETWORK, id="net"), owner=Owner.API)
    assert refusal_of(store, removal) == "network net is in use by task t1"
    accept(store, group(Order(task_id=TaskId("t1"), desired_state=TaskState.SHUTDOWN)))
    accept(store, removal)


def test_services_on_a_network_by_id_and_by_name() -> None:
    net = Network(id=NET, spec=NetworkSpec(name="back"))
    store = small_cluster(net)
    accept(store, creates(service("s2", networks=("net",)), revision("s2-r", "s2")))
    accept(store, creates(service("s3", networks=("back",)), revision("s3-r", "s3")))
    assert sorted(each.id for each in store.services_on_network(NET)) == ["s2", "s3"]


# --- keys


def test_keys_are_made_of_anything() -> None:
    """An index may never raise: whatever was stored once has to be loaded."""
    for mac in ("", "x", "02:42:", "02:42:zz:00:00:00", "02:42:0a:01:02:03:04"):
        assert held_by(at(mac=mac))
    assert held_by(at(mac="02:42:0a:01:02:09")) == (
        "net",
        "net 10.1.2.3",
        "net 02:42:0a:01:02:09",
        "net 10.1.2.9",
    )
    assert vni_of(overlay("a")) == 0


def test_a_draft_sees_its_own_holders() -> None:
    store = store_with_task()
    draft = Draft(store)
    draft.remove(Kind.TASK, "t1")
    assert draft.holders_of(NET, "10.1.2.3") == ()
    assert draft.holder_count(NET) == 0
    draft.put(Kind.NODE, node("n2", attachments=at()))
    assert [each.id for each in draft.holders_of(NET, "10.1.2.3")] == ["n2"]
    assert draft.holder_count(NET) == 1
    assert not draft.tasks_of_network(NET)
    draft.put(Kind.NETWORK, overlay("ing", 5000, ingress=True))
    found = draft.ingress_network()
    assert found is not None
    assert found.id == "ing"
    assert len(draft.networks_with_vni(5000)) == 1
    assert store.holder_count(NET) == 1
