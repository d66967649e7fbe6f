"""Which networks a service takes part in, and who holds which address: what is read off specs and objects.

A service's spec names networks by id or by name. Whoever publishes a port in ingress mode is on the ingress
network too, which comes last. The networks that every node has by itself (``bridge``, ``host``, ``none``)
have no object and are not among them.

Addresses are held by tasks that have not ended, by services (virtual ones) and by nodes (their own places in
the ingress network). A wished MAC is held like an address.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

from manager.store.view import View
from swarmpy.model.defaults import publish_mode
from swarmpy.model.ids import NetworkId
from swarmpy.model.objects import Kind, Network, Service
from swarmpy.model.specs import NetworkAttachmentConfig, ServiceSpec
from swarmpy.model.states import PublishMode

PREDEFINED_NETWORKS: Final = frozenset({"bridge", "host", "none"})
"""Networks that every node has by itself; specs may name them, and no object stands for them."""


NO_WISH: Final = NetworkAttachmentConfig()


@dataclass(frozen=True, slots=True)
class Place:
    """A network that a service takes part in, and how its spec asks for it."""

    network: Network
    wish: NetworkAttachmentConfig = NO_WISH


@dataclass(frozen=True, slots=True)
class Places:
    """``missing``: targets that there is no network for; "" stands for the ingress network."""

    found: tuple[Place, ...] = ()
    missing: tuple[str, ...] = ()


def places_of(view: View, spec: ServiceSpec) -> Places:
    """The networks of a service with this spec, each once, in the spec's order."""
    found: dict[NetworkId, Place] = {}
    missing = []
    for wish in (*spec.task_template.networks, *spec.networks):
        if wish.target in PREDEFINED_NETWORKS:
            continue
        network = network_named(view, wish.target)
        if network is None:
            missing.append(wish.target)
        else:
            found.setdefault(network.id, Place(network, wish))
    if publishes_in_ingress(spec):
        ingress = view.ingress_network()
        if ingress is None:
            missing.append("")
        else:
            found.setdefault(ingress.id, Place(ingress))
    return Places(tuple(found.values()), tuple(missing))


def network_named(view: View, target: str) -> Network | None:
    """The network of that id, or else of that name."""
    found = view.get(Kind.NETWORK, target) or view.by_name(Kind.NETWORK, target)
    return found if isinstance(found, Network) else None


def publishes_in_ingress(spec: ServiceSpec) -> bool:
    endpoint = spec.endpoint_spec
    return endpoint is not None and any(publish_mode(port) is PublishMode.INGRESS for port in endpoint.ports)


def services_on(view: View, network_id: NetworkId) -> Collection[Service]:
    """The services whose spec takes part in the network, by its id or its name or as publishers of ports."""
    network = view.network(network_id)
    if network is None:
        return view.services_using(Kind.NETWORK, network_id)
    found: dict[str, Service] = {}
    named: Iterable[Collection[Service]] = (
        view.services_using(Kind.NETWORK, network.id),
        view.services_using(Kind.NETWORK, network.spec.name),
        view.services_in_ingress() if network.spec.ingress else (),
    )
    for services in named:
        for service in services:
            found[service.id] = service
    return found.values()
