"""``swarmpy image …``: the images on the node that is talked to."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from urllib.parse import quote

from swarmpy.cli import image_moves, image_push
from swarmpy.cli.flags import Command, Options, UsageError, switch, text
from swarmpy.cli.image_files import open_source
from swarmpy.cli.output import LIST_FLAGS, NO_TRUNC, Listing, show_list
from swarmpy.cli.render import duration, size
from swarmpy.cli.session import Session, each, tell

_ID_CHARS: Final = 12
_COLUMNS = {
    "Repository": "REPOSITORY",
    "Tag": "TAG",
    "ID": "IMAGE ID",
    "CreatedSince": "CREATED",
    "Size": "SIZE",
}


def ls(session: Session, arguments: list[str], options: Options) -> int:
    rows = []
    for image in session.client.get("/images/json"):
        for name in image["RepoTags"] or ["<none>:<none>"]:
            repository, tag = split_tag(name)
            id_ = image["Id"] if options.on("no-trunc") else image["Id"].removeprefix("sha256:")[:_ID_CHARS]
            created = image["Created"]
            since = f"{duration(datetime.now(UTC).timestamp() - created)} ago" if created else "N/A"
            rows.append(
                {
                    "Repository": repository,
                    "Tag": tag,
                    "ID": id_,
                    "CreatedSince": since,
                    "Size": size(image["Size"]),
                }
            )
    rows.sort(key=lambda row: (row["Repository"], row["Tag"]))
    show_list(Listing(_COLUMNS, rows), options)
    return 0


def split_tag(name: str) -> tuple[str, str]:
    """``registry:5000/app:1`` is ``registry:5000/app`` and ``1``."""
    head, colon, tag = name.rpartition(":")
    return (head, tag) if colon and "/" not in tag else (name, "<none>")


def load(session: Session, arguments: list[str], options: Options) -> int:
    path = arguments[0] if arguments else options.text("input")
    if not path:
        raise UsageError("name the archive to load, or - for standard input")
    query = {"name": options.text("name"), "filename": "" if path == "-" else Path(path).resolve().name}
    given = {key: value for key, value in query.items() if value}
    try:
        source = open_source(path)
    except OSError as error:
        tell(f"Error: {path} cannot be read: {error.strerror}")
        return 1
    with source as pieces, session.client.stream("/images/load", given, upload=pieces) as response:
        for line in response:
            if line.strip():
                print(json.loads(line)["stream"].rstrip("\n"))
    return 0


def rm(session: Session, arguments: list[str], options: Options) -> int:
    query = {"force": True} if options.on("force") else None

    def one(name: str) -> None:
        for entry in session.client.delete(f"/images/{quote(name, safe='/:@')}", query):
            for action, what in entry.items():
                print(f"{action}: {what}")

    return each(arguments, one)


COMMANDS = {
    **image_moves.COMMANDS,
    **image_push.COMMANDS,
    "ls": Command(ls, "List images", flags=(*LIST_FLAGS, NO_TRUNC)),
    "load": Command(
        load,
        "Load an image from an OCI layout or a tar archive",
        "[FILE|-]",
        0,
        1,
        (
            text("input", "Read from this file", short="i"),
            text("name", "Name of an image that its archive does not name (default: the file's)"),
        ),
    ),
    "rm": Command(
        rm,
        "Remove one or more images",
        "IMAGE [IMAGE...]",
        1,
        None,
        (switch("force", "Also while tasks stand on it", short="f"),),
    ),
}
