"""The program's version, the format of its store, and the Engine API versions that it speaks."""

from __future__ import annotations

from typing import Final

VERSION: Final = "0.1.0"
STORE_FORMAT: Final = 2
"""The newest way to read the log that this version knows.

One more whenever the same entry would leave another store behind than before; the old way holds until
``Cluster.store_format`` says that all managers know the new one.
"""
STORE_FORMAT_AUTOLOCK: Final = 2
"""From this one on every manager seals its keys with the cluster's unlock key."""
STORE_FORMAT_ROOT_ROTATION: Final = 2
"""From this one on every manager knows of roots that follow one another."""
API_VERSION: Final = "1.47"
API_VERSION_MIN: Final = "1.24"
