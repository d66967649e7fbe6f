"""``swarmpy stack deploy`` and ``diff``: look, plan, and carry out the plan.

Everything that can be known is checked before anything is changed. What is done stays done: if a step fails,
the rest is left and told, and the same command goes on from there. Services that are left over go first,
since what they publish may be wanted; then come networks, secrets, configs, services. What else is left over
goes last, when no task needs it any more.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import msgspec
from msgspec.structs import replace

from swarmpy.cli.flags import Options, UsageError
from swarmpy.cli.session import Session, is_stale, tell, tell_refused, version_of
from swarmpy.cli.stack_cluster import data_of, id_of, standing_of
from swarmpy.cli.stack_files import read
from swarmpy.cli.stack_plan import (
    Action,
    Data,
    Kind,
    Plan,
    Standing,
    Step,
    plan,
    stored_spec,
    wished_spec,
    with_ids,
)
from swarmpy.cli.stack_remove import remove, wait_gone
from swarmpy.cli.stack_text import show_diff, show_plan
from swarmpy.cli.stack_wait import wait_services
from swarmpy.client import Client, ErrorAnswer, Json
from swarmpy.compose.tree import ComposeError
from swarmpy.errors import InvalidArgument, Unavailable
from swarmpy.limits import STALE_RETRIES_MAX

if TYPE_CHECKING:
    from swarmpy.compose import NamedFile, NamedSpec, Stack
    from swarmpy.model.specs import ServiceSpec

CHANGES: Final = 3
"""The exit code of ``--plan`` and ``diff`` when something would change."""
_ALWAYS: Final = "always"
_RESOLVE_IMAGE: Final = (_ALWAYS, "changed", "never")


@dataclass
class _Deployment:
    """A stack on its way, and how far it is."""

    client: Client
    stack: Stack
    data: Data
    standing: Standing
    steps: list[Step]
    resolving: Mapping[str, str]
    """The query that says whether digests of images are wanted."""
    done: list[Step] = field(default_factory=list)


def deploy(session: Session, arguments: list[str], options: Options) -> int:
    if options.text("resolve-image") not in _RESOLVE_IMAGE:
        raise UsageError(f"Invalid option {options.text('resolve-image')} for flag --resolve-image")
    stack, data, standing, planned = _prepared(session, arguments, options, has_prune=options.on("prune"))
    if options.on("plan"):
        show_plan(planned, standing, stack)
        return CHANGES if planned.changes else 0
    wish = options.text("resolve-image")
    resolving = {} if wish == "changed" else {"resolveImage": wish}
    steps = list(planned.changes)
    if wish == _ALWAYS:
        steps += _asked_anew(stack, standing, steps)
    if not steps:
        print(f"Stack {stack.name} is as its files say: nothing to change", flush=True)
    deployment = _Deployment(session.client, stack, data, standing, steps, resolving)
    try:
        return _carry_out(deployment, is_detached=options.on("detach"), is_quiet=options.on("quiet"))
    except (ErrorAnswer, Unavailable) as error:
        _tell_failed(deployment, error)
        return 1


def _asked_anew(stack: Stack, standing: Standing, steps: list[Step]) -> list[Step]:
    """Of services that are as their files say: the tags of their images may have moved."""
    changed = {step.name for step in steps if step.kind is Kind.SERVICE}
    names = [service.spec.name for service in stack.services]
    present = standing.of(Kind.SERVICE)
    return [
        Step(Action.UPDATE, Kind.SERVICE, name) for name in names if name in present and name not in changed
    ]


def diff(session: Session, arguments: list[str], options: Options) -> int:
    stack, _, standing, planned = _prepared(session, arguments, options, has_prune=options.on("prune"))
    show_diff(planned, standing, stack)
    return CHANGES if planned.changes else 0


def _prepared(
    session: Session, arguments: list[str], options: Options, *, has_prune: bool
) -> tuple[Stack, Data, Standing, Plan]:
    stack, variables = read(
        arguments[0],
        compose_files(options),
        environment=session.environment,
        env_files=options.many("env-file"),
        chosen_profiles=options.many("profile"),
    )
    _check_constraints(stack)
    data = data_of(stack, variables)
    standing = standing_of(session.client, stack, data)
    planned = plan(stack, standing, data, has_prune=has_prune)
    for warning in (*stack.warnings, *planned.warnings):
        tell(f"WARNING: {warning}")
    return stack, data, standing, planned


def _check_constraints(stack: Stack) -> None:
    """By the scheduler's own reading of them."""
    from manager.schedule.constraint import parse_constraints

    for service in stack.services:
        placement = service.spec.task_template.placement
        try:
            parse_constraints(() if placement is None else placement.constraints)
        except InvalidArgument as error:
            raise ComposeError(
                service.at("deploy.placement"), f"services.{service.name}.deploy.placement: {error}"
            ) from None


