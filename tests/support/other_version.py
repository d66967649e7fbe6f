"""Another version of this program, made of this one: its own copy with a field more in its specs.

What a later release may do is done to the copy: a new field in a protobuf message and its Struct, another
version's name, and if asked the next format of the store.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from swarmpy.lab.layout import DAEMON_COMMAND
from swarmpy.version import STORE_FORMAT, VERSION

ROOT: Final = Path(__file__).parents[2]
NEW_FIELD: Final = "Mood"
"""As the API spells it; in the spec of a container."""
NEW_VERSION: Final = "9.9.0"
_PACKAGES: Final = ("swarmpy", "agent", "manager", "proto")
_TIMEOUT_S: Final = 120.0


def make(folder: Path, *, store_format: int = STORE_FORMAT) -> tuple[str, ...]:
    """The daemon's command of a later version, whose code lies in ``folder`` then."""
    for package in _PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    _replace(
        folder / "swarmpy/version.py", f'VERSION: Final = "{VERSION}"', f'VERSION: Final = "{NEW_VERSION}"'
    )
    _replace(
        folder / "swarmpy/version.py",
        f"STORE_FORMAT: Final = {STORE_FORMAT}",
        f"STORE_FORMAT: Final = {store_format}",
    )
    head = "message ContainerSpec {\n"
    _replace(folder / "proto/swarmpy/v1/specs.proto", head, f"{head}  string mood = 900;\n")
    head = "class ContainerSpec(Value, frozen=True, kw_only=True):\n"
    _replace(folder / "swarmpy/model/specs.py", head, f'{head}    mood: str = ""\n')
    subprocess.run(
        [sys.executable, str(folder / "proto/generate.py")], cwd=folder, check=True, timeout=_TIMEOUT_S
    )
    return ("env", f"PYTHONPATH={folder}", *DAEMON_COMMAND)


def _replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1, f"{path.name} is not as it was: {old!r}"
    path.write_text(text.replace(old, new))
