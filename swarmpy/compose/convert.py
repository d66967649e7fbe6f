"""Services and networks of a merged document to specs, as docker's stack deploy makes them.

What the cluster cannot run yet is converted too; ``runnable`` says what becomes of it.
"""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from swarmpy.compose import deploy
from swarmpy.compose.container import container, external_name, full_name
from swarmpy.compose.dependencies import check_dependencies, dependencies
from swarmpy.compose.extras import KEY as EXTRAS
from swarmpy.compose.extras import with_extras
from swarmpy.compose.fields import Fields
from swarmpy.compose.published import check_ports
from swarmpy.compose.resources import resources
from swarmpy.compose.stack import (
    IMAGE_LABEL,
    NAMESPACE_LABEL,
    PREDEFINED_NETWORKS,
    NamedFile,
    NamedNetwork,
    NamedSpec,
    StackWarning,
)
from swarmpy.compose.tree import ComposeError, Mapping
from swarmpy.errors import Rejected
from swarmpy.model import network_rules, validate
from swarmpy.model.cluster_specs import IPAMConfig, IPAMOptions, NetworkSpec
from swarmpy.model.specs import (
    ContainerSpec,
    Driver,
    EndpointSpec,
    NetworkAttachmentConfig,
    PortConfig,
    ServiceSpec,
    TaskSpec,
)
from swarmpy.model.states import EndpointMode, PortProtocol, PublishMode

DEFAULT_NETWORK: Final = "default"
_SOURCE_NAT_MODE: Final = "snat"
_MODES: Final = [*(mode.value for mode in PublishMode if mode), _SOURCE_NAT_MODE]
_PROTOCOLS: Final = [protocol.value for protocol in PortProtocol if protocol]
_ENDPOINT_MODES: Final = [mode.value for mode in EndpointMode if mode]


def services(document: Mapping, stack: str, warnings: list[StackWarning]) -> tuple[NamedSpec, ...]:
    top = Fields(document, "")
    found = tuple(
        _service(name, fields, top, stack) for name, fields in sorted(top.each("services"), key=_name)
    )
    warnings += check_dependencies(found)
    check_ports(found)
    return found


def _name(pair: tuple[str, Fields]) -> str:
    return pair[0]


def _service(name: str, service: Fields, document: Fields, stack: str) -> NamedSpec:
    rules = service.fields("deploy") or Fields(Mapping({}, service.node.place), f"{service.path}.deploy")
    image = container(service, rules, document, stack)
    logging = service.fields("logging")
    spec = ServiceSpec(
        name=f"{stack}_{name}",
        labels={**rules.pairs("labels"), NAMESPACE_LABEL: stack, IMAGE_LABEL: image.image},
        task_template=TaskSpec(
            container_spec=image,
            resources=resources(service, rules),
            restart_policy=deploy.restart_policy(service, rules),
            placement=deploy.placement(rules),
            networks=_attachments(name, service, document, stack),
            log_driver=None
            if logging is None
            else Driver(name=logging.text("driver"), options=logging.pairs("options")),
        ),
        mode=deploy.mode(service, rules),
        update_config=deploy.update_config(rules, "update_config"),
        rollback_config=deploy.update_config(rules, "rollback_config"),
        endpoint_spec=_endpoint(service, rules),
        depends_on=dependencies(service, document, stack),
    )
    spec = with_extras(spec, service, _volumes(document, stack) if service.has(EXTRAS) else {})
    place = document.node.place
    below = document.fields("services")
    if below is not None:
        place = below.place(name)
    _check(spec, service)
    places = {f"deploy.{key}": at for key, at in rules.node.key_places.items()}
    return NamedSpec(name, spec, place, {**places, **service.node.key_places})


def _volumes(document: Fields, stack: str) -> dict[str, str]:
    return {name: full_name(document, "volumes", name, stack) for name, _ in document.each("volumes")}


def _check(spec: ServiceSpec, service: Fields) -> None:
    """The rules of specs. References to secrets and configs get their ids later: names stand in."""
    made = spec.task_template.container_spec or ContainerSpec()
    checked = replace(
        made,
        secrets=tuple(replace(reference, secret_id=reference.secret_name) for reference in made.secrets),
        configs=tuple(replace(reference, config_id=reference.config_name) for reference in made.configs),
    )
    try:
        validate.check_service(
            replace(spec, task_template=replace(spec.task_template, container_spec=checked))
        )
    except Rejected as error:
        raise ComposeError(service.node.place, f"{service.path}: {error}") from None


# --- the endpoint


def _endpoint(service: Fields, rules: Fields) -> EndpointSpec:
    ports = [_port(fields) for fields in service.list_of_fields("ports")]
    return EndpointSpec(
        mode=rules.one_of("endpoint_mode", EndpointMode, known=_ENDPOINT_MODES) or EndpointMode.UNSPECIFIED,
        ports=tuple(sorted(ports, key=lambda port: port.published_port)),
    )


def _port(fields: Fields) -> PortConfig:
    """The mode snat is ours: ingress whose tasks see their node's address in place of the client's."""
    mode = fields.one_of("mode", str, known=_MODES) or ""
    is_source_nat = mode == _SOURCE_NAT_MODE
    return PortConfig(
        name=fields.text("name"),
        protocol=fields.one_of("protocol", PortProtocol, known=_PROTOCOLS) or PortProtocol.UNSPECIFIED,
        target_port=fields.whole("target") or 0,
        published_port=fields.whole("published") or 0,
        publish_mode=PublishMode.INGRESS if is_source_nat else PublishMode(mode),
        host_ip=fields.text("host_ip"),
        source_nat=is_source_nat,
    )


