"""Images as attacks on the node that loads them: each is refused in a sentence, and nothing else has changed.

A layer is unpacked by root on the node's own disk, and what lies there is what the kernel shows to tasks.
"""

from __future__ import annotations

import io
import json
import os
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from image_files import digest, image_config, tar_of, write_layout

from agent.executor.images.archive import open_archive, read_images
from agent.executor.images.store import ImageStore
from agent.executor.images.unpack import Unpacker
from swarmpy.errors import InvalidArgument
from swarmpy.image_limits import IMAGE_DEPTH_MAX, IMAGE_HEADER_BYTES_MAX

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make device files"),
]
ZEROS = bytes(1 << 16)


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """A folder beside the layer's, with a canary."""
    (tmp_path / "canary").write_text("of the node")
    (tmp_path / "root").mkdir()
    return tmp_path


def member(
    name: str, kind: bytes = tarfile.REGTYPE, data: bytes = b"", **more: Any
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.mode = kind, len(data), 0o755
    for key, value in more.items():
        setattr(info, key, value)
    return info, data


def layer(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def link(name: str, to: str, **more: Any) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, tarfile.SYMTYPE, linkname=to, **more)


def hard(name: str, to: str) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, tarfile.LNKTYPE, linkname=to)


def folder(name: str, **more: Any) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, tarfile.DIRTYPE, **more)


def xattr(name: str, value: str = "y") -> dict[str, Any]:
    return {"pax_headers": {f"SCHILY.xattr.{name}": value, f"LIBARCHIVE.xattr.{name}": value}}


def unpack(node: Path, data: bytes) -> Path:
    root = node / "root"
    Unpacker(root).unpack(io.BytesIO(data))
    return root


OUT: dict[str, bytes] = {
    "above": layer(member("../canary", data=b"x")),
    "above, further down": layer(member("a/../../canary", data=b"x")),
    "through a link": layer(link("a", ".."), member("a/canary", data=b"x")),
    "through an absolute link": layer(link("a", "/"), member("a/tmp/swarmpy-canary", data=b"x")),
    "through two links": layer(
        folder("d"), link("d/a", ".."), link("b", "d/a/.."), member("b/canary", data=b"x")
    ),
    "through a link in a circle": layer(link("a", "b"), link("b", "a"), member("a/canary", data=b"x")),
    "a hard link": layer(hard("a", "../canary"), member("a", data=b"x")),
    "a hard link by an absolute name": layer(hard("a", "/etc/passwd")),
    "a hard link through a link": layer(link("d", ".."), hard("a", "d/canary")),
    "a hard link to the root": layer(hard("a", ".")),
    "a whiteout above": layer(member("../.wh.canary")),
    "a whiteout through a link": layer(link("d", ".."), member("d/.wh.canary")),
    "a whiteout of nothing": layer(member(".wh.")),
    "a whiteout of the folder above": layer(folder("d"), member("d/.wh...")),
    "opaque above": layer(link("d", ".."), member("d/.wh..wh..opq")),
    "a folder above": layer(folder("../new")),
    "below a file": layer(member("f", data=b"x"), member("f/canary", data=b"x")),
    "a device that would be a whiteout": layer(member("w", tarfile.CHRTYPE, devmajor=0, devminor=0)),
    "a name with a zero": layer(member("a", pax_headers={"path": "a\0b"})),
    "a link with a zero": layer(link("a", "b", pax_headers={"linkpath": "a\0b"})),
    "a name that is too long": layer(member("n" * 300)),
    "a path that is too long": layer(member("/".join(["n" * 200] * 30))),
    "folders in folders": layer(folder("/".join("d" * (IMAGE_DEPTH_MAX + 2)))),
    "folders in folders by links": layer(
        *(folder("/".join("d" * n)) for n in range(1, IMAGE_DEPTH_MAX, 50)),
        link("l", "/".join("d" * (IMAGE_DEPTH_MAX - 60))),
        folder("l/" + "/".join("e" * 100)),
    ),
    "a kind that there is not": layer(member("a", b"Z")),
    "capabilities that are none": layer(member("a", **xattr("security.capability", "nonsense"))),
    "capabilities of a link": layer(link("a", "b", **xattr("security.capability", "nonsense"))),
    "a time that is none": layer(member("a", pax_headers={"mtime": "nan"})),
    "an owner beyond all": layer(member("a", pax_headers={"uid": str(1 << 40)})),
    "a negative size": layer(member("a", pax_headers={"size": "-1024"})),
    "a size beyond all": layer(member("a", pax_headers={"size": str(1 << 62)})),
    "a sparse map that is none": layer(
        member("a", data=b"x\n" * 600, pax_headers={"GNU.sparse.major": "1", "GNU.sparse.minor": "0"})
    ),
}


