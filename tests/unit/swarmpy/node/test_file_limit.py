"""A daemon may open more files than the shell that it was started from."""

from __future__ import annotations

import resource
from collections.abc import Iterator

import pytest

from swarmpy.limits import DAEMON_FILES_MAX
from swarmpy.node import raise_file_limit


@pytest.fixture(autouse=True)
def limits() -> Iterator[tuple[int, int]]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield before
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_it_is_raised_as_far_as_it_may_be(limits: tuple[int, int]) -> None:
    hard = limits[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    raise_file_limit()
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert soft == (DAEMON_FILES_MAX if hard == resource.RLIM_INFINITY else min(hard, DAEMON_FILES_MAX))


def test_it_is_not_lowered(limits: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swarmpy.node.DAEMON_FILES_MAX", 16)
    raise_file_limit()
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == limits
