"""The commands of a page in ``docs/`` and what the page says that they print, so that a test can run them.

In ``console`` blocks a line that begins with ``# `` is a command, and the lines after it are what it prints:
in this order, perhaps with others between them. ``…`` stands for anything.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_ANYTHING = "…"


@dataclass(frozen=True)
class Step:
    command: str
    prints: tuple[str, ...]

    def missing(self, output: str) -> str:
        """The first line that was promised and did not come; "" if all came."""
        lines = iter(output.splitlines())
        for promised in self.prints:
            pattern = re.compile(".*".join(re.escape(part) for part in promised.split(_ANYTHING)))
            if not any(pattern.fullmatch(line.rstrip()) for line in lines):
                return promised
        return ""


def steps_of(page: Path) -> list[Step]:
    steps: list[Step] = []
    for block in _BLOCK.findall(page.read_text(encoding="utf-8")):
        for line in block.splitlines():
            if line.startswith("# "):
                steps.append(Step(line[2:], ()))
            elif line != _ANYTHING:
                last = steps[-1]
                steps[-1] = Step(last.command, (*last.prints, line))
    return steps
