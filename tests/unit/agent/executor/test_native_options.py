"""Every option of a container on real processes: it works as seen from inside, or the task is refused."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import stat
import subprocess
import tarfile
from collections.abc import AsyncIterator, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from image_files import write_layout
from msgspec.structs import replace
from native_rig import NativeRig, wait_until

from agent.executor.native.shim import kernel
from swarmpy.errors import AlreadyExists, TaskRejected
from swarmpy.model.ids import TaskId
from swarmpy.model.specs import (
    AppArmorOptions,
    BindOptions,
    ContainerSpec,
    CredentialSpec,
    Device,
    DeviceRequest,
    Driver,
    ImageOptions,
    Limits,
    Mount,
    Privileges,
    SeccompOptions,
    SELinuxContext,
    VolumeOptions,
)
from swarmpy.model.states import MountType

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make namespaces"),
]

BUSYBOX = Path("/bin/busybox")
_V1_MEMORY = Path("/sys/fs/cgroup/memory")
_V1_DEVICES = Path("/sys/fs/cgroup/devices")
LOOP = "/dev/loop-control"
KEYCTL = {"x86_64": 250, "aarch64": 219}[os.uname().machine]


def closure(program: str) -> dict[str, bytes]:
    """The libraries of a dynamic program of this machine, by their paths."""
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    paths = {word for word in listed.split() if word.startswith("/")}
    return {path.lstrip("/"): Path(path).resolve().read_bytes() for path in paths}


ODD_PROPAGATION = Mount(
    type=MountType.BIND, source="/usr", target="/v", bind_options=BindOptions(propagation="odd")
)


def layer() -> bytes:
    """busybox, a set-uid program, a folder for volumes to begin with, and links that lead out."""
    target = BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:

        def add(
            name: str, data: bytes = b"", *, mode: int = 0o755, kind: bytes = tarfile.REGTYPE, **more: Any
        ) -> None:
            member = tarfile.TarInfo(name)
            member.mode, member.type, member.size = mode, kind, len(data)
            for key, value in more.items():
                setattr(member, key, value)
            archive.addfile(member, BytesIO(data))

        add("bin/busybox", BUSYBOX.read_bytes())
        for name in ("sh", "cat", "ls", "touch", "mkdir", "stat", "grep", "mount", "sleep", "df"):
            add(f"bin/{name}", type=tarfile.SYMTYPE, linkname="busybox")
        for path, data in closure("/usr/bin/id").items():
            add(path, data)
        add("bin/sudo-id", Path("/usr/bin/id").read_bytes(), mode=0o4755)
        add("etc/passwd", b"root:x:0:0::/root:/bin/sh\napp:x:1001:1001::/home/app:/bin/sh\n", mode=0o644)
        add("data", type=tarfile.DIRTYPE, uid=1001, gid=1001, mode=0o750)
        add("data/first", b"of the image\n", mode=0o640, uid=1001)
        add("data/deep", type=tarfile.DIRTYPE)
        add("data/deep/link", type=tarfile.SYMTYPE, linkname="../first")
        add("out", type=tarfile.SYMTYPE, linkname="../../../../../../../../tmp")
    return target.getvalue()


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("options") / "box"
    return write_layout(folder, [layer()], name="box:1", Entrypoint=["/bin/sh", "-c"], Cmd=["true"])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def node(tmp_path_factory: pytest.TempPathFactory, image: Path) -> AsyncIterator[NativeRig]:
    rig = NativeRig(tmp_path_factory.mktemp("options-node"))
    await rig.open()
    await rig.executor.load_image(image)
    yield rig
    await rig.close()


@pytest_asyncio.fixture(loop_scope="module")
async def rig(node: NativeRig) -> AsyncIterator[NativeRig]:
    """The module's node; tasks and volumes that a test leaves are removed."""
    yield node
    for found in await node.executor.list():
        await node.executor.remove(found.task_id)
    node.executor.volumes.prune(is_all=True)


def box(script: str, **fields: object) -> ContainerSpec:
    return replace(ContainerSpec(image="box:1", args=(script,)), **fields)


_numbers = itertools.count()


async def run(rig: NativeRig, spec: ContainerSpec, name: str = "task", **fields: object) -> TaskId:
    """Every task has an id of its own: ends of former ones may still be told."""
    unique = f"{name}-{next(_numbers)}"
    launch = replace(await rig.launch(unique, spec=spec, image=spec.image), **fields)
    await rig.executor.create(launch)
    await rig.executor.start(launch.task_id)
    return launch.task_id


async def said(rig: NativeRig, script: str, name: str = "task", **fields: object) -> list[str]:
    return (await rig.output(await run(rig, box(script, **fields), name))).splitlines()


def privileges(**fields: Any) -> Privileges:
    return Privileges(**fields)


def status(name: str) -> str:
    return f"grep ^{name}: /proc/self/status | grep -o '[0-9a-f]*$'"


# --- confinement


