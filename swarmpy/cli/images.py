"""``swarmpy image …``: the images on the node that is talked to."""

from __future__ import annotations

import json
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Final
from urllib.parse import quote

from swarmpy.cli import image_moves
from swarmpy.cli.flags import Command, Options, UsageError, switch, text
from swarmpy.cli.output import LIST_FLAGS, NO_TRUNC, Listing, show_list
from swarmpy.cli.render import duration, size
from swarmpy.cli.session import Session, each, tell

_CHUNK_BYTES: Final = 1 << 20
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
        source = _open(path)
    except OSError as error:
        tell(f"Error: {path} cannot be read: {error.strerror}")
        return 1
    with source as file, session.client.stream("/images/load", given, upload=_chunks(file)) as response:
        for line in response:
            if line.strip():
                print(json.loads(line)["stream"].rstrip("\n"))
    return 0


def _open(path: str) -> AbstractContextManager[IO[bytes]]:
    """The archive; a folder (an OCI layout) becomes one on the way."""
    if path == "-":
        return nullcontext(sys.stdin.buffer)
    if not Path(path).is_dir():
        return open(path, "rb")
    spool = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    with tarfile.open(fileobj=spool, mode="w") as archive:
        archive.add(path, arcname=".")
    spool.seek(0)
    return spool


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK_BYTES):
        yield chunk


def rm(session: Session, arguments: list[str], options: Options) -> int:
    query = {"force": True} if options.on("force") else None

    def one(name: str) -> None:
        for entry in session.client.delete(f"/images/{quote(name, safe='/:@')}", query):
            for action, what in entry.items():
                print(f"{action}: {what}")

    return each(arguments, one)


COMMANDS = {
    **image_moves.COMMANDS,
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
