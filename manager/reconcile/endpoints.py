"""Endpoints of services: numbers for the ports that users left open, and virtual addresses.

A service in vip mode has one virtual address of each family in every overlay network that it takes part in,
the ingress network included if it publishes ports there. It keeps them while it takes part; the others it
gives up at once.

The one thing remembered is which number was chosen last, so that one that was just given up, which clients
may still call, is not handed out next. It is a courtesy that ends with the term, as the engine's does: a new
leader goes on after the highest number that it finds in use. (``Addresses`` has the same for addresses.)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from msgspec.structs import replace

from manager.allocate.addresses import Addresses, NoAddress, has_released
from manager.allocate.pools import is_overlay
from manager.allocate.ports import assign_ports, highest_ports, needs_ports
from manager.reconcile.plan import NOTHING, Note, Plan
from manager.store.networking import places_of
from manager.store.view import View
from swarmpy.limits import ADDRESSES_RETRY_S, PORTS_RETRY_S
from swarmpy.model.changes import Group, Update
from swarmpy.model.defaults import endpoint_mode, port_protocol
from swarmpy.model.ids import SECOND_NS, NetworkId, ServiceId, Timestamp
from swarmpy.model.objects import Endpoint, Network, Service, VirtualIP
from swarmpy.model.states import EndpointMode, Owner, PortProtocol

_PORTS_RETRY_NS: Final = int(PORTS_RETRY_S * SECOND_NS)
_ADDRESSES_RETRY_NS: Final = int(ADDRESSES_RETRY_S * SECOND_NS)


class Endpoints:
    """Its keys are service ids."""

    name = "endpoints"

    def __init__(self, addresses: Addresses) -> None:
        self._addresses = addresses
        self._last: dict[PortProtocol, int] = {}
        self._waiting: dict[str, None] = {}
        """Services for which a network had no address: looked at again when one is released anywhere."""

    def keys(self, view: View) -> Iterable[str]:
        self._last = {**highest_ports(view.services()), **self._last}
        return sorted(service.id for service in view.services() if _needs_work(view, service))

    def dirty(self, view: View, old: object | None, new: object | None) -> Iterable[str]:
        match new if new is not None else old:
            case Service(id=service_id) if isinstance(new, Service) and _needs_work(view, new):
                return (service_id, *self._waiting)
            case Network(id=network_id) if new is not None:
                return sorted(service.id for service in view.services_on_network(network_id))
        return tuple(self._waiting) if self._waiting and has_released(old, new) else ()

    def reconcile(self, view: View, key: str, now: Timestamp) -> Plan:
        self._waiting.pop(key, None)
        service = view.service(ServiceId(key))
        if service is None or not _needs_work(view, service):
            return NOTHING
        notes: list[Note] = []
        wakes: list[int] = []
        endpoint = service.endpoint
        if needs_ports(service):
            endpoint = self._with_ports(view, service)
            if needs_ports(replace(service, endpoint=endpoint)):
                # every number is taken; tried again later, since services go without telling this one
                notes.append(Note(event="published_ports_exhausted", facts={"service_id": service.id}))
                wakes.append(now + _PORTS_RETRY_NS)
        addresses, reasons = self._virtual(view, service)
        if reasons:
            self._waiting[service.id] = None
            facts = {"service_id": service.id, "reason": reasons[0]}
            notes.append(Note(event="virtual_addresses_exhausted", facts=facts))
            wakes.append(now + _ADDRESSES_RETRY_NS)
        endpoint = replace(endpoint, virtual_ips=addresses)
        groups: tuple[Group, ...] = ()
        if endpoint != service.endpoint:
            changed = replace(service, endpoint=endpoint)
            groups = (Group(owner=Owner.ORCHESTRATOR, changes=(Update(object=changed),)),)
        wake_at = Timestamp(min(wakes)) if wakes else None
        return Plan(groups=groups, notes=tuple(notes), wake_at=wake_at)

    def _with_ports(self, view: View, service: Service) -> Endpoint:
        endpoint = assign_ports(service, view.services(), after=self._last)
        for before, port in zip(service.endpoint.ports, endpoint.ports, strict=True):
            if port != before:
                self._last[port_protocol(port)] = port.published_port
        return endpoint

    def _virtual(self, view: View, service: Service) -> tuple[tuple[VirtualIP, ...], list[str]]:
        """The service's virtual addresses, and why some are missing."""
        stored = service.endpoint.virtual_ips
        claims = self._addresses.claims(view)
        addresses: list[VirtualIP] = []
        reasons: list[str] = []
        for network in _balanced_networks(view, service):
            kept = [each for each in stored if each.network_id == network.id]
            if not kept and network.ipam_options is not None:
                try:
                    chosen = claims.virtual(network)
                except NoAddress as error:
                    reasons.append(f"{error} while allocating VIP")
                else:
                    kept = [VirtualIP(network_id=network.id, addr=address) for address in chosen]
            addresses += kept
        return tuple(addresses), reasons


def _balanced_networks(view: View, service: Service) -> list[Network]:
    """The networks in which the service should have virtual addresses."""
    if endpoint_mode(service.spec.endpoint_spec) is not EndpointMode.VIP:
        return []
    places = places_of(view, service.spec).found
    return [place.network for place in places if is_overlay(place.network.spec)]


def _needs_work(view: View, service: Service) -> bool:
    if needs_ports(service):
        return True
    # one that has no subnet yet may have one by the time of the decision, in the same run
    wanted = [network.id for network in _balanced_networks(view, service)]
    has: dict[NetworkId, None] = dict.fromkeys(each.network_id for each in service.endpoint.virtual_ips)
    return wanted != list(has)
