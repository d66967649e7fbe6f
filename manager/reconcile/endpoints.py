"""Endpoints of services: numbers for the published ports that users left open.

The one thing remembered is which number was chosen last, so that one that was just given up, which clients
may still call, is not handed out next. It is a courtesy that ends with the term, as the engine's does: a new
leader goes on after the highest number that it finds in use.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from msgspec.structs import replace

from manager.allocate.ports import assign_ports, highest_ports, needs_ports
from manager.reconcile.plan import NOTHING, Note, Plan
from manager.store.view import View
from swarmpy.limits import PORTS_RETRY_S
from swarmpy.model.changes import Group, Update
from swarmpy.model.defaults import port_protocol
from swarmpy.model.ids import SECOND_NS, ServiceId, Timestamp
from swarmpy.model.objects import Service
from swarmpy.model.states import Owner, PortProtocol

_RETRY_NS: Final = int(PORTS_RETRY_S * SECOND_NS)


class Endpoints:
    """Its keys are service ids."""

    name = "endpoints"

    def __init__(self) -> None:
        self._last: dict[PortProtocol, int] = {}

    def keys(self, view: View) -> Iterable[str]:
        self._last = {**highest_ports(view.services()), **self._last}
        return sorted(service.id for service in view.services() if needs_ports(service))

    def dirty(self, view: View, old: object | None, new: object | None) -> Iterable[str]:
        return (new.id,) if isinstance(new, Service) and needs_ports(new) else ()

    def reconcile(self, view: View, key: str, now: Timestamp) -> Plan:
        service = view.service(ServiceId(key))
        if service is None or not needs_ports(service):
            return NOTHING
        endpoint = assign_ports(service, view.services(), after=self._last)
        for before, port in zip(service.endpoint.ports, endpoint.ports, strict=True):
            if port != before:
                self._last[port_protocol(port)] = port.published_port
        changed = replace(service, endpoint=endpoint)
        groups: tuple[Group, ...] = ()
        if endpoint != service.endpoint:
            groups = (Group(owner=Owner.ORCHESTRATOR, changes=(Update(object=changed),)),)
        if not needs_ports(changed):
            return Plan(groups=groups)
        # every number is taken; tried again later, since services go without telling this one
        note = Note(event="published_ports_exhausted", facts={"service_id": service.id})
        return Plan(groups=groups, notes=(note,), wake_at=Timestamp(now + _RETRY_NS))
