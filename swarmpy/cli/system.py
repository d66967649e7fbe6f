"""``swarmpy info``, ``version`` and ``events``."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime

from swarmpy.cli import values
from swarmpy.cli.flags import Command, Options, UsageError, listed, switch, text
from swarmpy.cli.output import FORMAT, parse_filters, template
from swarmpy.cli.render import binary_size
from swarmpy.cli.session import Session, tell
from swarmpy.client import DaemonAbsent, Json, filters
from swarmpy.version import API_VERSION, VERSION

_NS = 1_000_000_000


def info(session: Session, arguments: list[str], options: Options) -> int:
    found = session.client.get("/info")
    if options.is_set("format"):
        _show(found, options)
        return 0
    print("\n".join(_describe(found)))
    for warning in [*(found.get("Warnings") or []), *(found["Swarm"].get("Warnings") or [])]:
        tell(warning)
    return 0


def _describe(found: Json) -> list[str]:
    swarm = found["Swarm"]
    lines = [
        f"Name: {found['Name']}",
        f"Server Version: {found['ServerVersion']}",
        f"Swarm: {swarm['LocalNodeState']}",
    ]
    if swarm.get("Error"):
        lines.append(f" Error: {swarm['Error']}")
    if swarm["NodeID"]:
        lines += [f" NodeID: {swarm['NodeID']}", f" Is Manager: {str(swarm['ControlAvailable']).lower()}"]
        lines.append(f" Node Address: {swarm['NodeAddr']}")
    cluster = swarm.get("Cluster")
    if cluster:
        lines += [
            f" ClusterID: {cluster['ID']}",
            f" Managers: {swarm['Managers']}",
            f" Nodes: {swarm['Nodes']}",
            f" Default Address Pool: {' '.join(cluster.get('DefaultAddrPool') or [])}",
            f" SubnetSize: {cluster.get('SubnetSize', 0)}",
            f" Data Path Port: {cluster.get('DataPathPort', 0)}",
        ]
    peers = swarm.get("RemoteManagers") or []
    if peers:
        lines += [" Manager Addresses:", *(f"  {peer['Addr']}" for peer in sorted(peers, key=_address))]
    lines += [
        f"Tasks: {found['Containers']} ({found['ContainersRunning']} running)",
        f"Images: {found['Images']}",
        f"Executor: {found['DefaultRuntime']}",
        f"Cgroup Version: {found['CgroupVersion']}",
        f"Kernel Version: {found['KernelVersion']}",
        f"Operating System: {found['OperatingSystem']}",
        f"Architecture: {found['Architecture']}",
        f"CPUs: {found['NCPU']}",
        f"Total Memory: {binary_size(found['MemTotal'])}",
        f"Data Dir: {found['DockerRootDir']}",
    ]
    if found.get("Labels"):
        lines += ["Labels:", *(f" {label}" for label in found["Labels"])]
    return lines


def _address(peer: Json) -> str:
    address: str = peer["Addr"]
    return address


def _show(found: Json, options: Options) -> None:
    chosen = options.text("format")
    print(json.dumps(found) if chosen == "json" else template(chosen)(found))


def version(session: Session, arguments: list[str], options: Options) -> int:
    client = {"Version": VERSION, "ApiVersion": API_VERSION}
    try:
        server = session.client.get("/version")
    except DaemonAbsent as error:
        server = None
        tell(str(error))
    if options.is_set("format"):
        _show({"Client": client, "Server": server}, options)
        return 0 if server else 1
    print(f"Client: SwarmPy\n Version:      {VERSION}\n API version:  {API_VERSION}")
    if server is None:
        return 1
    print(
        f"\nServer: {server['Platform']['Name']}\n Version:      {server['Version']}\n"
        f" API version:  {server['ApiVersion']} (minimum version {server['MinAPIVersion']})\n"
        f" OS/Arch:      {server['Os']}/{server['Arch']}"
    )
    return 0


def events(session: Session, arguments: list[str], options: Options) -> int:
    query: dict[str, str | int | bool] = dict(filters(parse_filters(options.many("filter"))))
    if options.on("tasks"):
        query["tasks"] = True
    for name in ("since", "until"):
        if options.is_set(name):
            query[name] = _moment(options.text(name), is_past=name == "since")
    chosen = options.text("format")
    line = None if chosen in ("", "json") else template(chosen)
    with session.client.stream("/events", query) as response:
        for raw in response:
            if not raw.strip():
                continue
            event = json.loads(raw)
            if chosen == "json":
                print(json.dumps(event), flush=True)
            else:
                print(describe_event(event) if line is None else line(event), flush=True)
    return 0


def describe_event(event: Json) -> str:
    """``2026-11-21T08:24:59.409971448Z service update ID (name=web)``"""
    seconds, rest = divmod(int(event["timeNano"]), _NS)
    stamp = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    actor = event["Actor"]
    attributes = ", ".join(f"{name}={value}" for name, value in sorted(actor["Attributes"].items()))
    return f"{stamp}.{rest:09d}Z {event['Type']} {event['Action']} {actor['ID']} ({attributes})"


def _moment(given: str, *, is_past: bool) -> str:
    """A timestamp as given, or a length of time from now."""
    try:
        length = values.duration_ns(given)
    except UsageError:
        return given
    return f"{(time.time_ns() + (-length if is_past else length)) / _NS:.9f}"


COMMANDS = {
    "info": Command(info, "Show what this node is and does", flags=(FORMAT,)),
    "version": Command(version, "Show the versions of client and daemon", flags=(FORMAT,)),
    "events": Command(
        events,
        "Show what changes in the swarm, as it changes",
        flags=(
            listed("filter", "Filter output based on conditions provided", short="f"),
            text("format", "Show each event by a Go template, or as JSON"),
            text("since", "Also show what the manager remembers since a time, or of so long (10m)"),
            switch("tasks", "Show events of tasks, too"),
            text("until", "Stop at this time, or after this long (30s)"),
        ),
    ),
}
