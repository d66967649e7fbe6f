"""The container of a service: image, command, environment, mounts, files, health check and the rest."""

from __future__ import annotations

import re
from functools import partial
from typing import Final

from msgspec.structs import replace

from swarmpy.compose.devices import device_requests, devices
from swarmpy.compose.extras import check_reloaded, reload_signal
from swarmpy.compose.fields import Fields
from swarmpy.compose.health import healthcheck
from swarmpy.compose.security import privileges
from swarmpy.compose.stack import NAMESPACE_LABEL
from swarmpy.compose.tree import Scalar
from swarmpy.model import quantities
from swarmpy.model.specs import (
    BindOptions,
    ConfigReference,
    ContainerSpec,
    DNSConfig,
    Driver,
    FileTarget,
    ImageOptions,
    Mount,
    SecretReference,
    TmpfsOptions,
    Ulimit,
    VolumeOptions,
)
from swarmpy.model.states import MountType

_FILE_MODE: Final = 0o444
_MODE_MAX: Final = 0o7777
_CAPABILITY_PREFIX: Final = "CAP_"
_OCTAL: Final = re.compile("[0-7]{3,4}")
_RECURSIVE: Final = ["enabled", "disabled", "writable", "readonly"]
_OPTIONS_OF: Final = {
    "bind": MountType.BIND,
    "tmpfs": MountType.TMPFS,
    "volume": MountType.VOLUME,
    "image": MountType.IMAGE,
}
_MOUNT_TYPES: Final = [kind.value for kind in MountType if kind]


def container(service: Fields, rules: Fields, document: Fields, stack: str) -> ContainerSpec:
    if not service.text("image"):
        raise service.error("image", f"is missing: invalid image reference for service {_name(service)}")
    hosts = [_host(service, entry) for entry in service.texts("extra_hosts")]
    dns = DNSConfig(
        nameservers=service.texts("dns"),
        search=service.texts("dns_search"),
        options=service.texts("dns_opt"),
    )
    return ContainerSpec(
        image=service.text("image"),
        labels={**service.pairs("labels"), NAMESPACE_LABEL: stack},
        command=service.texts("entrypoint"),
        args=service.texts("command"),
        hostname=service.text("hostname"),
        env=tuple(
            name if value is None else f"{name}={value}"
            for name, value in sorted(service.optional_pairs("environment").items())
        ),
        dir=service.text("working_dir"),
        user=service.text("user"),
        groups=service.texts("group_add"),
        privileges=privileges(service),
        init=service.flag("init"),
        stop_signal=service.text("stop_signal"),
        tty=service.flag("tty") or False,
        open_stdin=service.flag("stdin_open") or False,
        read_only=service.flag("read_only") or False,
        mounts=_mounts(service, document, stack),
        stop_grace_period=service.duration("stop_grace_period"),
        healthcheck=healthcheck(service),
        hosts=tuple(hosts),
        dns_config=None if dns == DNSConfig() else dns,
        secrets=_secrets(service, document, stack),
        configs=_configs(service, document, stack),
        isolation=service.text("isolation"),
        sysctls=service.pairs("sysctls"),
        capability_add=_capabilities(service.texts("cap_add")),
        capability_drop=_capabilities(service.texts("cap_drop")),
        ulimits=_ulimits(service),
        oom_score_adj=service.whole("oom_score_adj", low=-1000) or 0,
        devices=devices(service),
        device_requests=device_requests(service, rules),
        privileged=service.flag("privileged") or False,
        shm_size=service.size("shm_size"),
        cpuset_cpus=service.text("cpuset"),
    )


def full_name(document: Fields, section: str, name: str, stack: str) -> str:
    """What a network, volume, secret or config of the document is called in the cluster."""
    sections = document.fields(section)
    fields = None if sections is None else sections.fields(name)
    if fields is None:
        return f"{stack}_{name}"
    if fields.text("name"):
        return fields.text("name")
    return external_name(fields, name) or f"{stack}_{name}"


