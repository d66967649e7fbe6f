"""The command reference in docs/cli.md, made from the tables that the commands themselves are made from.

``python -m swarmpy.cli.reference docs/cli.md`` rewrites what stands below the marker.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from swarmpy.cli.app import every_command
from swarmpy.cli.flags import Command, Flag, Takes

MARKER: Final = "<!-- made by python -m swarmpy.cli.reference -->\n"


def reference() -> str:
    return "\n".join(line for path, command in every_command() for line in _describe(path, command))


def _describe(path: str, command: Command) -> Iterator[str]:
    yield f"### `{path}`\n"
    yield f"{command.summary}.\n"
    options = " [OPTIONS]" if command.flags else ""
    yield f"```\n{path}{options} {command.arguments}".rstrip() + "\n```\n"
    if command.flags:
        yield "| Flag | Meaning |\n|---|---|"
        for flag in sorted(command.flags, key=lambda flag: flag.name):
            yield f"| {_name(flag)} | {_cell(flag)} |"
        yield ""


def _name(flag: Flag) -> str:
    name = f"`--{flag.name}`" if flag.takes is Takes.NOTHING else f"`--{flag.name} {flag.takes.value}`"
    return f"`-{flag.short}`, {name}" if flag.short else name


def _cell(flag: Flag) -> str:
    told = flag.help + (f" (default `{flag.default}`)" if flag.default else "")
    return told.replace("|", "\\|").replace("<", "&lt;")


def rewrite(path: Path) -> None:
    head, marker, _ = path.read_text(encoding="utf-8").partition(MARKER)
    if not marker:
        raise SystemExit(f"{path} has no line {MARKER.strip()}")
    path.write_text(f"{head}{MARKER}\n{reference()}", encoding="utf-8")


if __name__ == "__main__":
    rewrite(Path(sys.argv[1]))
