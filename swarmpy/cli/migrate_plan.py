"""What moving a Docker swarm's contents into this one would make, change, leave out and ask for. Pure.

Everything is a document of the Engine API. Objects go by their names: an id means nothing in the other swarm.
What the target has under a name already is left as it is. Nothing of the source is changed, ever.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from swarmpy.client import Json
from swarmpy.model.defaults import NODE_CERT_EXPIRY, TASK_HISTORY_LIMIT

NODE_ID: Final = "node.id"
_PREDEFINED: Final = frozenset({"bridge", "host", "none"})
_VXLAN_OPTION: Final = "com.docker.network.driver.overlay.vxlanid_list"
_DEFAULTS: Final = {"TaskHistoryRetentionLimit": TASK_HISTORY_LIMIT, "NodeCertExpiry": NODE_CERT_EXPIRY}
_JOBS: Final = ("ReplicatedJob", "GlobalJob")


class Kind(StrEnum):
    """In the order in which they are made: each may refer to those before it."""

    SWARM = "swarm"
    NODE = "node"
    NETWORK = "network"
    SECRET = "secret"
    CONFIG = "config"
    SERVICE = "service"


class Action(StrEnum):
    CREATE = "create"
    UPDATE = "update"
    KEEP = "there already"
    LEAVE = "left out"
    SKIP = "not asked for"


@dataclass(frozen=True)
class Picture:
    """What a swarm holds, as its API shows it. ``networks`` of a source also has those that no list shows."""

    swarm: Json = field(default_factory=dict)
    nodes: tuple[Json, ...] = ()
    networks: tuple[Json, ...] = ()
    secrets: tuple[Json, ...] = ()
    configs: tuple[Json, ...] = ()
    services: tuple[Json, ...] = ()


@dataclass(frozen=True)
class Wish:
    """What the user chose. ``is_started``: replicated services get their replicas, not 0; ``has_subnets``:
    networks keep the subnets that they have."""

    secrets: Mapping[str, bytes] = field(default_factory=dict)
    nodes: Mapping[str, str] = field(default_factory=dict)
    """The hostname here for one there, where they differ."""
    is_started: bool = True
    has_jobs: bool = False
    is_unpinned: bool = False
    has_subnets: bool = True


@dataclass(frozen=True)
class Step:
    """One object. ``body`` is what is sent; ``target`` the object that it changes; ``why``: of what is left
    out, the reason, and else what the user should know."""

    kind: Kind
    name: str
    action: Action
    body: Json = field(default_factory=dict)
    target: Json = field(default_factory=dict)
    why: str = ""


@dataclass(frozen=True)
class Plan:
    """``missing``: secrets that services need and whose data nobody can read out of a swarm."""

    steps: tuple[Step, ...]
    missing: tuple[str, ...]
    images: tuple[str, ...]
    volumes: tuple[str, ...]
    ports: tuple[int, ...]

    @property
    def changes(self) -> list[Step]:
        return [step for step in self.steps if step.action in (Action.CREATE, Action.UPDATE)]


def plan(source: Picture, target: Picture, wish: Wish) -> Plan:
    secrets = [_secret(each, target, wish) for each in source.secrets]
    lacking = {step.name for step in secrets if step.action is Action.LEAVE}
    services = [_service(each, source, target, wish, lacking) for each in source.services]
    wanted = [spec_of(each) for each in source.services]
    made = [step.body for step in services if step.action is Action.CREATE]
    return Plan(
        steps=(
            *_swarm(source, target),
            *(step for each in source.nodes for step in _node(each, target, wish)),
            *(step for each in source.networks for step in _network(each, target, wish)),
            *secrets,
            *(_config(each, target) for each in source.configs),
            *services,
        ),
        missing=tuple(sorted(lacking & {name for spec in wanted for name in _secrets_of(spec)})),
        images=tuple(sorted({container_of(spec).get("Image", "") for spec in made} - {""})),
        volumes=tuple(sorted({name for spec in made for name in _volumes_of(spec)})),
        ports=tuple(sorted({port for spec in made for port in _ports_of(spec)})),
    )


# --- what there is


def spec_of(item: Json) -> Json:
    spec: Json = item["Spec"]
    return spec


def name_of(item: Json) -> str:
    return str(item["Name"] if "Name" in item else item["Spec"]["Name"])


def container_of(spec: Json) -> Json:
    container: Json = spec["TaskTemplate"].get("ContainerSpec") or {}
    return container


def hostname(node: Json) -> str:
    return str(node["Description"].get("Hostname", ""))


def _secrets_of(spec: Json) -> list[str]:
    return [each["SecretName"] for each in container_of(spec).get("Secrets") or ()]


def _volumes_of(spec: Json) -> list[str]:
    mounts = container_of(spec).get("Mounts") or ()
    return [each["Source"] for each in mounts if each.get("Type") == "volume" and each.get("Source")]


def _ports_of(spec: Json) -> list[int]:
    ports = (spec.get("EndpointSpec") or {}).get("Ports") or ()
    return [each["PublishedPort"] for each in ports if each.get("PublishedPort")]


def _by_name(items: tuple[Json, ...], name: str) -> Json | None:
    return next((each for each in items if name_of(each) == name), None)


# --- the swarm and its nodes


def _swarm(source: Picture, target: Picture) -> list[Step]:
    """How many ended tasks are kept and how long certificates last; the rest is each swarm's own affair."""
    if not source.swarm or not target.swarm:
        return []
    given, before = spec_of(source.swarm), {"Labels": {}, **spec_of(target.swarm)}
    wished = {**before, "Labels": {**before["Labels"], **(given.get("Labels") or {})}}
    for part, name in (("Orchestration", "TaskHistoryRetentionLimit"), ("CAConfig", "NodeCertExpiry")):
        asked = (given.get(part) or {}).get(name)
        if asked is not None and asked != (before.get(part) or {}).get(name, _DEFAULTS[name]):
            wished[part] = {**(before.get(part) or {}), name: asked}
    why = ""
    if (given.get("EncryptionConfig") or {}).get("AutoLockManagers"):
        why = "managers of the source lock themselves: 'swarmpy swarm update --autolock' if these shall too"
    if wished == before:
        return [Step(Kind.SWARM, "settings", Action.KEEP, why=why)]
    return [Step(Kind.SWARM, "settings", Action.UPDATE, wished, target.swarm, why)]


