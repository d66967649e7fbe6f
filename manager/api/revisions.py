"""The revisions that requests make: the first one, with its service, and the ones after it. Pure.

Which spec it is of, whether it may be, and what of the service changes with it, is decided by who asks.
"""

from __future__ import annotations

from manager.allocate.ports import endpoint_of
from manager.store.view import View
from swarmpy.model.ids import RevisionId, ServiceId
from swarmpy.model.objects import Endpoint, Revision, Service
from swarmpy.model.specs import ServiceSpec


def founded(spec: ServiceSpec, *, service_id: str, revision_id: str) -> tuple[Service, Revision]:
    """A service whose tasks are to be of its first revision."""
    revision = Revision(id=RevisionId(revision_id), service_id=ServiceId(service_id), number=1, spec=spec)
    service = Service(
        id=ServiceId(service_id),
        spec=spec,
        revision_id=revision.id,
        template_id=revision.id,
        endpoint=endpoint_of(spec, Endpoint()),
    )
    return service, revision


def following(view: View, service: Service, spec: ServiceSpec, *, revision_id: str) -> Revision:
    """Numbered after all that are kept of the service."""
    number = max((revision.number for revision in view.revisions_of(service.id)), default=0) + 1
    return Revision(id=RevisionId(revision_id), service_id=service.id, number=number, spec=spec)
