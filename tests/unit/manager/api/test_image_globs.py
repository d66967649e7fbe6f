"""Docker's globs of image names: they stop at slashes, and none takes long."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from manager.api.image_filters import _glob


def slowly(pattern: str, name: str) -> bool:
    """The plain meaning: every way is tried."""
    if not pattern:
        return not name
    if pattern[0] == "*":
        return slowly(pattern[1:], name) or bool(name and name[0] != "/" and slowly(pattern, name[1:]))
    if pattern[0] == "?":
        return bool(name) and name[0] != "/" and slowly(pattern[1:], name[1:])
    return bool(name) and name[0] == pattern[0] and slowly(pattern[1:], name[1:])


@given(st.text("ab/*?", max_size=7), st.text("ab/", max_size=9))
def test_a_glob_means_what_a_shell_means(pattern: str, name: str) -> None:
    assert bool(_glob(pattern).fullmatch(name)) == slowly(pattern, name)


def test_classes_and_hostile_patterns() -> None:
    assert _glob("a[b-d]").fullmatch("ac")
    assert _glob("a[^b]").fullmatch("ac")
    assert not _glob("a[^b]").fullmatch("ab")
    assert _glob("a\\*").fullmatch("a*")
    assert _glob("docker.io/library/box").fullmatch("box")
    assert not _glob("*a" * 60 + "b").fullmatch("a" * 255)
    assert isinstance(_glob("[" * 9), re.Pattern)
