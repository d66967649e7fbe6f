"""What holds for all tests: the profiles of Hypothesis, and a log of its own for each file."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog
from budget import register_profiles

register_profiles()


@pytest.fixture(autouse=True, scope="module")
def _own_log() -> Iterator[None]:
    """A simulated run takes the process's log; which file comes next in the same process is chance."""
    yield
    structlog.reset_defaults()
