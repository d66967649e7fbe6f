"""``swarmpy image push``: to the registry that a name leads to, as docker does; or straight to nodes.

Which of the two is meant shows in the form alone, never in what happens to exist: one word and nothing that
speaks of nodes is a name for a registry. Nodes that are down are told of before anything is sent.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import quote

from swarmpy.cli.flags import Command, Options, UsageError, switch, text
from swarmpy.cli.image_files import open_source
from swarmpy.cli.image_moves import REGISTRY_FLAGS, push_to_registry
from swarmpy.cli.render import size
from swarmpy.cli.session import Session, tell, tell_refused
from swarmpy.client import ErrorAnswer, Json

if TYPE_CHECKING:
    from rich.live import Live

_PATH: Final = "/swarmpy/images/push"
_AWAY: Final = ("down",)
_FORMS: Final = (
    "NAME[:TAG] goes to its registry; NODE [NODE...] FILE, --all FILE, and --image NAME with nodes or --all "
    "go to nodes"
)


class Wish(NamedTuple):
    """A push to nodes. Without a ``file`` it is of the ``image`` that the daemon's node has."""

    nodes: tuple[str, ...]
    is_all: bool
    file: str
    image: str


def wish_of(arguments: list[str], options: Options) -> Wish | None:
    """What is meant; None: a push to a registry. UsageError if it is neither."""
    is_all, image = options.on("all"), options.text("image")
    if len(arguments) == 1 and not is_all and not image:
        if options.text("name"):
            raise UsageError("--name is for what goes to nodes: " + _FORMS)
        return None
    if not arguments and not image:
        raise UsageError("say what to push, and where to: " + _FORMS)
    for flag in ("username", "password-stdin"):
        if options.is_set(flag):
            raise UsageError(f"--{flag} is for registries, and none is asked when nodes are pushed to")
    file = "" if image else arguments[-1]
    nodes = tuple(arguments if image else arguments[:-1])
    if is_all and nodes:
        raise UsageError(f"--all means every node: name none beside it ({', '.join(nodes)})")
    if not is_all and not nodes:
        raise UsageError("name the nodes to push to, or give --all for every node")
    if file and file != "-" and not Path(file).exists():
        raise UsageError(
            f'there is no file "{file}": after the nodes comes an archive, an OCI layout\'s folder, or - for '
            f"standard input; an image that this node has is pushed with --image {file}"
        )
    return Wish(nodes, is_all, file, image)


def push(session: Session, arguments: list[str], options: Options) -> int:
    wish = wish_of(arguments, options)
    if wish is None:
        return push_to_registry(session, arguments, options)
    nodes, away, code = _nodes(session, wish)
    if not nodes:
        return 1
    given = {
        "all": "true" if wish.is_all else "",
        "nodes": "" if wish.is_all else ",".join(nodes),
        "image": wish.image,
        "filename": Path(wish.file).resolve().name if wish.file not in ("", "-") else "",
        "name": options.text("name"),
    }
    query = {key: value for key, value in given.items() if value}
    source: AbstractContextManager[Iterator[bytes]]
    try:
        source = open_source(wish.file) if wish.file else nullcontext(iter(()))
    except OSError as error:
        tell(f"Error: {wish.file} cannot be read: {error.strerror}")
        return 1
    with source as pieces, session.client.stream(_PATH, query, upload=pieces) as response:
        steps = _steps(response, away)
        return _tell_story(session, steps, nodes, is_quiet=options.on("quiet")) or code


def _steps(lines: Iterable[bytes], away: frozenset[str]) -> Iterator[Json]:
    """The story, without what was told already."""
    for line in lines:
        if line.strip():
            step = json.loads(line)
            if (step.get("aux") or {}).get("NodeID") not in away:
                yield step


