"""``swarmpy image save|import|pull|push|…``: images on their way from and to elsewhere, and their names."""

from __future__ import annotations

import json
import os
import sys
from base64 import urlsafe_b64encode
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final
from urllib.parse import quote

from swarmpy.cli.flags import Command, Options, UsageError, listed, switch, text
from swarmpy.cli.image_files import chunks
from swarmpy.cli.output import FORMAT, LIST_FLAGS, NO_TRUNC, Listing, parse_filters, show_items, show_list
from swarmpy.cli.render import duration, size
from swarmpy.cli.session import Session, each, tell
from swarmpy.client import filters

_CHUNK_BYTES: Final = 1 << 20
_COMMAND_CHARS: Final = 45
_ID_CHARS: Final = 12
_AUTH: Final = "X-Registry-Auth"
_HISTORY = {
    "ID": "IMAGE",
    "CreatedSince": "CREATED",
    "CreatedBy": "CREATED BY",
    "Size": "SIZE",
    "Comment": "COMMENT",
}


def _path(name: str, verb: str = "") -> str:
    return f"/images/{quote(name, safe='/:@')}" + (f"/{verb}" if verb else "")


def inspect(session: Session, arguments: list[str], options: Options) -> int:
    found: list[Any] = []

    def one(name: str) -> None:
        found.append(session.client.get(_path(name, "json")))

    code = each(arguments, one)
    show_items(found, options)
    return code


def history(session: Session, arguments: list[str], options: Options) -> int:
    is_whole = options.on("no-trunc")
    now = datetime.now(UTC).timestamp()
    rows = []
    for step in session.client.get(_path(arguments[0], "history")):
        command = step["CreatedBy"].replace("\t", " ")
        if not is_whole and len(command) > _COMMAND_CHARS:
            command = f"{command[: _COMMAND_CHARS - 1]}…"
        rows.append(
            {
                "ID": step["Id"] if is_whole else step["Id"].removeprefix("sha256:")[:_ID_CHARS],
                "CreatedSince": f"{duration(now - step['Created'])} ago" if step["Created"] > 0 else "N/A",
                "CreatedBy": command,
                "Size": size(step["Size"]),
                "Comment": step["Comment"],
            }
        )
    show_list(Listing(_HISTORY, rows), options)
    return 0


def tag(session: Session, arguments: list[str], options: Options) -> int:
    source, target = arguments
    session.client.post(_path(source, "tag"), None, {"repo": target})
    return 0


def save(session: Session, arguments: list[str], options: Options) -> int:
    """To a file that is only there once it is whole."""
    target = options.text("output")
    if not target and sys.stdout.isatty():
        raise UsageError("an archive is no text for a terminal: name a file with --output, or redirect")
    query = {"names": ",".join(arguments)}
    with session.client.stream("/images/get", query) as response:
        if not target:
            _copy(response, sys.stdout.buffer)
            return 0
        half = Path(f"{target}.part")
        try:
            with open(half, "wb") as file:
                _copy(response, file)
            os.replace(half, target)
        except OSError as error:
            half.unlink(missing_ok=True)
            tell(f"Error: {target} cannot be written: {error.strerror or error}")
            return 1
    return 0


def _copy(source: Any, target: IO[bytes]) -> None:
    while chunk := source.read(_CHUNK_BYTES):
        target.write(chunk)
    target.flush()


def import_(session: Session, arguments: list[str], options: Options) -> int:
    path, name = arguments[0], arguments[1] if len(arguments) > 1 else ""
    query = {"fromSrc": "-", "repo": name, "message": options.text("message")}
    changes = "\n".join(options.many("change"))
    given = {key: value for key, value in {**query, "changes": changes}.items() if value}
    source: AbstractContextManager[IO[bytes]]
    try:
        source = nullcontext(sys.stdin.buffer) if path == "-" else open(path, "rb")  # noqa: SIM115
    except OSError as error:
        tell(f"Error: {path} cannot be read: {error.strerror}")
        return 1
    with source as file, session.client.stream("/images/create", given, upload=chunks(file)) as response:
        for line in response:
            if line.strip():
                print(json.loads(line)["status"])
    return 0


