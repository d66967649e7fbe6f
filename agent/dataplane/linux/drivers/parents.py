"""The interface of the node that a network on the LAN goes through."""

from __future__ import annotations

from agent.dataplane.base import NetworkConfig, NodeState
from agent.dataplane.linux.netlink import Link
from agent.dataplane.linux.overlays.underlay import find_device
from agent.dataplane.linux.part import Space
from swarmpy.errors import TaskRejected, Unavailable
from swarmpy.model.network_rules import PARENT_OPTION


def find_parent(config: NetworkConfig, node: Space, state: NodeState) -> Link:
    """The one that the network's options name; else the one with this node's own address."""
    name, network = config.options.get(PARENT_OPTION, ""), config.name or config.id
    if name:
        link = node.netlink.link(name)
        if link is None:
            raise TaskRejected(
                f"network {network} goes through the interface {name}, which this node has not got; give the "
                "nodes that have it a label, and the service a constraint for that"
            )
        return link
    own = state.peers.get(state.node_id)
    device = find_device(node.netlink, own.addr) if own is not None and own.addr else None
    link = node.netlink.link(device.name) if device is not None else None
    if link is None:
        raise Unavailable(
            f"network {network} names no interface (--opt {PARENT_OPTION}=NAME), and this node has none with "
            "its own address"
        )
    return link
