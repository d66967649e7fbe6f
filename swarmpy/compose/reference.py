"""The table of keys in docs/compose.md, from the tables that the code checks documents against.

Run: python -m swarmpy.compose.reference docs/compose.md
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from swarmpy.compose.runnable import MISSING
from swarmpy.compose.tables import TABLES, Fate

MARKER = "<!-- below: python -m swarmpy.compose.reference docs/compose.md -->"


def reference() -> str:
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield "| Where | Key | What becomes of it |\n|---|---|---|"
    for table, keys in TABLES.items():
        plain = [name for name in keys if not _told(table, name)]
        yield f"| {table} | {', '.join(f'`{name}`' for name in sorted(plain))} | understood |"
        for name in keys:
            told = _told(table, name)
            if told:
                yield f"| {table} | `{name}` | {_cell(told)} |"


def _told(table: str, name: str) -> str:
    """What is to be said of a key, unless it is just understood."""
    key = TABLES[table][name]
    path = {"service": name, "deploy": f"deploy.{name}"}.get(table, "")
    match key.fate:
        case Fate.IGNORED:
            return f"ignored with a warning{': ' * bool(key.note)}{key.note}"
        case Fate.REFUSED:
            return f"refused: {key.note}"
    missing = f"read; warned of: {MISSING[path]}" if path in MISSING else ""
    return missing or (f"understood: {key.note}" if key.note else "")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def rewrite(path: Path) -> None:
    head, marker, _ = path.read_text(encoding="utf-8").partition(MARKER)
    if not marker:
        raise SystemExit(f"{path} has no line {MARKER}")
    path.write_text(f"{head}{MARKER}\n\n{reference()}", encoding="utf-8")


if __name__ == "__main__":
    rewrite(Path(sys.argv[1]))
