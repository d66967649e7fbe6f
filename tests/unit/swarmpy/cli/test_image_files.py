"""Folders that are packed while they are sent: the same archive, and no end where something is amiss."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import tarfile
import tempfile
import time
from pathlib import Path

import pytest
from api_node import FakeNode
from cli_run import Run
from image_files import tar_of, write_layout

from swarmpy.cli import image_files
from swarmpy.cli.image_files import open_source
from swarmpy.errors import FailedPrecondition

DEADLINE_S = 20.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With what a root file system may hold."""
    folder = tmp_path / "folder"
    (folder / "etc" / "deep").mkdir(parents=True)
    (folder / "big").write_bytes(os.urandom((1 << 20) + 7))
    (folder / "empty").touch(0o640)
    os.link(folder / "big", folder / "etc" / "same")
    (folder / "away").symlink_to("/etc")
    (folder / "a\N{LATIN SMALL LETTER U WITH DIAERESIS}" / ("long" * 40)).mkdir(parents=True)
    os.mkfifo(folder / "pipe")
    with socket.socket(socket.AF_UNIX) as served:
        served.bind(os.path.relpath(folder / "sock"))
    return folder


def test_it_is_what_a_tar_of_the_folder_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "TemporaryFile", None)
    with open_source(str(folder)) as pieces:
        made = io.BytesIO(b"".join(pieces))
    other = io.BytesIO()
    with tarfile.open(fileobj=other, mode="w") as archive:
        archive.add(folder, arcname=".")
    other.seek(0)
    with tarfile.open(fileobj=made) as mine, tarfile.open(fileobj=other) as theirs:
        found, wanted = ({info.name: info for info in tar} for tar in (mine, theirs))
        assert found.keys() == wanted.keys()
        assert "./etc/same" in found
        assert "./sock" not in found
        for name, info in found.items():
            one, two = ({**each.get_info(), "name": "", "linkname": ""} for each in (info, wanted[name]))
            if not {info.type, wanted[name].type} & {tarfile.LNKTYPE}:  # either of the two names comes first
                assert one == two, name
            if info.isfile():
                content = mine.extractfile(info)
                assert content is not None
                assert content.read() == (folder / name).read_bytes()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        ("truncate --size 100 big", "big has become shorter while it was read"),
        ("rm empty", "empty cannot be read: No such file"),
        ("rm -r etc", "etc cannot be read: No such file"),
    ],
)
def test_what_changes_meanwhile_is_told(folder: Path, spoil: str, words: str) -> None:
    with open_source(str(folder)) as pieces:
        while b"./big\0" not in next(pieces):
            pass
        subprocess.run(spoil.split(), cwd=folder, check=True)
        with pytest.raises(FailedPrecondition, match=words):
            list(pieces)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="unpacking sets owners")
def test_a_load_that_breaks_off_leaves_nothing(
    run: Run, node: FakeNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = write_layout(tmp_path / "layout", [tar_of(("a", b"a" * 5_000))], name="app:1")
    below = image_files._below
    monkeypatch.setattr(image_files, "_below", lambda path: (*below(path), f"{path}/gone"))
    said = run("image", "load", str(layout))
    assert (said.code, said.err) == (1, f"Error: {layout}/gone cannot be read: No such file or directory\n")
    monkeypatch.undo()
    assert "app" not in run("image", "ls").out  # where the server says, too, who broke off
    deadline = time.monotonic() + DEADLINE_S
    while list((node.folder / "images" / "incoming").iterdir()):
        assert time.monotonic() < deadline, "what came of it is left"
        time.sleep(0.01)
    assert run("image", "load", str(layout)).out == "Loaded image: app:1\n"
