"""Every option of a container on real processes: it works as seen from inside, or the task is refused."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from box_image import box, run, said
from msgspec.structs import replace
from native_rig import NativeRig

from agent.executor.native import surroundings
from swarmpy.errors import TaskRejected
from swarmpy.model.specs import (
    AppArmorOptions,
    BindOptions,
    ContainerSpec,
    CredentialSpec,
    Device,
    DeviceRequest,
    Limits,
    Mount,
    Privileges,
    SeccompOptions,
    SELinuxContext,
)
from swarmpy.model.states import MountType

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make namespaces"),
]

_V1_MEMORY = Path("/sys/fs/cgroup/memory")
_SWAP = _V1_MEMORY / "memory.memsw.limit_in_bytes"
_V1_DEVICES = Path("/sys/fs/cgroup/devices")
LOOP = "/dev/loop-control"
KEYCTL = {"x86_64": 250, "aarch64": 219}[os.uname().machine]


ODD_PROPAGATION = Mount(
    type=MountType.BIND, source="/usr", target="/v", bind_options=BindOptions(propagation="odd")
)


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


async def test_apparmor(rig: NativeRig, monkeypatch: pytest.MonkeyPatch) -> None:
    for mode in ("default", "disabled"):
        wish = privileges(app_armor=AppArmorOptions(mode=mode))
        assert await said(rig, "echo ok", mode, privileges=wish) == ["ok"]
    monkeypatch.setattr(surroundings, "_APPARMOR", Path("/nowhere"))
    with pytest.raises(TaskRejected, match="AppArmor is not enabled on this node"):
        await run(rig, box("true", privileges=privileges(app_armor=AppArmorOptions(mode="mine"))))


# --- devices


@pytest.mark.skipif(not _V1_DEVICES.is_dir(), reason="needs the devices controller of cgroup v1")
async def test_a_device_and_what_may_be_done_with_it(rig: NativeRig) -> None:
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
    monkeypatch.setattr(rig.executor._maker, "dev", gpus / "none")
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


@pytest.mark.skipif(not _SWAP.exists(), reason="needs accounting of swap in cgroup v1")
async def test_swap(rig: NativeRig) -> None:
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


async def test_oom_score(rig: NativeRig) -> None:
    assert await said(rig, "cat /proc/self/oom_score_adj", oom_score_adj=500) == ["500"]
    try:
        assert await said(rig, "cat /proc/self/oom_score_adj", "less", oom_score_adj=-900) == ["-900"]
    except TaskRejected as error:
        assert "CAP_SYS_RESOURCE" in str(error)  # noqa: PT017 - which of the two depends on the machine
