"""What of the node's files a task reaches: none, whatever it makes, opens or asks for by another name."""

from __future__ import annotations

import asyncio
import ctypes
import os
import stat
import struct
from pathlib import Path

import pytest
from box_image import run
from isolation_rig import attempts, said
from native_rig import NativeRig, wait_until

from agent.executor.base import Command
from swarmpy.errors import TaskRejected
from swarmpy.model.specs import ContainerSpec, Mount, VolumeOptions
from swarmpy.model.states import MountType

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make namespaces"),
]
REFUSED = {"EROFS", "ENOENT", "EACCES", "EPERM"}
"""Read-only, not there, masked: which of them depends on what this kernel has."""
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_AT_FDCWD = -100


def disk() -> tuple[int, int]:
    """The device that the node's own files are on, or one that it would be."""
    device = os.stat("/var").st_dev
    return os.major(device), os.minor(device)


async def test_the_kernels_files_are_read_only_or_not_there(rig: NativeRig) -> None:
    """Programs that the kernel calls (core_pattern, modprobe, uevent_helper, release_agent, binfmt_misc), the
    ways to stop a node (sysrq, power), its memory, its log, its disks, the sockets of those who rule it."""
    privileged = await attempts(rig, "files", privileged=True)
    assert privileged["/proc/sys/kernel/core_pattern"] == "ok"
    for user in ("", "app"):
        found = await attempts(rig, "files", user=user)
        assert len(found) > 30
        assert set(found.values()) <= REFUSED, found


