"""One daemon per data folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from swarmpy.errors import FailedPrecondition
from swarmpy.node.lock import locked


def test_a_folder_is_held_once_and_free_afterwards(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "deep"
    with (
        locked(folder),
        pytest.raises(FailedPrecondition, match=rf"pid {os.getpid()}\) uses the data folder"),
        locked(folder),
    ):
        pass
    with locked(folder):
        pass


def test_a_lock_file_that_was_left_means_nothing(tmp_path: Path) -> None:
    (tmp_path / "daemon.lock").write_text("4711\n" * 20)
    with locked(tmp_path):
        assert (tmp_path / "daemon.lock").read_text() == f"{os.getpid()}\n"


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FailedPrecondition, match="cannot be used"), locked(tmp_path / "file" / "data"):
        pass