@pytest.mark.parametrize("name", OUT)
def test_a_layer_that_leads_out_is_refused(node: Path, name: str) -> None:
    before = (os.stat("/etc/passwd").st_nlink, sorted(os.listdir(node)))
    with pytest.raises(InvalidArgument) as refused:
        unpack(node, OUT[name])
    assert str(refused.value)
    assert (node / "canary").read_text() == "of the node"
    assert (os.stat("/etc/passwd").st_nlink, sorted(os.listdir(node))) == before
    assert not os.path.exists("/tmp/swarmpy-canary")


def test_what_comes_again_replaces_what_was_and_follows_no_link(node: Path) -> None:
    """A file where a folder was, a folder where a link was, a file through a hard link to a link."""
    outside = str(node / "canary")
    root = unpack(
        node,
        layer(
            link("a", outside),
            member("a", data=b"mine"),
            link("b", outside),
            hard("c", "b"),
            member("c", data=b"mine"),
            folder("d"),
            member("d/inner", data=b"x"),
            member("d", data=b"now a file"),
            link("e", str(node)),
            folder("e", mode=0o700),
            member("/absolute", data=b"x"),
            link("f", outside, mode=0o777, uid=7),
        ),
    )
    assert (node / "canary").read_text() == "of the node"
    assert (node / "canary").stat().st_uid == os.getuid()
    assert (root / "a").read_bytes() == (root / "c").read_bytes() == b"mine"
    assert (root / "d").read_bytes() == b"now a file"
    assert stat.S_ISDIR(os.lstat(root / "e").st_mode)
    assert (root / "absolute").exists()


def test_no_attribute_of_an_archive_speaks_to_the_kernel(node: Path) -> None:
    """overlayfs takes its orders from trusted.overlay.*: where a folder really is, what hides what."""
    marks = ("trusted.overlay.redirect", "trusted.overlay.opaque", "trusted.overlay.metacopy", "trusted.x")
    others = ("user.overlay.redirect", "security.ima", "system.posix_acl_access", "user.x")
    root = unpack(node, layer(*(folder(name, **xattr(name, "/../../etc")) for name in (*marks, *others))))
    for name in (*marks, *others):
        assert os.listxattr(root / name) == []


class Endless:
    """Bytes of a tar and then zeros for ever, and how many of them were taken."""

    def __init__(self, start: bytes, most: int) -> None:
        self._start = io.BytesIO(start)
        self.taken = 0
        self._most = most

    def read(self, size: int = -1) -> bytes:
        data = self._start.read(size) or ZEROS[:size]
        self.taken += len(data)
        assert self.taken < self._most, "far more was read than any head can need"
        return data


def raw_head(kind: bytes, size: int, name: str = "x") -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


HEADS = {
    "names": raw_head(tarfile.GNUTYPE_LONGNAME, 1 << 33),
    "links": raw_head(tarfile.GNUTYPE_LONGLINK, 1 << 33),
    "attributes": raw_head(tarfile.XHDTYPE, 1 << 33),
    "attributes of all": raw_head(tarfile.XGLTYPE, 1 << 33),
}


@pytest.mark.parametrize("name", HEADS)
def test_a_head_is_bounded(node: Path, name: str) -> None:
    """Eight gigabytes of them would be kept in memory, and take a few kilobytes to send."""
    source = Endless(HEADS[name], 8 * IMAGE_HEADER_BYTES_MAX)
    with pytest.raises(InvalidArgument, match="head"):
        Unpacker(node / "root").unpack(source)


def test_heads_without_end_are_bounded(node: Path) -> None:
    """Attributes for all, again and again, each with names of its own."""
    heads = [
        tarfile.TarInfo.create_pax_global_header({f"key{number}": "x" * 1_000}) for number in range(3_000)
    ]
    with pytest.raises(InvalidArgument):
        unpack(node, b"".join(heads))
    files = [head + layer(member(f"f{number}"))[:512] for number, head in enumerate(heads)]
    with pytest.raises(InvalidArgument):
        unpack(node, b"".join(files))


# --- archives


def negative(name: str) -> bytes:
    """A size below zero, by which a reader goes back and back again (the tar of a layer has the same)."""
    raw = bytearray(raw_head(tarfile.REGTYPE, 0, name))
    raw[124:136] = b"\xff" * 10 + b"\xfc\x00"
    raw[148:156] = b" " * 8
    raw[148:156] = b"%06o\0 " % sum(raw)
    return bytes(raw)


def saved(*extra: tuple[str, bytes], **manifest: Any) -> bytes:
    """An archive as docker saves it, with these things said in its manifest instead."""
    inner = tar_of(("f", b"x"))
    config = image_config([inner])
    name = digest(config).removeprefix("sha256:") + ".json"
    entry = {"Config": name, "Layers": ["layer.tar"], "RepoTags": ["a:1"], **manifest}
    return tar_of(
        (name, config), ("layer.tar", inner), *extra, ("manifest.json", json.dumps([entry]).encode())
    )


def test_an_archive_like_these_is_good(node: Path) -> None:
    assert load(node, saved()) == ["a:1"]


