"""Networks, addresses of tasks and nodes, virtual addresses: through the reconcilers."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace
from world import World, make_network, make_node

from manager.store.indexes import vni_of
from swarmpy.limits import ADDRESSES_RETRY_S
from swarmpy.model.cluster_specs import IPAMConfig
from swarmpy.model.ids import NetworkId
from swarmpy.model.objects import (
    EngineDescription,
    EnginePlugin,
    Kind,
    Network,
    Task,
)
from swarmpy.model.specs import (
    EndpointSpec,
    Global,
    NetworkAttachmentConfig,
    PortConfig,
    Replicated,
    ServiceMode,
    ServiceSpec,
    TaskSpec,
    UpdateConfig,
)
from swarmpy.model.states import EndpointMode, NodeState, TaskState, UpdateOrder

TINY = IPAMConfig(subnet="10.1.2.0/29")
"""Five addresses, .2 to .6."""
PORT = PortConfig(target_port=80, published_port=8080)


def spec(
    name: str, *networks: str | NetworkAttachmentConfig, replicas: int = 1, **fields: Any
) -> ServiceSpec:
    wishes = tuple(
        NetworkAttachmentConfig(target=each) if isinstance(each, str) else each for each in networks
    )
    return ServiceSpec(
        name=name,
        mode=ServiceMode(replicated=Replicated(replicas=replicas)),
        task_template=TaskSpec(networks=wishes),
        **fields,
    )


def world_of(*networks: Network, nodes: int = 2) -> World:
    world = World(*networks, *[make_node(f"n{number}") for number in range(1, nodes + 1)])
    world.settle()
    return world


def network(world: World, id_: str) -> Network:
    found = world.tables.network(NetworkId(id_))
    assert found is not None
    return found


def subnet(world: World, id_: str) -> str:
    options = network(world, id_).ipam_options
    assert options is not None
    return options.configs[0].subnet


def addresses(world: World, service_id: str) -> list[str]:
    return sorted(
        address.partition("/")[0]
        for task in world.live_tasks(service_id)
        for place in task.networks
        for address in place.addresses
    )


def vips(world: World, service_id: str) -> dict[str, str]:
    return {each.network_id: each.addr for each in world.service(service_id).endpoint.virtual_ips}


def waiting(world: World, service_id: str) -> list[Task]:
    return [task for task in world.live_tasks(service_id) if task.status.state == TaskState.PENDING]


def test_networks_are_allocated_in_the_order_in_which_they_were_made() -> None:
    world = world_of(*[make_network(id_) for id_ in ("b", "a")])
    assert {subnet(world, "a"), subnet(world, "b")} == {"10.0.0.0/24", "10.0.1.0/24"}
    assert vni_of(network(world, "a")) != vni_of(network(world, "b"))
    world.assert_quiet()


def test_a_network_that_gets_nothing_gets_it_when_another_goes() -> None:
    taken = {"options": {"com.docker.network.driver.overlay.vxlanid_list": "5000"}}
    world = world_of(make_network("a", **taken), make_network("b", **taken))
    lucky, waits = sorted("ab", key=lambda id_: network(world, id_).ipam_options is None)
    assert network(world, waits).ipam_options is None
    world.create_service("web", spec("web", waits))
    world.settle()
    assert waiting(world, "web")[0].status.err == (
        f"network {waits}-net has no subnet: VXLAN number 5000 is in use by network {lucky}-net"
    )
    world.delete(Kind.NETWORK, lucky)
    world.live()
    assert vni_of(network(world, waits)) == 5000
    assert len(addresses(world, "web")) == 1


def test_from_wish_to_addresses_in_one_round() -> None:
    world = world_of()
    world.put(make_network("net"))
    world.create_service("web", spec("web", "net", replicas=10))
    world.run_once()
    assert {task.status.state for task in world.tasks("web")} == {TaskState.ASSIGNED}
    assert len(set(addresses(world, "web"))) == 10
    assert vips(world, "web") == {"net": "10.0.0.2/24"}
    world.scale("web", 20)
    world.run_once()
    assert len(set(addresses(world, "web"))) == 20
    assert {task.status.state for task in world.tasks("web")} == {TaskState.ASSIGNED}


def test_several_networks_and_the_ingress_last() -> None:
    world = world_of(make_network("in", ingress=True), make_network("a"), make_network("b"))
    wish = NetworkAttachmentConfig(target="b-net", aliases=("db",))
    world.create_service("web", spec("web", "a", wish, "bridge", endpoint_spec=EndpointSpec(ports=(PORT,))))
    world.settle()
    (task,) = world.tasks("web")
    assert [place.network_id for place in task.networks] == ["a", "b", "in"]
    assert task.networks[1].aliases == ("db",)
    assert list(vips(world, "web")) == ["a", "b", "in"]


def test_dns_round_robin_has_no_virtual_address() -> None:
    world = world_of(make_network("net"))
    world.create_service("web", spec("web", "net", endpoint_spec=EndpointSpec(mode=EndpointMode.DNSRR)))
    world.settle()
    assert vips(world, "web") == {}
    world.update_service("web", spec("web", "net"))
    world.settle()
    assert vips(world, "web") == {"net": "10.0.0.3/24"}


def test_what_a_service_leaves_it_gives_up() -> None:
    world = world_of(make_network("a"), make_network("b"))
    world.create_service("web", spec("web", "a", "b"))
    world.live()
    kept = vips(world, "web")["b"]
    world.update_service("web", spec("web", "b"))
    world.live(60)
    assert vips(world, "web") == {"b": kept}
    assert world.tables.holder_count(NetworkId("a")) == 0
    world.delete(Kind.SERVICE, "web")
    world.live(60)
    assert world.tables.holder_count(NetworkId("b")) == 0


def test_a_full_network_leaves_tasks_pending_with_the_reason() -> None:
    world = world_of(make_network("net", TINY))
    world.create_service("web", spec("web", "net", replicas=6))
    world.live()
    assert len(world.running("web")) == 4  # and a virtual address
    assert {task.status.err for task in waiting(world, "web")} == {
        "could not find an available IP on network net-net: all 5 addresses of 10.1.2.0/29 are in use"
    }
    assert not any(task.node_id for task in waiting(world, "web"))
    world.assert_quiet()


def test_they_go_on_as_soon_as_one_is_free() -> None:
    world = world_of(make_network("net", TINY))
    world.create_service("old", spec("old", "net", replicas=3))
    world.live()
    world.create_service("web", spec("web", "net", replicas=4))
    world.live()
    assert len(world.running("web")) == 0
    world.scale("old", 2)
    world.live()
    assert len(world.running("web")) == 1
    world.delete(Kind.SERVICE, "old")
    world.live()
    assert len(world.running("web")) == 4


def test_they_go_on_when_a_virtual_address_is_free() -> None:
    world = world_of(make_network("net", TINY))
    world.create_service("old", spec("old", "net", replicas=0))
    world.settle()
    world.create_service("web", spec("web", "net", replicas=4))
    world.live()
    assert len(world.running("web")) == 3
    world.delete(Kind.SERVICE, "old")
    world.live()
    assert len(world.running("web")) == 4


def test_a_virtual_address_that_is_missing_comes_when_one_is_free() -> None:
    world = world_of(make_network("net", TINY))
    world.create_service("old", spec("old", "net", replicas=4))
    world.live()
    world.create_service("web", spec("web", "net", replicas=0))
    world.live()
    assert vips(world, "web") == {}
    world.scale("old", 3)
    world.live()
    assert len(vips(world, "web")) == 1


def test_a_full_network_takes_no_room_on_nodes() -> None:
    """The picture of a plan in which tasks found no address is as if they were not there."""
    world = world_of(make_network("net", TINY))
    world.create_service("web", spec("web", "net", replicas=8))
    world.settle()
    world.create_service("plain", spec("plain", replicas=2))
    world.settle()
    assert {task.node_id for task in world.tasks("plain")} == {"n1", "n2"}


def test_global_tasks_wait_on_their_node() -> None:
    world = world_of(make_network("net", IPAMConfig(subnet="10.1.2.0/30")), nodes=1)
    wish = spec("web", "net", endpoint_spec=EndpointSpec(mode=EndpointMode.DNSRR))

    everywhere = replace(wish, mode=ServiceMode(global_=Global()))
    world.create_service("web", everywhere)
    world.settle()
    world.put(make_node("n2"))
    world.live()
    (task,) = waiting(world, "web")
    assert task.node_id == "n2"
    assert "could not find an available IP" in task.status.err
    world.delete(Kind.NODE, "n1")
    world.live()
    assert [task.node_id for task in world.running("web")] == ["n2"]


def test_nodes_have_their_place_in_the_ingress_network() -> None:
    world = world_of(make_network("in", ingress=True), make_network("net"))
    assert [each.network_id for each in world.node("n1").attachments] == ["in"]
    taken = {place.addresses for id_ in ("n1", "n2") for place in world.node(id_).attachments}
    assert taken == {("10.0.0.2/24",), ("10.0.0.3/24",)}
    world.put(make_node("n3"))
    world.settle()
    assert world.node("n3").attachments[0].addresses == ("10.0.0.4/24",)
    world.delete(Kind.NODE, "n1")
    world.settle()
    assert world.tables.holder_count(NetworkId("in")) == 2
    world.delete(Kind.NETWORK, "in")
    world.settle()
    assert world.node("n2").attachments == ()
    world.put(make_network("in2", ingress=True))
    world.settle()
    assert world.node("n2").attachments[0].network_id == "in2"
    world.assert_quiet()


def test_a_node_without_an_ingress_address_gets_one_when_one_is_free() -> None:
    world = world_of(make_network("in", IPAMConfig(subnet="10.1.2.0/30"), ingress=True))
    without = [node.id for node in world.tables.nodes() if not node.attachments]
    assert len(without) == 1
    other = "n1" if without == ["n2"] else "n2"
    world.delete(Kind.NODE, other)
    world.settle()
    assert world.node(without[0]).attachments[0].addresses == ("10.1.2.2/30",)


def test_ports_without_an_ingress_network_wait_for_one() -> None:
    world = world_of()
    world.create_service("web", spec("web", endpoint_spec=EndpointSpec(ports=(PORT,))))
    world.live()
    (task,) = waiting(world, "web")
    assert task.status.err == "service needs ingress network, but no ingress network is present"
    world.put(make_network("in", ingress=True))
    world.live()
    assert len(world.running("web")) == 1
    assert list(vips(world, "web")) == ["in"]


def test_a_task_keeps_its_addresses_and_its_successor_gets_others() -> None:
    world = world_of(make_network("net"))
    world.create_service("web", spec("web", "net"))
    world.live()
    before = addresses(world, "web")
    world.report(world.running("web")[0].id, TaskState.FAILED)
    world.live(60)
    assert addresses(world, "web") != before
    assert len(addresses(world, "web")) == 1


def test_a_pinned_address_goes_from_task_to_task() -> None:
    world = world_of(make_network("net"))
    wish = NetworkAttachmentConfig(target="net", driver_opts={"ipv4_address": "10.0.0.77"})
    world.create_service("db", spec("db", wish))
    world.live()
    assert addresses(world, "db") == ["10.0.0.77"]
    template = replace(world.service("db").spec.task_template, force_update=1)
    world.update_service("db", replace(world.service("db").spec, task_template=template))
    world.live(120)
    assert addresses(world, "db") == ["10.0.0.77"]
    assert len(world.running("db")) == 1
    assert len({task.id for task in world.tasks("db")}) == 2


def test_a_pinned_address_of_a_node_that_is_down() -> None:
    """The task there may run on, so its address is not given to another until the node is removed."""
    world = world_of(make_network("net"))
    wish = NetworkAttachmentConfig(target="net", driver_opts={"ipv4_address": "10.0.0.77"})
    world.create_service("db", spec("db", wish))
    world.live()
    (task,) = world.running("db")
    world.set_node_state(task.node_id, NodeState.DOWN)
    world.live()
    assert waiting(world, "db")[0].status.err == (
        "could not find an available IP on network net-net: 10.0.0.77 is in use "
        f"on node {task.node_id}, which is down: if it is gone for good, remove it"
    )
    world.delete(Kind.NODE, task.node_id)
    world.live()
    assert len(world.running("db")) == 1
    assert addresses(world, "db") == ["10.0.0.77"]


def test_two_pinned_replicas_of_three() -> None:
    world = world_of(make_network("net"))
    wish = NetworkAttachmentConfig(target="net", driver_opts={"ipv4_address": "10.0.0.7,10.0.0.8"})
    world.create_service("db", spec("db", wish, replicas=3))
    world.live()
    assert addresses(world, "db") == ["10.0.0.7", "10.0.0.8"]
    assert waiting(world, "db")[0].status.err.endswith("10.0.0.7, 10.0.0.8 are in use")


@pytest.mark.parametrize("order", [UpdateOrder.STOP_FIRST, UpdateOrder.START_FIRST])
def test_an_update_in_a_network_with_one_address_to_spare(order: UpdateOrder) -> None:
    world = world_of(make_network("net", TINY))
    wish = spec("web", "net", replicas=3, update_config=UpdateConfig(order=order))
    world.create_service("web", wish)
    world.live()
    world.update_service("web", replace(wish, task_template=replace(wish.task_template, force_update=1)))
    world.live(300)
    template = world.service("web").template_id
    assert [task.revision_id for task in world.running("web")] == [template] * 3
    world.assert_quiet()


def test_addresses_of_all_drivers_are_unique_in_the_cluster() -> None:
    """Subnets too, but for those that users chose; there are no virtual addresses and no VNI."""
    lan = make_network("lan", IPAMConfig(subnet="192.168.7.0/24"), driver="macvlan")
    engine = EngineDescription(plugins=(EnginePlugin(type="Network", name="macvlan"),))
    world = world_of(lan, make_network("br", driver="bridge"))
    for id_ in ("n1", "n2"):
        world.change_node(id_, description=replace(world.node(id_).description, engine=engine))
    world.create_service("web", spec("web", "lan", "br", replicas=3))
    world.settle()
    assert len(set(addresses(world, "web"))) == 6
    assert vips(world, "web") == {}
    bridge = network(world, "br")
    assert bridge.ipam_options is not None
    assert bridge.ipam_options.configs[0].subnet
    assert vni_of(bridge) == 0


def test_both_families() -> None:
    world = world_of(make_network("net", ipv6_enabled=True))
    world.create_service("web", spec("web", "net"))
    world.settle()
    assert len(addresses(world, "web")) == 2
    assert len(world.service("web").endpoint.virtual_ips) == 2
    world.assert_quiet()


def test_a_new_leader_changes_nothing() -> None:
    world = world_of(make_network("in", ingress=True), make_network("net", TINY))
    ports = EndpointSpec(ports=(PORT,))
    world.create_service("web", spec("web", "net", replicas=7, endpoint_spec=ports))
    world.live()
    world.pass_time(ADDRESSES_RETRY_S + 1)
    version = world.tables.version
    world = world.successor()
    world.settle()
    assert world.tables.version == version
