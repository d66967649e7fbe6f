"""``/_ping``, ``/version`` and ``/info``: who answers, what it speaks, and its part in the swarm.

These answer on every node, in a swarm or not. ``/info`` never fails for want of a quorum: it then says so in
``Swarm.Error``, from the state that this manager has.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

from aiohttp import web

from manager.api import requests, versions
from manager.api.context import Api
from manager.api.control import LocalState, SystemInfo
from manager.api.docker_json import Json, rfc3339, shape
from swarmpy.errors import NoLeader, Retry
from swarmpy.limits import INFO_BARRIER_TIMEOUT_S
from swarmpy.model.states import NodeRole
from swarmpy.version import API_VERSION, API_VERSION_MIN, VERSION

_TWO_MANAGERS: Final = (
    "WARNING: Running Swarm in a two-manager configuration. This configuration provides\n"
    "         no fault tolerance, and poses a high risk to lose control over the cluster.\n"
    "         Refer to https://docs.docker.com/engine/swarm/admin_guide/ to configure the\n"
    "         Swarm for fault-tolerance."
)
_REGISTRIES: Final = {
    "AllowNondistributableArtifactsCIDRs": [],
    "AllowNondistributableArtifactsHostnames": [],
    "InsecureRegistryCIDRs": ["127.0.0.0/8"],
    "IndexConfigs": {"docker.io": {"Name": "docker.io", "Mirrors": [], "Secure": True, "Official": True}},
    "Mirrors": [],
}
_NO_COMMIT: Final = {"ID": "", "Expected": ""}
_KERNEL_MEMORY: Final = {"KernelMemory": True, "KernelMemoryTCP": True}
_KERNEL_MEMORY_UNTIL: Final = versions.number("1.42")
"""The version of the API that has these fields no more; older clients warn if they are not there."""
_SECURITY_NAMES_UNTIL: Final = versions.number("1.25")
_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}


def _security(system: SystemInfo) -> list[str]:
    return ["name=seccomp,profile=builtin", *(["name=userns"] if system.has_other_ids else [])]


def _old_info(version: versions.Version) -> Json:
    """What ``/info`` has, or has otherwise, for clients of older versions."""
    found: Json = dict(_KERNEL_MEMORY) if version < _KERNEL_MEMORY_UNTIL else {}
    if version < _SECURITY_NAMES_UNTIL:
        found |= {"ExecutionDriver": "<not supported>", "SecurityOptions": ["seccomp"]}
    return found


def swarm_header(api: Api) -> str:
    """The header by which clients show or hide whole groups of commands."""
    local = api.control.local()
    if local.state is LocalState.ACTIVE:
        return "active/manager" if local.is_manager else "active/worker"
    return local.state


class System:
    def __init__(self, api: Api) -> None:
        self._api = api

    def routes(self) -> Iterable[web.RouteDef]:
        return (
            web.get("/_ping", self.ping),
            web.head("/_ping", self.ping),
            web.get("/version", self.version),
            web.get("/info", self.info),
        )

    async def ping(self, request: web.Request) -> web.StreamResponse:
        headers = {
            "Api-Version": API_VERSION,
            "Cache-Control": "no-cache, no-store, must-revalidate",
            "Docker-Experimental": "false",
            "Ostype": self._api.control.system().os_type,
            "Pragma": "no-cache",
            "Swarm": swarm_header(self._api),
        }
        return web.Response(text="" if request.method == "HEAD" else "OK", headers=headers)

    async def version(self, request: web.Request) -> web.StreamResponse:
        system = self._api.control.system()
        arch = _ARCHITECTURES.get(system.architecture, system.architecture)
        details = {
            "ApiVersion": API_VERSION,
            "Arch": arch,
            "KernelVersion": system.kernel_version,
            "MinAPIVersion": API_VERSION_MIN,
            "Os": system.os_type,
        }
        return self._api.answer(
            {
                "Platform": {"Name": "SwarmPy"},
                "Components": [{"Name": "Engine", "Version": VERSION, "Details": details}],
                "Version": VERSION,
                "GitCommit": "",
                "GoVersion": "",
                "BuildTime": "",
                **details,
            }
        )

    async def info(self, request: web.Request) -> web.StreamResponse:
        system = self._api.control.system()
        images = await self._api.control.images()
        node_id = self._api.control.local().node_id
        return self._api.answer(
            {
                "ID": node_id or system.hostname,
                "Containers": system.tasks,
                "ContainersRunning": system.tasks_running,
                "ContainersPaused": 0,
                "ContainersStopped": system.tasks - system.tasks_running,
                "Images": len(images),
                "Driver": "overlay2",
                "DriverStatus": [["Executor", system.executor]],
                "Plugins": {
                    "Volume": ["local"],
                    "Network": ["bridge", "host", "macvlan", "null", "overlay"],
                    "Authorization": None,
                    "Log": ["json-file"],
                },
                "MemoryLimit": True,
                "SwapLimit": True,
                "CpuCfsPeriod": True,
                "CpuCfsQuota": True,
                "CPUShares": True,
                "CPUSet": True,
                "PidsLimit": True,
                "IPv4Forwarding": True,
                "BridgeNfIptables": True,
                "BridgeNfIp6tables": True,
                "OomKillDisable": False,
                "Debug": False,
                "NFd": 0,
                "NGoroutines": 0,
                "NEventsListener": 0,
                "SystemTime": rfc3339(self._api.now()),
                "LoggingDriver": "json-file",
                "CgroupDriver": "cgroupfs",
                "CgroupVersion": str(system.cgroup_version or 1),
                "KernelVersion": system.kernel_version,
                "OperatingSystem": system.operating_system,
                "OSVersion": system.os_version,
                "OSType": system.os_type,
                "Architecture": system.architecture,
                "IndexServerAddress": "https://index.docker.io/v1/",
                "RegistryConfig": _REGISTRIES,
                "NCPU": system.cpus,
                "MemTotal": system.memory_bytes,
                "GenericResources": [shape(each) for each in system.generic_resources] or None,
                "DockerRootDir": system.data_dir,
                "HttpProxy": "",
                "HttpsProxy": "",
                "NoProxy": "",
                "Name": system.hostname,
                "Labels": [f"{name}={value}" for name, value in sorted(system.labels.items())],
                "ExperimentalBuild": False,
                "ServerVersion": VERSION,
                "Runtimes": {system.executor or "native": {"path": system.executor or "native"}},
                "DefaultRuntime": system.executor or "native",
                "Swarm": await self._swarm(),
                "LiveRestoreEnabled": True,
                "Isolation": "",
                "InitBinary": "",
                **dict.fromkeys(("ContainerdCommit", "RuncCommit", "InitCommit"), _NO_COMMIT),
                "SecurityOptions": _security(system),
                "Warnings": list(system.warnings) or None,
                **_old_info(requests.api_version(request)),
            }
        )

    async def _swarm(self) -> Json:
        local = self._api.control.local()
        result: Json = {
            "NodeID": local.node_id,
            "NodeAddr": local.node_addr,
            "LocalNodeState": local.state,
            "ControlAvailable": False,
            "Error": local.error,
            "RemoteManagers": [{"NodeID": p.node_id, "Addr": p.addr} for p in local.remote_managers] or None,
        }
        access = self._api.control.cluster()
        if access is None or local.state is not LocalState.ACTIVE:
            return result
        result["ControlAvailable"] = True
        try:
            async with asyncio.timeout(INFO_BARRIER_TIMEOUT_S):
                await access.read_barrier()
        except (Retry, TimeoutError) as error:
            result["Error"] = str(error) or str(NoLeader())
        cluster = access.view.cluster()
        if cluster is not None:
            result["Cluster"] = self._api.shapes.cluster(cluster)
        nodes = access.view.nodes()
        managers = sum(node.role is NodeRole.MANAGER for node in nodes)
        result["Nodes"] = len(nodes)
        result["Managers"] = managers
        if managers == 2:
            result["Warnings"] = [_TWO_MANAGERS]
        return result