def external_name(fields: Fields, name: str) -> str:
    """The name of something that exists already; empty if it is the stack's own."""
    if not fields.has("external"):
        return ""
    node = fields.node.get("external")
    if isinstance(node, Scalar):
        return (fields.text("name") or name) if fields.flag("external") else ""
    below = fields.fields("external")
    return (below.text("name") if below is not None else "") or name


def _name(service: Fields) -> str:
    return service.path.rpartition(".")[2]


def _host(service: Fields, entry: str) -> str:
    """``name:address`` of the file is ``address name`` in the API."""
    name, separator, address = entry.partition(":")
    if not separator or not name or not address:
        raise service.error("extra_hosts", f'has a bad entry "{entry}": write name:address')
    return f"{address} {name}"


def _capabilities(names: tuple[str, ...]) -> tuple[str, ...]:
    full = {
        name.upper()
        if name.upper() == "ALL" or name.upper().startswith(_CAPABILITY_PREFIX)
        else _CAPABILITY_PREFIX + name.upper()
        for name in names
    }
    return tuple(sorted(full))


def _ulimits(service: Fields) -> tuple[Ulimit, ...]:
    fields = service.fields("ulimits")
    if fields is None:
        return ()
    found = []
    for name, node in sorted(fields.node.items.items()):
        if isinstance(node, Scalar):
            value = fields.whole(name, low=-1) or 0
            found.append(Ulimit(name=name, soft=value, hard=value))
            continue
        below = fields.fields(name)
        soft, hard = (
            (None, None) if below is None else (below.whole("soft", low=-1), below.whole("hard", low=-1))
        )
        if soft is None or hard is None:
            raise fields.error(name, "needs both soft and hard")
        found.append(Ulimit(name=name, soft=soft, hard=hard))
    return tuple(found)


# --- secrets and configs


def _targets(service: Fields, document: Fields, key: str, stack: str) -> list[tuple[str, FileTarget, str]]:
    """The full name of each secret or config, where it goes, and the signal that tells of new data."""
    defined = document.fields(key)
    found = []
    check_reloaded(service, key, {fields.text("source") for fields in service.list_of_fields(key)})
    for fields in service.list_of_fields(key):
        source = fields.text("source")
        if not source or defined is None or source not in defined.node.items:
            raise fields.error("source", f'names an undefined {key[:-1]} "{source}": define it under {key}')
        mode = fields.whole("mode")
        if mode is not None and mode > _MODE_MAX:
            raise fields.error("mode", f"is no file mode: {mode}; write an octal number such as 0440")
        target = FileTarget(
            name=fields.text("target") or source,
            uid=fields.text("uid") or "0",
            gid=fields.text("gid") or "0",
            mode=_FILE_MODE if mode is None else mode,
        )
        signal = reload_signal(service, key, source)
        found.append((full_name(document, key, source, stack), target, signal))
    return sorted(found, key=lambda each: each[0])


def _secrets(service: Fields, document: Fields, stack: str) -> tuple[SecretReference, ...]:
    """Without ids: those are known once the secrets are in the cluster. Nor with the number of the data: the
    newest is meant."""
    return tuple(
        SecretReference(file=target, secret_name=name, reload_signal=signal)
        for name, target, signal in _targets(service, document, "secrets", stack)
    )


def _configs(service: Fields, document: Fields, stack: str) -> tuple[ConfigReference, ...]:
    return tuple(
        ConfigReference(file=target, config_name=name, reload_signal=signal)
        for name, target, signal in _targets(service, document, "configs", stack)
    )


# --- mounts


def _mounts(service: Fields, document: Fields, stack: str) -> tuple[Mount, ...]:
    mounts = [_mount(fields, document, stack) for fields in service.list_of_fields("volumes")]
    mounts += [_tmpfs(service, entry) for entry in service.texts("tmpfs")]
    return tuple(mounts)


