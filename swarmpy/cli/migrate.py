"""``swarmpy migrate``: recreate here what a running Docker swarm holds.

The source is only read, over its own API. What can be known is checked first; then networks, secrets, configs
and services are made, in that order. What is done stays done: after a failure the same command goes on from
there, since what exists under a name is left as it is.
"""

from __future__ import annotations

import base64
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from swarmpy.cli.flags import Command, Options, UsageError, listed, switch, text
from swarmpy.cli.migrate_plan import Action, Kind, Picture, Plan, Step, Wish, name_of, plan, with_ids
from swarmpy.cli.render import table
from swarmpy.cli.session import Session, fail, tell, tell_refused, version_of
from swarmpy.cli.stack_files import read_bytes
from swarmpy.client import Client, ErrorAnswer, Json, Query, filters
from swarmpy.errors import FailedPrecondition, InvalidArgument, Unavailable
from swarmpy.model.validate import SECRET_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Mapping

CHANGES: Final = 3
"""The exit code of ``--plan`` when something would change."""
_DOCKER: Final = "unix:///var/run/docker.sock"


def migrate(session: Session, arguments: list[str], options: Options) -> int:
    source = Client(options.text("from") or _DOCKER, api_version="")
    if source.address == session.client.address:
        raise UsageError("--from is this swarm itself: give the address of the Docker Engine to move from")
    pictures = picture_of(source, is_source=True), picture_of(session.client)
    wish = Wish(
        secrets=_secrets(options, {name_of(each) for each in pictures[0].secrets}),
        nodes=dict(_pair("node", entry) for entry in options.many("node")),
        is_started=not options.on("no-start"),
        has_jobs=options.on("with-jobs"),
        is_unpinned=options.on("unpin-images"),
        has_subnets=not options.on("new-subnets"),
    )
    planned = plan(*pictures, wish)
    if options.on("plan"):
        _show(planned)
        return CHANGES if planned.changes else 0
    if planned.missing and not options.on("partial"):
        _show(planned)
        fail(
            f"the data of {len(planned.missing)} secrets are needed; nothing was changed. Supply them by "
            "--secret or --secrets-dir, or leave out the services that use them: --partial."
        )
        return 1
    return _carry_out(session.client, planned, wish)


# --- reading


def picture_of(client: Client, *, is_source: bool = False) -> Picture:
    """Everything that there is to move, or to move beside. FailedPrecondition if that is no manager."""
    try:
        swarm = client.get("/swarm")
    except ErrorAnswer as error:
        raise FailedPrecondition(
            f"{client.address} cannot show its swarm: {error} Give the socket of a manager."
        ) from error
    services = tuple(client.get("/services"))
    networks = list(client.get("/networks", filters({"scope": ["swarm"]})))
    if is_source:
        networks += _unlisted(client, services, {each["Id"] for each in networks})
    return Picture(
        swarm=swarm,
        nodes=tuple(client.get("/nodes")),
        networks=tuple(networks),
        secrets=tuple(client.get("/secrets")),
        configs=tuple(client.get("/configs")),
        services=services,
    )


def _unlisted(client: Client, services: tuple[Json, ...], known: set[str]) -> list[Json]:
    """Services may be on ``host`` by an id that no list of networks shows."""
    used = {
        each["Target"]
        for service in services
        for each in service["Spec"]["TaskTemplate"].get("Networks") or service["Spec"].get("Networks") or ()
    }
    found = []
    for id_ in sorted(used - known):
        try:
            found.append(client.get(f"/networks/{quote(id_, safe='')}", {"scope": "swarm"}))
        except ErrorAnswer as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
    return found


def _secrets(options: Options, known: set[str]) -> dict[str, bytes]:
    """What the user supplies: ``--secret NAME=FILE``, and files of a folder by their names."""
    paths: dict[str, str] = {}
    folder = options.text("secrets-dir")
    if folder:
        if not Path(folder).is_dir():
            raise InvalidArgument(f"--secrets-dir {folder} is no folder")
        paths = {name: str(Path(folder) / name) for name in sorted(known) if (Path(folder) / name).is_file()}
    for entry in options.many("secret"):
        name, path = _pair("secret", entry)
        if name not in known:
            raise UsageError(f"the source has no secret {name}")
        paths[name] = path
    found = {}
    for name, path in paths.items():
        data = read_bytes(path, most=SECRET_BYTES_MAX)
        if not data or len(data) >= SECRET_BYTES_MAX:
            raise InvalidArgument(
                f"{path}, for the secret {name}, is not there, is empty or is larger than a secret may be "
                f"({SECRET_BYTES_MAX} bytes)"
            )
        found[name] = data
    return found


