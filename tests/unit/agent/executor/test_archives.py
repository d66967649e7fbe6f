"""Archives of a task's files, made in the process that is inside it."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

from agent.executor.native.shim import archive


def test_an_archive_of_many_files_does_not_grow_its_maker(tmp_path: Path) -> None:
    for number in range(50):
        (tmp_path / f"file{number}").write_text("x")
    os.link(tmp_path / "file7", tmp_path / "twin")
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        archive._add(tar, str(tmp_path), "top")
        assert len(vars(tar)["inodes"]) <= 1
        assert not vars(tar)["members"]
    made.seek(0)
    with tarfile.open(fileobj=made) as tar:
        assert len(tar.getnames()) == 52
        assert [member.name for member in tar if member.islnk()] == ["top/twin"]
