"""What HNS can do, by the version that it says it has, and what Windows cannot do at all. Pure.

The version of HNS (``/globals/version``) is neither the schema's nor the system's: the same build of Windows
has had several. One that does not answer the question is older than 7.2 (Windows 1803).
"""

from __future__ import annotations

from swarmpy.model.value import Value

VXLAN_PORT = 4789


class HnsVersion(Value, frozen=True, kw_only=True, order=True):
    """0.0: it did not say."""

    major: int = 0
    minor: int = 0

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}" if self.major else "unknown (older than 7.2)"

    @property
    def pair(self) -> tuple[int, int]:
        return self.major, self.minor


class Features(Value, frozen=True, kw_only=True):
    """``has_overlay_way_out``: overlay endpoints reach the outside by themselves; before, a second endpoint
    on a NAT network does that."""

    version: HnsVersion = HnsVersion()
    has_v2: bool = False
    has_balancers: bool = False
    has_acls: bool = False
    has_overlay_way_out: bool = False
    has_vxlan_port: bool = False
    has_dsr: bool = False
    has_affinity: bool = False
    has_network_acl: bool = False
    has_ready_namespaces: bool = False
    has_balancer_update: bool = False


def features_of(version: HnsVersion) -> Features:
    pair = version.pair
    return Features(
        version=version,
        has_v2=pair >= (9, 2),
        has_balancers=pair >= (7, 2),
        has_acls=pair >= (7, 2),
        has_overlay_way_out=pair >= (9, 2),
        has_vxlan_port=pair >= (10, 3),
        has_dsr=(9, 3) <= pair < (10, 0) or pair >= (10, 2),
        has_affinity=pair >= (12, 0),
        has_network_acl=pair >= (15, 0),
        has_ready_namespaces=pair >= (15, 2),
        has_balancer_update=pair >= (15, 4),
    )


ALWAYS_LACKING = (
    "Windows: encrypted networks do not work: HNS has no encryption of overlays; keep tasks of such networks "
    "on Linux nodes (--constraint node.platform.os==linux)",
    "Windows: networks with IPv6 subnets do not work: overlays of HNS have IPv4 only",
    "Windows: internal networks do not work: HNS cannot keep an overlay from the outside",
    "Windows: a task cannot be in the node's own network (host)",
    "Windows: services' names are not answered: there is no resolver in tasks' networks yet; use addresses, "
    "or name DNS servers with --dns",
    "Windows: a task sees a node's address instead of the client's behind published ports",
    "Windows: published ports and ports in host mode are TCP or UDP; SCTP needs a Linux node",
    "Windows: connections to a task whose node died are not ended: no new ones go there, old ones time out",
    "Windows: the rate of what a task receives cannot be capped, only of what it sends",
)


def lacking(features: Features) -> tuple[str, ...]:
    """Sentences for what only some networks and services need."""
    version, found = features.version, list(ALWAYS_LACKING)
    if not features.has_balancers:
        found.append(
            f"Windows: virtual addresses and published ports need HNS 7.2 or newer, this one is {version}: "
            "use endpoint mode dnsrr and ports in host mode here"
        )
    if not features.has_acls:
        found.append(f"Windows: access lists need HNS 7.2 or newer, this one is {version}")
    if not features.has_vxlan_port:
        found.append(
            f"Windows: a data path port but {VXLAN_PORT} needs HNS 10.3 or newer, this one is {version}"
        )
    if not features.has_affinity:
        found.append(f"Windows: clients that stick to a task need HNS 12.0 or newer, this one is {version}")
    return tuple(found)
