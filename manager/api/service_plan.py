"""What a create, an update and a rollback of a service change in the store. Pure.

A service and the revision of its spec are written together. ``template_id`` moves only when the change
concerns the tasks (see ``manager/reconcile/outdated.py``). A rollback goes back to the stored earlier
revision itself, so tasks that still run it are up to date at once.
"""

from __future__ import annotations

from ipaddress import ip_address, ip_network

from msgspec.structs import replace

from manager.allocate.ports import endpoint_of
from manager.api import file_pins, job_plan, texts
from manager.api.lookup import find
from manager.api.network_plan import SWARM_SCOPE
from manager.api.predefined import find_predefined
from manager.api.revisions import following, founded
from manager.reconcile.outdated import concerns_tasks
from manager.reconcile.return_to import obstacle
from manager.reconcile.update import PAUSED, is_going, is_under_way, resumed, rollback_begun
from manager.schedule import constraint
from manager.store.publishing import clash_of
from manager.store.view import View
from swarmpy.errors import InvalidArgument, PermissionDenied, Rejected, Stale, Unimplemented
from swarmpy.model import forms, network_rules, validate
from swarmpy.model.changes import Change, Create, Update
from swarmpy.model.defaults import publish_mode
from swarmpy.model.ids import Timestamp
from swarmpy.model.objects import Config, Kind, Network, Revision, Secret, Service, UpdateStatus
from swarmpy.model.specs import ContainerSpec, NetworkAttachmentConfig, PortConfig, ServiceSpec
from swarmpy.model.states import PublishMode

Changes = tuple[Change, ...]

NO_RENAMING = "renaming services is not supported"

_ALONE = ("host", "none")
"""Networks of the node's own that leave no room for another."""


def accept(view: View, spec: ServiceSpec, *, of: Service | None = None) -> ServiceSpec:
    """The spec as it will be stored: checked, with networks named by id and filled in as it is read back.
    ``of`` is the service updated."""
    if of is not None and not spec.name:
        raise texts.unimplemented(NO_RENAMING)
    try:
        validate.check_service(spec)
        constraint.parse_constraints(
            () if spec.task_template.placement is None else spec.task_template.placement.constraints
        )
        _check_ports_free(view, spec, of)
    except Unimplemented as error:
        raise texts.unimplemented(error) from None
    except Rejected as error:
        raise texts.invalid(error) from None
    if _publishes_ingress(spec) and view.ingress_network() is None:
        raise texts.precondition("service needs ingress network, but no ingress network is present")
    _check_files(view, spec.task_template.container_spec)
    spec = file_pins.pinned(view, spec, of=None if of is None else of.spec)
    return forms.as_read(_on_networks(view, job_plan.filled(spec)))


def create(view: View, spec: ServiceSpec, *, service_id: str, revision_id: str, now: Timestamp) -> Changes:
    """``spec`` is an accepted one."""
    if view.by_name(Kind.SERVICE, spec.name) is not None:
        raise texts.name_taken("service", spec.name)
    service, revision = founded(spec, service_id=service_id, revision_id=revision_id)
    return (Create(object=job_plan.begun(service, now=now)), Create(object=revision))


def update(
    view: View,
    service: Service,
    spec: ServiceSpec,
    *,
    base_version: int,
    revision_id: str,
    now: Timestamp,
) -> Changes:
    """Nothing for an unchanged spec. ``spec`` is an accepted one; ``base_version`` the client's."""
    if service.version != base_version:
        raise Stale
    before = forms.as_read(service.spec)
    _check_unchangeable(before, spec)
    if spec == before:
        return ()
    revision = following(view, service, spec, revision_id=revision_id)
    has_other_tasks = concerns_tasks(before, spec)
    is_amid_update = not has_other_tasks and is_under_way(service)
    changed = replace(
        service,
        spec=spec,
        revision_id=revision.id,
        template_id=revision.id if has_other_tasks else service.template_id,
        # a rollback of an update that was scaled meanwhile returns to what was before the update
        previous_id=(service.previous_id if is_amid_update else "") or service.revision_id,
        endpoint=endpoint_of(spec, service.endpoint),
        update_status=_status_after(service, spec) if is_amid_update else None,
    )
    return (Create(object=revision), Update(object=job_plan.begun_again(changed, of=service, now=now)))


def _status_after(service: Service, spec: ServiceSpec) -> UpdateStatus | None:
    """Of an update under way, when the change does not concern its tasks. Scaling lets no paused update go
    on; other ways of updating do, from the start."""
    before = forms.as_read(service.spec)
    has_same_pace = (spec.update_config, spec.rollback_config) == (
        before.update_config,
        before.rollback_config,
    )
    return service.update_status if has_same_pace or is_going(service) else None


def is_paused(service: Service) -> bool:
    return service.update_status is not None and service.update_status.state in PAUSED


def resume(view: View, service: Service, *, base_version: int, now: Timestamp) -> Changes:
    """A paused update, or rollback, goes on."""
    if service.version != base_version:
        raise Stale
    status = service.update_status
    if status is None or not is_paused(service):
        state = "there is none" if status is None else f"its last one is {status.state}"
        raise texts.precondition(f"service {service.spec.name} has no paused update to go on with: {state}")
    return (Update(object=replace(service, update_status=resumed(status, now=now))),)


def rollback(view: View, service: Service, *, base_version: int, now: Timestamp) -> Changes:
    if service.version != base_version:
        raise Stale
    previous = view.revision(service.previous_id) if service.previous_id else None
    if previous is None:
        raise texts.precondition(f"service {service.id} does not have a previous spec")
    return _returned(view, service, previous, now)


