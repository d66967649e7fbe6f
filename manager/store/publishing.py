"""Who publishes which port: a number of a protocol in ingress mode has one holder, in any mode.

An ingress port is open on every node, so nobody else can have it. Ports of host mode are open where a task
runs: several services may wish the same one, and the scheduler keeps their tasks apart. What counts is a
service's endpoint, in which the numbers that users chose stand as well as those that the leader chose.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from manager.store.view import View
from swarmpy.model.defaults import port_protocol, publish_mode
from swarmpy.model.specs import PortConfig
from swarmpy.model.states import PublishMode

_HELD_AS: Final = {PublishMode.INGRESS: "an ingress port", PublishMode.HOST: "a host-published port"}


def clash_of(view: View, service_id: str, ports: Iterable[PortConfig]) -> str | None:
    """Why the service can't publish ``ports``, in docker's words; None if it can. The first one counts."""
    for port in ports:
        if not port.published_port:
            continue
        is_alone = publish_mode(port) is PublishMode.INGRESS
        holders = [
            (service.id, service.spec.name, _HELD_AS[mode])
            for mode in ((PublishMode.INGRESS, PublishMode.HOST) if is_alone else (PublishMode.INGRESS,))
            for service in view.services_publishing(port_protocol(port), port.published_port, mode)
            if service.id != service_id
        ]
        if holders:
            id_, name, held_as = min(holders)
            return f"port '{port.published_port}' is already in use by service '{name}' ({id_}) as {held_as}"
    return None
