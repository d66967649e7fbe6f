"""Values of flags: durations, sizes, CPUs, mounts, ports and the rest, as the API's JSON. Pure.

Each function raises UsageError with docker's sentence where docker has one.
"""

from __future__ import annotations

import ipaddress
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from swarmpy.cli.flags import UsageError
from swarmpy.client import Json
from swarmpy.errors import InvalidArgument
from swarmpy.model import quantities

_MOUNT_SWITCHES: Final = (
    "readonly",
    "ro",
    "volume-nocopy",
    "volume-sticky",
    "bind-nonrecursive",
    "bind-create-mountpoint",
)
_TRUE: Final = frozenset({"", "true", "1"})


T = TypeVar("T")


def _read(read: Callable[[str], T], text: str) -> T:
    """A reading that is shared with Compose files, its refusal as one of the command line."""
    try:
        return read(text)
    except InvalidArgument as error:
        raise UsageError(str(error)) from None


def duration_ns(text: str) -> int:
    """``1h30m``, ``500ms``."""
    return _read(quantities.duration_ns, text)


def memory_bytes(text: str) -> int:
    """``512m``, ``1g``: powers of 1024."""
    return _read(quantities.memory_bytes, text)


def swap_bytes(text: str) -> int:
    """A size, or -1 for all that there is."""
    return -1 if text == "-1" else memory_bytes(text)


def nano_cpus(text: str) -> int:
    return _read(quantities.nano_cpus, text)


def ratio(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"invalid ratio: '{text}': give a number between 0 and 1") from None


def whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"invalid number: '{text}'") from None


def words(text: str) -> list[str]:
    """A command line in one argument, split as a shell would."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UsageError(f"invalid command line '{text}': {error}") from None


def pair(text: str, *, what: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    if not name:
        raise UsageError(f"invalid {what} '{text}': give name=value")
    return name, value


def read_env_file(path: str) -> list[str]:
    """One NAME=value a line; a NAME alone takes the value from this process's environment."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"env file {path} cannot be read: {error}") from None
    entries = []
    for line in lines:
        entry = line.lstrip()
        if entry and not entry.startswith("#"):
            if any(space in entry.partition("=")[0] for space in " \t"):
                raise UsageError(f"env file {path}: variable '{entry}' contains whitespaces")
            entries.append(entry)
    return entries


def environment(entries: list[str], surroundings: dict[str, str]) -> list[str]:
    """``NAME`` without a value takes it from the surroundings, or is left out."""
    result = []
    for entry in entries:
        if "=" in entry:
            result.append(entry)
        elif entry in surroundings:
            result.append(f"{entry}={surroundings[entry]}")
    return result


def host(text: str) -> str:
    """``name:address`` of the command line is ``address name`` in the API."""
    name, separator, address = text.partition(":")
    if not separator or not name or not address:
        raise UsageError(f'bad format for add-host: "{text}"')
    return f"{address} {name}"


def name_server(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text.strip()))
    except ValueError:
        raise UsageError(f"{text} is not an ip address") from None


def ulimit(text: str) -> Json:
    name, value = pair(text, what="ulimit argument")
    soft, _, hard = value.partition(":")
    return {"Name": name, "Soft": whole(soft), "Hard": whole(hard or soft)}


def generic_resource(text: str) -> Json:
    kind, value = pair(text, what="generic-resource")
    if value.isascii() and value.isdigit():
        return {"DiscreteResourceSpec": {"Kind": kind, "Value": int(value)}}
    raise UsageError(
        f"invalid generic-resource request `{text}`, Named Generic Resources is not supported for service "
        f"create or update: ask for a number, such as {kind}=1"
    )


def preference(text: str) -> Json:
    """``spread=node.labels.zone``"""
    strategy, descriptor = pair(text, what="placement preference")
    if strategy.lower() != "spread":
        raise UsageError(f"unsupported placement preference {strategy} (only spread is supported)")
    return {"Spread": {"SpreadDescriptor": descriptor}}


# --- files in tasks


