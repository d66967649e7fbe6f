"""One network in words: what is where, for whoever has to look at a node. Pure; from a verbose inspection."""

from __future__ import annotations

from collections.abc import Iterator

from swarmpy.cli.render import table
from swarmpy.client import Json

_LABEL_COLUMNS = 20


def described(network: Json) -> str:
    return "\n".join(_lines(network))


def _lines(network: Json) -> Iterator[str]:
    yield from _pairs(_facts(network))
    yield from _section("Subnets", ["SUBNET", "GATEWAY", "RANGE", "RESERVED"], _subnets(network))
    peers = [[peer["Name"], peer["IP"]] for peer in network.get("Peers") or []]
    yield from _section("Nodes that take part", ["NODE", "DATA PATH"], peers)
    services = network.get("Services") or {}
    rows = [[name, _vip(service), ", ".join(service["Ports"])] for name, service in sorted(services.items())]
    yield from _section("Services", ["SERVICE", "VIRTUAL IP", "PORTS"], rows)
    tasks = [
        [name, task["EndpointIP"], task["Info"].get("State", ""), task["Info"].get("Node", ""), task["Name"]]
        for name, service in sorted(services.items())
        for task in service["Tasks"]
    ]
    yield from _section("Tasks", ["SERVICE", "ADDRESS", "STATE", "NODE", "NAME"], tasks)
    yield from _on_nodes(network.get("Dataplane") or {})


def _facts(network: Json) -> Iterator[tuple[str, str]]:
    plane = network.get("Dataplane") or {}
    yield "Network", f"{network['Name']} ({network['Id']})"
    yield "Driver", f"{network['Driver']}, scope {network['Scope']}"
    kinds = [kind.lower() for kind in ("Internal", "Attachable", "Ingress", "ConfigOnly") if network[kind]]
    if kinds:
        yield "Kind", ", ".join(kinds)
    if "VNI" in plane:
        yield "VNI", str(plane["VNI"] or "not given yet")
        how = "encrypted" if plane["Encrypted"] else "plain"
        yield "Data path port", f"{plane['DataPathPort']}/udp, {how}"
    if plane:
        yield "MTU", str(plane["MTU"] or "what the nodes' own network leaves of its own")
    if network["Labels"]:
        yield "Labels", ", ".join(f"{name}={value}" for name, value in sorted(network["Labels"].items()))


def _subnets(network: Json) -> list[list[str]]:
    return [
        [
            config.get("Subnet", ""),
            config.get("Gateway", ""),
            config.get("IPRange", ""),
            ", ".join(f"{n}={a}" for n, a in sorted((config.get("AuxiliaryAddresses") or {}).items())),
        ]
        for config in network["IPAM"]["Config"] or []
    ]


def _vip(service: Json) -> str:
    vip: str = service["VIP"]
    return "none" if vip == "<nil>" else vip


def _on_nodes(plane: Json) -> Iterator[str]:
    network, mesh = plane.get("Network"), plane.get("Mesh")
    if network is None and mesh is None:
        return
    yield ""
    yield "On each of these nodes"
    rows = []
    if network is not None:
        place = f"netns/{network['Namespace']}"
        rows.append(("Namespace", f"{place} in the run folder (nsenter --net=/run/swarmpy/{place})"))
        rows.append(("Bridge", f"{network['Bridge']} in it; each task's leg is a port of it"))
        rows.append(("Tunnel", f"{network['Tunnel']} in it; its packets leave from the node's own namespace"))
        rows.append(("Senders", f"nft table {network['Table']} in it: who may send as whom"))
        rows.append(("On the node", ", ".join(f"nft table {name}" for name in plane["NodeTables"])))
    if mesh is not None:
        rows.append(("Published ports", f"nft table {mesh['Table']} and device {mesh['Device']} on the node"))
    rows.append(("In tasks", ", ".join(f"nft table {name}" for name in plane["TaskTables"])))
    yield from _pairs((f"  {name}", value) for name, value in rows)
    entries = (mesh or {}).get("Addresses") or {}
    yield from _section(
        "Where each node's mesh enters", ["NODE", "ADDRESS"], [list(each) for each in sorted(entries.items())]
    )


def _pairs(rows: Iterator[tuple[str, str]]) -> Iterator[str]:
    for name, value in rows:
        yield f"{name + ':':<{_LABEL_COLUMNS}}{value}"


def _section(title: str, heads: list[str], rows: list[list[str]]) -> Iterator[str]:
    """Nothing for an empty one."""
    if rows:
        yield ""
        yield title
        for line in table([heads, *rows]).splitlines():
            yield f"  {line.rstrip()}"
