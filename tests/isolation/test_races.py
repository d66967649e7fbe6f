"""What a task does to a volume while another that has it, too, is being started.

The moment is chosen: the steps that mount are carried out with one of the other task's in between.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make namespaces"),
]
ROOT = Path(__file__).parents[2]
STEPS = """
import errno, json, os, sys

sys.path.insert(0, sys.argv[1])
from agent.executor.native.shim import kernel, mounting, places

folder, kernel_is_old = sys.argv[2], sys.argv[3] == "old"
kernel.unshare(kernel.CLONE_NEWNS)
kernel.mount("", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)


def exchanging(call):
    def exchanged(*args, **options):
        call(*args, **options)
        if f" {folder}/root/volume/a/place " in open("/proc/self/mountinfo").read():
            os.rename(f"{folder}/root/volume/a", f"{folder}/root/volume/b")
            os.symlink("/other", f"{folder}/root/volume/a")

    return exchanged


def missing(*args, **options):
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


kernel.mount, kernel.attach_tree = exchanging(kernel.mount), exchanging(kernel.attach_tree)
if kernel_is_old:
    kernel.set_mount = missing
job = {"is_host": False, "privileged": False, "mounts": json.loads(sys.argv[4])}
mounting.mount_all(job, f"{folder}/root", {})
for line in open("/proc/self/mountinfo"):
    fields = line.split()
    if fields[4].startswith(f"{folder}/root"):
        print(fields[4].removeprefix(f"{folder}/root"), fields[5])
"""


def bind(source: Path, target: str, *, is_read_only: bool) -> dict[str, object]:
    source.mkdir()
    return {
        "type": "bind",
        "source": str(source),
        "target": target,
        "subpath": "",
        "layers": [],
        "copies": False,
        "is_recursive": True,
        "read_only": is_read_only,
        "read_only_depth": "possible",
        "propagation": "rprivate",
    }


@pytest.mark.parametrize("age", ["new", "old"])
def test_a_place_that_is_exchanged_meanwhile(tmp_path: Path, age: str) -> None:
    """Another task has the volume, and leads the way to the place elsewhere as soon as it is mounted on: what
    was to be read-only is, and nothing else."""
    for name in ("volume/a/place", "other/place"):
        (tmp_path / "root" / name).mkdir(parents=True)
    mounts = [
        bind(tmp_path / "free", "/other/place", is_read_only=False),
        bind(tmp_path / "kept", "/volume/a/place", is_read_only=True),
    ]
    words = [sys.executable, "-c", STEPS, str(ROOT), str(tmp_path), age, json.dumps(mounts)]
    lines = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    found = {place: options.split(",") for place, options in map(str.split, lines)}
    assert {place: options[0] for place, options in found.items()} == {
        "/other/place": "rw",
        "/volume/b/place": "ro",
    }
    assert all({"nosuid", "nodev"} <= set(options) for options in found.values())
