"""Where SwarmPy answers otherwise than dockerd 20.10, and why. ``docs/compatibility.md`` is made of it:

    python tests/support/oracle_differences.py docs/compatibility.md

One part per file of ``tests/contract/docker``; "everywhere" is for all of them. A part whose entry covered
nothing in a whole run of its file fails: the list holds what is true.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

EVERYWHERE: Final = "everywhere"


@dataclass(frozen=True)
class Difference:
    """``request``: method and path as the test writes them (``GET /services/$web``), ``field``: the path of a
    field of the answer, of all items of a list ``[]``; or ``status``, ``body``, ``header NAME``. ``*`` in
    either stands for anything."""

    request: str
    field: str
    reason: str

    def covers(self, request: str, where: str) -> bool:
        return bool(self._patterns[0].fullmatch(request) and self._patterns[1].fullmatch(where))

    @cached_property
    def _patterns(self) -> tuple[re.Pattern[str], ...]:
        return tuple(re.compile(re.escape(text).replace(r"\*", ".*")) for text in (self.request, self.field))


DIFFERENCES: Final[dict[str, tuple[Difference, ...]]] = {
    EVERYWHERE: (
        Difference("*", "header server", "It names the program that answers, and its version."),
        Difference("*", "header api-version", "SwarmPy speaks 1.47, dockerd 20.10 1.41."),
    ),
    "images": (
        Difference("GET /images/*/json", "message", "dockerd says it twice, until 23.0."),
        Difference("GET /images/json", "message", "dockerd says this with a capital, until 23.0."),
        Difference("POST /images/prune", "message", "dockerd says this with a capital, until 23.0."),
        Difference(
            "GET /images/*/json",
            "GraphDriver.Data.*",
            "Where layers lie is each one's own affair; none is mounted.",
        ),
        Difference("GET /images/web:1/json", "DockerVersion", "The version of what imported it."),
        Difference(
            "POST /images/web:1/tag", "status", "A bad name is a bad request; so says dockerd since 23.0."
        ),
    ),
    "system": (
        Difference("* /_ping", "header swarm", "dockerd sends it since 23.0; clients hide commands by it."),
    ),
}

_HEAD: Final = """# Where SwarmPy is not like dockerd

The same requests go to dockerd 20.10 and to SwarmPy (`tests/contract/docker`), and what a client sees is
compared: status, headers, which fields an answer has and what is in them, texts of errors. Ids, times,
addresses and version numbers are each cluster's own. All else that differs is below, with its reason; `*`
stands for anything, `[]` for every item of a list. This page is made of
`tests/support/oracle_differences.py`, and a test fails if a line of it is no longer true.
"""


def page() -> str:
    parts = [_HEAD]
    for name, entries in DIFFERENCES.items():
        title = name.replace("_", " ").capitalize()
        parts.append(f"\n## {title}\n\n| Request | Field | Why |\n|---|---|---|\n")
        parts += [f"| `{each.request}` | `{each.field}` | {each.reason} |\n" for each in entries]
    return "".join(parts)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page())
