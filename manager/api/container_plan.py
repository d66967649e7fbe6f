"""What a client that runs a container by hand asks for, as the spec of a standalone service. Pure.

Docker's texts where docker has them. Where this differs from docker on purpose: what can be known to fail
(a network that is not there, a port that is none) is refused when the container is made, not when it starts;
and names differ if they differ in more than case.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from msgspec.structs import replace

from manager.api import container_request
from manager.api.container_limits import CONTAINER_PORTS_MAX
from manager.api.container_request import ContainerCreate, HostConfig, HostDeviceRequest
from manager.api.lookup import find_or_none
from manager.api.network_joins import EndpointSettings, wish_of
from manager.api.predefined import find_predefined
from manager.api.revisions import founded
from manager.store.view import View
from swarmpy.errors import AlreadyExists, InvalidArgument, PermissionDenied, SwarmError
from swarmpy.model import container_rules, signals, standalone, validate
from swarmpy.model.changes import Change, Create
from swarmpy.model.container_ids import container_id
from swarmpy.model.ids import SECOND_NS, Duration, NodeId
from swarmpy.model.objects import Kind, Network, Service
from swarmpy.model.specs import (
    AppArmorOptions,
    BindOptions,
    ContainerSpec,
    Device,
    DeviceRequest,
    DNSConfig,
    Driver,
    EndpointSpec,
    Limits,
    Mount,
    NetworkAttachmentConfig,
    PortConfig,
    Privileges,
    ResourceRequirements,
    RestartPolicy,
    SeccompOptions,
    ServiceMode,
    ServiceSpec,
    Standalone,
    TaskSpec,
    TmpfsOptions,
    VolumeOptions,
)
from swarmpy.model.states import EndpointMode, MountType, PortProtocol, PublishMode, RestartCondition

MEMORY_BYTES_MIN: Final = 6 << 20
CPU_PERIOD_US: Final = 100_000
_LOG_DRIVERS: Final = ("", "json-file", "local")
"""All of them mean the one way in which logs are kept here, with its own bounds."""
_NO_NETWORKS: Final = ("", "default", "bridge")
_MODE_FLAGS: Final = frozenset({"ro", "rw", "z", "Z", "nocopy", "cached", "delegated", "consistent"})
_SPACED: Final = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?/?(tcp|udp|sctp|)\Z", re.IGNORECASE)
_PORT_MAX: Final = 65535
_CONDITIONS: Final = {
    "": RestartCondition.NONE,
    "no": RestartCondition.NONE,
    "on-failure": RestartCondition.ON_FAILURE,
    "always": RestartCondition.ANY,
    "unless-stopped": RestartCondition.ANY,
}


def spec_of(view: View, body: ContainerCreate, *, name: str, node_id: NodeId, request: bytes) -> ServiceSpec:
    """The container as it is stored, not started. ``request``: what is shown of it again."""
    host = body.host_config
    standalone.check_name(name)
    restart = restart_policy_of(host.restart_policy)
    if host.auto_remove and restart.condition is not RestartCondition.NONE:
        raise InvalidArgument("can't create 'AutoRemove' container with restart policy")
    spec = ServiceSpec(
        name=standalone.store_name(node_id, name),
        task_template=TaskSpec(
            container_spec=_container(body),
            resources=ResourceRequirements(
                limits=limits_of(host), swap_bytes=_swap(host), memory_swappiness=_swappiness(host)
            ),
            restart_policy=restart,
            networks=_networks(view, body),
            log_driver=_log_driver(host),
        ),
        mode=ServiceMode(
            standalone=Standalone(node_id=node_id, auto_remove=host.auto_remove, request=request)
        ),
        endpoint_spec=EndpointSpec(mode=EndpointMode.DNSRR, ports=tuple(_ports(body))),
    )
    validate.check_service(spec)
    return spec


def create(view: View, spec: ServiceSpec, *, service_id: str, revision_id: str) -> tuple[Change, ...]:
    if (clash := name_clash(view, spec.name)) is not None:
        raise clash
    service, revision = founded(spec, service_id=service_id, revision_id=revision_id)
    return (Create(object=service), Create(object=revision))


def name_clash(view: View, stored: str, *, but: str = "") -> AlreadyExists | None:
    """``but``: the id of the container that is to be called so."""
    for other in view.names_like(Kind.SERVICE, stored):
        assert isinstance(other, Service)
        if other.id == but:
            continue
        return AlreadyExists(
            f'Conflict. The container name "/{standalone.container_name(other.spec)}" is already in use by '
            f'container "{container_id(other.id)}". You have to remove (or rename) that container to be able '
            "to reuse that name."
        )
    return None


def restart_policy_of(wish: container_request.RestartPolicy) -> RestartPolicy:
    condition = _CONDITIONS.get(wish.name)
    if condition is None:
        raise InvalidArgument(f"invalid restart policy '{wish.name}'")
    count = wish.maximum_retry_count
    if condition is not RestartCondition.ON_FAILURE and count:
        raise InvalidArgument(f"maximum retry count cannot be used with restart policy '{wish.name}'")
    if count < 0:
        raise InvalidArgument("maximum retry count cannot be negative")
    return RestartPolicy(condition=condition, max_attempts=count or None)


# --- the process


def _container(body: ContainerCreate) -> ContainerSpec:
    host = body.host_config
    if body.domainname:
        raise InvalidArgument("Config.Domainname is not supported: put it into the hostname")
    if body.stop_signal:
        signals.signal_number(body.stop_signal)
    if body.stop_timeout is not None and body.stop_timeout < 0:
        raise InvalidArgument("a stop timeout below 0 is not supported: give a long one")
    command, args = body.entrypoint, body.cmd
    if command == ("",):  # the image's entrypoint is not wanted, so the command stands alone
        command, args = args, ()
        if not command:
            raise InvalidArgument("No command specified")
    return ContainerSpec(
        image=body.image,
        labels=body.labels,
        command=command,
        args=args,
        hostname=body.hostname,
        env=body.env,
        dir=body.working_dir,
        user=body.user,
        groups=host.group_add,
        privileges=_privileges(host.security_opt),
        init=host.init,
        stop_signal=body.stop_signal,
        tty=body.tty,
        open_stdin=body.open_stdin,
        read_only=host.readonly_rootfs,
        mounts=_mounts(body),
        stop_grace_period=None if body.stop_timeout is None else Duration(body.stop_timeout * SECOND_NS),
        healthcheck=body.healthcheck,
        hosts=_extra_hosts(host),
        dns_config=_dns(host),
        sysctls=host.sysctls,
        capability_add=host.cap_add,
        capability_drop=host.cap_drop,
        ulimits=host.ulimits,
        oom_score_adj=host.oom_score_adj,
        devices=tuple(
            Device(
                path_on_host=each.path_on_host,
                path_in_container=each.path_in_container,
                cgroup_permissions=each.cgroup_permissions,
            )
            for each in host.devices
        ),
        device_requests=tuple(_device_request(each) for each in host.device_requests),
        privileged=host.privileged,
        shm_size=host.shm_size,
        cpuset_cpus=host.cpuset_cpus,
        cpuset_mems=host.cpuset_mems,
        userns_mode=host.userns_mode,
    )


def _device_request(wish: HostDeviceRequest) -> DeviceRequest:
    if len(wish.capabilities) > 1:
        raise InvalidArgument("a device request may name one list of capabilities only")
    return DeviceRequest(
        driver=wish.driver,
        count=wish.count,
        device_ids=wish.device_ids,
        capabilities=wish.capabilities[0] if wish.capabilities else (),
        options=wish.options,
    )


def _extra_hosts(host: HostConfig) -> tuple[str, ...]:
    for entry in host.extra_hosts:
        name, colon, address = entry.partition(":")
        if not name or not colon or not address:
            raise InvalidArgument(f'bad format for add-host: "{entry}"')
        if address == "host-gateway":
            raise InvalidArgument("host-gateway is not supported: give the node's address")
    return host.extra_hosts


def _dns(host: HostConfig) -> DNSConfig | None:
    if not (host.dns or host.dns_search or host.dns_options):
        return None
    return DNSConfig(nameservers=host.dns, search=host.dns_search, options=host.dns_options)


def _privileges(options: tuple[str, ...]) -> Privileges | None:
    wish = Privileges()
    for option in options:
        key, sign, value = option.partition("=") if "=" in option else option.partition(":")
        match key:
            case "no-new-privileges" if value.lower() in ("", "true", "false"):
                wish = replace(wish, no_new_privileges=value.lower() != "false")
            case "seccomp" if value == "unconfined":
                wish = replace(wish, seccomp=SeccompOptions(mode="unconfined"))
            case "seccomp" if value in ("builtin", "default"):
                wish = replace(wish, seccomp=SeccompOptions(mode="default"))
            case "seccomp" if sign:
                wish = replace(wish, seccomp=SeccompOptions(mode="custom", profile=value.encode()))
            case "apparmor" if value:
                mode = "disabled" if value == "unconfined" else value
                wish = replace(wish, app_armor=AppArmorOptions(mode=mode))
            case _:
                raise InvalidArgument(f'invalid --security-opt 2: "{option}"')
    return wish if options else None


# --- what it may use


def limits_of(host: HostConfig) -> Limits:
    if host.memory and host.memory < MEMORY_BYTES_MIN:
        raise InvalidArgument("Minimum memory limit allowed is 6MB")
    nano_cpus = host.nano_cpus
    if nano_cpus and (host.cpu_quota or host.cpu_period):
        raise InvalidArgument("Conflicting options: Nano CPUs and CPU Period cannot both be set")
    if host.cpu_quota > 0:
        nano_cpus = host.cpu_quota * SECOND_NS // (host.cpu_period or CPU_PERIOD_US)
    return Limits(nano_cpus=nano_cpus, memory_bytes=host.memory, pids=max(host.pids_limit, 0))


def _swap(host: HostConfig) -> int | None:
    """Docker counts memory and swap together."""
    if not host.memory_swap:
        return None
    if host.memory_swap < 0:
        return -1
    if not host.memory:
        raise InvalidArgument("You should always set the Memory limit when using Memoryswap limit, see usage")
    if host.memory_swap < host.memory:
        raise InvalidArgument("Minimum memoryswap limit should be larger than memory limit, see usage")
    return host.memory_swap - host.memory


def _swappiness(host: HostConfig) -> int | None:
    return None if host.memory_swappiness in (None, -1) else host.memory_swappiness


def _log_driver(host: HostConfig) -> Driver | None:
    driver = host.log_config
    if driver.type not in _LOG_DRIVERS:
        raise InvalidArgument(
            f'error looking up logging plugin {driver.type}: plugin "{driver.type}" not found'
        )
    return Driver(name=driver.type, options=driver.config) if driver.type or driver.config else None


# --- files


def _mounts(body: ContainerCreate) -> tuple[Mount, ...]:
    host = body.host_config
    found = [_bind(text) for text in host.binds]
    found += host.mounts
    found += [_tmpfs(target, options) for target, options in sorted(host.tmpfs.items())]
    taken = {mount.target for mount in found}
    if len(taken) < len(found):
        twice = next(each.target for each in found if sum(o.target == each.target for o in found) > 1)
        raise InvalidArgument(f"Duplicate mount point: {twice}")
    found += [Mount(type=MountType.VOLUME, target=path) for path in sorted(body.volumes) if path not in taken]
    return tuple(found)


def _bind(text: str) -> Mount:
    """``SOURCE:TARGET[:OPTIONS]``; a source without a slash is a volume's name."""
    parts = text.split(":")
    if len(parts) == 1:
        parts = ["", parts[0]]
    if len(parts) <= 3 and not parts[1].startswith("/"):
        kind = "bind" if parts[0].startswith("/") else "volume"
        raise InvalidArgument(
            f"invalid volume specification: '{text}': invalid mount config for type \"{kind}\": "
            f"invalid mount path: '{parts[1]}' mount path must be absolute"
        )
    if len(parts) > 3:
        raise InvalidArgument(f"invalid volume specification: '{text}'")
    source, target = parts[0], parts[1].rstrip("/") or "/"
    if target == "/":
        raise InvalidArgument(
            f"invalid volume specification: '{text}': invalid specification: destination can't be '/'"
        )
    flags = [flag for flag in (parts[2].split(",") if len(parts) == 3 else []) if flag]
    is_path = source.startswith("/")
    propagation = ""
    for flag in flags:
        if is_path and flag in container_rules.PROPAGATIONS:
            propagation = flag
        elif flag not in _MODE_FLAGS:
            raise InvalidArgument(f"invalid mode: {flag}")
    if not is_path:
        options = VolumeOptions(no_copy=True) if "nocopy" in flags else None
        return Mount(
            type=MountType.VOLUME,
            source=source,
            target=target,
            read_only="ro" in flags,
            volume_options=options,
        )
    return Mount(
        type=MountType.BIND,
        source=source,
        target=target,
        read_only="ro" in flags,
        bind_options=BindOptions(propagation=propagation, create_mountpoint=True),
    )