async def test_the_default_filter_stands_for_root_and_for_users(rig: NativeRig) -> None:
    for user in ("", "app"):
        script = f"{status('Seccomp')}; {status('NoNewPrivs')}; {status('CapPrm')}; {status('CapBnd')}"
        lines = await said(rig, script, user or "root", user=user)
        assert lines[:2] == ["2", "0"]
        assert lines[2] == ("0" * 16 if user else "00000000a80425fb")
        assert lines[3] == "00000000a80425fb"  # and CAP_SYS_ADMIN, which set the filter, is gone


async def test_what_the_default_filter_refuses(rig: NativeRig) -> None:
    program = (
        "import ctypes, errno; c = ctypes.CDLL(None, use_errno=True);"
        f"print(c.syscall({KEYCTL}, 0, -3, 0), errno.errorcode[ctypes.get_errno()])"
    )
    spec = ContainerSpec(image="host", command=("/usr/bin/python3", "-c", program))
    assert (await rig.output(await run(rig, spec))).split() == ["-1", "EPERM"]
    free = replace(spec, privileges=privileges(seccomp=SeccompOptions(mode="unconfined")))
    assert (await rig.output(await run(rig, free, "free"))).split()[0] != "-1"


async def test_a_profile_of_ones_own(rig: NativeRig) -> None:
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}],
    }
    custom = privileges(seccomp=SeccompOptions(mode="custom", profile=json.dumps(profile).encode()))
    assert await said(rig, "mkdir /x 2>&1; touch /y && echo ok", privileges=custom) == [
        "mkdir: can't create directory '/x': No space left on device",
        "ok",
    ]
    assert await said(rig, status("Seccomp"), "init", privileges=custom, init=True) == ["2"]


