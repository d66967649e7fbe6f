"""What a deployment of a stack changes: what its files say against what stands in the swarm. Pure.

``plan`` gives steps for ``stack deploy --plan`` and ``stack diff`` to show and for ``stack deploy`` to carry
out; what is as it should be has none. References to networks, secrets and configs are compared by name, and
what was done to a service by other means and is no part of a file (``--force``, a pinned digest of its image)
is left as it is.
"""

from __future__ import annotations

import base64
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from swarmpy.client import Json
from swarmpy.compose import NamedFile, NamedNetwork, NamedSpec, Stack, StackWarning
from swarmpy.compose.stack import IMAGE_LABEL, NAMESPACE_LABEL
from swarmpy.compose.tree import ComposeError
from swarmpy.model.forms import as_read
from swarmpy.model.specs import ConfigReference, ContainerSpec, SecretReference, ServiceSpec

_VALUE_CHARS_MAX: Final = 100
_NAMES: Final = ("ConfigName", "SecretName", "Target", "TargetPort", "Service", "PathOnHost", "Name")
"""Fields that tell the items of a list apart, in the API's spelling."""


class Kind(StrEnum):
    """In the order in which they are made."""

    NETWORK = "network"
    SECRET = "secret"
    CONFIG = "config"
    SERVICE = "service"


class Action(StrEnum):
    CREATE = "create"
    UPDATE = "update"
    REMOVE = "remove"
    KEEP = "keep"


@dataclass(frozen=True)
class Step:
    """``reasons``: a line for each field that differs. ``has_new_data``: a secret or config gets newer data.
    ``is_rolled_only``: a service gets nothing but newer data."""

    action: Action
    kind: Kind
    name: str
    reasons: tuple[str, ...] = ()
    has_new_data: bool = False
    is_rolled_only: bool = False


@dataclass(frozen=True)
class Standing:
    """What the swarm has, by kind and name. ``owned`` carries the stack's label; ``others`` are those that
    have a name which the stack wants. ``stale_secrets``: those whose data are not the ones of the files."""

    owned: Mapping[Kind, Mapping[str, Json]] = field(default_factory=dict)
    others: Mapping[Kind, Mapping[str, Json]] = field(default_factory=dict)
    stale_secrets: Collection[str] = ()

    def of(self, kind: Kind) -> Mapping[str, Json]:
        return self.owned.get(kind, {})

    def find(self, kind: Kind, name: str) -> Json | None:
        return self.of(kind).get(name) or self.others.get(kind, {}).get(name)


@dataclass(frozen=True)
class Plan:
    steps: tuple[Step, ...] = ()
    warnings: tuple[StackWarning, ...] = ()

    @property
    def changes(self) -> list[Step]:
        return [step for step in self.steps if step.action is not Action.KEEP]


Data = Mapping[tuple[Kind, str], bytes]
"""The contents of secrets and configs, by kind and full name."""


def plan(stack: Stack, standing: Standing, data: Data, *, has_prune: bool) -> Plan:
    """Raises ``ComposeError`` for what cannot be done at all."""
    warnings: list[StackWarning] = []
    _check_external(stack, standing)
    _check_owners(stack, standing)
    steps = list(_networks(stack, standing, warnings))
    for kind, files in ((Kind.SECRET, stack.secrets), (Kind.CONFIG, stack.configs)):
        steps += _files(kind, files, standing, data)
    newer = {(step.kind, step.name) for step in steps if step.has_new_data}
    steps += [_service(each, standing, newer) for each in stack.services]
    steps += _left_over(stack, standing, has_prune=has_prune)
    return Plan(tuple(steps), tuple(warnings))


def wanted_names(stack: Stack) -> dict[Kind, set[str]]:
    """Of the stack's own objects and of the external ones."""
    return {
        Kind.NETWORK: {network.spec.name for network in stack.networks if not network.is_predefined},
        Kind.SECRET: {file.full_name for file in stack.secrets},
        Kind.CONFIG: {file.full_name for file in stack.configs},
        Kind.SERVICE: {service.spec.name for service in stack.services},
    }


def labels_of(item: Json) -> dict[str, str]:
    """A network has its fields outside, everything else in its spec."""
    found: dict[str, str] = item.get("Spec", item).get("Labels") or {}
    return found