def compose_files(options: Options) -> list[str]:
    paths = options.many("compose-file")
    if not paths:
        raise UsageError("Please specify a Compose file (with --compose-file)")
    return paths


# --- carrying out


def _carry_out(deployment: _Deployment, *, is_detached: bool, is_quiet: bool) -> int:
    removals = [step for step in deployment.steps if step.action is Action.REMOVE]
    gone = {step: _item(deployment, step) for step in removals if step.kind is Kind.SERVICE}
    rest = {step: _item(deployment, step) for step in removals if step.kind is not Kind.SERVICE}
    made = [step for step in deployment.steps if step.action is not Action.REMOVE]
    _remove(deployment, gone)
    for step in made:
        if step.kind is not Kind.SERVICE:
            _MAKERS[step.kind](deployment, step)
            deployment.done.append(step)
    # newer data have rolled services, and new objects have got their ids
    deployment.standing = standing_of(deployment.client, deployment.stack, {})
    changed = [step for step in made if step.kind is Kind.SERVICE]
    _services(deployment, changed)
    is_moving = bool(gone) or any(step.action is Action.UPDATE for step in changed)
    code = 0 if is_detached else _wait(deployment, changed, gone, is_quiet=is_quiet)
    if rest and (code or (is_detached and is_moving)):
        names = ", ".join(f"{step.kind} {step.name}" for step in rest)
        tell(f"Left, since tasks may need it still: {names}. The next stack deploy --prune removes it.")
    else:
        _remove(deployment, rest)
    return code


def _wait(deployment: _Deployment, changed: list[Step], gone: Mapping[Step, Json], *, is_quiet: bool) -> int:
    """Until services are as they should be, and those that were removed have no task any more."""
    code = wait_services(
        deployment.client,
        [service.spec.name for service in deployment.stack.services],
        changed={step.name for step in changed},
        is_quiet=is_quiet,
    )
    wait_gone(deployment.client, [id_of(item) for item in gone.values()], deployment.stack.name)
    return code


def _item(deployment: _Deployment, step: Step) -> Json:
    return deployment.standing.of(step.kind)[step.name]


def _remove(deployment: _Deployment, items: Mapping[Step, Json]) -> None:
    for step, item in items.items():
        print(f"Removing {step.kind} {step.name}", flush=True)
        remove(deployment.client, step.kind, item)
        deployment.done.append(step)


def _network(deployment: _Deployment, step: Step) -> None:
    print(f"Creating network {step.name}", flush=True)
    network = next(each for each in deployment.stack.networks if each.spec.name == step.name)
    deployment.client.post("/networks/create", network.request())


def _file(deployment: _Deployment, step: Step) -> None:
    client, kind, name = deployment.client, step.kind, step.name
    files = deployment.stack.secrets if kind is Kind.SECRET else deployment.stack.configs
    file = next(each for each in files if each.full_name == name)
    data = deployment.data.get((kind, name))
    if step.action is Action.CREATE:
        print(f"Creating {kind} {name}", flush=True)
        client.post(f"/{kind}s/create", _file_body(file, data))
        return
    print(f"Updating {kind} {name}", flush=True)
    path = quote(id_of(_item(deployment, step)), safe="")
    if step.has_new_data:
        assert data is not None
        # those get the newer data with their other changes, so that their tasks are replaced once
        own = [
            each.name
            for each in deployment.steps
            if each.kind is Kind.SERVICE and each.action is Action.UPDATE and not each.is_rolled_only
        ]
        body = {"Data": base64.b64encode(data).decode(), "Except": own}
        _with_version(
            client,
            f"/{kind}s/{path}",
            lambda _, query: client.post(f"/swarmpy/{kind}s/{path}/versions", body, query),
        )
    _with_version(
        client,
        f"/{kind}s/{path}",
        lambda item, query: client.post(
            f"/{kind}s/{path}/update", {"Name": name, "Labels": dict(file.labels)}, query
        ),
    )