def pull(session: Session, arguments: list[str], options: Options) -> int:
    query = {"fromImage": _with_tag(arguments[0]), "platform": options.text("platform")}
    given = {key: value for key, value in query.items() if value}
    with session.client.stream(
        "/images/create", given, method="POST", upload=(), headers=_auth(options)
    ) as response:
        return _tell_story(response, is_quiet=options.on("quiet"))


def push_to_registry(session: Session, arguments: list[str], options: Options) -> int:
    name = _with_tag(arguments[0])
    repository, _, tag = name.rpartition(":")
    headers = {_AUTH: urlsafe_b64encode(b"{}").decode(), **_auth(options)}
    with session.client.stream(
        _path(repository, "push"), {"tag": tag}, method="POST", upload=(), headers=headers
    ) as response:
        return _tell_story(response, is_quiet=options.on("quiet"))


def _with_tag(name: str) -> str:
    return name if "@" in name or ":" in name.rpartition("/")[2] else f"{name}:latest"


def _auth(options: Options) -> dict[str, str]:
    """Credentials are asked for each time: this program keeps none."""
    user = options.text("username")
    if not user:
        return {}
    if not options.on("password-stdin"):
        raise UsageError("give the password on standard input, with --password-stdin")
    password = sys.stdin.readline().rstrip("\n")
    return {_AUTH: urlsafe_b64encode(json.dumps({"username": user, "password": password}).encode()).decode()}


def _tell_story(lines: Iterable[bytes], *, is_quiet: bool) -> int:
    """Steps as lines; what is measured is left out, since lines do not move."""
    for line in lines:
        if not line.strip():
            continue
        step = json.loads(line)
        if "error" in step:
            tell(f"Error: {step['error']}")
            return 1
        if is_quiet or not step.get("status") or step.get("progressDetail"):
            continue
        print(f"{step['id']}: {step['status']}" if step.get("id") else step["status"], flush=True)
    return 0


def prune(session: Session, arguments: list[str], options: Options) -> int:
    wanted = parse_filters(options.many("filter"))
    if not options.on("force"):
        kind = "all images that no task stands on" if options.on("all") else "all images without a name"
        raise UsageError(f"this will remove {kind}: say so with --force")
    wanted["dangling"] = ["false" if options.on("all") else "true"]
    done = session.client.post("/images/prune", None, filters(wanted))
    rows = [
        f"{action.lower()}: {what}" for row in done["ImagesDeleted"] or () for action, what in row.items()
    ]
    if rows:
        print("\n".join(["Deleted Images:", *rows, ""]))
    print(f"Total reclaimed space: {size(done['SpaceReclaimed'])}")
    return 0


REGISTRY_FLAGS = (
    text("username", "Who asks the registry", short="u"),
    switch("password-stdin", "Read the password from standard input"),
    switch("quiet", "Tell nothing but errors", short="q"),
)
COMMANDS = {
    "history": Command(history, "Show how an image was made", "IMAGE", 1, 1, flags=(*LIST_FLAGS, NO_TRUNC)),
    "import": Command(
        import_,
        "Make an image of a root file system's tar archive",
        "FILE|- [REPOSITORY[:TAG]]",
        1,
        2,
        (
            listed("change", "Apply a Dockerfile's instruction to the image", short="c"),
            text("message", "What the image's history says of it", short="m"),
        ),
    ),
    "inspect": Command(inspect, "Show all that is known of images", "IMAGE [IMAGE...]", 1, None, (FORMAT,)),
    "prune": Command(
        prune,
        "Remove unused images",
        flags=(
            switch("all", "Remove all images that no task stands on, not just nameless ones", short="a"),
            listed("filter", "Provide filter values (e.g. until=24h, label=<label>)"),
            switch("force", "Do it", short="f"),
        ),
    ),
    "pull": Command(
        pull,
        "Fetch an image from a registry to this node",
        "NAME[:TAG|@DIGEST]",
        1,
        1,
        (text("platform", "For this platform (os/architecture), if there is a choice"), *REGISTRY_FLAGS),
    ),
    "save": Command(
        save,
        "Write images into a tar archive",
        "IMAGE [IMAGE...]",
        1,
        None,
        (text("output", "Write to this file, not to standard output", short="o"),),
    ),
    "tag": Command(tag, "Give an image one more name", "SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]", 2, 2),
}
