"""What a task asks for that Windows, or this node's HNS, cannot give: sentences for its user. Pure."""

from __future__ import annotations

from ipaddress import ip_network

from agent.dataplane.base import Endpoint, HostPort, Leg, NetworkConfig, Policy
from agent.dataplane.windows.features import VXLAN_PORT, Features
from agent.dataplane.windows.objects import TCP, UDP, NetworkKind

HOST_MODE, NONE_MODE = "host", "none"
KINDS = {
    "overlay": NetworkKind.OVERLAY,
    "nat": NetworkKind.NAT,
    "bridge": NetworkKind.NAT,
    "transparent": NetworkKind.TRANSPARENT,
    "macvlan": NetworkKind.TRANSPARENT,
    "l2bridge": NetworkKind.L2BRIDGE,
    "l2tunnel": NetworkKind.L2TUNNEL,
}
"""By driver. The names of Linux drivers stand for what comes closest."""
PROTOCOLS = {"tcp": TCP, "udp": UDP}
ACL_PROTOCOLS = {"tcp": TCP, "udp": UDP, "sctp": 132, "icmp": 1}
VNI_MIN = 4096
ELSEWHERE = "keep the task on Linux nodes with --constraint node.platform.os==linux"


def refusal(endpoint: Endpoint, features: Features, *, data_path_port: int = 0) -> str:
    """Empty if nothing speaks against the task."""
    if not endpoint.task_id or not endpoint.task_id.isalnum():
        return f"{endpoint.task_id!r} is no task id"
    if endpoint.mode == HOST_MODE:
        return f"on Windows no task can be in the node's own network (host): {ELSEWHERE}"
    if endpoint.mode not in ("", NONE_MODE):
        return f"{endpoint.mode!r} is no network mode: there are host and none"
    if endpoint.host_ports and endpoint.mode == NONE_MODE:
        return "a task on the network none cannot publish ports: it has no way to the outside"
    reasons = [_network_refusal(leg.network, features, data_path_port) for leg in endpoint.legs]
    reasons += [_leg_refusal(leg, features) for leg in endpoint.legs]
    reasons += [_port_refusal(port, features) for port in endpoint.host_ports]
    return next((reason for reason in reasons if reason), "")


def _network_refusal(config: NetworkConfig, features: Features, data_path_port: int) -> str:
    name = f"network {config.name or config.id}"
    if config.driver not in KINDS:
        return f"{name}: Windows has no network driver {config.driver!r}, it has {', '.join(sorted(KINDS))}"
    if config.is_encrypted:
        return f"{name} is encrypted, and HNS has no encryption of overlays: {ELSEWHERE}"
    if config.is_internal:
        return f"{name} is internal, and HNS cannot keep a network from the outside: {ELSEWHERE}"
    if any(ip_network(subnet.cidr).version != 4 for subnet in config.subnets):
        return f"{name} has an IPv6 subnet, and networks on Windows have IPv4 only: {ELSEWHERE}"
    if config.driver == "overlay" and config.vni < VNI_MIN:
        return f"{name} has the VNI {config.vni}, and HNS takes {VNI_MIN} and above: choose another"
    if config.driver == "overlay" and not features.has_vxlan_port and data_path_port not in (0, VXLAN_PORT):
        return (
            f"{name}: this swarm's data path port is {data_path_port}, and HNS {features.version} knows "
            f"{VXLAN_PORT} only (10.3 and newer take others): update Windows, or {ELSEWHERE}"
        )
    return ""


def _leg_refusal(leg: Leg, features: Features) -> str:
    policy = leg.policy or Policy()
    if policy.rate_in_bps:
        return f"HNS cannot cap what a task receives, only what it sends: cap the senders, or {ELSEWHERE}"
    if policy.rules and not features.has_acls:
        return f"access lists need HNS 7.2 or newer, this node has {features.version}: update Windows"
    for rule in policy.rules:
        if rule.protocol and rule.protocol not in ACL_PROTOCOLS:
            return f"{rule.protocol!r} is no protocol of access lists: there are {', '.join(ACL_PROTOCOLS)}"
        if rule.address and ip_network(rule.address, strict=False).version != 4:
            return (
                f"the access list names {rule.address}, and networks on Windows have IPv4 only: {ELSEWHERE}"
            )
    return ""


def _port_refusal(port: HostPort, features: Features) -> str:
    text = f"port {port.published_port}/{port.protocol}"
    if port.protocol not in PROTOCOLS:
        return f"{text}: HNS maps TCP and UDP ports only: {ELSEWHERE}"
    if port.host_ip in ("", "0.0.0.0"):
        return ""
    if not features.has_v2:
        return f"{text}: to bind a port to one address HNS 9.2 is needed, this is {features.version}"
    if not _is_ipv4(port.host_ip):
        return f"{text}: HNS binds ports to IPv4 addresses, not to {port.host_ip!r}: give the address instead"
    return ""


def _is_ipv4(text: str) -> bool:
    try:
        return ip_network(text).version == 4
    except ValueError:
        return False