# --- networks


def _attachments(
    name: str, service: Fields, document: Fields, stack: str
) -> tuple[NetworkAttachmentConfig, ...]:
    """Every service is on the default network unless it names others; its name is an alias on each."""
    if service.has("network_mode"):
        return (NetworkAttachmentConfig(target=_network_mode(service)),)
    wanted = dict(service.each("networks")) or {
        DEFAULT_NETWORK: Fields(Mapping({}, service.node.place), f"{service.path}.networks.default")
    }
    defined = document.fields("networks")
    found = []
    for network, fields in wanted.items():
        if network != DEFAULT_NETWORK and (defined is None or network not in defined.node.items):
            raise service.error(
                "networks", f'names an undefined network "{network}": define it under networks'
            )
        target = full_name(document, "networks", network, stack)
        found.append(
            NetworkAttachmentConfig(
                target=target,
                # there are no names in the nodes' own networks
                aliases=() if target in PREDEFINED_NETWORKS else (*fields.texts("aliases"), name),
                driver_opts={**fields.pairs("driver_opts"), **_own_addresses(fields)},
            )
        )
    return tuple(sorted(found, key=lambda attachment: attachment.target))


def _network_mode(service: Fields) -> str:
    mode = service.text("network_mode")
    if mode not in PREDEFINED_NETWORKS:
        known = ", ".join(sorted(PREDEFINED_NETWORKS))
        raise service.error("network_mode", f'must be one of {known}, not "{mode}": name networks otherwise')
    if service.has("networks"):
        raise service.error("network_mode", "and networks cannot be combined: leave one of them out")
    return mode


def _own_addresses(fields: Fields) -> dict[str, str]:
    """Asked for by keys of the same names as the driver's options."""
    names = (network_rules.IPV4_OPTION, network_rules.IPV6_OPTION, network_rules.MAC_OPTION)
    return {name: text for name in names if (text := fields.text(name))}


def networks(document: Mapping, stack: str) -> tuple[NamedNetwork, ...]:
    """The networks that services use, and those alone."""
    top = Fields(document, "")
    used = {
        network
        for _, service in top.each("services")
        if not service.has("network_mode")
        for network in [name for name, _ in service.each("networks")] or [DEFAULT_NETWORK]
    }
    defined = dict(top.each("networks"))
    absent = Fields(Mapping({}, document.at("services")), "networks.default")
    return tuple(_network(name, defined.get(name, absent), top, stack) for name in sorted(used))


def _network(name: str, fields: Fields, document: Fields, stack: str) -> NamedNetwork:
    driver, options = fields.text("driver"), fields.pairs("driver_opts")
    spec = NetworkSpec(
        name=full_name(document, "networks", name, stack),
        labels={**fields.pairs("labels"), NAMESPACE_LABEL: stack},
        driver_configuration=Driver(name=driver or "overlay", options=options),
        ipv6_enabled=fields.flag("enable_ipv6") or False,
        internal=fields.flag("internal") or False,
        attachable=fields.flag("attachable") or False,
        ipam_options=_ipam(fields),
        scope="swarm",
    )
    is_external = bool(external_name(fields, name))
    if not is_external:
        _check_network(spec, fields)
    return NamedNetwork(name, spec, is_external, fields.node.place)


def _check_network(spec: NetworkSpec, fields: Fields) -> None:
    try:
        validate.check_network(spec)
    except Rejected as error:
        raise ComposeError(fields.node.place, f"{fields.path}: {error}") from None


def _ipam(fields: Fields) -> IPAMOptions | None:
    ipam = fields.fields("ipam")
    if ipam is None:
        return None
    return IPAMOptions(
        driver=Driver(name=ipam.text("driver"), options=ipam.pairs("options")),
        configs=tuple(
            IPAMConfig(
                subnet=pool.text("subnet"),
                ip_range=pool.text("ip_range"),
                gateway=pool.text("gateway"),
                auxiliary_addresses=pool.pairs("aux_addresses"),
            )
            for pool in ipam.list_of_fields("config")
        ),
    )


# --- secrets and configs


def files(document: Mapping, section: str, stack: str) -> tuple[NamedFile, ...]:
    top = Fields(document, "")
    return tuple(
        _file(name, fields, top, section, stack) for name, fields in sorted(top.each(section), key=_name)
    )


def _file(name: str, fields: Fields, document: Fields, section: str, stack: str) -> NamedFile:
    is_external = bool(external_name(fields, name))
    sources = [key for key in ("file", "environment", "content", "driver") if fields.has(key)]
    if is_external == bool(sources) or len(sources) > 1:
        raise ComposeError(
            fields.node.place,
            f"{fields.path} needs exactly one of file, environment, content, driver and external: true",
        )
    return NamedFile(
        name=name,
        full_name=full_name(document, section, name, stack),
        labels={**fields.pairs("labels"), NAMESPACE_LABEL: stack},
        is_external=is_external,
        place=fields.node.place,
        path=fields.text("file"),
        content=fields.text("content"),
        variable=fields.text("environment"),
        driver=fields.text("driver"),
        driver_options=fields.pairs("driver_opts"),
        template_driver=fields.text("template_driver"),
    )
