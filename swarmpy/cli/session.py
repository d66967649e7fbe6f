"""What every command is given: the daemon to talk to, the surroundings, the terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from swarmpy.client import Client, ErrorAnswer, Json, Query, filters

STALE_VERSION = "update out of sequence"


@dataclass(frozen=True)
class Session:
    client: Client
    environment: Mapping[str, str] = field(default_factory=dict)
    is_terminal: bool = False
    program: str = "swarmpy"


def tell(text: str) -> None:
    """A sentence for the user that is not the command's output."""
    print(text, file=sys.stderr)


def tell_refused(error: ErrorAnswer) -> None:
    """The daemon's words are docker's, the commands that they advise are ours."""
    tell(f"Error response from daemon: {error}".replace('"docker swarm ', '"swarmpy '))


def fail(text: str) -> None:
    print(f"Error: {text}", file=sys.stderr)


def wanted(name: str, value: str) -> Query:
    return filters({name: [value]})


def is_stale(error: ErrorAnswer) -> bool:
    """Somebody changed the object between our read and our write: read again and try again."""
    return STALE_VERSION in str(error)


T = TypeVar("T")


def each(items: Iterable[T], one: Callable[[T], None]) -> int:
    """Do the same to each; errors are told, the rest goes on, and the exit code remembers."""
    code = 0
    for item in items:
        try:
            one(item)
        except ErrorAnswer as error:
            tell_refused(error)
            code = 1
    return code


def version_of(item: Json) -> int:
    return int(item["Version"]["Index"])
