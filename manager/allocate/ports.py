"""Published ports: a number for each ingress port that the user left open.

Numbers come from 30000 to 32767, per protocol, and are no other service's, whether dynamic or fixed. They are
handed out in turn: the search goes on after the last one that was chosen, so that a freed one is not handed
out next. Who does not know the last one begins after the highest in use. What has a number keeps it.
Host-mode ports without a number are the node's to choose.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from msgspec.structs import replace

from manager.schedule.needs import HostPort
from swarmpy.model.defaults import port_protocol, publish_mode
from swarmpy.model.objects import Endpoint, Service
from swarmpy.model.specs import EndpointSpec, PortConfig, ServiceSpec
from swarmpy.model.states import PortProtocol, PublishMode

FIRST_PORT: Final = 30_000
LAST_PORT: Final = 32_767
_COUNT: Final = LAST_PORT - FIRST_PORT + 1


def is_open(port: PortConfig) -> bool:
    """Whether the port still needs a number."""
    return port.published_port == 0 and publish_mode(port) == PublishMode.INGRESS


def needs_ports(service: Service) -> bool:
    return any(is_open(port) for port in service.endpoint.ports)


def endpoint_of(spec: ServiceSpec, stored: Endpoint) -> Endpoint:
    """The endpoint of a service whose spec becomes ``spec``: what users chose is known at once.

    Numbers that were chosen for ports still wished stay, since clients know them; but for one that the new
    spec itself asks for by number.
    """
    if spec.endpoint_spec is None:
        return Endpoint(virtual_ips=stored.virtual_ips)
    if spec.endpoint_spec == stored.spec:
        return stored
    given = _given_numbers(spec.endpoint_spec, stored)
    ports = []
    for port in spec.endpoint_spec.ports:
        port = replace(port, protocol=port_protocol(port), publish_mode=publish_mode(port))
        numbers = given.get((port.protocol, port.target_port))
        if numbers and is_open(port):
            port = replace(port, published_port=numbers.pop(0))
        ports.append(port)
    return replace(stored, spec=spec.endpoint_spec, ports=tuple(ports))


def _given_numbers(spec: EndpointSpec, stored: Endpoint) -> dict[tuple[str, int], list[int]]:
    """By protocol and target the numbers that were chosen for ports left open."""
    named = {(port_protocol(port), port.published_port) for port in spec.ports}
    given: dict[tuple[str, int], list[int]] = {}
    for wish, port in zip(stored.spec.ports, stored.ports, strict=False):
        if is_open(wish) and port.published_port and (port_protocol(port), port.published_port) not in named:
            given.setdefault((port_protocol(port), port.target_port), []).append(port.published_port)
    return given


def highest_ports(services: Iterable[Service]) -> dict[PortProtocol, int]:
    """By protocol the highest number of the range in use."""
    highest: dict[PortProtocol, int] = {}
    for service in services:
        for port in service.endpoint.ports:
            if FIRST_PORT <= port.published_port <= LAST_PORT:
                protocol = port_protocol(port)
                highest[protocol] = max(port.published_port, highest.get(protocol, FIRST_PORT))
    return highest


def assign_ports(
    service: Service, services: Iterable[Service], *, after: Mapping[PortProtocol, int]
) -> Endpoint:
    """The service's endpoint with numbers for its open ports; what finds none free stays open.

    ``after``: by protocol the number that was chosen last, as far as that is known.
    """
    services = (service, *services)
    last = {**highest_ports(services), **after}
    taken: set[HostPort] = set()
    for each in services:
        for port in each.endpoint.ports:
            taken.add((port_protocol(port), port.published_port))
    ports = []
    for port in service.endpoint.ports:
        if is_open(port):
            protocol = port_protocol(port)
            number = _free_port(protocol, taken, after=last.get(protocol, FIRST_PORT - 1))
            taken.add((protocol, number))
            if number:
                last[protocol] = number
            port = replace(port, published_port=number)
        ports.append(port)
    return replace(service.endpoint, ports=tuple(ports))


def _free_port(protocol: PortProtocol, taken: set[HostPort], *, after: int) -> int:
    """A free number, or 0."""
    start = after + 1 - FIRST_PORT
    for offset in range(_COUNT):
        number = FIRST_PORT + (start + offset) % _COUNT
        if (protocol, number) not in taken:
            return number
    return 0
