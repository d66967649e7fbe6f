"""``swarmpy service create|update|scale|rollback``: flags to a spec, and the wait for it to come true."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from urllib.parse import quote

from swarmpy.cli import values
from swarmpy.cli.autoscale import apply_autoscale
from swarmpy.cli.container_flags import apply_container
from swarmpy.cli.flags import Command, Options, UsageError, number
from swarmpy.cli.network_policy import apply_policy
from swarmpy.cli.progress import wait_converged
from swarmpy.cli.service_flags import (
    CREATE_FLAGS,
    UPDATE_FLAGS,
    apply_families,
    apply_settings,
)
from swarmpy.cli.service_modes import change_mode, new_mode, set_replicas
from swarmpy.cli.session import Session, each, is_stale, tell, version_of
from swarmpy.cli.spec_edits import put, take
from swarmpy.client import ErrorAnswer, Json, filters
from swarmpy.limits import STALE_RETRIES_MAX

_FILES = (("secret", "Secrets", "SecretID", "SecretName"), ("config", "Configs", "ConfigID", "ConfigName"))
_NETWORKS = "TaskTemplate.Networks"
_NODE_NETWORKS = ("bridge", "host", "none")


def create(session: Session, arguments: list[str], options: Options) -> int:
    spec = new_spec(arguments[0], arguments[1:], options, dict(session.environment))
    for kind, field, id_field, name_field in _FILES:
        references = [
            _reference(session, kind, entry, id_field=id_field, name_field=name_field)
            for entry in options.many(kind)
        ]
        if references:
            put(spec, f"TaskTemplate.ContainerSpec.{field}", references)
    _apply_credential_spec(session, spec, options)
    answer = session.client.post("/services/create", spec, resolving(options))
    _tell_warnings(answer)
    print(answer["ID"], flush=True)
    return _wait(session, answer["ID"], options)


def new_spec(image: str, args: list[str], options: Options, environment: dict[str, str]) -> Json:
    """The spec that ``service create`` sends. Pure but for the files that ``--env-file`` names."""
    spec: Json = {"Labels": {}, "TaskTemplate": {"ContainerSpec": {"Image": image}}}
    if options.is_set("name"):
        spec["Name"] = options.text("name")
    if args:
        put(spec, "TaskTemplate.ContainerSpec.Args", args)
    spec["Mode"] = new_mode(options)
    apply_settings(spec, options)
    apply_families(spec, options, is_update=False)
    entries = [entry for path in options.many("env-file") for entry in values.read_env_file(path)]
    entries = values.environment([*entries, *options.many("env")], environment)
    if entries:
        put(spec, "TaskTemplate.ContainerSpec.Env", entries)
    ports = [port for entry in options.many("publish") for port in values.ports(entry)]
    if ports:
        put(spec, "EndpointSpec.Ports", ports)
    networks = [values.network(entry) for entry in options.many("network")]
    if networks:
        put(spec, _NETWORKS, networks)
    apply_policy(spec, options)
    apply_autoscale(spec, options)
    apply_container(spec, options, is_update=False)
    return spec


def _reference(session: Session, kind: str, entry: str, *, id_field: str, name_field: str) -> Json:
    name, target, which = values.file_reference(entry)
    found = session.client.get(f"/{kind}s", filters({"names": [name]}))
    if not found:
        raise UsageError(f"{kind} not found: {name}")
    if kind == "config" and "target" not in entry:
        target["Name"] = f"/{name}"
    if not which:
        which = {"Version": found[0]["DataVersion"]}  # who names none means what the service has
    return {id_field: found[0]["ID"], name_field: name, "File": target, **which}


# --- update


def update(session: Session, arguments: list[str], options: Options) -> int:
    name = arguments[0]
    if options.on("rollback"):
        if any(options.is_set(flag) for flag in options.values if flag not in _BESIDE_ROLLBACK):
            raise UsageError("other flags may not be combined with --rollback")
        return _roll_back(session, name, options)

    def edit(spec: Json) -> None:
        change_spec(spec, options, dict(session.environment))
        _change_files(session, spec, options)
        _change_networks(session, spec, options)
        _apply_credential_spec(session, spec, options)

    id_ = change(session, name, edit, query=resolving(options))
    print(name, flush=True)
    return _wait(session, id_, options)


def rollback(session: Session, arguments: list[str], options: Options) -> int:
    revision = options.text("to")
    if revision and int(revision) < 1:
        raise UsageError(f'invalid argument "{revision}" for "--to" flag: give the number of a revision')
    return _roll_back(session, arguments[0], options, revision=revision)


def _roll_back(session: Session, name: str, options: Options, *, revision: str = "") -> int:
    service = session.client.get(f"/services/{quote(name, safe='')}")
    version = version_of(service)
    if revision:
        query: dict[str, str | int | bool] = {"version": version, "to": revision}
        session.client.post(f"/swarmpy/services/{service['ID']}/rollback", None, query)
    else:
        query = {"version": version, "rollback": "previous"}
        session.client.post(f"/services/{service['ID']}/update", service["Spec"], query)
    print(name, flush=True)
    return _wait(session, service["ID"], options)


def _tell_warnings(answer: Json) -> None:
    for warning in answer.get("Warnings") or []:
        tell(warning)


def resolving(options: Options) -> dict[str, str]:
    """The query that says whether a digest of the image is wanted."""
    return {"resolveImage": "never"} if options.on("no-resolve-image") else {}


def change(
    session: Session, name: str, edit: Callable[[Json], None], *, query: Mapping[str, str] | None = None
) -> str:
    """Read, edit, write; again from the start if somebody else wrote in between. Returns the id."""
    for attempt in range(STALE_RETRIES_MAX):
        service = session.client.get(f"/services/{quote(name, safe='')}")
        edit(service["Spec"])
        try:
            versioned: dict[str, str | int | bool] = {**(query or {}), "version": version_of(service)}
            answer = session.client.post(f"/services/{service['ID']}/update", service["Spec"], versioned)
            _tell_warnings(answer)
        except ErrorAnswer as error:
            if not is_stale(error) or attempt + 1 == STALE_RETRIES_MAX:
                raise
        else:
            break
    return str(service["ID"])


def change_spec(spec: Json, options: Options, environment: dict[str, str]) -> None:
    """What ``service update`` makes of a spec."""
    if options.is_set("image"):
        put(spec, "TaskTemplate.ContainerSpec.Image", options.text("image"))
    if options.is_set("args"):
        put(spec, "TaskTemplate.ContainerSpec.Args", values.words(options.text("args")))
    change_mode(spec, options)
    apply_settings(spec, options)
    options.values["env-add"] = values.environment(options.many("env-add"), environment)
    apply_families(spec, options, is_update=True)
    apply_policy(spec, options)
    apply_autoscale(spec, options)
    apply_container(spec, options, is_update=True)
    _change_ports(spec, options)
    if options.on("force"):
        put(spec, "TaskTemplate.ForceUpdate", int(take(spec, "TaskTemplate.ForceUpdate") or 0) + 1)


def _change_ports(spec: Json, options: Options) -> None:
    added = [port for entry in options.many("publish-add") for port in values.ports(entry)]
    removed = [values.ports(entry)[0] for entry in options.many("publish-rm")]
    if not added and not removed:
        return
    gone = {(port["TargetPort"], port["Protocol"]) for port in removed}
    replaced = {_port_key(port) for port in added}
    kept = [
        port
        for port in take(spec, "EndpointSpec.Ports") or []
        if (port["TargetPort"], port.get("Protocol", "tcp")) not in gone and _port_key(port) not in replaced
    ]
    put(spec, "EndpointSpec.Ports", [*kept, *added])


def _port_key(port: Json) -> tuple[object, ...]:
    return port["TargetPort"], port.get("PublishedPort", 0), port.get("Protocol", "tcp")


def _change_files(session: Session, spec: Json, options: Options) -> None:
    for kind, field, id_field, name_field in _FILES:
        added = [
            _reference(session, kind, entry, id_field=id_field, name_field=name_field)
            for entry in options.many(f"{kind}-add")
        ]
        gone = {*options.many(f"{kind}-rm"), *(reference[name_field] for reference in added)}
        if not gone:
            continue
        path = f"TaskTemplate.ContainerSpec.{field}"
        kept = [reference for reference in take(spec, path) or [] if reference[name_field] not in gone]
        put(spec, path, [*kept, *added])


def _apply_credential_spec(session: Session, spec: Json, options: Options) -> None:
    """One of a config is a reference to it beside the files: it is for the runtime, not mounted."""
    if not options.is_set("credential-spec"):
        return
    text = options.text("credential-spec")
    chosen = values.credential_spec(text) if text else {}
    path = "TaskTemplate.ContainerSpec.Configs"
    configs = [reference for reference in take(spec, path) or [] if "Runtime" not in reference]
    if "Config" in chosen:
        reference = _reference(
            session, "config", chosen["Config"], id_field="ConfigID", name_field="ConfigName"
        )
        del reference["File"]
        configs.append({**reference, "Runtime": {}})
        chosen = {"Config": reference["ConfigID"]}
    put(spec, path, configs)
    put(spec, "TaskTemplate.ContainerSpec.Privileges.CredentialSpec", chosen or None)


def _change_networks(session: Session, spec: Json, options: Options) -> None:
    """Specs name networks by id, users by name. What is added and taken away at once is replaced."""
    removed = {_network_id(session, name) for name in options.many("network-rm")}
    added = [values.network(entry) for entry in options.many("network-add")]
    if not removed and not added:
        return
    # old clients have left them beside the template
    present = take(spec, _NETWORKS) or spec.pop("Networks", None) or []
    kept = [place for place in present if place["Target"] not in removed]
    taken = {place["Target"] for place in kept}
    for place in added:
        name, place["Target"] = place["Target"], _network_id(session, place["Target"])
        if place["Target"] in taken:
            raise UsageError(f"service is already attached to network {name}")
        taken.add(place["Target"])
    put(spec, _NETWORKS, [*kept, *added])


def _network_id(session: Session, name: str) -> str:
    """As a spec has it: the id, or the name of a network of the nodes' own."""
    if name in _NODE_NETWORKS:
        return name
    found: str = session.client.get(f"/networks/{quote(name, safe='')}", {"scope": "swarm"})["Id"]
    return found


