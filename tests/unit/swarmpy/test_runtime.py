"""The production seams: a folder goes whole or stays whole, threads have names, no fault point fires."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path
from unittest import mock

import pytest

from swarmpy.runtime import Env, SystemDisk


class Stopped(Exception):
    """The machine ended here."""


def make_tree(folder: Path) -> Path:
    tree = folder / "raft"
    (tree / "deep").mkdir(parents=True)
    (tree / "log").write_bytes(b"log")
    (tree / "deep" / "more").write_bytes(b"more")
    return tree


def test_remove_tree_takes_everything_and_may_be_repeated(tmp_path: Path) -> None:
    tree, disk = make_tree(tmp_path), SystemDisk()
    (tmp_path / "raft.key").write_bytes(b"stays")
    disk.remove_tree(tree)
    disk.remove_tree(tree)
    assert [path.name for path in tmp_path.iterdir()] == ["raft.key"]


def test_remove_tree_of_what_never_was(tmp_path: Path) -> None:
    SystemDisk().remove_tree(tmp_path / "no" / "such" / "folder")
    assert list(tmp_path.iterdir()) == []


def test_a_crash_leaves_the_folder_whole_or_takes_it_away(tmp_path: Path) -> None:
    """Its name goes first; the rest goes the next time."""
    tree, disk = make_tree(tmp_path), SystemDisk()
    with mock.patch.object(os, "replace", side_effect=Stopped), pytest.raises(Stopped):
        disk.remove_tree(tree)
    assert (tree / "log").read_bytes() == b"log"
    assert (tree / "deep" / "more").read_bytes() == b"more"

    with mock.patch.object(shutil, "rmtree", side_effect=Stopped), pytest.raises(Stopped):
        disk.remove_tree(tree)
    assert not tree.exists()
    assert list(tmp_path.iterdir()) != []

    make_tree(tmp_path)  # the next life has a folder of that name again
    disk.remove_tree(tree)
    assert list(tmp_path.iterdir()) == []


def test_threads_carry_their_name_and_are_started_by_work_only() -> None:
    before = threading.active_count()
    executor = Env().threads("raft-snapshot", 1)
    try:
        assert threading.active_count() == before
        assert executor.submit(lambda: threading.current_thread().name).result().startswith("raft-snapshot")
    finally:
        executor.shutdown()


def test_no_fault_point_fires_in_production() -> None:
    assert Env().buggify("raft.snapshot_early") is False
