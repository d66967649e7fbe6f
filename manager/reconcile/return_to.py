"""What keeps a service from going back to an earlier spec. Pure; the user's rollback and an update's own
ask it.
"""

from __future__ import annotations

from collections.abc import Iterator

from manager.store.networking import PREDEFINED_NETWORKS
from manager.store.publishing import clash_of
from manager.store.view import View
from swarmpy.model.objects import Config, Kind, Secret, Service
from swarmpy.model.specs import ServiceSpec


def obstacle(view: View, service: Service, spec: ServiceSpec) -> str:
    """Why the service cannot be as ``spec`` says at present; "" if it can."""
    ports = () if spec.endpoint_spec is None else spec.endpoint_spec.ports
    clash = clash_of(view, service.id, ports)
    if clash is not None:
        return clash
    gone = list(dict.fromkeys((*_gone_files(view, spec), *_gone_networks(view, spec))))
    if not gone:
        return ""
    return f"{', '.join(gone)} that it used {'is' if len(gone) == 1 else 'are'} gone"


def _gone_files(view: View, spec: ServiceSpec) -> Iterator[str]:
    container = spec.task_template.container_spec
    if container is None:
        return
    for secret in container.secrets:
        yield from _gone(view, Kind.SECRET, secret.secret_id, secret.secret_name, secret.version)
    for config in container.configs:
        yield from _gone(view, Kind.CONFIG, config.config_id, config.config_name, config.version)


def _gone(view: View, kind: Kind, id_: str, name: str, number: int) -> Iterator[str]:
    found = view.get(kind, id_)
    if not isinstance(found, Secret | Config):
        yield f'the {kind} "{name}"'
    elif number and number not in (found.number, *(older.number for older in found.older)):
        yield f'version {number} of the {kind} "{name}"'


def _gone_networks(view: View, spec: ServiceSpec) -> Iterator[str]:
    for place in spec.task_template.networks:
        if place.target not in PREDEFINED_NETWORKS and view.get(Kind.NETWORK, place.target) is None:
            yield f"the network {place.target}"