# --- what must hold before anything is changed


def _check_external(stack: Stack, standing: Standing) -> None:
    for network in stack.networks:
        if not network.is_external or network.is_predefined:
            continue
        found = standing.find(Kind.NETWORK, network.spec.name)
        if found is None:
            raise ComposeError(
                network.place,
                f'network "{network.spec.name}" is declared as external, but could not be found. You need to '
                "create a swarm-scoped network before the stack is deployed: swarmpy network create "
                f"{network.spec.name}",
            )
        if found.get("Scope") != "swarm":
            raise ComposeError(
                network.place,
                f'network "{network.spec.name}" is declared as external, but it is not in the right scope: '
                f'"{found.get("Scope")}" instead of "swarm"',
            )
    for kind, files in ((Kind.SECRET, stack.secrets), (Kind.CONFIG, stack.configs)):
        for file in files:
            if file.is_external and standing.find(kind, file.full_name) is None:
                raise ComposeError(
                    file.place,
                    f'{kind} "{file.full_name}" is declared as external, but could not be found: create it '
                    f"with swarmpy {kind} create {file.full_name} FILE",
                )


def _check_owners(stack: Stack, standing: Standing) -> None:
    """A name that the stack wants may not be somebody else's."""
    own = [
        *((Kind.NETWORK, each.spec.name, each.place) for each in stack.networks if not each.is_external),
        *((Kind.SECRET, each.full_name, each.place) for each in stack.secrets if not each.is_external),
        *((Kind.CONFIG, each.full_name, each.place) for each in stack.configs if not each.is_external),
        *((Kind.SERVICE, each.spec.name, each.place) for each in stack.services),
    ]
    seen: dict[tuple[Kind, str], object] = {}
    for kind, name, place in own:
        if (kind, name) in seen:
            raise ComposeError(place, f'{kind} "{name}" is defined at {seen[kind, name]}, too: rename one')
        seen[kind, name] = place
        other = standing.others.get(kind, {}).get(name)
        if other is not None:
            owner = labels_of(other).get(NAMESPACE_LABEL)
            whose = f"belongs to stack {owner}" if owner else "belongs to no stack"
            advice = "rename it" if kind is Kind.SERVICE else "rename it, or declare it as external"
            raise ComposeError(place, f'{kind} "{name}" exists already and {whose}: {advice}')


# --- networks


def _networks(stack: Stack, standing: Standing, warnings: list[StackWarning]) -> Iterator[Step]:
    for network in stack.networks:
        if network.is_external:
            continue
        found = standing.of(Kind.NETWORK).get(network.spec.name)
        if found is None:
            yield Step(Action.CREATE, Kind.NETWORK, network.spec.name)
            continue
        differing = tuple(_network_differences(network, found))
        if differing:
            warnings.append(
                StackWarning(
                    network.place,
                    f"network {network.spec.name} stays as it is, since networks cannot be changed "
                    f"({'; '.join(differing)}): give it another name, or remove the stack first",
                )
            )
        yield Step(Action.KEEP, Kind.NETWORK, network.spec.name)


def _network_differences(network: NamedNetwork, found: Json) -> Iterator[str]:
    """Of what the file says; what it leaves open was chosen when the network was made."""
    body = network.request()
    for key in ("Driver", "Internal", "Attachable", "EnableIPv6"):
        if body[key] != found.get(key):
            yield f"{key}: {found.get(key)} -> {body[key]}"
    present = found.get("Options") or {}
    for name, value in body["Options"].items():
        if present.get(name) != value:
            yield f"Options.{name}: {present.get(name, 'none')} -> {value}"
    pools = {pool.get("Subnet"): pool for pool in (found.get("IPAM") or {}).get("Config") or []}
    for pool in (body.get("IPAM") or {}).get("Config") or []:
        if pool.get("Subnet") and pool["Subnet"] not in pools:
            yield f"IPAM: {', '.join(map(str, pools)) or 'none'} -> {pool['Subnet']}"


# --- secrets and configs