async def test_device_files_that_a_task_makes_open_nothing(rig: NativeRig, tmp_path: Path) -> None:
    """MKNOD is in docker's default set: nowhere that a task can write do device files work."""
    mounts = (
        Mount(type=MountType.VOLUME, source="trial", target="/volume"),
        Mount(type=MountType.BIND, source=str(tmp_path), target="/host"),
        Mount(type=MountType.TMPFS, target="/memory"),
    )
    major, minor = disk()
    env = {"DISK_MAJOR": str(major), "DISK_MINOR": str(minor)}
    for user in ("", "app"):
        found = await attempts(rig, "devices", env=env, mounts=mounts, user=user)
        assert len(found) == 7
        assert set(found.values()) <= {"EACCES", "EPERM"}, found
    (tmp_path / "made").touch()
    os.remove(tmp_path / "made")
    os.mknod(tmp_path / "made", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    os.close(os.open(tmp_path / "made", os.O_RDONLY))  # on the node, such a file there would


async def test_the_nodes_device_files_stay_as_they_are(rig: NativeRig) -> None:
    """Root in a task may change the mode and the owner of what is in its /dev, by any name."""

    def state() -> list[tuple[int, int, int]]:
        found = [os.stat(f"/dev/{name}") for name in DEVICES]
        return [(each.st_mode, each.st_uid, each.st_gid) for each in found]

    before = state()
    places = [*(f"/dev/{name}" for name in DEVICES), "/proc/interrupts", "/proc/keys", "/proc/self/fd/0"]
    script = (
        f"for f in {' '.join(places)}; do for what in 'chmod 0666' 'chown 0:0' touch; do "
        "busybox $what $f 2>&1 || echo refused $f; done; done | busybox grep -c ^refused"
    )
    for fields in ({}, {"init": True}):
        assert await said(rig, script, **fields) == [str(3 * len(places))]
    assert state() == before
    # what is written there is written all the same
    assert await said(rig, "echo x >/dev/null && head -c 1 /dev/zero | busybox wc -c") == ["1"]


def handle_of(path: Path) -> str:
    """The kernel's name for a file on its file system, as ``escape.c`` takes it."""
    buffer = ctypes.create_string_buffer(struct.pack("=Ii", 120, 0), 128)
    mount = ctypes.c_int()
    libc = ctypes.CDLL(None, use_errno=True)
    done = libc.name_to_handle_at(_AT_FDCWD, os.fsencode(path), buffer, ctypes.byref(mount), 0)
    assert done == 0, os.strerror(ctypes.get_errno())
    size, kind = struct.unpack_from("=Ii", buffer.raw)
    return f"{kind} {buffer.raw[8 : 8 + size].hex()}"


async def test_no_file_is_opened_by_its_handle(rig: NativeRig) -> None:
    """A file that is bound into the task (/etc/hostname) is on the node's disk, and handles open any other
    there. It takes a capability that tasks do not have; where it is given, it works: the attempt is good."""
    canary = rig.data_dir / "canary"
    for user in ("", "app"):
        canary.write_text("of the node")
        found = await attempts(rig, "handles", env={"HANDLE": handle_of(canary)}, user=user)
        assert found == {"open_by_handle_at": "EPERM"}
        assert canary.read_text() == "of the node"
    given = await attempts(
        rig, "handles", env={"HANDLE": handle_of(canary)}, capability_add=("DAC_READ_SEARCH",)
    )
    assert given["open_by_handle_at"] == "ok"


async def test_layers_are_nobodys_to_change(rig: NativeRig) -> None:
    """What a task changes of its image is its own: neither the layer nor another task sees it."""
    image = rig.executor.images.config("trial:1")
    layers = [rig.executor.images.layers_dir / layer for layer in image.layers]
    kept = [path for layer in layers for path in layer.rglob("*")]
    before = [(path, os.lstat(path).st_ctime_ns) for path in kept]
    change = "busybox chmod 4777 $f; echo x >>$f"
    await said(rig, f"busybox find / -xdev -type f | while read f; do {change}; done; busybox rm -rf /etc")
    assert [(path, os.lstat(path).st_ctime_ns) for path in kept] == before
    assert (await said(rig, "cat /etc/passwd"))[0].startswith("root:")


async def test_nobody_else_of_the_node_reaches_what_tasks_leave(rig: NativeRig) -> None:
    """A task may leave a program of root's that sets its user, and so may an image; a user of the node must
    not be able to execute it."""
    script = "busybox cp /bin/busybox /left; busybox chmod 4755 /left"
    task_id = await run(rig, ContainerSpec(image="trial:1", args=(script,)))
    await rig.wait_exit(task_id)
    left = rig.data_dir / "tasks" / task_id / "upper" / "left"
    assert left.stat().st_mode & stat.S_ISUID
    for name in ("tasks", "images", "volumes", "logs"):
        assert stat.S_IMODE((rig.data_dir / name).stat().st_mode) == 0o700, name


async def test_links_in_a_volume_lead_nowhere(rig: NativeRig, tmp_path: Path) -> None:
    """One task leaves links to the node's folders where another mounts; they mean the other's own root."""
    (tmp_path / "canary").write_text("of the node")
    whole = Mount(type=MountType.VOLUME, source="links", target="/volume")
    await said(
        rig, f"cd /volume; ln -s {tmp_path} away; ln -s / root; ln -s ../../../../.. up", mounts=(whole,)
    )
    for name in ("away", "root", "up"):
        nested = Mount(type=MountType.TMPFS, target=f"/volume/{name}{tmp_path}/nested")
        await said(rig, "true", mounts=(whole, nested))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["canary"]


async def test_a_part_of_a_volume_is_of_the_volume(rig: NativeRig, tmp_path: Path) -> None:
    """A task leaves a link where another is to mount a part: it leads within the volume, or nowhere."""
    (tmp_path / "canary").write_text("of the node")
    whole = Mount(type=MountType.VOLUME, source="parts", target="/volume")
    links = {"away": str(tmp_path), "up": "../../../../../../..", "me": "/proc/self/root"}
    await said(
        rig, "cd /volume; " + "; ".join(f"ln -s {to} {name}" for name, to in links.items()), mounts=(whole,)
    )
    for name in links:
        options = VolumeOptions(subpath=name)
        part = Mount(type=MountType.VOLUME, source="parts", target="/part", volume_options=options)
        try:
            seen = await said(rig, "ls /part", mounts=(part,))
        except TaskRejected as error:
            seen = [str(error).partition('"')[0]]
        # the volume's own root, or nothing
        assert seen in (sorted(links), ["cannot find subpath "])


async def test_a_command_does_not_change_what_its_streams_are(rig: NativeRig) -> None:
    """One without input reads /dev/null, and one that nobody listens to writes there."""
    before = os.stat("/dev/null").st_mode
    task_id = await run(rig, ContainerSpec(image="trial:1", args=("sleep 100",)))
    change = "busybox chmod 0666 /proc/self/fd/$n && echo changed $n >>/said"
    script = f"for n in 0 1 2; do {change}; done; echo end >>/said"
    for is_detached in (False, True):
        command = Command(argv=("/bin/sh", "-c", script), is_detached=is_detached)
        channel = await rig.executor.exec(task_id, command)
        async with asyncio.timeout(20):
            _ = [part async for part in channel.output()]
        await channel.close()
    upper = rig.data_dir / "tasks" / task_id / "upper" / "said"
    await wait_until(lambda: upper.read_text().count("end") == 2, "both commands have ended")
    words = upper.read_text().split("end")
    assert "changed 0" not in words[0]
    assert "changed" not in words[1]
    assert os.stat("/dev/null").st_mode == before


async def test_secrets_and_files_of_others_are_not_there(rig: NativeRig) -> None:
    other = await run(
        rig, ContainerSpec(image="trial:1", args=("echo mine >/secret; sleep 100",), env=("PASSWORD=x1y2",))
    )
    script = (
        f"busybox find / -name '*{other}*' 2>/dev/null; busybox find / -xdev -name secret; "
        "cat /proc/*/environ | grep -c x1y2; grep -c run/secrets /proc/self/mountinfo"
    )
    assert await said(rig, script) == ["0", "0"]