async def test_set_uid_programs_work_unless_that_is_taken_away(rig: NativeRig) -> None:
    assert await said(rig, "sudo-id -u", user="app") == ["0"]
    held = privileges(no_new_privileges=True)
    assert await said(rig, f"sudo-id -u; {status('NoNewPrivs')}", "held", user="app", privileges=held) == [
        "1001",
        "1",
    ]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"privileges": Privileges(seccomp=SeccompOptions(mode="custom", profile=b"{"))}, "decoding seccomp"),
        ({"privileges": Privileges(seccomp=SeccompOptions(mode="odd"))}, 'unknown seccomp mode "odd"'),
        ({"privileges": Privileges(credential_spec=CredentialSpec(file="x"))}, "Windows nodes"),
        ({"privileges": Privileges(selinux_context=SELinuxContext(type="x_t"))}, "SELinux labels"),
        ({"isolation": "hyperv"}, 'invalid isolation "hyperv" on linux'),
        ({"devices": (Device(path_on_host="/dev/none"),)}, 'custom device "/dev/none": no such file'),
        ({"devices": (Device(path_on_host="/etc/passwd"),)}, "not a device node"),
        ({"mounts": (Mount(type=MountType.CLUSTER, source="v", target="/v"),)}, "not supported yet"),
        ({"mounts": (Mount(type=MountType.IMAGE, source="none", target="/v"),)}, "No such image: none"),
        ({"mounts": (Mount(type=MountType.IMAGE, source="host", target="/v"),)}, "no files of its own"),
        (
            {
                "mounts": (
                    Mount(
                        type=MountType.BIND,
                        source="/usr",
                        target="/v",
                        bind_options=BindOptions(propagation="x"),
                    ),
                )
            },
            "invalid propagation mode",
        ),
        ({"cpuset_cpus": "900"}, "cpuset.cpus = 900 was refused"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_what_is_refused(rig: NativeRig, fields: dict[str, Any], text: str) -> None:
    with pytest.raises(TaskRejected, match=text):
        await run(rig, box("true", **fields))
    assert await rig.executor.list() == ()


async def test_apparmor(rig: NativeRig) -> None:
    for mode in ("default", "disabled"):
        wish = privileges(app_armor=AppArmorOptions(mode=mode))
        assert await said(rig, "echo ok", mode, privileges=wish) == ["ok"]
    if Path("/sys/module/apparmor/parameters/enabled").exists():
        pytest.skip("this kernel has AppArmor")
    with pytest.raises(TaskRejected, match="AppArmor is not enabled on this node"):
        await run(rig, box("true", privileges=privileges(app_armor=AppArmorOptions(mode="mine"))))


# --- devices


async def test_a_device_and_what_may_be_done_with_it(rig: NativeRig) -> None:
    if not _V1_DEVICES.is_dir():
        pytest.skip("no devices controller of cgroup v1 here")
    devices = (
        Device(path_on_host=LOOP, path_in_container="/dev/sub/mine", cgroup_permissions="r"),
        Device(path_on_host=LOOP, path_in_container="/opt/device"),
    )
    script = "(: </dev/sub/mine) && echo read; (: >/dev/sub/mine) 2>&1; : >/dev/null && echo null; ls /dev"
    lines = await said(rig, script, devices=devices[:1])
    assert lines[0] == "read"
    assert "Operation not permitted" in lines[1]
    assert "null" in lines
    assert "loop-control" not in lines
    assert await said(rig, "(: <>/opt/device) && echo both", "both", devices=devices[1:]) == ["both"]


async def test_a_folder_of_devices(rig: NativeRig) -> None:
    wish = Device(path_on_host="/dev/net", path_in_container="/dev/nets")
    assert await said(rig, "ls /dev/nets; : </dev/nets/tun && echo ok", devices=(wish,)) == ["tun", "ok"]


async def test_a_privileged_task_has_it_all(rig: NativeRig) -> None:
    script = (
        f"{status('Seccomp')}; {status('CapEff')}; : <{LOOP} && echo device; "
        "touch /sys/kernel/mm/ksm/run && echo sys; cat /proc/interrupts | grep -c . ; "
        "ls /sys/fs/cgroup | grep -c . ; mount -t tmpfs none /data && echo mounted"
    )
    lines = await said(rig, script, privileged=True)
    own = Path("/proc/self/status").read_text().split("CapEff:\t")[1].split()[0]
    assert lines[:2] == ["0", own]
    assert lines[2:4] == ["device", "sys"]
    assert int(lines[4]) > 1
    assert int(lines[5]) > 1
    assert lines[6] == "mounted"


@pytest.fixture
def gpus(tmp_path: Path) -> Path:
    folder = tmp_path / "dev"
    folder.mkdir()
    for name in ("nvidia0", "nvidia1", "nvidiactl"):
        os.mknod(folder / name, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    return folder


async def test_gpus(rig: NativeRig, gpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TaskRejected, match="this node has none"):
        await run(rig, box("true", device_requests=(DeviceRequest(count=-1, capabilities=("gpu",)),)))
    monkeypatch.setattr(rig.executor._maker, "dev", gpus)
    script = "echo $NVIDIA_VISIBLE_DEVICES; ls /dev | grep nvidia"
    for number, (request, expected) in enumerate(
        [
            (DeviceRequest(count=-1, capabilities=("gpu",)), ["all", "nvidia0", "nvidia1", "nvidiactl"]),
            (DeviceRequest(count=1, capabilities=("gpu",)), ["0", "nvidia0", "nvidiactl"]),
            (DeviceRequest(device_ids=("1",), capabilities=("gpu",)), ["1", "nvidia1", "nvidiactl"]),
        ]
    ):
        assert await said(rig, script, f"gpu{number}", device_requests=(request,)) == expected
    for request, text in [
        (DeviceRequest(count=3, capabilities=("gpu",)), "asks for 3 GPUs and this node has 2"),
        (DeviceRequest(device_ids=("7",), capabilities=("gpu",)), "has no GPU 7: it has 0, 1"),
        (DeviceRequest(count=1, capabilities=("tpu",)), "could not select device driver"),
    ]:
        with pytest.raises(TaskRejected, match=text):
            await run(rig, box("true", device_requests=(request,)), "refused")


# --- memory and processors


async def test_shared_memory_and_processors(rig: NativeRig) -> None:
    script = "df -k /dev/shm | grep -o '[0-9]* *[0-9]* *[0-9]* *[0-9]*%' | grep -o '^[0-9]*'; " + status(
        "Cpus_allowed_list"
    )
    assert await said(rig, script, shm_size=8 << 20, cpuset_cpus="0") == ["8192", "0"]


async def test_swap(rig: NativeRig) -> None:
    if not (_V1_MEMORY / "memory.memsw.limit_in_bytes").exists():
        pytest.skip("no accounting of swap in cgroup v1 here")
    group = _V1_MEMORY / rig.parent.strip("/")
    limits = Limits(memory_bytes=8 << 20)
    cases: list[tuple[str, dict[str, Any], int, int | None]] = [
        ("left", {}, 16 << 20, None),
        ("none", {"swap_bytes": 0, "memory_swappiness": 10}, 8 << 20, 10),
        ("some", {"swap_bytes": 4 << 20, "memory_swappiness": -1}, 12 << 20, None),
    ]
    for name, fields, both, swappiness in cases:
        await rig.executor.create(
            replace(await rig.launch(name, spec=box("true"), image="box:1"), limits=limits, **fields)
        )
        assert int((group / name / "memory.memsw.limit_in_bytes").read_text()) == both
        if swappiness is not None:
            assert int((group / name / "memory.swappiness").read_text()) == swappiness
    for fields, text in [
        ({"swap_bytes": 1 << 20, "limits": Limits()}, "always set the Memory limit"),
        ({"memory_swappiness": 101, "limits": limits}, "valid memory swappiness range is 0-100"),
    ]:
        with pytest.raises(TaskRejected, match=text):
            await rig.executor.create(
                replace(await rig.launch("odd", spec=box("true"), image="box:1"), **fields)
            )


# --- mounts


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


async def test_oom_score(rig: NativeRig) -> None:
    assert await said(rig, "cat /proc/self/oom_score_adj", oom_score_adj=500) == ["500"]
    try:
        assert await said(rig, "cat /proc/self/oom_score_adj", "less", oom_score_adj=-900) == ["-900"]
    except TaskRejected as error:
        assert "CAP_SYS_RESOURCE" in str(error)  # noqa: PT017 - which of the two depends on the machine
