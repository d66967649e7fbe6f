"""``GET /containers/{id}/json``: docker's whole shape of a container. Pure.

Fields that mean nothing here are there, as the engine has them, with the engine's own defaults: clients read
some of them without looking. What a container's client asked for is shown as it was asked.
"""

from __future__ import annotations

from typing import Any, Final

from manager.api.container_refs import ContainerRef, ContainerState, name_of
from manager.api.container_shapes import (
    argv_of,
    asked_for,
    created_at,
    host_ips,
    labels_of,
    mounts_of,
    network_mode,
    networks_of,
    ports_of,
    protocol_of,
    spec_of,
)
from manager.api.container_status import HEALTH_WORDS, Condition, condition_of
from manager.api.docker_json import Json, rfc3339, shape
from manager.store.view import View
from swarmpy.model.container_ids import SHORT_ID_CHARS
from swarmpy.model.containers import ContainerFacts
from swarmpy.model.ids import TaskId
from swarmpy.model.specs import ContainerSpec, Limits
from swarmpy.model.states import HealthState

_SHM_BYTES: Final = 64 << 20
_MASKED: Final = (
    "/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
    "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
)  # fmt: skip
_READ_ONLY: Final = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
_HOST_CONFIG: Final[Json] = {
    "Binds": None,
    "ContainerIDFile": "",
    "LogConfig": {"Type": "json-file", "Config": {}},
    "NetworkMode": "default",
    "PortBindings": {},
    "RestartPolicy": {"Name": "", "MaximumRetryCount": 0},
    "AutoRemove": False,
    "VolumeDriver": "",
    "VolumesFrom": None,
    "CapAdd": None,
    "CapDrop": None,
    "CgroupnsMode": "private",
    "Dns": None,
    "DnsOptions": None,
    "DnsSearch": None,
    "ExtraHosts": None,
    "GroupAdd": None,
    "IpcMode": "private",
    "Cgroup": "",
    "Links": None,
    "OomScoreAdj": 0,
    "PidMode": "",
    "Privileged": False,
    "PublishAllPorts": False,
    "ReadonlyRootfs": False,
    "SecurityOpt": None,
    "UTSMode": "",
    "UsernsMode": "",
    "ShmSize": _SHM_BYTES,
    "Runtime": "runc",
    "ConsoleSize": [0, 0],
    "Isolation": "",
    "CpuShares": 0,
    "Memory": 0,
    "NanoCpus": 0,
    "CgroupParent": "",
    "BlkioWeight": 0,
    "BlkioWeightDevice": None,
    "BlkioDeviceReadBps": None,
    "BlkioDeviceWriteBps": None,
    "BlkioDeviceReadIOps": None,
    "BlkioDeviceWriteIOps": None,
    "CpuPeriod": 0,
    "CpuQuota": 0,
    "CpuRealtimePeriod": 0,
    "CpuRealtimeRuntime": 0,
    "CpusetCpus": "",
    "CpusetMems": "",
    "Devices": None,
    "DeviceCgroupRules": None,
    "DeviceRequests": None,
    "KernelMemory": 0,
    "KernelMemoryTCP": 0,
    "MemoryReservation": 0,
    "MemorySwap": 0,
    "MemorySwappiness": None,
    "OomKillDisable": False,
    "PidsLimit": None,
    "Ulimits": None,
    "CpuCount": 0,
    "CpuPercent": 0,
    "IOMaximumIOps": 0,
    "IOMaximumBandwidth": 0,
    "MaskedPaths": list(_MASKED),
    "ReadonlyPaths": list(_READ_ONLY),
}
"""dockerd's, of a request that asks for nothing."""


def inspected(
    view: View, container: ContainerRef, facts: ContainerFacts | None, *, exec_ids: tuple[str, ...] = ()
) -> Json:
    spec, condition = spec_of(view, container), condition_of(container, facts)
    argv = argv_of(spec, facts)
    result: Json = {
        "Id": container.id,
        "Created": rfc3339(created_at(container)),
        "Path": argv[0] if argv else "",
        "Args": argv[1:],
        "State": _state(condition, spec),
        "Image": facts.image_id if facts is not None else "",
        "ResolvConfPath": "",
        "HostnamePath": "",
        "HostsPath": "",
        "LogPath": facts.log_path if facts is not None else "",
        "Name": f"/{name_of(view, container)}",
        "RestartCount": container.task.restarts if container.is_by_hand and container.task else 0,
        "Driver": "overlay2",
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": list(exec_ids) or None,
        "HostConfig": _host_config(view, container, spec),
        "GraphDriver": {"Data": None, "Name": "overlay2"},
    }
    if facts is not None and facts.size_root >= 0:
        result |= {"SizeRw": facts.size_rw, "SizeRootFs": facts.size_root}
    return {
        **result,
        "Mounts": mounts_of(view, container, facts),
        "Config": _config(view, container, spec, facts),
        "NetworkSettings": _network_settings(view, container, condition),
    }


