"""The native executor on real processes: what a task finds around it, limits, bad input."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace
from native_rig import DEADLINE_S, NativeRig

from agent.executor.base import LogQuery
from swarmpy.errors import TaskFailed, TaskRejected
from swarmpy.model.ids import TaskId
from swarmpy.model.specs import ContainerSpec, Limits, Mount, TmpfsOptions, Ulimit
from swarmpy.model.states import MountType

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make namespaces"),
]

SPENT_NS = 100_000_000
"""Of a CPU, by a task that is given a tenth of one: it takes a second, or longer where others want it too."""


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[NativeRig]:
    rig = NativeRig(tmp_path)
    await rig.open()
    yield rig
    await rig.close()


def sh(script: str, **fields: object) -> ContainerSpec:
    return replace(ContainerSpec(image="host", command=("/bin/sh", "-c", script)), **fields)


async def said(rig: NativeRig, script: str, **fields: object) -> list[str]:
    """The lines that a task with this script and spec says."""
    task_id = await rig.run("said", spec=sh(script, **fields))
    return (await rig.output(task_id)).splitlines()


# --- what a task finds around it


async def test_a_task_is_alone_in_its_namespaces(rig: NativeRig) -> None:
    lines = await said(
        rig, "echo $$; ls /proc | grep -c '^[0-9]'; hostname; ls /sys/class/net; ls /dev/shm | wc -l"
    )
    pid, processes, hostname, *links, shared = lines
    assert pid == "1"
    assert int(processes) <= 4  # the shell, ls, grep, and nothing of the node's
    assert hostname == "said"
    assert links == ["lo"]
    assert shared == "0"


async def test_nothing_that_a_task_mounts_is_seen_on_the_node(rig: NativeRig) -> None:
    def mounted() -> list[str]:
        """What others have in folders of theirs meanwhile does not count."""
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        return [line for line in lines if " /tmp/" not in line or str(rig.data_dir) in line]

    before = mounted()
    task_id = await rig.sh("mounts", "exec sleep 100")
    assert mounted() == before
    await rig.executor.remove(task_id)


async def test_environment_user_and_folder(rig: NativeRig) -> None:
    lines = await said(
        rig,
        'echo "$A|$B|$PATH|$HOME|$HOSTNAME"; id -u; id -g; id -G; pwd; umask',
        env=("A=1", "B=x=y", "A=2"),
        user="daemon",
        groups=("50",),
        dir="/usr",
    )
    assert lines[0].startswith("2|x=y|/usr/local/sbin:")
    assert lines[0].endswith("|/usr/sbin|said")
    assert lines[1:3] == ["1", "1"]
    assert lines[3].split() == ["1", "50"]
    assert lines[4:] == ["/usr", "0022"]


async def test_a_number_needs_no_account(rig: NativeRig) -> None:
    assert await said(rig, "id -u; id -g", user="12345:54321") == ["12345", "54321"]


async def test_privileges_are_dockers_and_cannot_grow(rig: NativeRig) -> None:
    lines = await said(rig, "grep -E 'CapEff|CapBnd|CapInh|NoNewPrivs' /proc/self/status")
    values = dict(line.split(":\t") for line in lines)
    assert (
        int(values["CapEff"], 16) == int(values["CapBnd"], 16) == 0xA80425FB - (1 << 27)
    )  # no MKNOD on host
    assert int(values["CapInh"], 16) == 0
    assert values["NoNewPrivs"] == "1"
    none = await rig.run("none", spec=sh("grep CapEff /proc/self/status", user="1000"))
    assert (await rig.output(none)).split() == ["CapEff:", "0" * 16]


async def test_capabilities_by_name(rig: NativeRig) -> None:
    spec = sh("grep CapEff /proc/self/status", capability_drop=("ALL",), capability_add=("CAP_NET_ADMIN",))
    assert (await rig.output(await rig.run("caps", spec=spec))).split()[1] == f"{1 << 12:016x}"
    with pytest.raises(TaskRejected, match="CAP_FLYING"):
        await rig.run("odd", spec=sh("true", capability_add=("CAP_FLYING",)))


async def test_the_kernels_settings_are_read_only(rig: NativeRig) -> None:
    lines = await said(
        rig,
        "for f in /proc/sys/kernel/hostname /proc/sysrq-trigger /sys/kernel/mm/ksm/run; do "
        "(echo x >$f) 2>/dev/null || echo refused; done; cat /proc/keys | wc -c",
    )
    assert lines == ["refused", "refused", "refused", "0"]


async def test_sysctls_of_the_own_namespaces_only(rig: NativeRig) -> None:
    assert await said(rig, "cat /proc/sys/net/core/somaxconn", sysctls={"net.core.somaxconn": "77"}) == ["77"]
    with pytest.raises(TaskRejected, match="not in a separate kernel namespace"):
        await rig.run("odd", spec=sh("true", sysctls={"vm.swappiness": "1"}))


async def test_ulimits(rig: NativeRig) -> None:
    assert await said(rig, "ulimit -n", ulimits=(Ulimit(name="nofile", soft=77, hard=88),)) == ["77"]
    for odd in (Ulimit(name="nonsense", soft=1, hard=1), Ulimit(name="nofile", soft=9, hard=8)):
        with pytest.raises(TaskRejected, match="ulimit"):
            await rig.run("odd", spec=sh("true", ulimits=(odd,)))


async def test_mounts(rig: NativeRig, tmp_path: Path) -> None:
    source, target, memory = tmp_path / "source", tmp_path / "target", tmp_path / "memory"
    for folder in (source, target, memory):
        folder.mkdir()
    (source / "file").write_text("content\n")
    mounts = (
        Mount(type=MountType.BIND, source=str(source), target=str(target), read_only=True),
        Mount(
            type=MountType.TMPFS,
            target=str(memory),
            tmpfs_options=TmpfsOptions(size_bytes=1 << 20, mode=0o700),
        ),
    )
    script = f"cat {target}/file; touch {target}/new || echo refused; stat -c %a {memory}; touch {memory}/new"
    lines = [line for line in await said(rig, script, mounts=mounts) if not line.startswith("touch:")]
    assert lines == ["content", "refused", "700"]
    assert not (memory / "new").exists()


async def test_a_named_volume_outlives_its_task(rig: NativeRig, tmp_path: Path) -> None:
    (tmp_path / "at").mkdir()
    mounts = (Mount(type=MountType.VOLUME, source="data", target=str(tmp_path / "at")),)
    first = await rig.run("first", spec=sh(f"echo kept >{tmp_path}/at/file", mounts=mounts))
    await rig.wait_exit(first)
    await rig.executor.remove(first)
    assert await said(rig, f"cat {tmp_path}/at/file", mounts=mounts) == ["kept"]


@pytest.mark.parametrize(
    ("mount", "text"),
    [
        (
            Mount(type=MountType.BIND, source="/no/such", target="/mnt"),
            "bind source path does not exist: /no/such",
        ),
        (Mount(type=MountType.BIND, source="relative", target="/mnt"), "must be an absolute path"),
        (Mount(type=MountType.BIND, source="/usr", target="mnt"), "mount path must be absolute"),
        (Mount(type=MountType.BIND, source="/usr", target="/no/such/target"), "does not exist on this node"),
        (Mount(type=MountType.VOLUME, source="../escape", target="/mnt"), "invalid characters"),
        (Mount(type=MountType.NPIPE, source="x", target="/mnt"), "not supported"),
    ],
)
async def test_mounts_that_cannot_be(rig: NativeRig, mount: Mount, text: str) -> None:
    with pytest.raises(TaskRejected, match=text):
        await rig.run("odd", spec=sh("true", mounts=(mount,)))


async def test_a_terminal(rig: NativeRig) -> None:
    task_id = await rig.run("terminal", spec=sh("tty; echo $TERM", tty=True))
    assert (await rig.output(task_id)).replace("\r", "").splitlines()[-1] == "xterm"


async def test_init_reaps_and_passes_signals_on(rig: NativeRig) -> None:
    script = "trap 'echo bye; exit 5' TERM; (sleep 0.01 &); echo $$; while :; do sleep 0.02; done"
    task_id = await rig.run("init", spec=sh(script, init=True))
    async with asyncio.timeout(10):
        lines = [line async for line in rig.executor.logs(task_id, LogQuery(tail=-1))]
        while not lines:
            await asyncio.sleep(0.01)
            lines = await rig.log(task_id)
    assert lines[0].data == b"2\n"  # process 1 is the reaper
    exit = await rig.executor.stop(task_id, signal=signal.SIGTERM, grace_s=10)
    assert exit is not None
    assert exit.code == 5
    assert (await rig.log(task_id))[-1].data == b"bye\n"


# --- ends


@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 255", 255), ("kill -9 $$; exit 7", 7)])
async def test_exit_codes(rig: NativeRig, script: str, code: int) -> None:
    """A process 1 cannot kill itself: the kernel protects it, as in every container."""
    task_id = await rig.sh("codes", script)
    assert (await rig.wait_exit(task_id)).exit.code == code


async def test_a_signals_number_is_in_the_code(rig: NativeRig) -> None:
    task_id = await rig.run("signals", "/bin/sleep", "100")
    await rig.executor.signal(task_id, signal.SIGTERM)  # ignored by a process 1 that does not handle it
    exit = await rig.executor.stop(task_id, signal=signal.SIGTERM, grace_s=0.2)
    assert exit is not None
    assert exit.code == 137


async def test_a_process_that_leaves_the_signal_alone_is_not_waited_for(rig: NativeRig) -> None:
    """To a process 1 such a signal means nothing, so its grace would pass for nothing."""
    task_id = await rig.run("default", "/bin/sleep", "100")
    async with asyncio.timeout(10):
        exit = await rig.executor.stop(task_id, signal=signal.SIGTERM, grace_s=100)
    assert exit is not None
    assert exit.code == 137


async def test_a_process_that_ignores_the_signal_has_its_grace(rig: NativeRig) -> None:
    task_id = await rig.sh("ignores", "trap '' TERM; echo up; sleep 0.3; exit 6")
    while not await rig.log(task_id):
        await asyncio.sleep(0.01)
    exit = await rig.executor.stop(task_id, signal=signal.SIGTERM, grace_s=20)
    assert exit is not None
    assert exit.code == 6


@pytest.mark.parametrize(
    ("argv", "text", "code"),
    [
        (("no-such-command",), 'exec: "no-such-command": executable file not found in $PATH', 127),
        (("/no/such",), 'exec: "/no/such": stat /no/such: no such file or directory', 127),
        (("/etc/passwd",), 'exec: "/etc/passwd": permission denied', 126),
        (("/usr",), 'exec: "/usr": permission denied', 126),
    ],
)
async def test_commands_that_cannot_run(rig: NativeRig, argv: tuple[str, ...], text: str, code: int) -> None:
    for _ in range(2):  # the same answer whenever it is asked
        with pytest.raises(TaskFailed) as caught:
            await rig.run("cannot", *argv)
        assert str(caught.value) == f"starting container failed: {text}"
        assert caught.value.exit_code == code
    (found,) = await rig.executor.list()
    assert found.pid == 0
    assert found.exit is not None
    assert found.exit.code == code


async def test_a_script_of_no_format(rig: NativeRig, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("no header\n")
    script.chmod(0o755)
    with pytest.raises(TaskFailed, match="exec format error"):
        await rig.run("format", str(script))


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"user": "nobody-here"}, "unable to find user nobody-here: no matching entries in passwd file"),
        ({"user": "0:nogroup-here"}, "unable to find group nogroup-here: no matching entries in group file"),
        ({"dir": "/no/such/folder"}, "no such file or directory"),
    ],
)
async def test_starts_that_fail(rig: NativeRig, fields: dict[str, str], text: str) -> None:
    with pytest.raises(TaskFailed, match=text):
        await rig.run("fails", spec=sh("true", **fields))


@pytest.mark.parametrize(
    "fields", [{"command": ()}, {"command": ("a\0b",)}, {"env": ("A=\0",)}], ids=["none", "NUL", "NUL in env"]
)
async def test_orders_that_make_no_sense(rig: NativeRig, fields: dict[str, tuple[str, ...]]) -> None:
    with pytest.raises(TaskRejected):
        await rig.run("sense", spec=sh("true", **fields))
    assert await rig.executor.list() == ()


@pytest.mark.parametrize("name", ["../escape", "", "a/b", ".", "x" * 65])
async def test_task_ids_do_not_become_paths(rig: NativeRig, name: str) -> None:
    with pytest.raises(TaskRejected):
        await rig.run(name, "/bin/true")
    await rig.executor.remove(TaskId(name))


@pytest.mark.parametrize("image", ["nothing", "nothing:1.2", "registry.example:5000/nothing"])
async def test_a_missing_image_in_dockers_words(rig: NativeRig, image: str) -> None:
    with pytest.raises(TaskRejected, match=f"^No such image: {image}"):
        await rig.executor.ensure_image(image)


@pytest.mark.parametrize("image", ["", "UPPER", "a b", "-x", "a@sha256:12"])
async def test_an_image_name_that_is_none(rig: NativeRig, image: str) -> None:
    with pytest.raises(TaskRejected, match="invalid reference format"):
        await rig.executor.ensure_image(image)


# --- limits


async def test_memory_limit_kills_and_says_so(rig: NativeRig) -> None:
    task_id = await rig.sh("memory", "exec tail /dev/zero", limits=Limits(memory_bytes=16 << 20))
    exit = (await rig.wait_exit(task_id)).exit
    assert exit.is_oom_killed
    assert exit.code == 137


async def test_an_ordinary_kill_is_no_memory_kill(rig: NativeRig) -> None:
    task_id = await rig.sh("kill", "exec sleep 100", limits=Limits(memory_bytes=64 << 20))
    exit = await rig.executor.stop(task_id, signal=signal.SIGKILL, grace_s=5)
    assert exit is not None
    assert exit.code == 137
    assert not exit.is_oom_killed


async def test_pids_limit(rig: NativeRig) -> None:
    script = "for i in 1 2 3 4 5 6 7 8 9; do sleep 100 & done; echo all"
    task_id = await rig.sh("pids", script, limits=Limits(pids=4))
    exit = (await rig.wait_exit(task_id)).exit
    assert exit.code != 0
    log = b"".join([line.data for line in await rig.log(task_id)])
    assert b"all" not in log
    assert b"fork" in log


async def test_cpu_limit_is_a_share_of_time(rig: NativeRig) -> None:
    task_id = await rig.sh("cpu", "while :; do :; done", limits=Limits(nano_cpus=100_000_000))
    began = time.monotonic()
    async with asyncio.timeout(DEADLINE_S):
        while (stats := await rig.executor.stats(task_id)).cpu_ns < SPENT_NS:
            await asyncio.sleep(0.02)
    assert time.monotonic() - began > 3 * SPENT_NS / 1e9, "unlimited, it takes as long as that"
    assert stats.pids == 1
    assert stats.memory_bytes > 0


@pytest.mark.parametrize(
    ("limits", "text"),
    [
        (Limits(memory_bytes=1024), "Must be at least 4MiB"),
        (Limits(memory_bytes=-1), "negative"),
        (Limits(nano_cpus=-5), "negative"),
        (Limits(pids=-1), "negative"),
    ],
)
async def test_limits_that_cannot_be(rig: NativeRig, limits: Limits, text: str) -> None:
    with pytest.raises(TaskRejected, match=text):
        await rig.run("odd", "/bin/true", limits=limits)
    assert await rig.executor.list() == ()


# --- the log


async def test_both_streams_in_order_with_rising_times(rig: NativeRig) -> None:
    task_id = await rig.sh("streams", "echo out; echo err >&2; printf unended")
    await rig.wait_exit(task_id)
    lines = await rig.log(task_id)
    assert {(line.stream, line.data) for line in lines} == {(1, b"out\n"), (2, b"err\n"), (1, b"unended")}
    assert [line.timestamp for line in lines] == sorted(line.timestamp for line in lines)
    assert [line.data for line in await rig.log(task_id, LogQuery(stderr=False))] == [b"out\n", b"unended"]


async def test_any_bytes_survive(rig: NativeRig) -> None:
    task_id = await rig.sh("bytes", r"printf '\000\377\n1 2F x\n\r\n\n'")
    await rig.wait_exit(task_id)
    lines = [line.data for line in await rig.log(task_id)]
    assert lines == [b"\x00\xff\n", b"1 2F x\n", b"\r\n", b"\n"]


async def test_fifty_at_once(rig: NativeRig) -> None:
    async def one(number: int) -> int:
        task_id = await rig.sh(f"many{number}", f"echo {number}; exit {number}")
        found = await rig.executor.start(task_id)
        while found.exit is None:
            await asyncio.sleep(0.02)
            found = await rig.executor.start(task_id)
        assert [line.data for line in await rig.log(task_id)] == [b"%d\n" % number]
        return found.exit.code

    async with asyncio.timeout(60):
        assert await asyncio.gather(*(one(number) for number in range(50))) == list(range(50))