# --- scale


def scale(session: Session, arguments: list[str], options: Options) -> int:
    wishes = []
    for entry in arguments:
        name, separator, count = entry.partition("=")
        if not separator or not name:
            raise UsageError(f"invalid scale specifier '{entry}': give SERVICE=REPLICAS")
        if not (count.isascii() and count.isdigit()):
            raise UsageError(f"{name}: invalid replicas value {count}: give a number that is not negative")
        wishes.append((name, int(count)))
    ids: list[str] = []

    def one(entry: tuple[str, int]) -> None:
        name, count = entry
        ids.append(change(session, name, lambda spec: set_replicas(spec, count)))
        print(f"{name} scaled to {count}", flush=True)

    code = each(wishes, one)
    for id_ in ids:
        code = max(code, _wait(session, id_, options))
    return code


def _wait(session: Session, id_: str, options: Options) -> int:
    if options.on("detach"):
        return 0
    return wait_converged(session, id_, is_quiet=options.on("quiet"))


_BESIDE_ROLLBACK = ("rollback", "detach", "quiet")
_WAIT_FLAGS = tuple(flag for flag in UPDATE_FLAGS if flag.name in ("detach", "quiet"))

COMMANDS = {
    "create": Command(
        create,
        "Create a new service",
        "IMAGE [COMMAND] [ARG...]",
        1,
        None,
        CREATE_FLAGS,
        is_interspersed=False,
    ),
    "update": Command(update, "Update a service", "SERVICE", 1, 1, UPDATE_FLAGS),
    "rollback": Command(
        rollback,
        "Revert changes to a service's configuration",
        "SERVICE",
        1,
        1,
        (*_WAIT_FLAGS, number("to", "Number of the revision to return to (default: the previous one)")),
    ),
    "scale": Command(
        scale,
        "Scale one or multiple replicated services",
        "SERVICE=REPLICAS [SERVICE=REPLICAS...]",
        1,
        None,
        _WAIT_FLAGS,
    ),
}
