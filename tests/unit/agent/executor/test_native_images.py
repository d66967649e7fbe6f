"""Tasks from images: a root of their own, over layers that stay as they are."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from image_files import tar_of, write_layout
from msgspec.structs import replace
from native_rig import NativeRig

from agent.executor.base import LaunchFile
from swarmpy.errors import AlreadyExists, TaskRejected
from swarmpy.model.ids import TaskId
from swarmpy.model.specs import ContainerSpec, Limits, Mount
from swarmpy.model.states import MountType

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make namespaces"),
]

PASSWD = b"root:x:0:0:root:/root:/bin/sh\napp:x:1001:1001::/home/app:/bin/sh\n"
GROUP = b"root:x:0:\napp:x:1001:\nextra:x:2002:app\n"


def _closure(program: str) -> dict[str, bytes]:
    """A dynamic program of this machine and the libraries that it needs, by their paths."""
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    paths = {word for word in listed.split() if word.startswith("/")} | {program}
    return {path.lstrip("/"): Path(path).resolve().read_bytes() for path in paths}


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """sh, cat and id in two layers; the upper one hides a file of the lower."""
    programs: dict[str, bytes] = {}
    for program in ("/bin/sh", "/bin/cat", "/bin/ls", "/usr/bin/id", "/bin/touch", "/bin/mknod"):
        programs |= _closure(program)
    base = tar_of(
        *sorted((name, content) for name, content in programs.items()),
        ("etc/passwd", PASSWD),
        ("etc/group", GROUP),
        ("etc/hidden", b"x"),
        ("etc/base", b"of the base\n"),
    )
    # tar_of gives 0644; programs must be executable
    top = tar_of(("etc/.wh.hidden", b""), ("etc/top", b"of the top\n"))
    folder = tmp_path_factory.mktemp("image") / "small"
    config: dict[str, Any] = {
        "Entrypoint": ["/bin/sh", "-c"],
        "Cmd": ["cat /etc/top"],
        "Env": ["FROM=image"],
        "User": "app",
    }
    return write_layout(folder, [_executable(base), top], name="small:1", **config)


def _executable(data: bytes) -> bytes:
    target = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(data)) as source,
        tarfile.open(fileobj=target, mode="w") as archive,
    ):
        for member in source:
            member.mode = 0o755
            archive.addfile(member, source.extractfile(member))
    return target.getvalue()


@pytest.fixture
async def rig(tmp_path: Path, image: Path) -> AsyncIterator[NativeRig]:
    rig = NativeRig(tmp_path)
    await rig.open()
    assert await rig.executor.load_image(image) == ["small:1"]
    yield rig
    await rig.close()


async def said(rig: NativeRig, name: str, spec: ContainerSpec) -> list[str]:
    return (await rig.output(await rig.run(name, spec=spec, image="small:1"))).splitlines()


def script(text: str, **fields: object) -> ContainerSpec:
    return replace(ContainerSpec(image="small:1", args=(text,)), **fields)


async def test_entrypoint_and_command(rig: NativeRig) -> None:
    assert await said(rig, "neither", ContainerSpec()) == ["of the top"]
    assert await said(rig, "args", ContainerSpec(args=("cat /etc/base",))) == ["of the base"]
    spec = ContainerSpec(command=("/bin/cat",), args=("/etc/base", "/etc/top"))
    assert await said(rig, "both", spec) == ["of the base", "of the top"]


async def test_the_images_wishes_and_the_specs_over_them(rig: NativeRig) -> None:
    lines = await said(rig, "wishes", script("echo $FROM $HOME; id -u; id -G; pwd; ls /etc; ls /"))
    assert lines[:4] == ["image /home/app", "1001", "1001 2002", "/"]
    assert "hidden" not in lines
    assert "home" not in lines
    lines = await said(rig, "over", script("echo $FROM; id -u", env=("FROM=spec",), user="0"))
    assert lines == ["spec", "0"]


async def test_a_task_writes_to_its_own_layer_only(rig: NativeRig) -> None:
    write = script("echo changed >/etc/base; cat /etc/base", user="0")
    assert await said(rig, "one", write) == ["changed"]
    assert await said(rig, "two", script("cat /etc/base")) == ["of the base"]
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    assert not [line for line in mounts if " - overlay " in line and str(rig.data_dir) in line]
    await rig.executor.remove(TaskId("one"))
    await rig.executor.remove(TaskId("two"))
    assert list((rig.data_dir / "tasks").iterdir()) == []


async def test_the_node_is_out_of_sight(rig: NativeRig) -> None:
    lines = await said(rig, "sight", script("ls /; cat /proc/mounts", user="0"))
    mounts = [line.split() for line in lines if " " in line]
    assert "var" not in lines
    assert not [mount for mount in mounts if mount[1].startswith(("/work", "/root", "/run"))]
    writable = [
        mount
        for mount in mounts
        if "rw" in mount[3].split(",") and not mount[1].startswith(("/dev/", "/proc/", "/etc/hostname"))
    ]
    assert all("nodev" in mount[3].split(",") for mount in writable), writable


async def test_a_device_made_inside_does_not_open(rig: NativeRig) -> None:
    lines = await said(
        rig, "device", script("mknod /d b 254 0 && cat /d 2>&1; cat /dev/null; echo ok", user="0")
    )
    assert lines[-1] == "ok"
    assert "denied" in lines[0]


async def test_read_only_root_and_mount_points_that_are_made(rig: NativeRig, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    mounts = (
        Mount(type=MountType.BIND, source=str(tmp_path / "source"), target="/made/here"),
        Mount(type=MountType.TMPFS, target="/memory"),
        Mount(type=MountType.VOLUME, target="/anonymous"),
    )
    text = (
        "touch /etc/x 2>/dev/null || echo refused; touch /made/here/x /memory/x /anonymous/x && echo written"
    )
    lines = await said(rig, "ro", script(text, user="0", read_only=True, mounts=mounts))
    assert lines == ["refused", "written"]
    assert (tmp_path / "source/x").exists()


async def test_a_missing_working_folder_is_made(rig: NativeRig) -> None:
    """It is root's, whoever the task runs as, as in docker."""
    assert await said(
        rig, "folder", script("pwd; touch x 2> /dev/null || echo roots", dir="/new/folder")
    ) == [
        "/new/folder",
        "roots",
    ]