def _twins(name: str, target: Picture, wish: Wish) -> list[Json]:
    """The nodes here that stand for one of that hostname there; of use if it is just one."""
    here = wish.nodes.get(name, name)
    return [each for each in target.nodes if hostname(each) == here]


def _node(node: Json, target: Picture, wish: Wish) -> list[Step]:
    """Labels and availability, for the node of the same hostname."""
    name, given = hostname(node), spec_of(node)
    if not given.get("Labels") and given.get("Availability", "active") == "active":
        return []
    found = _twins(name, target, wish)
    if len(found) != 1:
        count = "no node" if not found else "more than one node"
        lost = ", ".join(sorted(given.get("Labels") or {})) or "none"
        why = f"{count} here has that hostname (--node tells its name here); its labels: {lost}"
        return [Step(Kind.NODE, name, Action.LEAVE, why=why)]
    before: Json = {"Labels": {}, "Availability": "active", **spec_of(found[0])}
    labels = {**before["Labels"], **(given.get("Labels") or {})}
    wished = {**before, "Labels": labels, "Availability": given.get("Availability", "active")}
    if wished == before:
        return [Step(Kind.NODE, name, Action.KEEP)]
    return [Step(Kind.NODE, name, Action.UPDATE, wished, found[0])]


# --- networks, secrets, configs


def _network(network: Json, target: Picture, wish: Wish) -> list[Step]:
    name = name_of(network)
    if name in _PREDEFINED or network.get("Scope") != "swarm":
        return []
    if network.get("Ingress"):
        return [Step(Kind.NETWORK, name, Action.KEEP, why="each swarm has its own ingress network")]
    if _by_name(target.networks, name) is not None:
        return [Step(Kind.NETWORK, name, Action.KEEP)]
    kept = ("Name", "Driver", "Scope", "EnableIPv6", "Internal", "Attachable", "ConfigOnly", "Labels")
    body: Json = {key: network[key] for key in kept if network.get(key)}
    body["Options"] = {
        key: text for key, text in (network.get("Options") or {}).items() if key != _VXLAN_OPTION
    }
    if (network.get("ConfigFrom") or {}).get("Network"):
        body["ConfigFrom"] = network["ConfigFrom"]
    ipam = network.get("IPAM") or {}
    if wish.has_subnets and ipam.get("Config"):
        body["IPAM"] = {key: ipam[key] for key in ("Driver", "Options", "Config") if ipam.get(key)}
    return [Step(Kind.NETWORK, name, Action.CREATE, body)]


def _secret(secret: Json, target: Picture, wish: Wish) -> Step:
    name, spec = name_of(secret), spec_of(secret)
    if _by_name(target.secrets, name) is not None:
        return Step(Kind.SECRET, name, Action.KEEP)
    if spec.get("Driver"):
        return Step(Kind.SECRET, name, Action.LEAVE, why=f"its data come from the driver {spec['Driver']}")
    if name not in wish.secrets:
        return Step(Kind.SECRET, name, Action.LEAVE, why="nobody can read its data: supply them")
    return Step(Kind.SECRET, name, Action.CREATE, {**spec, "Name": name})


