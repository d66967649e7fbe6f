"""A data folder whose disk is full: a clear error, nothing left behind, and the next try works."""

from __future__ import annotations

import gzip
import os
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from fake_registry import Node, left_in_spool, node_in, served
from image_files import tar_of, write_docker_save

from swarmpy.errors import FailedPrecondition

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount")]

FEW = tar_of(("etc/a", os.urandom(2 << 20)))
MANY = tar_of(("etc/b", bytes(3 << 20)))
SMALL = tar_of(("etc/c", b"c"))


@pytest.fixture
def resize(tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """Of the disk that is the folder ``disk``; 1 MiB to begin with."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], check=True)
    try:
        yield partial(_resize, disk)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def _resize(disk: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True)


def is_clean(node: Node) -> bool:
    store = node.store
    folders = (store.blobs_dir, store.layers_dir, store.layers_dir.parent / "work")
    return not left_in_spool(node) and not any(any(folder.iterdir()) for folder in folders)


@pytest.mark.parametrize("layer", [FEW, MANY], ids=["on the way", "unpacked"])
async def test_a_pull(tmp_path: Path, resize: Callable[[str], None], layer: bytes) -> None:
    async with served() as registry:
        node = node_in(tmp_path / "disk")
        registry.add_image("1", layers=(SMALL, layer))
        name = f"{registry.host}/app:1"
        with pytest.raises(FailedPrecondition, match=r"cannot store the image .*: No space left on device"):
            await node.pull(name)
        assert node.store.images() == ()
        assert left_in_spool(node) == []
        resize("32m")
        await node.pull(name)
        assert len(node.store.config(name).layers) == 2


@pytest.mark.parametrize("is_packed", [False, True])
def test_a_load(tmp_path: Path, resize: Callable[[str], None], is_packed: bool) -> None:
    node = node_in(tmp_path / "disk")
    file = write_docker_save(tmp_path / "image.tar", [MANY], names=["box:1"])
    if is_packed:
        file.write_bytes(gzip.compress(file.read_bytes()))
    with pytest.raises(FailedPrecondition, match=r"cannot store the image .*: No space left on device"):
        node.store.load(file)
    assert node.store.images() == ()
    assert is_clean(node)
    resize("32m")
    assert node.store.load(file) == ["box:1"]