def _state(condition: Condition, spec: ContainerSpec) -> Json:
    is_running = condition.state is ContainerState.RUNNING
    state: Json = {
        "Status": condition.state.value,
        "Running": is_running,
        "Paused": False,
        "Restarting": condition.state is ContainerState.RESTARTING,
        "OOMKilled": condition.is_oom_killed,
        "Dead": False,
        "Pid": condition.pid,
        "ExitCode": condition.exit_code,
        "Error": condition.error,
        "StartedAt": rfc3339(condition.started_at),
        "FinishedAt": rfc3339(condition.ended_at),
    }
    if condition.health is not HealthState.UNSPECIFIED:
        state["Health"] = _health(condition)
    return state


def _health(condition: Condition) -> Json:
    """Its last check, as far as it is told: only of one that went wrong is there a word."""
    is_bad = condition.health is HealthState.UNHEALTHY
    last = {
        "Start": rfc3339(condition.started_at),
        "End": rfc3339(condition.started_at),
        "ExitCode": 1,
        "Output": condition.health_output,
    }
    return {
        "Status": HEALTH_WORDS[condition.health],
        "FailingStreak": 1 if is_bad else 0,
        "Log": [last] if condition.health_output else [],
    }


def _host_config(view: View, container: ContainerRef, spec: ContainerSpec) -> Json:
    asked = asked_for(container).host
    if container.is_by_hand:
        known = {key: value for key, value in asked.items() if key in _HOST_CONFIG or value is not None}
        policy = asked.get("RestartPolicy") or {}
        return {
            **_HOST_CONFIG,
            **known,
            "NetworkMode": network_mode(view, container),
            "LogConfig": _HOST_CONFIG["LogConfig"],
            "PortBindings": asked.get("PortBindings") or {},
            "RestartPolicy": {
                "Name": policy.get("Name") or "no",
                "MaximumRetryCount": policy.get("MaximumRetryCount") or 0,
            },
            "CgroupnsMode": asked.get("CgroupnsMode") or "private",
            "IpcMode": asked.get("IpcMode") or "private",
            "ShmSize": asked.get("ShmSize") or _SHM_BYTES,
            "Runtime": asked.get("Runtime") or "runc",
            "ConsoleSize": asked.get("ConsoleSize") or [0, 0],
        }
    return {**_HOST_CONFIG, **_of_task(view, container, spec)}


def _of_task(view: View, container: ContainerRef, spec: ContainerSpec) -> Json:
    """What swarm mode passes on to the engine of a task's spec."""
    limits = _limits(view, container)
    dns = spec.dns_config
    given: Json = {
        "NetworkMode": network_mode(view, container),
        "Isolation": spec.isolation or "default",
        "CapAdd": list(spec.capability_add) or None,
        "CapDrop": list(spec.capability_drop) or None,
        "ExtraHosts": [_host_line(each) for each in spec.hosts] or None,
        "GroupAdd": list(spec.groups) or None,
        "ReadonlyRootfs": spec.read_only,
        "Privileged": spec.privileged,
        "UsernsMode": spec.userns_mode,
        "OomScoreAdj": spec.oom_score_adj,
        "ShmSize": spec.shm_size or _SHM_BYTES,
        "Memory": limits.memory_bytes,
        "NanoCpus": limits.nano_cpus,
        "PidsLimit": limits.pids or None,
        "CpusetCpus": spec.cpuset_cpus,
        "CpusetMems": spec.cpuset_mems,
        "Ulimits": [{"Name": each.name, "Hard": each.hard, "Soft": each.soft} for each in spec.ulimits]
        or None,
        "Init": bool(spec.init),
    }
    if dns is not None:
        given |= {
            "Dns": list(dns.nameservers) or None,
            "DnsSearch": list(dns.search) or None,
            "DnsOptions": list(dns.options) or None,
        }
    if spec.mounts:
        given["Mounts"] = [shape(mount) for mount in spec.mounts]
    if spec.sysctls:
        given["Sysctls"] = dict(spec.sysctls)
    return given