def _tmpfs(target: str, options: str) -> Mount:
    size = mode = 0
    is_read_only = False
    for option in filter(None, options.split(",")):
        key, _, value = option.partition("=")
        if key == "size" and (parsed := _size(value)) is not None:
            size = parsed
        elif key == "mode" and re.fullmatch(r"[0-7]{1,5}", value):
            mode = int(value, 8)
        elif option in ("ro", "rw"):
            is_read_only = option == "ro"
        elif option not in ("noexec", "nosuid", "nodev"):
            raise InvalidArgument(f'Invalid tmpfs option "{option}": size, mode, ro and rw can be given')
    wish = TmpfsOptions(size_bytes=size, mode=mode) if size or mode else None
    return Mount(type=MountType.TMPFS, target=target, read_only=is_read_only, tmpfs_options=wish)


def _size(text: str) -> int | None:
    found = re.fullmatch(r"(\d{1,15})([kmg]?)b?", text.lower())
    if found is None:
        return None
    shift: int = {"": 0, "k": 10, "m": 20, "g": 30}[found[2]]
    return int(found[1]) << shift


# --- networks and ports


def _networks(view: View, body: ContainerCreate) -> tuple[NetworkAttachmentConfig, ...]:
    mode = body.host_config.network_mode
    given = dict(body.networking_config.endpoints_config)
    if body.network_disabled:
        mode = "none"
    if mode.startswith("container:"):
        raise InvalidArgument(
            "a container cannot use another one's network here: put both on one attachable network"
        )
    own = find_predefined(mode) if mode not in _NO_NETWORKS else None
    if own is not None and own.name != "bridge":
        if body.host_config.port_bindings or body.host_config.publish_all_ports:
            raise InvalidArgument(f"ports cannot be published on the network {own.name}: leave them out")
        return (NetworkAttachmentConfig(target=own.name),)
    wanted = [] if mode in _NO_NETWORKS or own is not None else [mode]
    wanted += [name for name in given if find_predefined(name) is None and name not in ("default", mode)]
    found: dict[str, NetworkAttachmentConfig] = {}
    for name in wanted:
        network = find_or_none(view, Network, name)
        if network is None:
            # not 404, of which clients would think that the image is missing
            raise SwarmError(
                f"Could not attach to network {name}: rpc error: code = NotFound desc = "
                f"network {name} not found"
            )
        _check_attachable(network)
        settings = given.get(name, EndpointSettings())
        if body.mac_address and not settings.mac_address:
            settings = replace(settings, mac_address=body.mac_address)
        found.setdefault(network.id, wish_of(network, settings))
    return tuple(found.values())


