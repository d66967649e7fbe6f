"""Whether two services of a stack want one published port.

A port of the routing mesh is one service's; ports in mode host may be several services', whose tasks then
keep away from each other's nodes.
"""

from __future__ import annotations

from collections.abc import Iterable

from swarmpy.compose.stack import NamedSpec
from swarmpy.compose.tree import ComposeError
from swarmpy.model.defaults import port_protocol, publish_mode
from swarmpy.model.states import PortProtocol, PublishMode


def check_ports(services: Iterable[NamedSpec]) -> None:
    holders: dict[tuple[PortProtocol, int], tuple[str, PublishMode]] = {}
    for service in services:
        endpoint = service.spec.endpoint_spec
        for port in () if endpoint is None else endpoint.ports:
            if not port.published_port:
                continue
            mode = publish_mode(port)
            name, held = holders.setdefault((port_protocol(port), port.published_port), (service.name, mode))
            if name != service.name and PublishMode.INGRESS in (mode, held):
                raise ComposeError(
                    service.at("ports"),
                    f"services.{service.name} publishes port {port.published_port}/{port_protocol(port)}, "
                    f"which services.{name} publishes, too: give one of them another port",
                )
