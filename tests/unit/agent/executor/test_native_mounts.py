"""Mounts and volumes of tasks, as seen from inside and from the node."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from box_image import box, run, said
from native_rig import NativeRig, wait_until

from agent.executor.native.shim import kernel
from swarmpy.errors import AlreadyExists, TaskRejected
from swarmpy.model.specs import (
    BindOptions,
    Driver,
    ImageOptions,
    Mount,
    VolumeOptions,
)
from swarmpy.model.states import MountType

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make namespaces"),
]


def mount_tmpfs(folder: Path) -> None:
    kernel.mount("swarmpy-test", str(folder), "tmpfs")


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Path]:
    """A folder on a mount of its own that is shared, with a mount inside it."""
    folder = tmp_path / "shared"
    (folder).mkdir()
    mount_tmpfs(folder)
    kernel.mount("", str(folder), flags=kernel.MS_SHARED)
    (folder / "inner").mkdir()
    mount_tmpfs(folder / "inner")
    (folder / "inner/file").write_text("deep\n")
    yield folder
    with contextlib.suppress(subprocess.CalledProcessError):
        subprocess.run(["umount", "-R", folder], check=True, capture_output=True)


def bind(source: Path, **options: Any) -> Mount:
    read_only = options.pop("read_only", False)
    return Mount(
        type=MountType.BIND,
        source=str(source),
        target="/mnt",
        read_only=read_only,
        bind_options=BindOptions(**options),
    )


async def test_read_only_goes_all_the_way_down_unless_told_otherwise(rig: NativeRig, shared: Path) -> None:
    touch = "touch /mnt/x 2>/dev/null || echo top; touch /mnt/inner/x 2>/dev/null || echo deep"
    script = f"cat /mnt/inner/file; {touch}"
    mount = bind(shared, read_only=True)
    assert await said(rig, script, mounts=(mount,)) == ["deep", "top", "deep"]
    mount = bind(shared, read_only=True, read_only_non_recursive=True)
    assert await said(rig, script, "top", mounts=(mount,)) == ["deep", "top"]
    mount = bind(shared, non_recursive=True)
    assert await said(rig, "ls /mnt/inner", "flat", mounts=(mount,)) == []


async def test_a_source_is_made_where_that_is_asked_for(rig: NativeRig, tmp_path: Path) -> None:
    missing = tmp_path / "a/b"
    with pytest.raises(TaskRejected, match="bind source path does not exist"):
        await run(rig, box("true", mounts=(bind(missing),)))
    assert await said(rig, "echo x >/mnt/f && echo ok", mounts=(bind(missing, create_mountpoint=True),)) == [
        "ok"
    ]
    assert (missing / "f").exists()


@pytest.mark.parametrize(
    ("propagation", "is_heard"), [("rslave", True), ("rshared", True), ("rprivate", False)]
)
async def test_what_the_node_mounts_later(
    rig: NativeRig, shared: Path, propagation: str, is_heard: bool
) -> None:
    (shared / "later").mkdir()
    script = "while [ ! -e /mnt/go ]; do sleep 0.02; done; ls /mnt/later"
    task_id = await run(rig, box(script, mounts=(bind(shared, propagation=propagation),)))
    mount_tmpfs(shared / "later")
    (shared / "later/new").touch()
    (shared / "go").touch()
    assert (await rig.output(task_id)).split() == (["new"] if is_heard else [])


async def test_what_a_task_mounts_is_seen_on_the_node_if_shared(rig: NativeRig, shared: Path) -> None:
    (shared / "theirs").mkdir()
    script = "mount -t tmpfs none /mnt/theirs && touch /mnt/theirs/new && sleep 100"
    spec = box(script, mounts=(bind(shared, propagation="rshared"),), privileged=True, stop_signal="SIGKILL")
    task_id = await run(rig, spec)
    await wait_until((shared / "theirs/new").exists, "the task's mount is seen on the node")
    await rig.executor.remove(task_id)
    assert (shared / "theirs/new").exists()


async def test_sharing_needs_a_shared_mount(rig: NativeRig, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    mount_tmpfs(tmp_path / "plain")
    kernel.mount("", str(tmp_path / "plain"), flags=kernel.MS_PRIVATE)
    try:
        with pytest.raises(TaskRejected, match="but it is not a shared mount"):
            await run(rig, box("true", mounts=(bind(tmp_path / "plain", propagation="rshared"),)))
    finally:
        kernel.unmount(str(tmp_path / "plain"))


async def test_a_link_of_the_image_does_not_lead_out(rig: NativeRig, tmp_path: Path) -> None:
    mount = Mount(type=MountType.TMPFS, target="/out/swarmpy-escape")
    lines = await said(rig, "ls -d /tmp/*; grep -c swarmpy-escape /proc/mounts", mounts=(mount,))
    assert lines == ["/tmp/swarmpy-escape", "1"]
    assert not Path("/tmp/swarmpy-escape").exists()


def volume(
    name: str, target: str = "/data", *, driver: dict[str, str] | None = None, **options: Any
) -> Mount:
    config = Driver(options=driver) if driver is not None else None
    return Mount(
        type=MountType.VOLUME,
        source=name,
        target=target,
        volume_options=VolumeOptions(driver_config=config, **options),
    )


async def test_an_empty_volume_begins_with_the_images_content(rig: NativeRig) -> None:
    script = "ls /data; cat /data/deep/link; stat -c '%a %u' /data /data/first; echo more >>/data/first"
    expected = ["deep", "first", "of the image", "750 1001", "640 1001"]
    assert await said(rig, script, mounts=(volume("filled"),)) == expected
    assert await said(rig, "cat /data/first", "again", mounts=(volume("filled"),)) == ["of the image", "more"]
    assert await said(rig, "ls /data", "bare", mounts=(volume("bare", no_copy=True),)) == []
    found = rig.executor.volumes.inspect("filled")
    (Path(found.mountpoint).parent / "copying").touch()  # as a crash in the middle leaves it
    (Path(found.mountpoint) / "deep/link").unlink()
    assert await said(rig, "cat /data/deep/link", "mended", mounts=(volume("filled"),)) == ["of the image"]


async def test_many_tasks_fill_a_volume_once(rig: NativeRig) -> None:
    spec = box("cat /data/first", mounts=(volume("many"),))
    ids = await asyncio.gather(*(run(rig, spec, f"many{number}") for number in range(8)))
    for id_ in ids:
        await wait_until(lambda id_=id_: rig.executor._tasks[id_].exit is not None, "the task ends")  # type: ignore[misc]
        assert [line.data for line in await rig.log(id_)] == [b"of the image\n"]


async def test_part_of_a_volume(rig: NativeRig) -> None:
    await said(rig, "mkdir /v/part; echo x >/v/part/file", mounts=(volume("whole", "/v"),))
    part = volume("whole", "/p", subpath="part")
    assert await said(rig, "ls /p", "part", mounts=(part,)) == ["file"]
    with pytest.raises(TaskRejected, match='cannot find subpath "none"'):
        await run(rig, box("true", mounts=(volume("whole", "/p", subpath="none"),)), "none")
    with pytest.raises(TaskRejected, match="must be a relative path"):
        await run(rig, box("true", mounts=(volume("whole", "/p", subpath="../x"),)), "odd")


async def test_volumes_that_are_elsewhere(rig: NativeRig, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    bound = volume("bound", driver={"type": "none", "o": "bind", "device": str(tmp_path / "there")})
    await said(rig, "echo x >/data/file", mounts=(bound,))
    assert (tmp_path / "there/file").read_text() == "x\n"
    memory = volume("memory", driver={"type": "tmpfs", "device": "tmpfs", "o": "size=1m,uid=1001,ro"})
    script = "stat -c %u /data; touch /data/x 2>/dev/null || echo refused; df -k /data | grep -c 1024"
    assert await said(rig, script, "memory", mounts=(memory,)) == ["1001", "refused", "1"]
    before = Path("/proc/self/mountinfo").read_text()
    assert str(rig.data_dir / "volumes") not in before
    odd = volume("odd", driver={"type": "nosuchfs", "device": "x"})
    with pytest.raises(TaskRejected, match=r"failed to mount local volume: mount x:.*no such device"):
        await run(rig, box("true", mounts=(odd,)), "odd")


async def test_a_volume_in_use_stays(rig: NativeRig) -> None:
    task_id = await run(rig, box("true", mounts=(volume("used"), volume("", "/anonymous"))))
    await rig.wait_exit(task_id)
    with pytest.raises(AlreadyExists, match=rf"^remove used: volume is in use - \[{task_id}\]$"):
        rig.executor.volumes.remove("used")
    assert [one.name for one in rig.executor.volumes.list()] == ["used"]
    await rig.executor.remove(task_id)
    rig.executor.volumes.remove("used")
    assert rig.executor.volumes.list() == ()


async def test_an_image_as_a_mount(rig: NativeRig) -> None:
    whole = Mount(type=MountType.IMAGE, source="box:1", target="/image")
    part = Mount(
        type=MountType.IMAGE, source="box:1", target="/part", image_options=ImageOptions(subpath="data")
    )
    script = "cat /image/data/first /part/first; touch /image/x 2>/dev/null || echo refused; : >/data/first"
    task_id = await run(rig, box(script, mounts=(whole, part)))
    assert (await rig.output(task_id)).splitlines() == ["of the image", "of the image", "refused"]
    with pytest.raises(AlreadyExists):
        await rig.executor.remove_image("box:1")


async def test_a_volume_name_that_is_none(rig: NativeRig) -> None:
    with pytest.raises(TaskRejected, match="too short"):
        await run(rig, box("true", mounts=(volume("a"),)))
    mount = Mount(
        type=MountType.VOLUME,
        source="data",
        target="/d",
        volume_options=VolumeOptions(driver_config=Driver(name="nfs")),
    )
    with pytest.raises(TaskRejected, match='volume driver "nfs" is not on this node'):
        await run(rig, box("true", mounts=(mount,)))
    assert rig.executor.volumes.list() == ()