def _check_attachable(network: Network) -> None:
    name = network.spec.name
    if network.spec.ingress or not network.spec.attachable:
        raise PermissionDenied(
            f"Could not attach to network {name}: rpc error: code = PermissionDenied desc = "
            f"network {name} not manually attachable"
        )


def _ports(body: ContainerCreate) -> Iterator[PortConfig]:
    host = body.host_config
    count = 0
    anywhere = (container_request.PortBinding(),)
    bound = {key: bindings or anywhere for key, bindings in host.port_bindings.items()}
    if host.publish_all_ports:
        bound |= {key: anywhere for key in body.exposed_ports if key not in bound}
    seen: set[tuple[int, PortProtocol, int, str]] = set()
    for key in sorted(bound):
        target, protocol = _target(key)
        for binding in bound[key]:
            published = _published_number(binding.host_port)
            host_ip = "" if binding.host_ip in ("0.0.0.0", "::", "[::]") else binding.host_ip
            one = (target, protocol, published, host_ip)
            if one in seen and published:
                continue  # once for each family of addresses, as clients write it
            seen.add(one)
            count += 1
            if count > CONTAINER_PORTS_MAX:
                raise InvalidArgument(f"a container may publish {CONTAINER_PORTS_MAX} ports at most")
            yield PortConfig(
                protocol=protocol,
                target_port=target,
                published_port=published,
                publish_mode=PublishMode.HOST,
                host_ip=host_ip,
            )


def _target(key: str) -> tuple[int, PortProtocol]:
    found = _SPACED.match(key)
    if found is None or found[2] or not 0 < int(found[1]) <= _PORT_MAX:
        raise InvalidArgument(f'invalid port specification: "{key}"')
    return int(found[1]), PortProtocol((found[3] or "tcp").lower())


def _published_number(text: str) -> int:
    if not text:
        return 0
    if not (text.isascii() and text.isdecimal()) or len(text) > 5 or int(text) > _PORT_MAX:
        raise InvalidArgument(f'invalid port specification: "{text}"')
    return int(text)
