"""Folders as a hostile task may leave them: measured and taken away."""

from __future__ import annotations

import os
import resource
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agent import trees

DEPTH = 2_500


@pytest.fixture
def deep() -> Iterator[Path]:
    """Deeper than a path can say and than a function can call itself, with files on the way."""
    top = Path(tempfile.mkdtemp(prefix="swarmpy-deep-", dir="/dev/shm"))
    here = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    for level in range(DEPTH):
        os.mkdir("d", dir_fd=here)
        inner = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
        os.close(here)
        here = inner
        if not level % 100:
            os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=here))
            os.symlink("/etc", "link", dir_fd=here)
    os.close(here)
    yield top
    trees.remove_tree(top)


def test_a_deep_tree_goes_with_few_files_open(deep: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 40, hard))
    try:
        trees.remove_tree(deep)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert not deep.exists()


def test_a_deep_tree_is_measured_as_far_as_paths_go(deep: Path) -> None:
    (deep / "big").write_bytes(bytes(1_000))
    assert 1_000 <= sum(found.st_size for found in trees.files_below(deep)) < 10_000


def test_nothing_outside_of_a_tree_is_touched(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir(mode=0o750)
    (kept / "file").write_text("kept")
    top = tmp_path / "top"
    (top / "a/b").mkdir(parents=True)
    (top / "a/out").symlink_to(kept)
    (top / "out").symlink_to(kept)
    (top / ".removed-0").mkdir()
    (top / ".removed-0" / "x").write_text("")
    os.link(kept / "file", top / "a/b/same")
    (top / "a/b").chmod(0)
    trees.remove_tree(top)
    assert not top.exists()
    assert (kept / "file").read_text() == "kept"
    assert kept.stat().st_mode & 0o777 == 0o750
    trees.remove_tree(top)
    (tmp_path / "link").symlink_to(kept)
    trees.remove_tree(tmp_path / "link")
    assert (kept / "file").exists()


def test_two_who_remove_the_same(tmp_path: Path) -> None:
    """As a daemon that starts may find its former life's last thread at it."""
    top = tmp_path / "top"
    for number in range(200):
        (top / str(number) / "inner").mkdir(parents=True)
        (top / str(number) / "file").touch()
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(trees.remove_tree, top) for _ in range(4)]:
            done.result()
    assert not top.exists()