def _pair(flag: str, entry: str) -> tuple[str, str]:
    first, has_second, second = entry.partition("=")
    if not has_second or not first or not second:
        raise UsageError(f"--{flag} {entry}: two names are wanted, with = between them")
    return first, second


# --- telling


def _show(planned: Plan) -> None:
    rows = [(step.kind, step.name, step.action, step.why) for step in planned.steps]
    print(table([("KIND", "NAME", "ACTION", "NOTE"), *rows]))
    for title, items in (
        ("Secrets to supply", planned.missing),
        ("Images that the nodes need", planned.images),
        ("Volumes whose data stay where they are", planned.volumes),
        ("Ports that must be free here", tuple(str(port) for port in planned.ports)),
    ):
        if items:
            print(f"\n{title}:")
            for item in items:
                print(f"  {item}")


# --- doing


def _carry_out(client: Client, planned: Plan, wish: Wish) -> int:
    """Step by step, each told. What one service lacks stops no other; what cannot be made is told at the
    end by the exit code."""
    code = 0
    for step in planned.steps:
        if step.action in (Action.LEAVE, Action.SKIP):
            tell(f"{step.action.capitalize()}: {step.kind} {step.name}: {step.why}")
            code = 1 if step.action is Action.LEAVE else code
        if step not in planned.changes:
            continue
        try:
            _make(client, step, wish.secrets)
        except ErrorAnswer as error:
            tell(f"Failed: {step.kind} {step.name}")
            tell_refused(error)
            code = 1
        except Unavailable as error:
            fail(f"{error} What is made so far stays: the same command goes on from there.")
            return 1
        else:
            done = "Created" if step.action is Action.CREATE else "Updated"
            print(f"{done} {step.kind} {step.name}{f' ({step.why})' if step.why else ''}", flush=True)
    if not planned.changes:
        print("Everything that can be moved is here already")
    if planned.volumes:
        tell(f"Not copied: the data of the volumes {', '.join(planned.volumes)}")
    return code


def _make(client: Client, step: Step, secrets: Mapping[str, bytes]) -> None:
    body = step.body
    match step.kind:
        case Kind.SWARM:
            client.post("/swarm/update", body, {"version": version_of(step.target)})
        case Kind.NODE:
            path = f"/nodes/{quote(step.target['ID'], safe='')}/update"
            client.post(path, body, {"version": version_of(step.target)})
        case Kind.NETWORK:
            client.post("/networks/create", body)
        case Kind.SECRET:
            data = base64.b64encode(secrets[step.name]).decode()
            client.post("/secrets/create", {**body, "Data": data})
        case Kind.CONFIG:
            client.post("/configs/create", body)
        case Kind.SERVICE:
            client.post("/services/create", _with_ids(client, body))


def _with_ids(client: Client, spec: Json) -> Json:
    """Looked up when they are needed: one of them may just have been refused."""
    container = spec["TaskTemplate"].get("ContainerSpec") or {}
    wanted = (
        ("secrets", [each["SecretName"] for each in container.get("Secrets") or ()]),
        ("configs", [each["ConfigName"] for each in container.get("Configs") or ()]),
    )
    ids: dict[str, dict[str, str]] = {"secrets": {}, "configs": {}}
    for noun, names in wanted:
        query: Query = filters({"names": names})
        found = client.get(f"/{noun}", query) if names else ()
        ids[noun] = {name_of(each): str(each["ID"]) for each in found}
        for name in names:
            if name not in ids[noun]:
                raise ErrorAnswer(f"{noun[:-1]} {name} not found", HTTPStatus.NOT_FOUND)
    return with_ids(spec, ids["secrets"], ids["configs"])


COMMANDS = {
    "migrate": Command(
        migrate,
        "Recreate here the services, networks, configs and secrets of a Docker swarm",
        flags=(
            text("from", f"The Docker Engine of one of its managers (default {_DOCKER})"),
            switch("plan", f"Only say what would be done; exit code {CHANGES} if something would change"),
            listed("secret", "Data of a secret, which no swarm gives out: NAME=FILE"),
            text("secrets-dir", "Folder with a file for each secret, by its name"),
            listed("node", "Which node here stands for one there, where hostnames differ: THERE=HERE"),
            switch("partial", "Leave out services that need a secret which is not supplied"),
            switch("no-start", "Create replicated services with 0 replicas"),
            switch("with-jobs", "Also recreate jobs, which then run again"),
            switch("unpin-images", "Name images by their tags, without digests"),
            switch("new-subnets", "Let networks have subnets of this swarm's pools"),
        ),
    )
}