def _nodes(session: Session, wish: Wish) -> tuple[dict[str, str], frozenset[str], int]:
    """Ids and names of those that may be up; ids of the others, of which was told; the exit code so far."""
    code = 0
    found: list[Json] = session.client.get("/nodes") if wish.is_all else []
    for name in wish.nodes:
        try:
            found.append(session.client.get(f"/nodes/{quote(name, safe='')}"))
        except ErrorAnswer as error:
            tell_refused(error)
            code = 1
    up: dict[str, str] = {}
    away = set()
    for node in found:
        name = node["Description"].get("Hostname") or node["ID"]
        state = node["Status"].get("State", "unknown")
        if state in _AWAY:
            tell(f"Error: {name}: the node is {state}; push to it again once it is back")
            away.add(node["ID"])
            code = 1
        else:
            up[node["ID"]] = name
    return up, frozenset(away), code


# --- what is shown


class _Board:
    """What is known of each node, by its name."""

    def __init__(self, names: Iterable[str]) -> None:
        self.lines: dict[str, str] = dict.fromkeys(names, "Waiting")

    def heard(self, step: Json) -> None:
        name, status = step.get("id", ""), step.get("status", "")
        if name in self.lines and status and not status.startswith("Error"):
            self.lines[name] = f"{status} {step.get('progress', '')}".rstrip()


def _tell_story(session: Session, steps: Iterable[Json], nodes: dict[str, str], *, is_quiet: bool) -> int:
    """1 if one node, or all, could not be pushed to."""
    board, failed, waited = _Board(nodes.values()), [], dict(nodes)
    trouble = ""
    with _screen(session, is_quiet=is_quiet) as live:
        for step in steps:
            trouble = step.get("error", "") or trouble
            end = step.get("aux")
            if end is not None:
                name = waited.pop(end["NodeID"], end["Node"])
                if "Error" in end:
                    failed.append(f"Error: {name}: {end['Error']}")
                board.lines[name] = "failed" if "Error" in end else summary(end)
                if live is None and not is_quiet and "Error" not in end:
                    print(f"{name}: {board.lines[name]}", flush=True)
            else:
                board.heard(step)
            if live is not None:
                _draw(live, board)
    failed += [f"Error: {name}: the daemon has not said how the push to it ended" for name in waited.values()]
    for text_ in (f"Error: {trouble}",) if trouble else failed:
        tell(text_)
    return 1 if trouble or failed else 0


def summary(end: Json) -> str:
    """What has happened on one node, in one line."""
    names = ", ".join(end["Images"]) or "the image"
    sent, present = end["LayersSent"], end["LayersPresent"]
    if not sent:
        return f"{names} (no layer sent, {present} there already)"
    there = f", {present} there already" if present else ""
    return f"{names} ({sent} layer{'s' if sent != 1 else ''} sent, {size(end['BytesSent'])}{there})"


def _draw(live: Live, board: _Board) -> None:
    from rich.text import Text

    text_ = "\n".join(f"{name}: {line}" for name, line in board.lines.items())
    live.update(Text(text_, no_wrap=True, overflow="ellipsis"), refresh=True)


@contextmanager
def _screen(session: Session, *, is_quiet: bool) -> Iterator[Live | None]:
    """Lines that move, on a terminal."""
    if is_quiet or not session.is_terminal:
        yield None
        return
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(file=sys.stdout, highlight=False), auto_refresh=False) as live:
        yield live


COMMANDS: Final = {
    "push": Command(
        push,
        "Give an image to the registry that its name leads to; or, with nodes and an archive (or --image), "
        "copy images straight to nodes, only the layers that are missing there",
        "NAME[:TAG] | NODE [NODE...] FILE|- | --all FILE|- | --image NAME (--all | NODE [NODE...])",
        0,
        None,
        (
            switch("all", "Copy to every node of the swarm"),
            text("image", "Copy this image, which the daemon's node has, instead of an archive"),
            text("name", "For nodes: name of an image that its archive does not name (default: the file's)"),
            *REGISTRY_FLAGS,
        ),
    ),
}