def _limits(view: View, container: ContainerRef) -> Limits:
    assert container.task is not None
    revision = view.revision(container.task.revision_id)
    wishes = revision.spec.task_template.resources if revision is not None else None
    return (wishes.limits if wishes is not None else None) or Limits()


def _host_line(line: str) -> str:
    """A spec has lines of /etc/hosts, the engine ``name:address``."""
    address, _, names = line.partition(" ")
    return f"{names.split(' ', 1)[0]}:{address}" if names else line


def _config(view: View, container: ContainerRef, spec: ContainerSpec, facts: ContainerFacts | None) -> Json:
    asked = asked_for(container).config
    known = facts or ContainerFacts(task_id=TaskId(""))
    entrypoint, command = list(spec.command) or list(known.entrypoint), list(spec.args)
    if not spec.command and not spec.args:
        command = list(known.command)
    ports: dict[str, Any] = {
        f"{each.target_port}/{protocol_of(each)}": {}
        for each in ports_of(container, condition_of(container, facts))
    }
    exposed: dict[str, Any] = {
        **{port: {} for port in known.image_ports},
        **ports,
        **(asked.get("ExposedPorts") or {}),
    }
    config: Json = {
        "Hostname": known.hostname or spec.hostname or container.id[:SHORT_ID_CHARS],
        "Domainname": asked.get("Domainname") or "",
        "User": spec.user or known.image_user,
        "AttachStdin": bool(asked.get("AttachStdin")),
        "AttachStdout": bool(asked.get("AttachStdout")),
        "AttachStderr": bool(asked.get("AttachStderr")),
    }
    if exposed:
        config["ExposedPorts"] = exposed
    config |= {
        "Tty": spec.tty,
        "OpenStdin": spec.open_stdin,
        "StdinOnce": bool(asked.get("StdinOnce")),
        "Env": _merged(known.image_env, spec.env) or None,
        "Cmd": command or None,
    }
    if spec.healthcheck is not None:
        config["Healthcheck"] = shape(spec.healthcheck)
    config |= {
        "Image": asked.get("Image") or spec.image,
        "Volumes": {**{path: {} for path in known.image_volumes}, **(asked.get("Volumes") or {})} or None,
        "WorkingDir": spec.dir or known.image_workdir,
        "Entrypoint": entrypoint or None,
        "OnBuild": None,
        "Labels": {**known.image_labels, **labels_of(view, container)},
    }
    signal = spec.stop_signal or known.stop_signal
    if signal:
        config["StopSignal"] = signal
    if isinstance(asked.get("StopTimeout"), int):
        config["StopTimeout"] = asked["StopTimeout"]
    return config


def _merged(image: tuple[str, ...], own: tuple[str, ...]) -> list[str]:
    """The image's variables that the container does not set, after its own."""
    names = {each.partition("=")[0] for each in own}
    return [*own, *(each for each in image if each.partition("=")[0] not in names)]


def _network_settings(view: View, container: ContainerRef, condition: Condition) -> Json:
    networks = networks_of(view, container, condition, is_listed=False)
    first: Json = networks.get("bridge", {})
    ports: dict[str, list[Json]] = {}
    for port in ports_of(container, condition):
        places = ports.setdefault(f"{port.target_port}/{protocol_of(port)}", [])
        places += [{"HostIp": ip, "HostPort": str(port.published_port)} for ip in host_ips(port)]
    return {
        "Bridge": "",
        "SandboxID": container.id if condition.state is ContainerState.RUNNING else "",
        "HairpinMode": False,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "Ports": ports,
        "SandboxKey": "",
        "SecondaryIPAddresses": None,
        "SecondaryIPv6Addresses": None,
        "EndpointID": first.get("EndpointID", ""),
        "Gateway": first.get("Gateway", ""),
        "GlobalIPv6Address": first.get("GlobalIPv6Address", ""),
        "GlobalIPv6PrefixLen": first.get("GlobalIPv6PrefixLen", 0),
        "IPAddress": first.get("IPAddress", ""),
        "IPPrefixLen": first.get("IPPrefixLen", 0),
        "IPv6Gateway": "",
        "MacAddress": first.get("MacAddress", ""),
        "Networks": networks,
    }
