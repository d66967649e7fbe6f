"""Nodes take frames of overlay networks only from nodes, and tasks cannot pretend to be one.

A task's packets to the outside leave with the node's address. Were it to send what looks like encapsulated
frames to another node, they would be taken for the node's own, into any network. So: nothing that comes from
tasks or is forwarded for others goes to a node's data ports, and what arrives at them must come from the
address of a node of this swarm. It stands from the first start and outlives the daemon. Only senders are not
judged before this node knows the others: until then it has no tunnel, and the ports may be another program's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from agent.dataplane import plan as network_plan
from agent.dataplane.base import Endpoint, NodeState, Peer
from agent.dataplane.linux import plan
from agent.dataplane.linux.nftables import NftError
from agent.dataplane.linux.part import Space
from swarmpy.errors import Unavailable
from swarmpy.model.ids import NodeId, TaskId

TABLE = "swarmpy_guard"


def ruleset() -> str:
    """Made if it is not there; the sets that a former life has filled stay as they are."""
    guarded, ports = "udp dport @guarded_ports", "udp dport @data_ports"
    return f"""
table inet {TABLE} {{
  set guarded_ports {{ type inet_service; }}
  set data_ports {{ type inet_service; }}
  set nodes {{ type ipv4_addr; }}
  set nodes6 {{ type ipv6_addr; }}
  chain forward {{ type filter hook forward priority filter - 5; }}
  chain input {{ type filter hook input priority filter - 5; }}
}}
flush chain inet {TABLE} forward
flush chain inet {TABLE} input
add rule inet {TABLE} forward iifname "{plan.GATEWAY_LINK}" {guarded} drop
add rule inet {TABLE} forward {ports} ip daddr @nodes ip saddr != @nodes drop
add rule inet {TABLE} forward {ports} ip6 daddr @nodes6 ip6 saddr != @nodes6 drop
add rule inet {TABLE} input iifname "{plan.GATEWAY_LINK}" {guarded} drop
add rule inet {TABLE} input {ports} ip saddr != @nodes drop
add rule inet {TABLE} input {ports} ip6 saddr != @nodes6 drop
"""


def elements(ports: Iterable[int], addresses: Iterable[str]) -> str:
    """All sets as they should be, in one transaction."""
    known = sorted(addresses)
    numbers = [str(port) for port in sorted(ports)]
    lines = []
    for name, members in (
        ("guarded_ports", numbers),
        ("data_ports", numbers if known else []),
        ("nodes", [address for address in known if ":" not in address]),
        ("nodes6", [address for address in known if ":" in address]),
    ):
        lines.append(f"flush set inet {TABLE} {name}")
        if members:
            lines.append(f"add element inet {TABLE} {name} {{ {', '.join(members)} }}")
    return "\n".join(lines) + "\n"


class Guard:
    """A ``Part`` that concerns no single task."""

    def __init__(self) -> None:
        self._node: Space | None = None
        self._ports: tuple[int, ...] = ()
        self._peers: Mapping[NodeId, Peer] | None = None

    def start_up(self, node: Space) -> None:
        self._node = node
        self._peers = None
        self._run(ruleset())
        if "elements" not in self._run(f"list set inet {TABLE} guarded_ports"):
            self._run(elements(network_plan.data_ports(NodeState()), ()))

    def apply(self, state: NodeState) -> None:
        ports = network_plan.data_ports(state)
        if state.peers is self._peers and ports == self._ports:
            return
        addresses = {peer.addr for peer in state.peers.values() if peer.addr}
        self._run(elements(ports, addresses))
        self._ports, self._peers = ports, state.peers

    def mend(self) -> frozenset[TaskId]:
        peers, ports = self._peers, self._ports
        text = ruleset()
        if peers is not None:
            text += elements(ports, {peer.addr for peer in peers.values() if peer.addr})
        self._run(text)
        return frozenset()

    def attach(self, endpoint: Endpoint, space: Space) -> None:
        pass

    def settle(self, endpoint: Endpoint, space: Space) -> None:
        pass

    def detach(self, task_id: TaskId) -> None:
        pass

    def shut_down(self) -> None:
        pass  # the rules stay

    def destroy(self) -> None:
        self._run(f"add table inet {TABLE}\ndelete table inet {TABLE}\n")
        self._peers = None

    def _run(self, commands: str) -> str:
        assert self._node is not None, "the backend was not started"
        try:
            return self._node.nft.run(commands)
        except NftError as error:
            self._peers = None
            raise Unavailable(f"nftables refused the rules that guard the data ports: {error}") from None
