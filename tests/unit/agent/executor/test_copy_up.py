"""First content of volumes, where another task of the same volume means harm."""

from __future__ import annotations

import fcntl
import os
import stat
import threading
from pathlib import Path

import pytest

from agent.executor.native.shim import copy_up

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="copies owners"),
]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    folder = tmp_path / "image"
    (folder / "etc/deep").mkdir(parents=True)
    (folder / "etc/passwd").write_text("of the image\n")
    (folder / "etc/deep/file").write_text("deep\n")
    (folder / "etc/passwd").chmod(0o4755)
    os.link(folder / "etc/passwd", folder / "again")
    os.symlink("/nowhere", folder / "link")
    os.mkfifo(folder / "pipe")
    for path in (folder / "etc/passwd", folder / "etc/deep"):
        os.chown(path, 7, 8)
    os.chown(folder / "link", 9, 10, follow_symlinks=False)
    os.setxattr(folder / "etc/deep", "user.of", b"image")
    (folder / "etc/passwd").chmod(0o4755)
    folder.chmod(0o1777)
    os.utime(folder / "etc/deep", (1, 1))
    os.utime(folder / "link", (2, 2), follow_symlinks=False)
    return folder


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    folder = tmp_path / "volumes/v/_data"
    folder.mkdir(parents=True)
    return folder


def test_all_that_a_file_is_comes_along(image: Path, volume: Path) -> None:
    copy_up.fill(str(image), str(volume))
    assert stat.S_IMODE(volume.stat().st_mode) == 0o1777
    file = (volume / "etc/passwd").stat()
    assert (stat.S_IMODE(file.st_mode), file.st_uid, file.st_gid, file.st_nlink) == (0o4755, 7, 8, 2)
    assert (volume / "again").samefile(volume / "etc/passwd")
    assert os.readlink(volume / "link") == "/nowhere"
    link = (volume / "link").lstat()
    assert (link.st_uid, link.st_gid, link.st_mtime) == (9, 10, 2)
    assert stat.S_ISFIFO((volume / "pipe").stat().st_mode)
    assert os.getxattr(volume / "etc/deep", "user.of") == b"image"
    assert (volume / "etc/deep").stat().st_mtime == 1
    assert (volume / "etc/deep/file").read_text() == "deep\n"
    assert not (volume.parent / "copying").exists()


def test_a_link_in_the_volume_does_not_lead_a_copy_out_of_it(
    image: Path, volume: Path, tmp_path: Path
) -> None:
    """After a copy that broke, what is in the volume is another task's word."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "passwd").write_text("of the node\n")
    (volume.parent / "copying").touch()
    os.symlink(outside, volume / "etc")
    os.symlink(outside / "passwd", volume / "again")
    before = outside.stat()
    copy_up.fill(str(image), str(volume))
    assert (outside / "passwd").read_text() == "of the node\n"
    assert os.listdir(outside) == ["passwd"]
    assert outside.stat().st_mode == before.st_mode
    assert (volume / "etc/passwd").read_text() == "of the image\n"


def test_a_folder_that_becomes_a_link_meanwhile_leads_nowhere(
    image: Path, volume: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    make_folder = os.mkdir

    def exchange(name: str, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        make_folder(name, mode, dir_fd=dir_fd)
        if name == "etc":
            os.rmdir(name, dir_fd=dir_fd)
            os.symlink(outside, name, dir_fd=dir_fd)

    monkeypatch.setattr(os, "mkdir", exchange)
    with pytest.raises(OSError):
        copy_up.fill(str(image), str(volume))
    assert os.listdir(outside) == []


def test_a_task_cannot_hold_the_lock(image: Path, volume: Path) -> None:
    held = os.open(volume, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    copying = threading.Thread(target=copy_up.fill, args=(str(image), str(volume)), daemon=True)
    copying.start()
    copying.join(10)
    is_done = not copying.is_alive()
    os.close(held)
    copying.join(10)
    assert is_done
