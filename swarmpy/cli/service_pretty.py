"""``swarmpy service inspect --pretty``: one service for people to read, laid out as docker does. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Final

from swarmpy.cli.render import age, binary_size
from swarmpy.client import Json
from swarmpy.model.quantities import duration_text

_MODES: Final = {
    "Replicated": "Replicated",
    "Global": "Global",
    "ReplicatedJob": "Replicated Job",
    "GlobalJob": "Global Job",
    "CronJob": "Cron Job",
}


def pretty(service: Json, now: datetime, networks: Mapping[str, str]) -> str:
    """``networks``: what they are called, by id."""
    spec = service["Spec"]
    template = spec.get("TaskTemplate") or {}
    lines = [
        *_head(service),
        *_update_status(service.get("UpdateStatus") or {}, now),
        "Placement:",
        *_placement(template.get("Placement") or {}),
        *_rollout("UpdateConfig", spec.get("UpdateConfig"), "On failure"),
        *_rollout("RollbackConfig", spec.get("RollbackConfig"), "On failure"),
        *_container(template.get("ContainerSpec") or {}),
        *_resources(template.get("Resources") or {}),
        *_networks(template.get("Networks") or [], networks),
        f"Endpoint Mode:\t{((service.get('Endpoint') or {}).get('Spec') or {}).get('Mode') or 'vip'}",
        *_ports((service.get("Endpoint") or {}).get("Ports") or []),
    ]
    return "\n".join(lines) + "\n"


def _head(service: Json) -> Iterator[str]:
    spec = service["Spec"]
    yield ""
    yield f"ID:\t\t{service['ID']}"
    yield f"Name:\t\t{spec['Name']}"
    if spec.get("Labels"):
        yield "Labels:"
        yield from (f" {name}={value}" for name, value in sorted(spec["Labels"].items()))
    mode = spec.get("Mode") or {}
    name = next((name for name in mode if name in _MODES), "Replicated")
    yield f"Service Mode:\t{_MODES[name]}"
    settings = mode.get(name) or {}
    if name == "Replicated":
        yield f" Replicas:\t{settings.get('Replicas', 1)}"
    if "JobStatus" in service and name in ("ReplicatedJob", "CronJob"):
        yield f" Max Concurrent Tasks:\t{settings.get('MaxConcurrent', 1)}"
        yield f" Total Completions:\t{settings.get('TotalCompletions', 1)}"
    if name == "CronJob":
        yield f" Schedule:\t{settings.get('Schedule', '')} {settings.get('Timezone', '')}".rstrip()


def _update_status(status: Json, now: datetime) -> Iterator[str]:
    if not status:
        return
    yield "UpdateStatus:"
    yield f" State:\t\t{status.get('State', '')}"
    if status.get("StartedAt"):
        yield f" Started:\t{age(status['StartedAt'], now)}"
    if status.get("ResumedAt"):
        yield f" Resumed:\t{age(status['ResumedAt'], now)}"
    if status.get("CompletedAt"):
        yield f" Completed:\t{age(status['CompletedAt'], now)}"
    yield f" Message:\t{status.get('Message', '')}"


def _placement(placement: Json) -> Iterator[str]:
    if placement.get("Constraints"):
        yield f" Constraints:\t[{' '.join(placement['Constraints'])}]"
    preferences = [
        f"spread={preference['Spread']['SpreadDescriptor']}"
        for preference in placement.get("Preferences") or []
        if preference.get("Spread")
    ]
    if preferences:
        yield f" Preferences:\t[{' '.join(preferences)}]"
    if placement.get("MaxReplicas"):
        yield f" Max Replicas Per Node: {placement['MaxReplicas']}"


def _rollout(title: str, config: Json | None, action: str) -> Iterator[str]:
    if config is None:
        return
    yield f"{title}:"
    yield f" Parallelism:\t{config.get('Parallelism', 0)}"
    if config.get("Delay"):
        yield f" Delay:\t\t{duration_text(config['Delay'])}"
    yield f" {action}:\t{config.get('FailureAction') or 'pause'}"
    if config.get("Monitor"):
        yield f" Monitoring Period: {duration_text(config['Monitor'])}"
    yield f" Max failure ratio: {config.get('MaxFailureRatio', 0):g}"
    yield f" {title.removesuffix('Config')} order:      {config.get('Order') or 'stop-first'}"
    if config.get("ProgressDeadline"):
        yield f" Progress deadline: {duration_text(config['ProgressDeadline'])}"
    if config.get("PauseAfter"):
        yield f" Pause after:\t{config['PauseAfter']}"


def _container(container: Json) -> Iterator[str]:
    yield "ContainerSpec:"
    yield f" Image:\t\t{container.get('Image', '')}"
    for title, field in (("Args:\t", "Args"), ("Command:", "Command"), ("Env:\t", "Env")):
        if container.get(field):
            yield f" {title}\t{' '.join(container[field])}"
    for title, field in (("Dir:\t", "Dir"), ("User:\t", "User"), ("Hostname:", "Hostname")):
        if container.get(field):
            yield f" {title}\t{container[field]}"
    if "Init" in container:
        yield f" Init:\t\t{'true' if container['Init'] else 'false'}"
    if container.get("Mounts"):
        yield "Mounts:"
        for mount in container["Mounts"]:
            yield f" Target:\t{mount['Target']}"
            yield f"  Source:\t{mount.get('Source', '')}"
            yield f"  ReadOnly:\t{'true' if mount.get('ReadOnly') else 'false'}"
            yield f"  Type:\t\t{mount.get('Type', '')}"
    for title, field, name in (("Configs:", "Configs", "ConfigName"), ("Secrets:", "Secrets", "SecretName")):
        if container.get(field):
            yield title
            for reference in container[field]:
                yield f" Target:\t{(reference.get('File') or {}).get('Name', '')}"
                yield f"  Source:\t{reference[name]}"


def _resources(resources: Json) -> Iterator[str]:
    yield "Resources:"
    for title, field in (("Reservations", "Reservations"), ("Limits", "Limits")):
        part = resources.get(field) or {}
        if not part:
            continue
        yield f" {title}:"
        if part.get("NanoCPUs"):
            yield f"  CPU:\t\t{part['NanoCPUs'] / 1e9:g}"
        if part.get("MemoryBytes"):
            yield f"  Memory:\t{binary_size(part['MemoryBytes'])}"
        if part.get("Pids"):
            yield f"  PIDs:\t\t{part['Pids']}"


def _networks(places: list[Any], networks: Mapping[str, str]) -> Iterator[str]:
    if places:
        yield f"Networks: {' '.join(networks.get(place['Target'], place['Target']) for place in places)} "


def _ports(ports: list[Any]) -> Iterator[str]:
    if not ports:
        return
    yield "Ports:"
    for port in ports:
        yield f" PublishedPort = {port.get('PublishedPort', 0)}"
        yield f"  Protocol = {port.get('Protocol', 'tcp')}"
        yield f"  TargetPort = {port.get('TargetPort', 0)}"
        yield f"  PublishMode = {port.get('PublishMode', 'ingress')}"