def _tmpfs(service: Fields, entry: str) -> Mount:
    """``target`` or ``target:size=64m,mode=1770``."""
    target, _, options = entry.partition(":")
    found = TmpfsOptions()
    is_read_only = False
    for option in options.split(",") if options else ():
        name, _, value = option.partition("=")
        match name:
            case "size":
                size = service.parse("tmpfs", partial(quantities.memory_bytes, value))
                found = replace(found, size_bytes=size)
            case "mode" if _OCTAL.fullmatch(value):
                found = replace(found, mode=int(value, 8))
            case "ro" | "rw":
                is_read_only = name == "ro"
            case _:
                raise service.error(
                    "tmpfs", f"cannot have the option {option}: write size=64m, mode=1770 or ro"
                )
    return Mount(
        type=MountType.TMPFS,
        target=target,
        read_only=is_read_only,
        tmpfs_options=None if found == TmpfsOptions() else found,
    )


def _bind(bind: Fields) -> BindOptions:
    recursive = bind.one_of("recursive", str, known=_RECURSIVE) or "enabled"
    return BindOptions(
        propagation=bind.text("propagation"),
        create_mountpoint=bind.flag("create_host_path") or False,
        non_recursive=recursive == "disabled",
        read_only_non_recursive=recursive == "writable",
        read_only_force_recursive=recursive == "readonly",
    )


def _mount(fields: Fields, document: Fields, stack: str) -> Mount:
    kind = fields.one_of("type", MountType, known=_MOUNT_TYPES)
    if kind is None:
        raise fields.error("type", f"is missing: write one of {', '.join(_MOUNT_TYPES)}")
    source = fields.text("source")
    bind, tmpfs, image = fields.fields("bind"), fields.fields("tmpfs"), fields.fields("image")
    for key, belongs in _OPTIONS_OF.items():
        if fields.has(key) and kind is not belongs:
            raise fields.error(key, f"options are incompatible with type {kind}")
    mount = Mount(
        type=kind,
        source=source,
        target=fields.text("target"),
        read_only=fields.flag("read_only") or False,
        consistency=fields.text("consistency"),
        bind_options=None if bind is None else _bind(bind),
        tmpfs_options=None
        if tmpfs is None
        else TmpfsOptions(size_bytes=tmpfs.size("size"), mode=tmpfs.whole("mode") or 0),
        image_options=None if image is None else ImageOptions(subpath=image.text("subpath")),
    )
    if kind is not MountType.VOLUME or not source:
        return _with_volume(mount, fields, None)
    defined = document.fields("volumes")
    if defined is None or source not in defined.node.items:
        raise fields.error("source", f'names an undefined volume "{source}": define it under volumes')
    volume = defined.fields(source)
    named = _with_volume(
        mount, fields, None if volume is not None and external_name(volume, source) else stack
    )
    return _driven(named, volume, full_name(document, "volumes", source, stack))


def _with_volume(mount: Mount, fields: Fields, stack: str | None) -> Mount:
    """Options of a volume mount; the stack's own volumes carry its label."""
    options = fields.fields("volume")
    if options is None and stack is None:
        return mount
    volume = VolumeOptions(
        no_copy=(options.flag("nocopy") if options is not None else None) or False,
        subpath=options.text("subpath") if options is not None else "",
        labels={} if stack is None else {NAMESPACE_LABEL: stack},
    )
    return replace(mount, volume_options=volume)


def _driven(mount: Mount, volume: Fields | None, name: str) -> Mount:
    """The named volume's driver and labels."""
    options = mount.volume_options
    if volume is not None and options is not None and options.labels:
        driver, driver_opts = volume.text("driver"), volume.pairs("driver_opts")
        options = VolumeOptions(
            no_copy=options.no_copy,
            subpath=options.subpath,
            labels={**volume.pairs("labels"), **options.labels},
            driver_config=Driver(name=driver, options=driver_opts) if driver or driver_opts else None,
        )
    return replace(mount, volume_options=options, source=name)