def file_reference(text: str) -> tuple[str, Json, Json]:
    """``name`` or ``source=name,target=path,uid=0,gid=0,mode=0440``: the source's name, where it goes, and
    with ``reload=HUP`` or ``version=3`` (ours) which of its data."""
    which: Json = {}
    target = {"Name": "", "UID": "0", "GID": "0", "Mode": 0o444}
    source = text if "=" not in text and "," not in text else ""
    if not source:
        for entry in text.split(","):
            key, value = pair(entry, what="field")
            match key.lower():
                case "source" | "src":
                    source = value
                case "target":
                    target["Name"] = value
                case "uid":
                    target["UID"] = value
                case "gid":
                    target["GID"] = value
                case "mode":
                    try:
                        target["Mode"] = int(value, 8)
                    except ValueError:
                        raise UsageError(f"invalid mode specified: {value}") from None
                case "reload":
                    if not value:
                        raise UsageError("reload needs the signal to send, such as reload=HUP")
                    which["ReloadSignal"] = value
                case "version":
                    which["Version"] = whole(value)
                case _:
                    raise UsageError(f"invalid field in secret or config request: {key}")
    if not source:
        raise UsageError("source is required")
    target["Name"] = target["Name"] or source
    return source, target, which


def credential_spec(text: str) -> Json:
    """``config://name``, ``file://name`` or ``registry://name``."""
    for scheme, field in (("config://", "Config"), ("file://", "File"), ("registry://", "Registry")):
        if text.startswith(scheme) and len(text) > len(scheme):
            return {field: text.removeprefix(scheme)}
    raise UsageError(
        f'invalid credential spec "{text}": it must begin with config://, file:// or registry://'
    )


# --- mounts


def mount(text: str) -> Json:
    """``type=bind,source=/a,target=/b,readonly``"""
    result: Json = {"Type": "volume"}
    for entry in text.split(","):
        key, has_value, value = entry.partition("=")
        _mount_field(result, key.strip().lower(), value, text, is_bare=not has_value)
    if not result.get("Target"):
        raise UsageError("target is required")
    return result


def _mount_field(result: Json, key: str, value: str, whole_text: str, *, is_bare: bool) -> None:
    if is_bare and key not in _MOUNT_SWITCHES:
        raise UsageError(f"invalid field '{key}' must be a key=value pair")
    match key:
        case "type":
            result["Type"] = value.lower()
        case "source" | "src":
            result["Source"] = value
        case "target" | "dst" | "destination":
            result["Target"] = value
        case "readonly" | "ro":
            result["ReadOnly"] = value.lower() in _TRUE
        case "consistency":
            result["Consistency"] = value.lower()
        case "bind-propagation":
            result.setdefault("BindOptions", {})["Propagation"] = value.lower()
        case "bind-nonrecursive":
            result.setdefault("BindOptions", {})["NonRecursive"] = value.lower() in _TRUE
        case "bind-recursive":
            result.setdefault("BindOptions", {}).update(_recursion(value))
        case "bind-create-mountpoint":
            result.setdefault("BindOptions", {})["CreateMountpoint"] = value.lower() in _TRUE
        case "volume-sticky":
            result.setdefault("VolumeOptions", {})["Sticky"] = value.lower() in _TRUE
        case "image-subpath":
            result.setdefault("ImageOptions", {})["Subpath"] = value
        case "volume-nocopy":
            result.setdefault("VolumeOptions", {})["NoCopy"] = value.lower() in _TRUE
        case "volume-subpath":
            result.setdefault("VolumeOptions", {})["Subpath"] = value
        case "volume-label":
            name, label = pair(value, what="volume-label")
            result.setdefault("VolumeOptions", {}).setdefault("Labels", {})[name] = label
        case "volume-driver":
            result.setdefault("VolumeOptions", {}).setdefault("DriverConfig", {})["Name"] = value
        case "volume-opt":
            name, option = pair(value, what="volume-opt")
            driver = result.setdefault("VolumeOptions", {}).setdefault("DriverConfig", {})
            driver.setdefault("Options", {})[name] = option
        case "tmpfs-size":
            result.setdefault("TmpfsOptions", {})["SizeBytes"] = memory_bytes(value)
        case "tmpfs-mode":
            try:
                result.setdefault("TmpfsOptions", {})["Mode"] = int(value, 8)
            except ValueError:
                raise UsageError(f"invalid value for {key}: {value}") from None
        case _:
            raise UsageError(f"unexpected key '{key}' in '{whole_text}'")


