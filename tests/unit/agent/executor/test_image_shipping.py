"""What of an archive is for which platform, and what is no archive to push at all."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from image_files import digest, image_config, tar_of, write_docker_save, write_layout

from agent.executor.images.shipping import Shipment, of_archive
from swarmpy.errors import InvalidArgument

LAYERS = {"amd64": tar_of(("a", b"for amd64")), "arm64": tar_of(("a", b"for arm64"))}


def layout_for(folder: Path, *architectures: str, name: str = "app:1") -> Path:
    """One name, an image for each platform, as builders write it."""
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def put(data: bytes) -> dict[str, Any]:
        (blobs / digest(data).removeprefix("sha256:")).write_bytes(data)
        return {"digest": digest(data), "size": len(data)}

    entries = []
    for architecture in architectures:
        layer = LAYERS[architecture]
        config = image_config([layer]).replace(b"amd64", architecture.encode())
        manifest = {"schemaVersion": 2, "config": put(config), "layers": [put(layer)]}
        platform = {"os": "linux", "architecture": architecture}
        entries.append({**put(json.dumps(manifest).encode()), "platform": platform})
    index = {**put(json.dumps({"manifests": entries}).encode()), "mediaType": "x.index"}
    index["annotations"] = {"io.containerd.image.name": name}
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [index]}))
    return folder


def ship(path: Path, folder: Path, *architectures: str, name: str = "") -> Shipment:
    folder.mkdir()
    return of_archive(path, folder, name=name, architectures=architectures)


def test_each_platform_gets_its_own_image_of_one_name(tmp_path: Path) -> None:
    layout = layout_for(tmp_path / "layout", "amd64", "arm64")
    shipped = ship(layout, tmp_path / "out", "amd64", "arm64", "riscv64")
    found = {}
    for architecture, offer in shipped.offers.items():
        (image,) = offer.images
        assert image.names == ("app:1",)
        found[architecture] = [layer.diff_id for layer in image.layers]
        for blob in offer.blobs().values():
            path = shipped.folder / blob.digest.removeprefix("sha256:")
            assert digest(path.read_bytes()) == blob.digest
            assert path.stat().st_size == blob.size
    assert found == {architecture: [digest(layer)] for architecture, layer in LAYERS.items()}
    assert shipped.refusals == {"riscv64": "the archive holds no image for linux/riscv64"}


def test_only_what_is_asked_for_is_taken_out(tmp_path: Path) -> None:
    layout = layout_for(tmp_path / "layout", "amd64", "arm64")
    shipped = ship(layout, tmp_path / "out", "arm64")
    assert set(shipped.offers) == {"arm64"}
    assert not (shipped.folder / digest(LAYERS["amd64"]).removeprefix("sha256:")).exists()


def test_an_archive_for_one_machine_says_so_to_another(tmp_path: Path) -> None:
    path = write_docker_save(tmp_path / "one.tar", [LAYERS["amd64"]], names=["app:1"])
    shipped = ship(path, tmp_path / "out", "amd64", "arm64")
    assert set(shipped.offers) == {"amd64"}
    assert shipped.refusals["arm64"] == "the image app:1 is for linux/amd64, and the node is linux/arm64"


def test_a_root_file_system_is_for_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.executor.images.shipping.own_architecture", lambda: "amd64")
    (tmp_path / "root.tar").write_bytes(LAYERS["amd64"])
    shipped = ship(tmp_path / "root.tar", tmp_path / "out", "amd64", "arm64", name="root:3")
    (image,) = shipped.offers["amd64"].images
    assert (image.names, image.is_bare) == (("root:3",), True)
    assert "the root file system is for linux/amd64" in shipped.refusals["arm64"]


def test_a_broken_archive_ends_here(tmp_path: Path) -> None:
    good = write_docker_save(tmp_path / "good.tar", [LAYERS["amd64"]], names=["app:1"]).read_bytes()
    (tmp_path / "short.tar").write_bytes(good[: len(good) // 2])
    (tmp_path / "noise.tar").write_bytes(b"noise" * 1_000)
    (tmp_path / "other.tar").write_bytes(good.replace(b"for amd64", b"for adm64"))
    layout = write_layout(tmp_path / "layout", [LAYERS["amd64"]], name="app:1")
    for path in (layout / "blobs" / "sha256").iterdir():
        if path.read_bytes()[:2] == b"\x1f\x8b":
            path.write_bytes(path.read_bytes() + b"more")
    words = {
        "short.tar": "is no readable image archive",
        "noise.tar": "is no readable image archive",
        "other.tar": "does not have the digest",
        "layout": "does not have the digest",
    }
    for number, (name, said) in enumerate(words.items()):
        with pytest.raises(InvalidArgument, match=said):
            ship(tmp_path / name, tmp_path / f"out{number}", "amd64", name="" if "." in name else "app:1")


def test_one_name_is_not_for_several_images(tmp_path: Path) -> None:
    layer = LAYERS["amd64"]
    path = write_docker_save(tmp_path / "two.tar", [layer], names=["app:1"])
    other = write_docker_save(tmp_path / "other.tar", [layer], names=["app:2"], Cmd=["x"])
    with (
        tarfile.open(path) as first,
        tarfile.open(other) as second,
        tarfile.open(tmp_path / "both.tar", "w") as both,
    ):
        lists = []
        for archive in (first, second):
            for member in archive:
                file = archive.extractfile(member)
                assert file is not None
                if member.name == "manifest.json":
                    lists += json.loads(file.read())
                elif member.name not in both.getnames():
                    both.addfile(member, file)
        (tmp_path / "manifest.json").write_text(json.dumps(lists))
        both.add(tmp_path / "manifest.json", "manifest.json")
    shipped = ship(tmp_path / "both.tar", tmp_path / "out", "amd64")
    assert [image.names for image in shipped.offers["amd64"].images] == [("app:1",), ("app:2",)]
    assert len(shipped.offers["amd64"].layers()) == 1
    with pytest.raises(InvalidArgument, match="holds 2 images, so one name cannot be given"):
        ship(tmp_path / "both.tar", tmp_path / "again", "amd64", name="mine:1")
