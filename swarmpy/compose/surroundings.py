"""What the words of a document depend on besides themselves: where it lies, variables, other files."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping as Mappings
from dataclasses import dataclass, field

from swarmpy.compose.fields import Fields
from swarmpy.compose.stack import Files, StackWarning


@dataclass(frozen=True, slots=True)
class Surroundings:
    """``warnings`` is what is found out meanwhile."""

    folder: str
    variables: Mappings[str, str]
    files: Files
    warnings: list[StackWarning] = field(default_factory=list)

    def path(self, text: str) -> str:
        if text == "~" or text.startswith("~/"):
            text = self.variables.get("HOME", "/root") + text[1:]
        return posixpath.normpath(posixpath.join(self.folder, text))

    def text(self, fields: Fields, key: str, path: str) -> str | None:
        """A file that ``key`` names."""
        return fields.parse(key, lambda: self.files.get(path))
