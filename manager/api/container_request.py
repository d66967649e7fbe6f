"""The body of ``POST /containers/create`` as values, and what of it this engine has no answer to. Pure.

Clients send every field, most of them empty: an empty one counts as not given. What is given and stands in
none of the tables here is refused by name, so that nothing is ever dropped in silence.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from manager.api import go_json, requests
from manager.api.network_joins import EndpointSettings
from swarmpy.errors import InvalidArgument
from swarmpy.model.specs import Healthcheck, Mount, Ulimit
from swarmpy.model.value import Value

_WORDS: Final = {"ids": "IDs", "uts": "UTS", "config": "Config"}


def _name(field: str) -> str:
    return "".join(_WORDS.get(word, word.capitalize()) for word in field.rstrip("_").split("_"))


class RestartPolicy(Value, frozen=True, kw_only=True, rename=_name):
    name: str = ""
    maximum_retry_count: int = 0


class LogConfig(Value, frozen=True, kw_only=True, rename=_name):
    type: str = ""
    config: dict[str, str] = {}


class PortBinding(Value, frozen=True, kw_only=True, rename=_name):
    host_ip: str = ""
    host_port: str = ""


class HostDevice(Value, frozen=True, kw_only=True, rename=_name):
    path_on_host: str = ""
    path_in_container: str = ""
    cgroup_permissions: str = ""


class HostDeviceRequest(Value, frozen=True, kw_only=True, rename=_name):
    driver: str = ""
    count: int = 0
    device_ids: tuple[str, ...] = ()
    capabilities: tuple[tuple[str, ...], ...] = ()
    options: dict[str, str] = {}


class HostConfig(Value, frozen=True, kw_only=True, rename=_name):
    auto_remove: bool = False
    binds: tuple[str, ...] = ()
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    cpu_period: int = 0
    cpu_quota: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    device_requests: tuple[HostDeviceRequest, ...] = ()
    devices: tuple[HostDevice, ...] = ()
    dns: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    extra_hosts: tuple[str, ...] = ()
    group_add: tuple[str, ...] = ()
    init: bool | None = None
    log_config: LogConfig = LogConfig()
    memory: int = 0
    memory_swap: int = 0
    memory_swappiness: int | None = None
    mounts: tuple[Mount, ...] = ()
    nano_cpus: int = 0
    network_mode: str = ""
    oom_score_adj: int = 0
    pids_limit: int = 0
    port_bindings: dict[str, tuple[PortBinding, ...]] = {}
    privileged: bool = False
    publish_all_ports: bool = False
    readonly_rootfs: bool = False
    restart_policy: RestartPolicy = RestartPolicy()
    security_opt: tuple[str, ...] = ()
    shm_size: int = 0
    sysctls: dict[str, str] = {}
    tmpfs: dict[str, str] = {}
    ulimits: tuple[Ulimit, ...] = ()
    userns_mode: str = ""


class NetworkingConfig(Value, frozen=True, kw_only=True, rename=_name):
    endpoints_config: dict[str, EndpointSettings] = {}


class ContainerCreate(Value, frozen=True, kw_only=True, rename=_name):
    """Docker's Config with the two others inside it."""

    cmd: tuple[str, ...] = ()
    domainname: str = ""
    entrypoint: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    exposed_ports: dict[str, Any] = {}
    healthcheck: Healthcheck | None = None
    host_config: HostConfig = HostConfig()
    hostname: str = ""
    image: str = ""
    labels: dict[str, str] = {}
    mac_address: str = ""
    network_disabled: bool = False
    networking_config: NetworkingConfig = NetworkingConfig()
    open_stdin: bool = False
    stdin_once: bool = False
    stop_signal: str = ""
    stop_timeout: int | None = None
    tty: bool = False
    user: str = ""
    volumes: dict[str, Any] = {}
    working_dir: str = ""


_CONFIG_IGNORED: Final = frozenset(
    {
        "AttachStdin",  # what the client is about to attach: its attach says so again
        "AttachStdout",
        "AttachStderr",
        "ArgsEscaped",  # Windows' shells
        "OnBuild",
        "Shell",
    }
)
_HOST_IGNORED: Final = frozenset(
    {
        "ConsoleSize",  # of Windows; the client resizes the terminal anyway
        "ContainerIDFile",  # the client's own
        "Annotations",  # notes for other runtimes
    }
)
_HOST_AS_IT_IS: Final = {
    "Cgroup": ("",),
    "CgroupnsMode": ("", "private", "host"),
    "IpcMode": ("", "private", "shareable", "none"),
    "Isolation": ("", "default"),
    "MemorySwappiness": (-1,),
    "PidMode": ("", "private"),
    "Runtime": ("", "runc"),
    "UTSMode": ("", "private"),
    "VolumeDriver": ("", "local"),
}
"""Fields of which these values ask for no more than every container has."""
_MAPPED: Final = {
    kind: frozenset(field.encode_name for field in msgspec.structs.fields(kind))
    for kind in (ContainerCreate, HostConfig)
}


def read(data: bytes) -> ContainerCreate:
    """InvalidArgument for what is none, and for what is asked for and cannot be done."""
    if not data:
        raise InvalidArgument("invalid JSON: got EOF while reading request body")
    body = requests.parse(_with_lists(data), ContainerCreate)
    raw = go_json.first_value(data) or {}
    _refuse_unknown(raw, _MAPPED[ContainerCreate] | _CONFIG_IGNORED, where="Config")
    host = raw.get("HostConfig") or {}
    given = {key: value for key, value in host.items() if value not in _HOST_AS_IT_IS.get(key, ())}
    _refuse_unknown(given, _MAPPED[HostConfig] | _HOST_IGNORED, where="HostConfig")
    return body


_UPDATABLE: Final = frozenset({"CpuPeriod", "CpuQuota", "Memory", "NanoCpus", "PidsLimit", "RestartPolicy"})


def read_update(data: bytes) -> HostConfig:
    """The body of an update: of resources and the restart policy, those that can be changed."""
    if not data:
        raise InvalidArgument("invalid JSON: got EOF while reading request body")
    body = requests.parse(data, HostConfig)
    raw = go_json.first_value(data) or {}
    given = {key: value for key, value in raw.items() if value not in _HOST_AS_IT_IS.get(key, ())}
    _refuse_unknown(given, _UPDATABLE | _HOST_IGNORED, where="HostConfig")
    return body


def _with_lists(data: bytes) -> bytes:
    """Commands may be given as one string, as docker's own form of them has it."""
    try:
        raw = go_json.first_value(data)
    except InvalidArgument:
        return data  # the reader says what is wrong
    if not isinstance(raw, dict):
        return data
    for key in ("Cmd", "Entrypoint"):
        if isinstance(raw.get(key), str):
            raw[key] = [raw[key]]
    return msgspec.json.encode(raw)


def _refuse_unknown(raw: dict[str, Any], known: frozenset[str], *, where: str) -> None:
    for key in sorted(raw):
        if key not in known and not _is_empty(raw[key]):
            raise InvalidArgument(
                f"{where}.{key} is not supported for containers of this engine: leave it out"
            )


def _is_empty(value: Any) -> bool:
    if isinstance(value, list):
        return all(_is_empty(each) for each in value)
    return not value