def _files(kind: Kind, files: tuple[NamedFile, ...], standing: Standing, data: Data) -> Iterator[Step]:
    for file in files:
        if file.is_external:
            continue
        name = file.full_name
        found = standing.of(kind).get(name)
        if found is None:
            yield Step(Action.CREATE, kind, name)
            continue
        is_new = _has_new_data(kind, name, standing, data)
        reasons = ["content: differs"] if is_new else []
        reasons += differences(labels_of(found), dict(file.labels), "Labels")
        action = Action.UPDATE if reasons else Action.KEEP
        yield Step(action, kind, name, tuple(reasons), has_new_data=is_new)


def _has_new_data(kind: Kind, name: str, standing: Standing, data: Data) -> bool:
    if (kind, name) not in data:
        return False
    if kind is Kind.SECRET:
        return name in standing.stale_secrets
    found = standing.of(kind)[name]
    return base64.b64decode(found["Spec"].get("Data") or "") != data[kind, name]


# --- services


def _service(service: NamedSpec, standing: Standing, newer: Collection[tuple[Kind, str]]) -> Step:
    found = standing.of(Kind.SERVICE).get(service.spec.name)
    if found is None:
        return Step(Action.CREATE, Kind.SERVICE, service.spec.name)
    old = stored_spec(found, standing)
    new = wished_spec(service.spec, old, standing, newer)
    if mode_of(old) != mode_of(new):
        raise ComposeError(
            service.at("deploy.mode"),
            f"service {service.spec.name} cannot change its mode from {mode_of(old)} to {mode_of(new)}: "
            f"remove it first (swarmpy service rm {service.spec.name}), or give the service another name",
        )
    if old == new:
        return Step(Action.KEEP, Kind.SERVICE, service.spec.name)
    reasons = [line for line in differences(_plain(old), _plain(new), "") if not _is_told_by_image(line)]
    return Step(
        Action.UPDATE,
        Kind.SERVICE,
        service.spec.name,
        tuple(reasons),
        is_rolled_only=wished_spec(service.spec, old, standing) == old,
    )


def mode_of(spec: ServiceSpec) -> str:
    mode = spec.mode
    chosen = {
        "global": mode.global_,
        "replicated-job": mode.replicated_job,
        "global-job": mode.global_job,
        "cron": mode.cron_job,
    }
    return next((name for name, value in chosen.items() if value is not None), "replicated")


def stored_spec(item: Json, standing: Standing) -> ServiceSpec:
    """The spec of a service as the API gave it, with names where it has ids."""
    spec = msgspec.convert(_without_nulls(item["Spec"]), ServiceSpec)
    template = spec.task_template
    container = template.container_spec or ContainerSpec()
    names = {found["Id"]: name for name, found in _all(standing, Kind.NETWORK)}
    networks = tuple(
        replace(place, target=names.get(place.target, place.target)) for place in template.networks
    )
    ids = {
        kind: {found["ID"]: name for name, found in _all(standing, kind)}
        for kind in (Kind.SECRET, Kind.CONFIG)
    }
    container = replace(
        container,
        secrets=tuple(
            replace(each, secret_id="") if ids[Kind.SECRET].get(each.secret_id) == each.secret_name else each
            for each in container.secrets
        ),
        configs=tuple(
            replace(each, config_id="") if ids[Kind.CONFIG].get(each.config_id) == each.config_name else each
            for each in container.configs
        ),
    )
    return as_read(
        replace(
            spec, task_template=replace(template, networks=networks, container_spec=container), networks=()
        )
    )


def wished_spec(
    spec: ServiceSpec,
    old: ServiceSpec | None,
    standing: Standing,
    newer: Collection[tuple[Kind, str]] = (),
) -> ServiceSpec:
    """The spec as it will be stored. ``newer``: secrets and configs that get newer data before."""
    template = spec.task_template
    container = template.container_spec or ContainerSpec()
    container = replace(
        container,
        secrets=tuple(
            _pinned(each, Kind.SECRET, each.secret_name, standing, newer) for each in container.secrets
        ),
        configs=tuple(
            _pinned(each, Kind.CONFIG, each.config_name, standing, newer) for each in container.configs
        ),
    )
    force_update = template.force_update
    if old is not None:
        force_update = old.task_template.force_update
        present = (old.task_template.container_spec or ContainerSpec()).image
        if present.partition("@")[0] == container.image:
            container = replace(container, image=present)
    template = replace(template, container_spec=container, force_update=force_update)
    return as_read(replace(spec, task_template=template))