async def test_network_files(rig: NativeRig, tmp_path: Path) -> None:
    (tmp_path / "resolv.conf").write_text("nameserver 192.0.2.1\n")
    (tmp_path / "hosts").write_text("192.0.2.2 there\n")
    launch = await rig.launch(
        "files", spec=script("cat /etc/resolv.conf /etc/hosts /etc/hostname"), image="small:1"
    )
    sandbox = replace(
        launch.sandbox, resolv_conf=str(tmp_path / "resolv.conf"), hosts=str(tmp_path / "hosts")
    )
    launch = replace(launch, sandbox=sandbox, hostname="called")
    await rig.executor.create(launch)
    await rig.executor.start(launch.task_id)
    lines = (await rig.output(launch.task_id)).splitlines()
    assert lines == ["nameserver 192.0.2.1", "192.0.2.2 there", "called"]


async def test_an_image_in_use_stays(rig: NativeRig) -> None:
    task_id = await rig.run("user", spec=script("cat /etc/top"), image="small:1")
    await rig.wait_exit(task_id)
    with pytest.raises(AlreadyExists):
        await rig.executor.remove_image("small:1")
    await rig.executor.remove(task_id)
    await rig.executor.remove_image("small:1")
    with pytest.raises(TaskRejected, match=r"^No such image: small:1$"):
        await rig.executor.ensure_image("small:1")


async def test_memory_limit_of_an_image_task(rig: NativeRig) -> None:
    task_id = await rig.run(
        "memory", spec=script("x=x; while :; do x=$x$x; done"), image="small:1",
        limits=Limits(memory_bytes=8 << 20),
    )  # fmt: skip
    exit = (await rig.wait_exit(task_id)).exit
    assert exit.is_oom_killed


async def test_secrets_and_configs_over_an_image(rig: NativeRig) -> None:
    """Their folders are made, what lies beside them stays, and another account reads what it may."""
    spec = script(
        "cat /run/secrets/key /page /etc/app/conf.d/a /etc/top; cat /run/secrets/locked || echo no",
        read_only=True,
    )
    launch = await rig.launch("given", spec=spec, image="small:1")
    files = (
        LaunchFile(target="/run/secrets/key", data=b"word\n", uid=1001, mode=0o400),
        LaunchFile(target="/run/secrets/locked", data=b"word\n", mode=0o400),
        LaunchFile(target="/page", data=b"hello\n"),
        LaunchFile(target="/etc/app/conf.d/a", data=b"conf\n"),
    )
    await rig.executor.create(replace(launch, files=files))
    await rig.executor.start(launch.task_id)
    lines = (await rig.output(launch.task_id)).splitlines()
    assert [line for line in lines if "denied" not in line] == ["word", "hello", "conf", "of the top", "no"]
    assert len(lines) == 6
    upper = rig.data_dir / "tasks" / launch.task_id / "upper"
    assert (upper / "page").read_bytes() == b"", "a place, and nothing in it"


@pytest.mark.parametrize("name", ["proc", "sys", "dev"])
async def test_an_image_cannot_have_the_systems_folders_elsewhere(
    rig: NativeRig, tmp_path: Path, name: str
) -> None:
    """A link there would be followed on the node, and leave what a task must not see without its masks."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        link = tarfile.TarInfo(name)
        link.type, link.linkname = tarfile.SYMTYPE, "/tmp"
        archive.addfile(link)
    layout = write_layout(tmp_path / "odd", [target.getvalue()], name="odd:1", Cmd=["/bin/true"])
    await rig.executor.load_image(layout)
    launch = await rig.launch("odd", spec=ContainerSpec(image="odd:1"), image="odd:1")
    await rig.executor.create(launch)
    with pytest.raises(TaskRejected, match=f'"/{name}" in the image is not a folder'):
        await rig.executor.start(launch.task_id)
