"""``swarmpy secret …``: see ``files``."""

from __future__ import annotations

from swarmpy.cli.files import commands

COMMANDS = commands("secret")