def _recursion(value: str) -> Json:
    """How far down a bind mount goes, and how far its read-only does."""
    choices: dict[str, Json] = {
        "enabled": {},
        "disabled": {"NonRecursive": True},
        "writable": {"ReadOnlyNonRecursive": True},
        "readonly": {"ReadOnlyForceRecursive": True},
    }
    if value not in choices:
        raise UsageError(
            f"invalid value for bind-recursive: {value} "
            '(must be "enabled", "disabled", "writable", or "readonly")'
        )
    return choices[value]


# --- networks

_PLACE_OPTIONS: Final = {
    "ip": "ipv4_address",
    "ip6": "ipv6_address",
    "mac": "mac_address",
    "mac-address": "mac_address",
}
"""Fields of ours: addresses that the task shall have there, for services of one task."""


def network(text: str) -> Json:
    """``name``, or ``name=front,alias=www,driver-opt=key=value,ip=10.0.1.9``."""
    if "=" not in text:
        return {"Target": text}
    place: Json = {}
    for entry in text.split(","):
        key, has_value, value = entry.strip().partition("=")
        if not has_value:
            raise UsageError(f"invalid field {entry}")
        match key.strip().lower():
            case "name":
                place["Target"] = value
            case "alias":
                place.setdefault("Aliases", []).append(value)
            case "driver-opt":
                name, has_option, option = value.partition("=")
                if not has_option or not name:
                    raise UsageError("invalid key value pair format in driver options")
                place.setdefault("DriverOpts", {})[name] = option
            case "ip" | "ip6" | "mac" | "mac-address" as field:
                place.setdefault("DriverOpts", {})[_PLACE_OPTIONS[field]] = value
            case _:
                raise UsageError(f"invalid field key {key}")
    if not place.get("Target"):
        raise UsageError("network name/id is not specified")
    return place


# --- ports


def ports(text: str) -> list[Json]:
    """``8080:80``, ``10.0.0.1:8000-8002:80-82/udp``, or ``published=8080,target=80,protocol=tcp,mode=host``.

    ``mode=snat`` is ingress whose tasks see the node's address; ``host_ip`` an address or an interface of
    each node.
    """
    return [_long_port(text)] if "=" in text else _short_ports(text)


def _long_port(text: str) -> Json:
    port: Json = {"Protocol": "tcp", "PublishMode": "ingress"}
    for entry in text.split(","):
        key, value = pair(entry.strip(), what="field")
        match key.lower():
            case "protocol":
                port["Protocol"] = _protocol(value)
            case "mode":
                if value not in ("ingress", "host", "snat"):
                    raise UsageError(f"invalid publish mode value '{value}'")
                port["PublishMode"] = "ingress" if value == "snat" else value
                if value == "snat":
                    port["SourceNAT"] = True
            case "target":
                port["TargetPort"] = _port(value)
            case "published":
                port["PublishedPort"] = _port(value)
            case "host_ip" | "host-ip":
                port["HostIP"] = value
            case _:
                raise UsageError(f"invalid field key {key}")
    if "TargetPort" not in port:
        raise UsageError(f"missing mandatory field 'target': {text}")
    return port


def _short_ports(text: str) -> list[Json]:
    body, _, protocol = text.partition("/")
    host_ip, body = _host_ip(body)
    pieces = body.split(":")
    published = pieces[0] if len(pieces) == 2 else ""
    pairs = _read(lambda target: quantities.port_pairs(published, target, text=text), pieces[-1])
    return [
        {
            "Protocol": _protocol(protocol or "tcp"),
            "TargetPort": target,
            "PublishMode": "ingress",
            **({"PublishedPort": outside} if outside else {}),
            **({"HostIP": host_ip} if host_ip else {}),
        }
        for outside, target in pairs
    ]


def _host_ip(text: str) -> tuple[str, str]:
    """What stands in front of the two ports, if anything does; an IPv6 address is in brackets."""
    if text.startswith("["):
        address, bracket, rest = text[1:].partition("]:")
        if not bracket:
            raise UsageError(f"invalid hostPort: {text}")
        return address, rest
    if text.count(":") > 2:
        raise UsageError(f"invalid hostPort: {text}: put an IPv6 address in brackets")
    if text.count(":") == 2:
        address, _, rest = text.partition(":")
        return address, rest
    return "", text


def _port(text: str) -> int:
    return _read(quantities.port, text)


def _protocol(text: str) -> str:
    return _read(quantities.protocol, text).value
