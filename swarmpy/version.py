"""The program's version and the Engine API versions that it speaks. Nothing else."""

from __future__ import annotations

from typing import Final

VERSION: Final = "0.1.0"
API_VERSION: Final = "1.47"
API_VERSION_MIN: Final = "1.24"
