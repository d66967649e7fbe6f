"""What the mesh needs of a kernel, tried in a scratch namespace, as sentences for the user."""

from __future__ import annotations

import errno
import socket
from pathlib import Path

from agent.dataplane.linux import namespaces
from agent.dataplane.linux.mesh import host_rules, task_rules
from agent.dataplane.linux.mesh.task_rules import TaskLeg
from agent.dataplane.linux.nftables import Nftables, NftError

_SCTP = 132
_LOOPBACK = "lo"


def has_egress_hook() -> bool:
    return not _refusal(task_rules.ruleset(TaskLeg(_LOOPBACK), {}, has_egress=True))


def find_lacking() -> tuple[str, ...]:
    """Empty if every published port works here. Call it in a thread that may change its namespace."""
    lacking = []
    refusal = _refusal(host_rules.ruleset(()))
    if refusal:
        lacking.append(
            f"The kernel takes no rules of the routing mesh ({refusal}), so ports published in ingress mode"
            " do not answer on this node; publish them with mode=host."
        )
    if not has_egress_hook():
        lacking.append(
            "The kernel has no netfilter egress hook (Linux 5.16 does), so tasks on this node answer clients"
            " of published ports only if the port has source_nat."
        )
    if not _has_sctp():
        lacking.append(
            "The kernel has no SCTP (load the module sctp), so tasks on this node cannot serve SCTP ports."
        )
    if not Path("/proc/sys/net/ipv6").is_dir():
        lacking.append("The kernel has no IPv6, so published ports answer to IPv4 alone on this node.")
    return tuple(lacking)


def _refusal(ruleset: str) -> str:
    with namespaces.scratch():
        nft = Nftables()
        try:
            nft.run(ruleset)
        except NftError as error:
            return str(error).splitlines()[0]
        finally:
            nft.close()
    return ""


def _has_sctp() -> bool:
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, _SCTP).close()
    except OSError as error:
        return error.errno not in (errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT)
    return True
