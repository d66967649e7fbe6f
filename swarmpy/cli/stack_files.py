"""What a stack is read from: Compose files, standard input, files that they name, and the variables
around."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from swarmpy.compose.limits import COMPOSE_BYTES_MAX
from swarmpy.errors import InvalidArgument, NotFound

if TYPE_CHECKING:
    from swarmpy.compose import Document, Stack

STDIN: Final = "-"
_ENVIRONMENT: Final = ".env"
_PROFILES: Final = "COMPOSE_PROFILES"


class DiskFiles:
    """``Files`` of ``swarmpy.compose``: read when they are asked for, and once."""

    def __init__(self) -> None:
        self._texts: dict[str, str | None] = {}

    def get(self, path: str, /) -> str | None:
        if path not in self._texts:
            data = read_bytes(path, most=COMPOSE_BYTES_MAX)
            self._texts[path] = None if data is None else _text(data, path, wanted="text")
        return self._texts[path]


def read_bytes(path: str, *, most: int) -> bytes | None:
    """None if there is no such file. A file that never ends, such as a device, is read to the bound only."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(most + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InvalidArgument(f"{path} cannot be read: {error.strerror}") from None
    if len(data) > most:
        raise InvalidArgument(f"{path} is larger than {most} bytes: give a smaller file")
    return data


def _text(data: bytes, path: str, *, wanted: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise InvalidArgument(f"{path} is not a text file in UTF-8: give {wanted}") from None


def documents(paths: Sequence[str]) -> list[Document]:
    """The Compose files of a command line; ``-`` is standard input, whose paths start at the working
    folder."""
    from swarmpy.compose import Document

    if paths.count(STDIN) > 1:
        raise InvalidArgument("standard input can be read only once: give -c - once")
    found = []
    for path in paths:
        if path == STDIN:
            data: bytes | None = sys.stdin.buffer.read(COMPOSE_BYTES_MAX + 1)
            folder = Path.cwd()
        else:
            data = read_bytes(path, most=COMPOSE_BYTES_MAX)
            folder = Path(path).absolute().parent
        if data is None:
            raise NotFound(f"{path} cannot be read: No such file or directory")
        found.append(
            Document(path, _text(data, path, wanted="a Compose file"), folder=os.path.normpath(folder))
        )
    return found


def surroundings(
    found: Sequence[Document], env_files: Sequence[str], environment: Mapping[str, str]
) -> dict[str, str]:
    """The variables: those of the environment go before those of ``env_files``, or of ``.env`` beside the
    first Compose file."""
    from swarmpy.compose.dotenv import variables_of

    files = DiskFiles()
    variables: dict[str, str] = {}
    paths = list(env_files) or [os.path.join(found[0].folder, _ENVIRONMENT)]
    for path in paths:
        text = files.get(path)
        if text is None and env_files:
            raise NotFound(f"{path} cannot be read: No such file or directory")
        variables |= variables_of(text or "", path, {**variables, **environment})
    return {**variables, **environment}


def profiles(chosen: Sequence[str], variables: Mapping[str, str]) -> set[str]:
    named = [*chosen, *variables.get(_PROFILES, "").split(",")]
    return {name.strip() for name in named} - {""}


def read(
    name: str,
    paths: Sequence[str],
    *,
    environment: Mapping[str, str],
    env_files: Sequence[str] = (),
    chosen_profiles: Sequence[str] = (),
) -> tuple[Stack, dict[str, str]]:
    """The stack and the variables that it was read with."""
    from swarmpy.compose import read_stack, runnable

    found = documents(paths)
    variables = surroundings(found, env_files, environment)
    stack = read_stack(
        found,
        name=name,
        variables=variables,
        files=DiskFiles(),
        profiles=profiles(chosen_profiles, variables),
    )
    return runnable(stack), variables
