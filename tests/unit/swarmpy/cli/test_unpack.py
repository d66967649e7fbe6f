"""Archives that a task made, unpacked without trust: where nothing may be written, and what is left out."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from swarmpy.cli.copy import pack
from swarmpy.cli.unpack import Unpacking, UnsafeArchive


def member(name: str, kind: bytes = tarfile.REGTYPE, *, link: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname, made.mode = kind, link, mode
    return made


def archive(*members: tuple[tarfile.TarInfo, bytes]) -> io.BytesIO:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for each, content in members:
            each.size = len(content)
            tar.addfile(each, io.BytesIO(content))
    data.seek(0)
    return data


def unpack(folder: Path, data: io.BytesIO, name: str = "got") -> list[str]:
    with Unpacking(str(folder), name) as unpacking, tarfile.open(fileobj=data, mode="r|") as tar:
        for each in tar:
            unpacking.take(each, tar)
    return unpacking.skipped


FOLDER = (member("src", tarfile.DIRTYPE, mode=0o755), b"")


def test_what_a_folder_holds_gets_the_new_name(tmp_path: Path) -> None:
    data = archive(
        FOLDER,
        (member("src/file", mode=0o4750), b"text"),
        (member("src/again", tarfile.LNKTYPE, link="src/file"), b""),
        (member("src/link", tarfile.SYMTYPE, link="/etc/passwd"), b""),
        (member("src/pipe", tarfile.FIFOTYPE), b""),
    )
    assert unpack(tmp_path, data) == ["src/pipe: a device or a pipe"]
    assert (tmp_path / "got/file").read_bytes() == (tmp_path / "got/again").read_bytes() == b"text"
    assert (tmp_path / "got/file").stat().st_mode & 0o7777 == 0o750  # no rights for a program
    assert os.readlink(tmp_path / "got/link") == "/etc/passwd"


@pytest.mark.parametrize("name", ["/evil", "src/../../evil", "../evil", "src/a/../../../evil"])
def test_names_that_lead_out(tmp_path: Path, name: str) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    with pytest.raises(UnsafeArchive, match="leads out of its folder"):
        unpack(inner, archive(FOLDER, (member(name), b"x")))
    assert not (tmp_path / "evil").exists()


def test_no_way_through_a_link_of_the_archive(tmp_path: Path) -> None:
    outside, inner = tmp_path / "outside", tmp_path / "inner"
    outside.mkdir()
    inner.mkdir()
    data = archive(
        FOLDER, (member("src/a", tarfile.SYMTYPE, link=str(outside)), b""), (member("src/a/evil"), b"x")
    )
    with pytest.raises(UnsafeArchive, match="cannot overwrite directory"):
        unpack(inner, data)
    assert list(outside.iterdir()) == []


def test_no_way_through_a_link_that_was_there(tmp_path: Path) -> None:
    outside, inner = tmp_path / "outside", tmp_path / "inner"
    outside.mkdir()
    (inner / "got").mkdir(parents=True)
    (inner / "got/a").symlink_to(outside)
    (inner / "got/file").symlink_to(outside / "evil")
    with pytest.raises(UnsafeArchive, match="a is a link or a file here"):
        unpack(inner, archive(FOLDER, (member("src/file"), b"x"), (member("src/a/evil"), b"x")))
    assert list(outside.iterdir()) == []
    assert not (inner / "got/file").is_symlink()  # it was replaced, not followed


def test_a_second_name_is_of_the_archives_own_files(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    (tmp_path / "secret").write_text("secret")
    for link in ("/etc/passwd", "../secret", "src/../../secret"):
        with pytest.raises(UnsafeArchive, match="leads out"):
            unpack(inner, archive(FOLDER, (member("src/x", tarfile.LNKTYPE, link=link), b"")))


def test_what_is_packed_can_be_unpacked(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "below").mkdir(parents=True)
    (source / "below" / "file").write_bytes(b"x" * 70_000)
    (source / "link").symlink_to("below")
    data = io.BytesIO(b"".join(pack(str(source), "src")))
    with tarfile.open(fileobj=data) as tar:
        assert {(each.uid, each.gid, each.uname) for each in tar} == {(0, 0, "")}
    data.seek(0)
    assert unpack(tmp_path, data) == []
    assert (tmp_path / "got/below/file").read_bytes() == b"x" * 70_000
    assert os.readlink(tmp_path / "got/link") == "below"
    content = io.BytesIO(b"".join(pack(str(source), "")))
    with tarfile.open(fileobj=content) as tar:
        assert sorted(tar.getnames()) == ["below", "below/file", "link"]