def _file_body(file: NamedFile, data: bytes | None) -> Json:
    body: Json = {"Name": file.full_name, "Labels": dict(file.labels)}
    if data is not None:
        body["Data"] = base64.b64encode(data).decode()
    if file.driver:
        body["Driver"] = {"Name": file.driver, "Options": dict(file.driver_options)}
    if file.template_driver:
        body["Templating"] = {"Name": file.template_driver}
    return body


def _with_version(client: Client, path: str, send: Callable[[Json, dict[str, int]], None]) -> None:
    """Read, write; again from the start if somebody else wrote in between."""
    for attempt in range(STALE_RETRIES_MAX):
        item = client.get(path)
        try:
            send(item, {"version": version_of(item)})
        except ErrorAnswer as error:
            if not is_stale(error) or attempt + 1 == STALE_RETRIES_MAX:
                raise
        else:
            return


_MAKERS: Final = {Kind.NETWORK: _network, Kind.SECRET: _file, Kind.CONFIG: _file}


# --- services


def _services(deployment: _Deployment, steps: list[Step]) -> None:
    """Those that are there before new ones. One may give up a port that another waits for: while any step
    succeeds, those that were refused are tried again."""
    pending = sorted(steps, key=lambda step: step.action is Action.CREATE)
    while pending:
        refused: list[tuple[Step, ErrorAnswer]] = []
        for step in pending:
            try:
                _service(deployment, step)
            except ErrorAnswer as error:
                refused.append((step, error))
            else:
                deployment.done.append(step)
        if len(refused) == len(pending):
            raise refused[0][1]
        pending = [step for step, _ in refused]


def _service(deployment: _Deployment, step: Step) -> None:
    service = next(each for each in deployment.stack.services if each.spec.name == step.name)
    if step.action is Action.CREATE:
        print(f"Creating service {step.name}", flush=True)
        spec = wished_spec(service.spec, None, deployment.standing)
        body = msgspec.to_builtins(with_ids(spec, deployment.standing))
        _tell_warnings(deployment.client.post("/services/create", body, deployment.resolving))
        return
    item = _item(deployment, step)
    print(f"Updating service {step.name} (id: {item['ID']})", flush=True)
    path = f"/services/{item['ID']}"
    _with_version(deployment.client, path, lambda found, query: _update(deployment, service, found, query))


def _update(deployment: _Deployment, service: NamedSpec, item: Json, query: dict[str, int]) -> None:
    old = stored_spec(item, deployment.standing)
    spec = wished_spec(service.spec, old, deployment.standing)
    if deployment.resolving.get("resolveImage") == _ALWAYS:
        spec = _as_written(spec, service.spec)
    elif spec == old:
        return
    body = msgspec.to_builtins(with_ids(spec, deployment.standing))
    path = f"/services/{item['ID']}/update"
    _tell_warnings(deployment.client.post(path, body, {**deployment.resolving, **query}))


def _as_written(spec: ServiceSpec, written: ServiceSpec) -> ServiceSpec:
    """Without the digest that the image has by now."""
    container, own = spec.task_template.container_spec, written.task_template.container_spec
    if container is None or own is None:
        return spec
    template = replace(spec.task_template, container_spec=replace(container, image=own.image))
    return replace(spec, task_template=template)


def _tell_warnings(answer: Json | None) -> None:
    for warning in (answer or {}).get("Warnings") or []:
        tell(f"WARNING: {warning}")


def _tell_failed(deployment: _Deployment, error: ErrorAnswer | Unavailable) -> None:
    if isinstance(error, ErrorAnswer):
        tell_refused(error)
    else:
        tell(f"Error: {error}")
    left = [step for step in deployment.steps if step not in deployment.done]
    tell(f"Done before: {_listed(deployment.done)}.")
    tell(f"Not done: {_listed(left)}. The same command goes on from here: what is done stays as it is.")


def _listed(steps: list[Step]) -> str:
    return ", ".join(f"{step.action} {step.kind} {step.name}" for step in steps) or "nothing"
