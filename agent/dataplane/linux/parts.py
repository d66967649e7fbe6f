"""Which parts the Linux network has, and in which order they are called."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agent.dataplane.linux import plan
from agent.dataplane.linux.balancing.connections import Connections
from agent.dataplane.linux.balancing.part import Balancing
from agent.dataplane.linux.drivers.part import Direct
from agent.dataplane.linux.drivers.uplinks import BRIDGED_DRIVERS, Translation, Uplinks
from agent.dataplane.linux.encryption.part import Encryption
from agent.dataplane.linux.gateway import Gateway
from agent.dataplane.linux.guard import Guard
from agent.dataplane.linux.mesh.part import Mesh
from agent.dataplane.linux.names import NamesPart
from agent.dataplane.linux.overlays.part import Overlays
from agent.dataplane.linux.part import Part
from agent.dataplane.linux.policy.part import PolicyPart
from agent.dataplane.linux.ports import PortReservations


@dataclass(frozen=True, slots=True)
class Parts:
    """``encryption``, ``gateway`` and ``overlays`` are among ``ordered``."""

    encryption: Encryption
    gateway: Gateway
    overlays: Overlays
    ordered: tuple[Part, ...]


def make_parts(netns_dir: Path, *, subnet: str = "") -> Parts:
    """Called in this order; for what goes, in the reverse. A new part is a line here.

    The guard first, so that nothing is ever open; what encrypts before the devices that it protects; what
    prepares a task's namespace after the links are in it.
    """
    ports = PortReservations()
    gateway = Gateway(netns_dir, ports=ports, subnet=subnet)
    encryption = Encryption(netns_dir.parent)
    overlays = Overlays(netns_dir, encryption=encryption)
    uplinks = Uplinks()
    bridges = Overlays(netns_dir, uplink=uplinks, drivers=BRIDGED_DRIVERS, prefix=plan.LAN_PREFIX)
    ordered: tuple[Part, ...] = (
        Guard(),
        encryption,
        gateway,
        overlays,
        uplinks,
        bridges,
        Translation(uplinks),
        Direct(netns_dir),
        PolicyPart(overlays.sandbox, bridges.sandbox),
        Balancing(),
        Connections(),
        NamesPart(),
        Mesh(netns_dir, ports=ports),
    )
    return Parts(encryption=encryption, gateway=gateway, overlays=overlays, ordered=ordered)