def _pinned(
    reference: Any, kind: Kind, name: str, standing: Standing, newer: Collection[tuple[Kind, str]]
) -> Any:
    """The newest data are meant. A daemon that has no word of numbers keeps what it has."""
    assert isinstance(reference, SecretReference | ConfigReference)
    found = standing.find(kind, name)
    if found is None or reference.reload_signal or "DataVersion" not in found:
        return reference
    return replace(reference, version=int(found["DataVersion"]) + ((kind, name) in newer))


def with_ids(spec: ServiceSpec, standing: Standing) -> ServiceSpec:
    """References to secrets and configs with ids, as the API wants them."""
    template = spec.task_template
    container = template.container_spec or ContainerSpec()
    container = replace(
        container,
        secrets=tuple(
            replace(each, secret_id=_id_of(standing, Kind.SECRET, each.secret_name))
            for each in container.secrets
        ),
        configs=tuple(
            replace(each, config_id=_id_of(standing, Kind.CONFIG, each.config_name))
            for each in container.configs
        ),
    )
    return replace(spec, task_template=replace(template, container_spec=container))


def _id_of(standing: Standing, kind: Kind, name: str) -> str:
    found = standing.find(kind, name)
    return "" if found is None else str(found["ID"])


def _all(standing: Standing, kind: Kind) -> Iterator[tuple[str, Json]]:
    yield from standing.others.get(kind, {}).items()
    yield from standing.of(kind).items()


# --- what is left over


def _left_over(stack: Stack, standing: Standing, *, has_prune: bool) -> Iterator[Step]:
    wanted = wanted_names(stack)
    for kind in reversed(Kind):
        for name in sorted(standing.of(kind)):
            if name in wanted[kind]:
                continue
            if has_prune:
                yield Step(Action.REMOVE, kind, name, ("no file names it any more",))
            else:
                yield Step(Action.KEEP, kind, name, ("no file names it any more: --prune removes it",))


# --- differences


def differences(old: object, new: object, path: str) -> list[str]:
    """A line for each field that differs, with its path."""
    if old == new:
        return []
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            line
            for key in sorted({*old, *new})
            for line in differences(old.get(key), new.get(key), f"{path}.{key}".lstrip("."))
        ]
    if isinstance(old, list | tuple) and isinstance(new, list | tuple):
        return _list_differences(old, new, path)
    return [f"{path}: {_shown(old)} -> {_shown(new)}"]


def _list_differences(old: Sequence[object], new: Sequence[object], path: str) -> list[str]:
    """Items that have a name are compared with the one of the same name."""
    gone, come = [each for each in old if each not in new], [each for each in new if each not in old]
    if not gone and not come:
        return [f"{path}: in another order"]
    before = {name: each for each in gone if (name := _name_in(each))}
    after = {name: each for each in come if (name := _name_in(each))}
    if len(before) == len(gone) and len(after) == len(come):
        return [
            line
            for name in sorted({*before, *after})
            for line in differences(before.get(name), after.get(name), f"{path}[{name}]")
        ]
    shown = [*(f"-{_shown(each)}" for each in gone), *(f"+{_shown(each)}" for each in come)]
    return [f"{path}: {' '.join(shown)}"]


def _name_in(item: object) -> str:
    if not isinstance(item, dict):
        return ""
    return next((str(item[key]) for key in _NAMES if item.get(key)), "")


def _shown(value: object) -> str:
    if value is None:
        return "none"
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text if len(text) <= _VALUE_CHARS_MAX else text[: _VALUE_CHARS_MAX - 1] + "…"


def _plain(spec: ServiceSpec) -> object:
    """As in the API's JSON, without the level that all fields of a task would begin with."""
    shape = msgspec.to_builtins(spec)
    template = shape.pop("TaskTemplate", {})
    return {**shape, **template}


def _is_told_by_image(line: str) -> bool:
    return line.startswith(f"Labels.{IMAGE_LABEL}:")


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(part) for key, part in value.items() if part is not None}
    return [_without_nulls(part) for part in value] if isinstance(value, list) else value
