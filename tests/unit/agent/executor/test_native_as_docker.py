"""What a process of a task finds is what docker 20.10 shows: devices, streams, working folder, groups."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest
from box_image import box, layer, run, said
from image_files import write_layout
from native_rig import NativeRig

from agent.executor.native.preflight import has_capability
from swarmpy.errors import TaskFailed, TaskRejected
from swarmpy.model.specs import ContainerSpec, Limits, Mount, Ulimit
from swarmpy.model.states import MountType

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make namespaces"),
]

CAP_SYS_RESOURCE = 24
DEVICES = ("/dev/null", "/dev/zero", "/dev/tty")


def mode_of(path: str) -> int:
    return stat.S_IMODE(Path(path).stat().st_mode)


# --- devices and streams


async def test_the_nodes_device_files_cannot_be_changed_from_inside(rig: NativeRig) -> None:
    before = [mode_of(path) for path in DEVICES]
    script = (
        f"for path in {' '.join(DEVICES)} /proc/keys /proc/self/fd/0; do chmod 640 $path 2>&1; done;"
        "echo x > /dev/null && echo written"
    )
    try:
        for image, spec in (
            ("box", box(script)),
            ("host", ContainerSpec(image="host", command=("/bin/sh", "-c", script))),
        ):
            words = (await rig.output(await run(rig, spec, image))).splitlines()
            assert len([line for line in words if "Read-only file system" in line]) == len(DEVICES) + 2, words
            assert words[-1] == "written"
        assert [mode_of(path) for path in DEVICES] == before
    finally:
        for path, mode in zip(DEVICES, before, strict=True):
            os.chmod(path, mode)


async def test_an_account_may_open_its_own_streams_by_name(rig: NativeRig) -> None:
    script = "echo out > /dev/stdout; echo bad > /dev/stderr; cat /dev/stdin"
    assert sorted(await said(rig, script, user="app")) == ["bad", "out"]


# --- who it runs as, and where


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"user": "nobody"}, "unable to find user nobody: no matching entries in passwd file"),
        ({"user": "app:none"}, "unable to find group none: no matching entries in group file"),
        ({"groups": ("none",)}, "Unable to find group none: no matching entries in group file"),
        ({"user": "2147483648"}, "uids and gids must be in range 0-2147483647"),
        ({"user": "-1"}, "uids and gids must be in range 0-2147483647"),
        ({"user": "0:2147483648"}, "uids and gids must be in range 0-2147483647"),
        ({"dir": "/etc/passwd"}, "Cannot mkdir: /etc/passwd is not a directory"),
        ({"dir": "/etc/passwd/below"}, "Cannot mkdir: /etc/passwd/below is not a directory"),
        (
            {"dir": "/ro/below", "mounts": (Mount(type=MountType.TMPFS, target="/ro", read_only=True),)},
            'the place "/ro/below" in the task cannot be used: Read-only file system',
        ),
    ],
    ids=str,
)
async def test_what_fails_at_the_start(rig: NativeRig, fields: dict[str, Any], text: str) -> None:
    with pytest.raises(TaskFailed) as caught:
        await run(rig, box("true", **fields))
    assert str(caught.value) == f"starting container failed: {text}"
    assert caught.value.exit_code == 128


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"dir": "rel/dir"}, "the working directory 'rel/dir' is invalid, it needs to be an absolute path"),
        ({"oom_score_adj": 5000}, "Invalid value 5000, range for oom score adj is [-1000, 1000]"),
        (
            {"mounts": (Mount(type=MountType.VOLUME, target="/v", read_only=True),)},
            'invalid mount config for type "volume": must not set ReadOnly mode when using anonymous volumes',
        ),
    ],
    ids=str,
)
async def test_what_is_rejected(rig: NativeRig, fields: dict[str, Any], text: str) -> None:
    with pytest.raises(TaskRejected) as caught:
        await run(rig, box("true", **fields))
    assert str(caught.value) == text


@pytest.mark.skipif(has_capability(CAP_SYS_RESOURCE), reason="needs a daemon without CAP_SYS_RESOURCE")
@pytest.mark.parametrize(
    ("fields", "text"),
    [
        (
            {"ulimits": (Ulimit(name="nofile", soft=1 << 30, hard=1 << 30),)},
            "the ulimit nofile=1073741824:1073741824 cannot be set on this node: operation not permitted; "
            "more than [0-9]+ needs a daemon with CAP_SYS_RESOURCE",
        ),
        ({"oom_score_adj": -500}, "the OOM score -500 cannot be set on this node: .* needs CAP_SYS_RESOURCE"),
        (
            {"capability_add": ("SYS_RESOURCE",)},
            'the capability "SYS_RESOURCE" cannot be given to tasks of this node: its daemon does not have '
            "it; take it out, or place the service on other nodes",
        ),
    ],
    ids=str,
)
async def test_what_the_daemon_has_no_right_to(rig: NativeRig, fields: dict[str, Any], text: str) -> None:
    with pytest.raises(TaskRejected, match=text):
        await run(rig, box("true", **fields))


async def test_a_missing_working_folder_is_roots_and_made_before_the_root_is_read_only(
    rig: NativeRig,
) -> None:
    script = "stat -c '%n %u %a' /new/dir; touch x 2>&1"
    assert await said(rig, script, dir="/new/dir", user="app", read_only=True) == [
        "/new/dir 0 755",
        "touch: x: Read-only file system",
    ]
    assert await said(
        rig, "cat /proc/self/mounts | grep ' /etc/hostname ' | grep -c ' ro,'", read_only=True
    ) == ["1"]
    deep = await said(
        rig, "stat -c %F .", dir="/out/swarmpy-none/deep"
    )  # by a link that leads out of the image
    assert deep == ["directory"]
    assert not Path("/tmp/swarmpy-none").exists()


async def test_a_tmpfs_has_the_mode_of_what_it_lies_over(rig: NativeRig) -> None:
    mounts = tuple(Mount(type=MountType.TMPFS, target=target) for target in ("/data", "/fresh"))
    assert await said(rig, "stat -c '%n %a %u' /data /fresh", mounts=mounts) == [
        "/data 750 0",
        "/fresh 1777 0",
    ]


# --- what programs read of their limits and their network


async def test_a_task_reads_its_own_limits(rig: NativeRig) -> None:
    v1 = Path("/sys/fs/cgroup/memory").is_dir()
    path = "memory/memory.limit_in_bytes" if v1 else "memory.max"
    script = (
        f"cat /sys/fs/cgroup/{path}; mkdir /sys/fs/cgroup/{path.rpartition('/')[0]}/x 2>&1; ls /sys/fs/cgroup"
    )
    launch = await run(rig, box(script), limits=Limits(memory_bytes=64 << 20))
    limit, refused, *names = (await rig.output(launch)).splitlines()
    assert limit == str(64 << 20)
    assert refused.endswith("Read-only file system")
    assert not v1 or {"memory", "pids"} <= set(names)


async def test_any_account_may_take_any_port_and_send_pings(rig: NativeRig) -> None:
    script = "cd /proc/sys/net/ipv4; cat ip_unprivileged_port_start ping_group_range"
    assert await said(rig, script, user="app") == ["0", "0\t2147483647"]
    asked = {"net.ipv4.ip_unprivileged_port_start": "80"}
    assert (await said(rig, script, sysctls=asked))[0] == "80"


@pytest.mark.parametrize("user", ["", "app"])
async def test_the_init_process_shows_nothing_of_the_node(rig: NativeRig, user: str) -> None:
    script = "cat /proc/1/comm /proc/1/cmdline; echo; cat /proc/1/environ 2>&1; ls /proc/1/exe 2>&1"
    name, line, *refused = await said(rig, script, init=True, user=user)
    assert name == "swarmpy-init"
    assert line.strip("\0") == "swarmpy-init"
    assert len(refused) == 2
    assert all(words.endswith("Permission denied") for words in refused)


async def test_mtab_leads_to_the_mounts(rig: NativeRig) -> None:
    assert await said(rig, "ls -l /etc/mtab | grep -o '/proc/mounts'") == ["/proc/mounts"]


@pytest.mark.parametrize("is_read_only", [True, False])
async def test_nothing_is_left_in_what_is_mounted_over_etc(
    rig: NativeRig, tmp_path: Path, is_read_only: bool
) -> None:
    mount = Mount(type=MountType.BIND, source=str(tmp_path), target="/etc", read_only=is_read_only)
    assert await said(rig, "ls /etc; echo up", mounts=(mount,)) == ["up"]
    assert list(tmp_path.iterdir()) == []


async def test_a_terminal_has_a_name_in_its_task_and_is_its_console(rig: NativeRig) -> None:
    script = (
        "readlink /proc/self/fd/0; stat -c '%u %g %a' /dev/console; echo said > /dev/console; ls /dev/pts/0"
    )
    assert [line.rstrip("\r") for line in await said(rig, script, tty=True, user="app")] == [
        "/dev/pts/0",
        "1001 5 620",
        "said",
        "/dev/pts/0",
    ]


# --- what an image asks for


async def test_volumes_that_the_image_asks_for(rig: NativeRig, tmp_path: Path) -> None:
    archive = write_layout(
        tmp_path / "image",
        [layer()],
        name="kept:1",
        Entrypoint=["/bin/sh", "-c"],
        Volumes={"/data": {}, "/log": {}},
        ExposedPorts={"80/tcp": {}},
        Labels={"of": "the image"},
    )
    await rig.executor.load_image(archive)
    spec = ContainerSpec(
        image="kept:1",
        args=(
            "cat /data/first; stat -c %u /data; echo x > /data/new; grep -c ' /data \\| /log ' /proc/mounts",
        ),
        mounts=(Mount(type=MountType.VOLUME, source="named", target="/log"),),
    )
    task = await run(rig, spec)
    assert (await rig.output(task)).splitlines() == ["of the image", "1001", "2"]
    facts = await rig.executor.look(task)
    assert facts is not None
    assert (facts.image_volumes, facts.image_ports) == (("/data", "/log"), ("80/tcp",))
    assert facts.image_labels == {"of": "the image"}
    places = {mount.target: Path(mount.source) for mount in facts.mounts}
    assert [mount.name for mount in facts.mounts] == ["", "named"]
    assert (places["/data"] / "new").read_text() == "x\n"
    assert facts.size_rw == -1
    await rig.executor.remove(task)
    assert not places["/data"].exists()
    assert places["/log"].exists()
