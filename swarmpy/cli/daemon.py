"""``swarmpy daemon``: flags to a ``NodeConfig``, and on to the node."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict
from urllib.parse import urlsplit

from swarmpy.cli import values
from swarmpy.cli.flags import Command, Options, UsageError, listed, switch, text
from swarmpy.cli.render import table
from swarmpy.cli.session import Session
from swarmpy.config import CGROUP_PARENT, DATA_DIR, LISTEN_ADDRESS, RUN_DIR, NodeConfig
from swarmpy.errors import InvalidArgument
from swarmpy.image_limits import IMAGE_GC_AGE_S, IMAGE_GC_HIGH_PERCENT, IMAGE_GC_LOW_PERCENT
from swarmpy.lean import lean_imports
from swarmpy.model import generic_resources
from swarmpy.model.executors import EXECUTORS
from swarmpy.model.ids import Duration
from swarmpy.model.specs import GenericResource

if TYPE_CHECKING:
    from agent.executor.base import Capabilities

_LEVELS = ("debug", "info", "warning", "error")
_FORMATS = ("text", "json")


def daemon(session: Session, arguments: list[str], options: Options) -> int:
    config = node_config(options)
    with lean_imports():
        from swarmpy.node import probe, run

    if options.on("probe"):
        print(_found(probe(config)))
        return 0
    code: int = run(config)
    return code


def _found(executors: Sequence[Capabilities]) -> str:
    rows = [["EXECUTOR", "USABLE", "NOTES"]]
    for each in executors:
        first, *others = each.missing or ("",)
        rows.append([each.name, "yes" if each.is_usable else "no", first])
        rows += [["", "", other] for other in others]
    return table(rows)


def node_config(options: Options) -> NodeConfig:
    run_dir = Path(options.text("run-dir"))
    return NodeConfig(
        data_dir=_absolute(options.text("data-dir"), "data-dir"),
        run_dir=_absolute(options.text("run-dir"), "run-dir"),
        socket=_absolute(options.text("socket") or str(run_dir / "swarmpy.sock"), "socket"),
        api_addresses=tuple(options.many("api")),
        **_api_access(options),
        hostname=options.text("hostname") or socket.gethostname(),
        listen_address=options.text("listen-addr"),
        advertise_address=options.text("advertise-addr"),
        data_path_address=options.text("data-path-addr"),
        executor=_one_of(options.text("executor"), ("", *EXECUTORS), "executor"),
        engine_socket=_socket(options.text("engine-socket")),
        userns_remap=options.text("userns-remap"),
        cgroup_parent=options.text("cgroup-parent"),
        labels=dict(values.pair(entry, what="label") for entry in options.many("label")),
        generic_resources=_generic_resources(options.many("generic-resource")),
        insecure_registries=tuple(options.many("insecure-registry")),
        registry_mirrors=tuple(_mirror(url) for url in options.many("registry-mirror")),
        image_gc_age=_age(options.text("image-gc-age"), "image-gc-age"),
        image_gc_disk=_percentages(options.text("image-gc-disk"), "image-gc-disk"),
        log_level=_one_of(options.text("log-level"), _LEVELS, "log-level"),
        log_format=_one_of(options.text("log-format"), _FORMATS, "log-format"),
    )


_TLS_FLAGS = {"api_ca": "tlscacert", "api_cert": "tlscert", "api_key": "tlskey"}


class _ApiAccess(TypedDict):
    api_ca: Path | None
    api_cert: Path | None
    api_key: Path | None
    api_group: str


def _api_access(options: Options) -> _ApiAccess:
    """Who may reach the API: all of the TLS files, or none."""
    given = {field: flag for field, flag in _TLS_FLAGS.items() if options.text(flag)}
    if (given or options.on("tlsverify")) and len(given) < len(_TLS_FLAGS):
        missing = ", ".join(f"--{flag}" for field, flag in _TLS_FLAGS.items() if field not in given)
        raise UsageError(f"TLS on the API needs three files: {missing} is missing")
    if options.is_set("tlsverify") and not options.on("tlsverify") and given:
        raise UsageError("the API lets nobody in without a certificate: leave --tlsverify=false out")
    ca, cert, key = (
        _absolute(options.text(flag), flag) if flag in given.values() else None
        for flag in _TLS_FLAGS.values()
    )
    return _ApiAccess(api_ca=ca, api_cert=cert, api_key=key, api_group=options.text("group"))


def _generic_resources(entries: list[str]) -> tuple[GenericResource, ...]:
    try:
        return generic_resources.parse(entries)
    except InvalidArgument as error:
        raise UsageError(str(error)) from None


def _mirror(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/"):
        raise UsageError(f'invalid argument "{url}" for "--registry-mirror" flag: give http(s)://HOST[:PORT]')
    if parts.username or parts.query or parts.fragment:
        raise UsageError(f'invalid argument "{url}" for "--registry-mirror" flag: give no more than a host')
    return f"{parts.scheme}://{parts.netloc}"


def _age(text: str, flag: str) -> Duration:
    age = values.duration_ns(text)
    if age < 0:
        raise UsageError(f'invalid argument "{text}" for "--{flag}" flag: give 0 or more')
    return Duration(age)


def _percentages(text: str, flag: str) -> tuple[int, int]:
    """``HIGH:LOW``, or 0 for none."""
    if text == "0":
        return 0, 0
    high, _, low = text.partition(":")
    if high.isdecimal() and low.isdecimal() and 0 < int(low) <= int(high) <= 100:
        return int(high), int(low)
    raise UsageError(f'invalid argument "{text}" for "--{flag}" flag: give HIGH:LOW in percent, or 0')


def _socket(path: str) -> str:
    return path and str(_absolute(path.removeprefix("unix://"), "engine-socket"))


def _absolute(path: str, flag: str) -> Path:
    if not path.startswith("/"):
        raise UsageError(f'invalid argument "{path}" for "--{flag}" flag: give an absolute path')
    return Path(path)


def _one_of(value: str, choices: tuple[str, ...], flag: str) -> str:
    if value not in choices:
        known = ", ".join(filter(None, choices))
        raise UsageError(f'invalid argument "{value}" for "--{flag}" flag: give one of {known}')
    return value


COMMANDS = {
    "daemon": Command(
        daemon,
        "Run this node's daemon in the foreground",
        flags=(
            text("data-dir", "Where state is kept", default=str(DATA_DIR)),
            text("run-dir", "Where sockets and the like are kept while it runs", default=str(RUN_DIR)),
            text("socket", "Unix socket to serve the API on (default swarmpy.sock in the run-dir)"),
            listed("api", "Also serve the API on this address (HOST:PORT); with TLS unless it is loopback"),
            text("tlscacert", "Certificate of who issues the certificates of the API's clients"),
            text("tlscert", "Certificate that the API shows on TCP"),
            text("tlskey", "Key of that certificate"),
            switch("tlsverify", "Serve clients with a certificate only (always so with TLS)"),
            text("group", "Group that owns the unix socket (default docker or swarmpy)", short="G"),
            text("hostname", "Name of this node (default the machine's)"),
            text("listen-addr", "Listen address of the swarm", default=LISTEN_ADDRESS),
            text("advertise-addr", "Advertised address, if init or join name none"),
            text("data-path-addr", "Address of data path traffic, if init or join name none"),
            text(
                "executor",
                f"What runs tasks ({', '.join(EXECUTORS)}; default the one before, or the first that can)",
            ),
            text("engine-socket", "Unix socket of podman or docker (default the engine's own)"),
            text(
                "userns-remap",
                "Ids that tasks have as theirs (native only): default, user[:group], uid[:gid] or FIRST+SIZE",
            ),
            switch("probe", "Print which executors can run tasks on this machine, and end"),
            text("cgroup-parent", "Cgroup below which tasks run", default=CGROUP_PARENT),
            listed("label", "Label of this node's engine (key=value)"),
            listed("generic-resource", "Resource that tasks can reserve (KIND=NAME or KIND=NUMBER)"),
            listed("insecure-registry", "Registry (HOST[:PORT] or subnet) that may be without good TLS"),
            listed("registry-mirror", "URL that is asked for docker.io's images before docker.io is"),
            text(
                "image-gc-age",
                "Remove pulled images that no task has used for so long (0: keep them)",
                default=f"{IMAGE_GC_AGE_S // 3600}h",
            ),
            text(
                "image-gc-disk",
                "Above HIGH percent of the disk remove pulled images that no task uses, longest unused "
                "first, until LOW (HIGH:LOW, 0: keep them)",
                default=f"{IMAGE_GC_HIGH_PERCENT}:{IMAGE_GC_LOW_PERCENT}",
            ),
            text("log-level", "How much to log (debug, info, warning, error)", default="info"),
            text("log-format", "How to log (text, json)", default="text"),
        ),
    )
}
