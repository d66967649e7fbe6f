"""What task networks need of a node, tried in a scratch namespace, as sentences for the user."""

from __future__ import annotations

import os

from agent.dataplane import diff
from agent.dataplane.linux import guard, namespaces, netlink, netlink_links, nftables, plan
from agent.dataplane.linux.netlink import Netlink
from agent.dataplane.linux.nftables import Nftables, NftError
from agent.dataplane.linux.overlays import spoofing
from agent.dataplane.plan import DATA_PATH_PORT, Tunnel


def find_missing() -> tuple[str, ...]:
    """Empty if task networks can be made here. Call it in a thread that may change its namespace."""
    if os.geteuid() != 0:
        return ("The daemon must run as root to make network namespaces.",)
    missing = []
    if not nftables.is_present():
        missing.append(nftables.MISSING)
    try:
        with namespaces.scratch():
            missing += _try_links()
            if nftables.is_present():
                missing += _try_rules()
    except OSError as error:
        missing.append(f"The kernel lets the daemon make no network namespace ({error.strerror}).")
    return tuple(missing)


def find_lacking_of_overlays() -> tuple[str, ...]:
    """What stands in the way of overlay networks, where there is nothing missing otherwise."""
    lacking = []
    with namespaces.scratch():
        tunnel = Tunnel(vni=1, port=DATA_PATH_PORT, local="127.0.0.1")
        with Netlink() as links, open("/proc/thread-self/ns/net", "rb") as netns:
            try:
                links.do(netlink_links.add_vxlan(diff.TUNNEL, tunnel, netns_fd=netns.fileno(), mtu=1450))
            except OSError as error:
                lacking.append(
                    f"The kernel makes no VXLAN devices ({error.strerror}), so there are no overlay networks "
                    "on this node; load the module vxlan."
                )
        rules = Nftables()
        try:
            rules.run(guard.ruleset() + spoofing.ruleset({}))
        except NftError as error:
            lacking.append(
                f"The kernel takes no rules on bridges ({error}), so there are no overlay networks on this "
                "node; load the module nf_tables with its bridge family."
            )
        finally:
            rules.close()
    return tuple(lacking)


def _try_links() -> list[str]:
    with Netlink() as links:
        try:
            links.do(netlink.add_bridge(plan.BRIDGE))
        except OSError as error:
            return [f"The kernel makes no bridges ({error.strerror}); load the module bridge."]
        bridge = links.link(plan.BRIDGE)
        assert bridge is not None
        with open("/proc/thread-self/ns/net", "rb") as netns:
            peer = netlink.Peer("peer", "", netns.fileno())
            try:
                links.do(netlink.add_veth("port", master=bridge.index, peer=peer))
            except OSError as error:
                return [f"The kernel makes no veth pairs ({error.strerror}); load the module veth."]
    return []


def _try_rules() -> list[str]:
    rules = Nftables()
    try:
        rules.run(plan.ruleset(plan.SUBNETS[0], ()))
    except NftError as error:
        return [f"The kernel takes no NAT rules by nftables ({error}); load the module nft_nat."]
    finally:
        rules.close()
    return []
