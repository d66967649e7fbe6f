"""Numbers for published ports that users left open."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from world import World

from manager.allocate.ports import FIRST_PORT, LAST_PORT, assign_ports, endpoint_of
from swarmpy.model.ids import NetworkId, ServiceId
from swarmpy.model.objects import Endpoint, Service, VirtualIP
from swarmpy.model.specs import EndpointSpec, PortConfig, ServiceSpec
from swarmpy.model.states import PortProtocol, PublishMode


def port(
    number: int = 0,
    protocol: PortProtocol = PortProtocol.TCP,
    *,
    publish_mode: PublishMode = PublishMode.INGRESS,
) -> PortConfig:
    return PortConfig(target_port=80, published_port=number, protocol=protocol, publish_mode=publish_mode)


def service(name: str, *ports: PortConfig) -> Service:
    return Service(id=ServiceId(name), endpoint=Endpoint(ports=ports))


def numbers(of: Service, *others: Service, after: dict[PortProtocol, int] | None = None) -> list[int]:
    return [each.published_port for each in assign_ports(of, others, after=after or {}).ports]


def test_numbers_are_distinct_per_protocol_and_fixed_ones_stay() -> None:
    wanted = service("a", port(), port(8080), port(), port(protocol=PortProtocol.UDP))
    assert numbers(wanted) == [30000, 8080, 30001, 30000]


def test_other_services_ports_are_left_alone_fixed_or_not() -> None:
    others = service("b", port(30000), port(30001, publish_mode=PublishMode.HOST))
    assert numbers(service("a", port()), others) == [30002]


def test_a_freed_number_is_not_handed_out_next() -> None:
    others = service("b", port(30000), port(30005))
    assert numbers(service("a", port()), others) == [30006]


def test_a_freed_number_is_not_handed_out_next_even_if_it_was_the_highest() -> None:
    others = service("b", port(30000))
    assert numbers(service("a", port(), port()), others, after={PortProtocol.TCP: 30001}) == [30002, 30003]
    assert numbers(service("a", port()), others, after={PortProtocol.UDP: 30001}) == [30001]


def test_a_fixed_number_at_the_end_of_the_range_does_not_begin_it_again() -> None:
    others = service("b", port(LAST_PORT))
    assert numbers(service("a", port()), others, after={PortProtocol.TCP: 30005}) == [30006]


def test_after_the_last_it_begins_again_from_the_first() -> None:
    assert numbers(service("a", port()), service("b", port(LAST_PORT))) == [FIRST_PORT]


def test_none_free_leaves_it_open() -> None:
    taken = service("b", *[port(number) for number in range(FIRST_PORT, LAST_PORT + 1)])
    assert numbers(service("a", port(), port(protocol=PortProtocol.UDP)), taken) == [0, 30000]


def test_host_mode_is_the_nodes_choice() -> None:
    assert numbers(service("a", port(publish_mode=PublishMode.HOST))) == [0]


def test_the_reconciler_stores_them_once_and_tries_again_when_exhausted() -> None:
    world = World()
    created = world.create_service("web", replicas=0)
    world.put(replace(created, endpoint=Endpoint(ports=(port(),))))
    world.live()
    assert world.service("web").endpoint.ports[0].published_port == FIRST_PORT
    world.assert_quiet()
    full = world.create_service("full", replicas=0)
    numbers_ = range(FIRST_PORT + 1, LAST_PORT + 1)
    world.put(replace(full, endpoint=Endpoint(ports=tuple(port(number) for number in numbers_))))
    late = world.create_service("late", replicas=0)
    world.put(replace(late, endpoint=Endpoint(ports=(port(),))))
    world.live()
    assert world.service("late").endpoint.ports[0].published_port == 0
    world.put(replace(world.service("full"), endpoint=Endpoint()))
    world.live(31)
    assert world.service("late").endpoint.ports[0].published_port == FIRST_PORT + 1


@pytest.mark.parametrize("endpoint_spec", [None, EndpointSpec(), EndpointSpec(ports=(port(8080),))])
def test_a_change_of_the_wish_leaves_virtual_addresses_alone(endpoint_spec: EndpointSpec | None) -> None:
    """They are given up by the leader, where the service takes no part any more."""
    virtual = (VirtualIP(network_id=NetworkId("net"), addr="10.0.0.2/24"),)
    stored = Endpoint(virtual_ips=virtual, spec=EndpointSpec(ports=(port(80),)))
    assert endpoint_of(ServiceSpec(endpoint_spec=endpoint_spec), stored).virtual_ips == virtual