ARCHIVES: dict[str, Callable[[], bytes]] = {
    "a layer above": lambda: saved(Layers=["../canary"]),
    "a layer by an absolute name": lambda: saved(Layers=["/etc/passwd"]),
    "a configuration above": lambda: saved(Config="../canary"),
    "a layer that is a folder": lambda: saved(Layers=["."]),
    "a layer that is not there": lambda: saved(Layers=["none"]),
    "more layers than the configuration says": lambda: saved(Layers=["layer.tar", "layer.tar"]),
    "another layer than the configuration says": lambda: saved(
        ("other.tar", tar_of(("g", b"y"))), Layers=["other.tar"]
    ),
    "another configuration than its name says": lambda: saved(
        (f"{'0' * 64}.json", b"{}"), Config=f"{'0' * 64}.json"
    ),
    "a name that is none": lambda: saved(RepoTags=["../../etc:1"]),
    "a name with a line end": lambda: saved(RepoTags=["a:1\nb"]),
    "a name in colour": lambda: saved(RepoTags=["a:1\x1b[31m"]),
    "layers that are no list": lambda: saved(Layers=7),
    "a list of nothing": lambda: tar_of(("manifest.json", b"[7]")),
    "deep JSON": lambda: tar_of(("manifest.json", b"[" * 100_000)),
    "large JSON": lambda: tar_of(("manifest.json", b" " * (9 << 20))),
    "a long number": lambda: tar_of(("manifest.json", b"[" + b"1" * 100_000 + b"]")),
    "a layer that is a link to itself": lambda: tar_of(
        ("manifest.json", json.dumps([{"Config": "a", "Layers": ["a"]}]).encode()),
        links=(("a", "a", tarfile.SYMTYPE),),
    ),
    "links in a circle": lambda: tar_of(
        ("manifest.json", json.dumps([{"Config": "a", "Layers": ["a"]}]).encode()),
        links=(("a", "b", tarfile.SYMTYPE), ("b", "a", tarfile.LNKTYPE)),
    ),
    "a link out of it": lambda: tar_of(
        ("manifest.json", json.dumps([{"Config": "a", "Layers": ["a"]}]).encode()),
        links=(("a", "/etc/passwd", tarfile.SYMTYPE),),
    ),
    "a size below zero": lambda: negative("a") + tar_of(("f", b"x")),
    "a size below zero in attributes": lambda: layer(member("a", pax_headers={"size": "-2048"}), member("b")),
    "a head of a gigabyte": lambda: raw_head(tarfile.XHDTYPE, 1 << 30) + bytes(1 << 22),
    "an index above": lambda: layout({"digest": "sha256:../../canary"}),
    "an index of letters": lambda: layout({"digest": "sha256:" + "g" * 64}),
    "an index of another kind": lambda: layout({"digest": "md5:" + "0" * 64}),
    "marks that are no marks": lambda: layout({"digest": "sha256:" + "0" * 64, "annotations": [7]}),
    "indexes in indexes": lambda: nested(100, 1),
    "indexes that multiply": lambda: nested(8, 100),
}


def layout(*entries: dict[str, Any], blobs: tuple[tuple[str, bytes], ...] = ()) -> bytes:
    return tar_of(*blobs, ("index.json", json.dumps({"manifests": list(entries)}).encode()))


def nested(levels: int, width: int) -> bytes:
    """Each level names the next one so many times."""
    kind = "application/vnd.oci.image.index.v1+json"
    blobs = []
    data = json.dumps({"manifests": []}).encode()
    for _ in range(levels):
        blobs.append((f"blobs/sha256/{digest(data)[7:]}", data))
        data = json.dumps({"manifests": [{"digest": digest(data), "mediaType": kind}] * width}).encode()
    return tar_of(*blobs, ("index.json", data))


def load(node: Path, data: bytes) -> list[str]:
    (node / "archive").write_bytes(data)
    store = ImageStore(node / "images")
    store.prepare()
    return store.load(node / "archive")


@pytest.mark.timeout(30)
@pytest.mark.parametrize("name", ARCHIVES)
def test_an_archive_that_lies_is_refused(node: Path, name: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        load(node, ARCHIVES[name]())
    assert str(refused.value).isprintable()
    assert (node / "canary").read_text() == "of the node"
    assert [path.name for path in (node / "images" / "layers").iterdir()] == []
    assert [path.name for path in (node / "images" / "work").iterdir()] == []


@pytest.mark.parametrize("kind", ["link", "folder of links"])
def test_a_layout_whose_files_are_links_is_refused(node: Path, kind: str) -> None:
    folder = write_layout(node / "layout", [tar_of(("f", b"x"))], name="a:1")
    blobs = folder / "blobs"
    if kind == "link":
        for path in (blobs / "sha256").iterdir():
            (node / path.name).write_bytes(path.read_bytes())
            path.unlink()
            path.symlink_to(node / path.name)
    else:
        blobs.rename(node / "aside")
        blobs.symlink_to(node / "aside")
    with open_archive(folder, node) as archive, pytest.raises(InvalidArgument, match="is a link out of it"):
        read_images(archive)