def rollback_to(view: View, service: Service, number: int, *, base_version: int, now: Timestamp) -> Changes:
    """To the kept revision of that number."""
    if service.version != base_version:
        raise Stale
    kept = {revision.number: revision for revision in view.revisions_of(service.id)}
    wanted = kept.get(number)
    if wanted is None:
        numbers = ", ".join(map(str, sorted(kept)))
        raise texts.not_found(
            f"revision {number} of service {service.spec.name} is not kept: give one of {numbers}"
        )
    if wanted.id == service.revision_id:
        raise texts.precondition(f"service {service.spec.name} is at revision {number} already")
    return _returned(view, service, wanted, now)


def _returned(view: View, service: Service, wanted: Revision, now: Timestamp) -> Changes:
    spec = wanted.spec
    try:
        _check_ports_free(view, spec, service)
    except Rejected as error:
        raise texts.invalid(error) from None
    reason = obstacle(view, service, spec)
    if reason:
        raise texts.precondition(
            f"service {service.spec.name} cannot go back to revision {wanted.number}: {reason}. "
            "Go back to another revision, or update the service to something else."
        )
    changed = replace(
        service,
        spec=spec,
        revision_id=wanted.id,
        template_id=wanted.id if concerns_tasks(service.spec, spec) else service.template_id,
        previous_id=service.revision_id,
        endpoint=endpoint_of(spec, service.endpoint),
        update_status=rollback_begun(
            "manually requested rollback", now=now, since_version=max(service.version, view.version)
        ),
    )
    return (Update(object=job_plan.begun_again(changed, of=service, now=now)),)


def renamed(spec: ServiceSpec, name: str) -> ServiceSpec:
    return replace(spec, name=name)


def _check_unchangeable(old: ServiceSpec, new: ServiceSpec) -> None:
    if old.name != new.name:
        raise texts.unimplemented(NO_RENAMING)
    modes = [
        tuple(
            m is not None for m in (s.mode.global_, s.mode.replicated_job, s.mode.global_job, s.mode.cron_job)
        )
        for s in (old, new)
    ]
    if modes[0] != modes[1]:
        raise texts.unimplemented("service mode change is not allowed")


# --- what the spec names


def _on_networks(view: View, spec: ServiceSpec) -> ServiceSpec:
    """The spec with networks named by id, the nodes' own by name.

    Old clients name networks beside the task template. Those go where all are, unless the template has some.
    """
    template = spec.task_template
    networks = _by_id(view, template.networks or spec.networks)
    _check_together([place.target for place in networks], spec)
    return replace(spec, task_template=replace(template, networks=networks), networks=())


def _by_id(view: View, networks: tuple[NetworkAttachmentConfig, ...]) -> tuple[NetworkAttachmentConfig, ...]:
    attached = []
    for place in networks:
        own = find_predefined(place.target)
        if own is not None:
            attached.append(replace(place, target=own.name))
            continue
        found = find(view, Network, place.target)
        if found.spec.ingress:
            raise texts.invalid(
                f'Service cannot be explicitly attached to the ingress network "{found.spec.name}"'
            )
        if found.spec.scope not in ("", SWARM_SCOPE):
            raise PermissionDenied(
                f"The network {found.spec.name} cannot be used with services. Only networks scoped to the "
                "swarm can be used, such as those created with the overlay driver."
            )
        _check_addresses(found, place)
        attached.append(replace(place, target=found.id))
    return tuple(attached)


def _check_addresses(network: Network, place: NetworkAttachmentConfig) -> None:
    """Addresses that were asked for, as far as the network's subnets are known already."""
    options = network.ipam_options or network.spec.ipam_options
    subnets = [ip_network(config.subnet) for config in options.configs if config.subnet] if options else []
    for name in (network_rules.IPV4_OPTION, network_rules.IPV6_OPTION):
        for text in network_rules.listed(place.driver_opts.get(name, "")):
            if subnets and not any(ip_address(text) in subnet for subnet in subnets):
                shown = ", ".join(map(str, subnets))
                raise texts.invalid(f"the address {text} is not in network {network.spec.name} ({shown})")


def _check_together(targets: list[str], spec: ServiceSpec) -> None:
    if len(targets) != len(set(targets)):
        raise texts.invalid("a service can be on a network only once: name each network once")
    for name in _ALONE:
        if name not in targets:
            continue
        if len(targets) > 1:
            raise texts.invalid(f'a service on the network "{name}" can be on no other')
        if _publishes_ingress(spec):
            raise texts.invalid(
                f'ports in ingress mode do not lead to a service on the network "{name}": publish with '
                "mode=host, or not at all"
            )


def _check_files(view: View, container: ContainerSpec | None) -> None:
    """Secrets and configs must exist under both the id and the name that are given."""
    if container is None:
        return
    for reference in container.secrets:
        secret = view.get(Kind.SECRET, reference.secret_id)
        if not isinstance(secret, Secret) or secret.spec.name != reference.secret_name:
            raise texts.invalid(f"secret not found: {reference.secret_name}")
    for target in container.configs:
        config = view.get(Kind.CONFIG, target.config_id)
        if not isinstance(config, Config) or config.spec.name != target.config_name:
            raise texts.invalid(f"config not found: {target.config_name}")


# --- published ports


def _ports(spec: ServiceSpec) -> tuple[PortConfig, ...]:
    return () if spec.endpoint_spec is None else spec.endpoint_spec.ports


def _publishes_ingress(spec: ServiceSpec) -> bool:
    return any(publish_mode(port) is PublishMode.INGRESS for port in _ports(spec))


def _check_ports_free(view: View, spec: ServiceSpec, of: Service | None) -> None:
    """``apply`` refuses a port that is taken, too; here it is known before anything is proposed."""
    clash = clash_of(view, "" if of is None else of.id, _ports(spec))
    if clash is not None:
        raise InvalidArgument(clash)