def _config(config: Json, target: Picture) -> Step:
    name = name_of(config)
    if _by_name(target.configs, name) is not None:
        return Step(Kind.CONFIG, name, Action.KEEP)
    return Step(Kind.CONFIG, name, Action.CREATE, copy.deepcopy(spec_of(config)))


# --- services


class _LeftOut(Exception):
    """A service stays behind, for a reason."""


class _NotAsked(Exception):
    """It could be moved, and the user has not asked for that."""


def _service(service: Json, source: Picture, target: Picture, wish: Wish, lacking: set[str]) -> Step:
    name = name_of(service)
    if _by_name(target.services, name) is not None:
        return Step(Kind.SERVICE, name, Action.KEEP)
    spec = copy.deepcopy(spec_of(service))
    try:
        _check(spec, wish, lacking)
        template = spec["TaskTemplate"]
        template.pop("ForceUpdate", None)
        networks = template.get("Networks") or spec.pop("Networks", None) or []
        template["Networks"] = [{**each, "Target": _network_name(each, source)} for each in networks]
        _refer_by_name(container_of(spec))
        _move_constraints(template, source, target, wish)
    except _LeftOut as reason:
        return Step(Kind.SERVICE, name, Action.LEAVE, why=str(reason))
    except _NotAsked as reason:
        return Step(Kind.SERVICE, name, Action.SKIP, why=str(reason))
    if wish.is_unpinned:
        container_of(spec)["Image"] = container_of(spec).get("Image", "").partition("@")[0]
    return Step(Kind.SERVICE, name, Action.CREATE, spec, why=_hold_back(spec, wish))


def _check(spec: Json, wish: Wish, lacking: set[str]) -> None:
    template = spec["TaskTemplate"]
    if template.get("PluginSpec") or template.get("Runtime") == "plugin":
        raise _LeftOut("it installs a plugin of the Docker Engine")
    if any(job in spec["Mode"] for job in _JOBS) and not wish.has_jobs:
        raise _NotAsked("it is a job and would run again: --with-jobs takes it along")
    without = sorted(set(_secrets_of(spec)) & lacking)
    if without:
        raise _LeftOut(f"it needs the secret {', '.join(without)}")
    if any(each.get("Type") == "cluster" for each in container_of(spec).get("Mounts") or ()):
        raise _LeftOut("it mounts a cluster volume (CSI)")


def _hold_back(spec: Json, wish: Wish) -> str:
    """Without ``is_started`` a replicated service begins with no task; others cannot."""
    if wish.is_started:
        return ""
    replicated = spec["Mode"].get("Replicated")
    if replicated is None:
        return "starts at once: only replicated services can wait"
    before = replicated.get("Replicas", 1)
    replicated["Replicas"] = 0
    return f"to start it: swarmpy service scale {spec['Name']}={before}"


def _network_name(attachment: Json, source: Picture) -> str:
    target = attachment["Target"]
    for network in source.networks:
        if target in (network.get("Id"), network.get("Name")):
            return name_of(network)
    raise _LeftOut(f"its network {target} is not there any more")


def _refer_by_name(container: Json) -> None:
    """Ids are filled in once the secrets and configs are there: ``with_ids``."""
    for part, key in (("Secrets", "SecretID"), ("Configs", "ConfigID")):
        for reference in container.get(part) or ():
            reference.pop(key, None)


def with_ids(spec: Json, secrets: Mapping[str, str], configs: Mapping[str, str]) -> Json:
    """The spec with this swarm's ids of the secrets and configs that it names. KeyError if one is missing."""
    spec = copy.deepcopy(spec)
    container = container_of(spec)
    for reference in container.get("Secrets") or ():
        reference["SecretID"] = secrets[reference["SecretName"]]
    for reference in container.get("Configs") or ():
        reference["ConfigID"] = configs[reference["ConfigName"]]
    return spec


def _move_constraints(template: Json, source: Picture, target: Picture, wish: Wish) -> None:
    """A constraint on a node's id is said of the node that stands for it here."""
    placement = template.get("Placement") or {}
    for at, constraint in enumerate(placement.get("Constraints") or ()):
        key, operator, value = _split(constraint)
        if key != NODE_ID:
            continue
        name = next((hostname(each) for each in source.nodes if each["ID"] == value), "")
        found = _twins(name, target, wish) if name else []
        if len(found) != 1:
            raise _LeftOut(
                f"its constraint {constraint} names the node {name or value}, which is not here "
                "(--node tells its name here)"
            )
        placement["Constraints"][at] = f"{NODE_ID}{operator}{found[0]['ID']}"


def _split(constraint: str) -> tuple[str, str, str]:
    for operator in ("==", "!="):
        key, has_operator, value = constraint.partition(operator)
        if has_operator:
            return key.strip(), operator, value.strip()
    return constraint, "", ""
