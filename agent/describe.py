"""What this machine is: name, platform, processors, memory. Read anew at each call; nothing is kept."""

from __future__ import annotations

import os
import platform
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

from msgspec.structs import replace

from agent.dataplane.base import BackendCapabilities
from swarmpy.model.executors import EXECUTOR_PLUGIN
from swarmpy.model.objects import EngineDescription, EnginePlugin, NodeDescription, TLSInfo
from swarmpy.model.specs import GenericResource, Platform, Resources
from swarmpy.pki import Identity, issuer_of_identity
from swarmpy.version import STORE_FORMAT, VERSION

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_SO_NETNS_COOKIE = 71
_COOKIE_BYTES = 8
_CPU_NANOS = 1_000_000_000
_NETWORK = "Network"
_DRIVER_NAMES = {"none": "null"}
"""Where docker's name of a driver is not that of the network which it makes."""
_PLUGINS = (
    EnginePlugin(type="Log", name="json-file"),
    *(EnginePlugin(type=_NETWORK, name=name) for name in ("bridge", "host", "macvlan", "null", "overlay")),
    EnginePlugin(type="Volume", name="local"),
)


def describe(
    *,
    executor: str = "",
    hostname: str = "",
    labels: Mapping[str, str] | None = None,
    generic_resources: tuple[GenericResource, ...] = (),
    tls_info: TLSInfo | None = None,
) -> NodeDescription:
    """The node's description; ``hostname`` replaces the machine's own name if it is given."""
    plugins = (*_PLUGINS, EnginePlugin(type=EXECUTOR_PLUGIN, name=executor)) if executor else _PLUGINS
    return NodeDescription(
        hostname=hostname or socket.gethostname(),
        platform=Platform(architecture=platform.machine(), os=platform.system().lower()),
        resources=Resources(
            nano_cpus=_cpus() * _CPU_NANOS,
            memory_bytes=_memory_bytes(),
            generic_resources=generic_resources,
        ),
        engine=EngineDescription(engine_version=VERSION, labels=dict(labels or {}), plugins=plugins),
        tls_info=tls_info,
        boot_id=_boot_id(),
        store_format=STORE_FORMAT,
    )


def with_network(
    description: NodeDescription, network: BackendCapabilities, *, epoch: str
) -> NodeDescription:
    """The description with what the node's network can do. Nothing told leaves what stands there."""
    others = tuple(plugin for plugin in description.engine.plugins if plugin.type != _NETWORK)
    names = sorted(_DRIVER_NAMES.get(driver, driver) for driver in network.drivers)
    plugins = (*others, *(EnginePlugin(type=_NETWORK, name=name) for name in names))
    engine = replace(description.engine, plugins=plugins) if names else description.engine
    return replace(
        description,
        engine=engine,
        encryption=network.encryption,
        wireguard_key=network.wireguard_key,
        boot_id=epoch or description.boot_id,
    )


def tls_info_of(identity: Identity) -> TLSInfo:
    """Whom the node trusts, and whose certificate it has."""
    issuer = issuer_of_identity(identity)
    return TLSInfo(
        trust_root=identity.roots.decode(errors="replace"),
        cert_issuer_subject=issuer.subject,
        cert_issuer_public_key=issuer.public_key,
    )


def _boot_id() -> str:
    """Fresh whenever the network stack under us is: with the kernel's boot, and in another namespace.

    Counters of packets begin anew then, so no key may be used on. Empty where the kernel does not tell.
    """
    try:
        boot = _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            cookie = probe.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, _COOKIE_BYTES)
        except OSError:
            return boot  # a kernel before 5.14
    return f"{boot}.{int.from_bytes(cookie, sys.byteorder):x}"


def _cpus() -> int:
    """Processors that this process may run on: fewer than the machine has where it is confined."""
    return len(os.sched_getaffinity(0))


def _memory_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
