"""The native executor through crashes: of the daemon, the launcher, a shim, and half-done work."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from native_rig import NativeRig, is_running, wait_until

from agent.executor.base import ExitEvent, Found, LogQuery
from agent.executor.native import folders
from agent.executor.native.executor import NativeExecutor
from agent.executor.native.shim import supervise
from swarmpy.errors import Unavailable
from swarmpy.model.ids import ID_BYTES, TaskId, make_id
from swarmpy.model.specs import Limits

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make namespaces"),
]

LISTENING = 1 << 16
SHIM_FILES_MAX = 9
"""Of the flags in /proc/net/unix."""


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[NativeRig]:
    rig = NativeRig(tmp_path)
    await rig.open()
    yield rig
    await rig.close()


def folder_of(rig: NativeRig, task_id: str) -> Path:
    return rig.data_dir / "tasks" / task_id


async def pid_of(rig: NativeRig, task_id: TaskId) -> int:
    return next(found.pid for found in await rig.executor.list() if found.task_id == task_id)


def cgroups_of(rig: NativeRig, task_id: str) -> list[Path]:
    roots = [Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").iterdir()]
    paths = [root / rig.parent.strip("/") / task_id for root in roots]
    return [path for path in paths if path.is_dir()]


def spawn(*argv: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(argv, stdout=subprocess.PIPE)


async def test_a_killed_shim_takes_its_task_along(rig: NativeRig) -> None:
    task_id = await rig.sh("lost", "sleep 1000 & sleep 1000 & echo up; wait")
    pid = await pid_of(rig, task_id)
    pids = [int(text) for text in (cgroups_of(rig, task_id)[0] / "cgroup.procs").read_text().split()]
    assert pid in pids
    os.kill(folders.lock_holder(folder_of(rig, task_id)), signal.SIGKILL)
    exit = (await rig.wait_exit(task_id)).exit
    assert exit.code == 137
    assert "shim was killed" in exit.message
    await wait_until(lambda: not any(map(is_running, pids)), "the task's processes are gone")
    found = await rig.executor.start(task_id)  # it does not run again
    assert found.exit == exit


async def test_a_created_task_whose_groups_a_reboot_took_is_kept_and_can_be_started(rig: NativeRig) -> None:
    """The agent may have it on record as STARTING: were it not found here, it would count as lost."""
    limits = Limits(memory_bytes=64 << 20)
    launch = await rig.launch("waiting", "/bin/sh", "-c", "echo up; sleep 1000", limits=limits)
    await rig.executor.create(launch)
    await rig.executor.shut_down()
    groups = cgroups_of(rig, launch.task_id)
    for folder in groups:
        folder.rmdir()
    rig.executor = NativeExecutor(rig.data_dir, cgroup_parent=rig.parent)
    await rig.executor.start_up()
    assert await rig.executor.list() == (Found(task_id=launch.task_id),)
    await rig.executor.create(launch)
    found = await rig.executor.start(launch.task_id)
    assert is_running(found.pid)
    assert cgroups_of(rig, launch.task_id) == groups
    assert memory_limit(groups) == limits.memory_bytes
    assert all(str(found.pid) in (group / "cgroup.procs").read_text().split() for group in groups)


def memory_limit(groups: list[Path]) -> int:
    files = [group / name for group in groups for name in ("memory.max", "memory.limit_in_bytes")]
    return next(int(file.read_text()) for file in files if file.exists())


async def test_a_creation_that_fails_takes_nothing_from_a_task_that_was_created_before(
    rig: NativeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    launch = await rig.launch("waiting", "/bin/sh", "-c", "echo up; sleep 1000")
    await rig.executor.create(launch)
    executor = await rig.reopen()

    def fail(task_id: str, limits: Limits) -> None:
        raise Unavailable("not now")

    with monkeypatch.context() as patch:
        patch.setattr(executor._cgroups, "create", fail)
        with pytest.raises(Unavailable, match="not now"):
            await executor.create(launch)
    assert await executor.list() == (Found(task_id=launch.task_id),)
    assert is_running((await executor.start(launch.task_id)).pid)


async def test_a_creation_that_is_repeated_does_not_touch_a_running_task(rig: NativeRig) -> None:
    task_id = await rig.sh("runs", "echo up; sleep 1000")
    launch = await rig.launch("runs", "/bin/true")
    job = (folder_of(rig, task_id) / "job.json").read_text()
    executor = await rig.reopen()
    await executor.create(launch)
    assert (folder_of(rig, task_id) / "job.json").read_text() == job
    assert is_running((await executor.start(task_id)).pid)


@pytest.mark.parametrize("torn", [b"", b"\0" * 4096, b'{"pid": 1'])
async def test_a_task_whose_records_a_power_failure_tore(rig: NativeRig, torn: bytes) -> None:
    """A record's name may reach the disk before its text: the daemon starts, and says what is sure."""
    launch = await rig.launch("waiting", "/bin/sh", "-c", "echo up; sleep 1000")
    await rig.executor.create(launch)
    (folder_of(rig, "waiting") / "job.json").write_bytes(torn)
    for name in ("ran", "ended"):
        await rig.executor.create(await rig.launch(name, "/bin/true"))
        (folder_of(rig, name) / "started").write_bytes(torn)
    record = {"pid": 1 << 22, "pid_start": 1, "shim": 1 << 22, "at": 1}
    (folder_of(rig, "ended") / "started").write_text(json.dumps(record))
    (folder_of(rig, "ended") / "exit").write_bytes(torn)
    executor = await rig.reopen()
    found = {each.task_id: each for each in await executor.list()}
    assert found.pop(launch.task_id) == Found(task_id=launch.task_id)
    assert {name: each.exit and each.exit.code for name, each in found.items()} == {"ran": 137, "ended": 137}
    await executor.create(launch)
    assert is_running((await executor.start(launch.task_id)).pid)


def test_the_record_of_a_start_is_synced_and_a_failing_disk_does_not_end_the_shim(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")))
    supervise.write_record(f"{tmp_path}/started", "{}")
    supervise.sync_record(str(tmp_path), "started")
    assert synced == [f"{tmp_path}/started", str(tmp_path)]
    supervise.sync_record(f"{tmp_path}/gone", "started")
    assert capfd.readouterr().err.count("is not synced: No such file or directory") == 2


async def test_a_shim_killed_while_no_daemon_runs(rig: NativeRig) -> None:
    task_id = await rig.sh("lost", "sleep 1000")
    pid, shim = await pid_of(rig, task_id), folders.lock_holder(folder_of(rig, task_id))
    await rig.executor.shut_down()
    os.kill(shim, signal.SIGKILL)
    await wait_until(lambda: not is_running(shim), "the shim is gone")
    rig.executor = NativeExecutor(rig.data_dir, cgroup_parent=rig.parent)
    await rig.executor.start_up()
    assert (await rig.wait_exit(task_id)).exit.code == 137
    assert not is_running(pid)


async def test_an_end_while_no_daemon_runs(rig: NativeRig) -> None:
    task_id = await rig.sh("ends", "read x </dev/null; sleep 0.2; echo done; exit 9")
    await rig.executor.shut_down()
    await wait_until((folder_of(rig, task_id) / "exit").exists, "the exit file")
    rig.executor = NativeExecutor(rig.data_dir, cgroup_parent=rig.parent)
    await rig.executor.start_up()
    assert (await rig.wait_exit(task_id)).exit.code == 9
    assert [line.data for line in await rig.log(task_id)] == [b"done\n"]


async def test_an_adopted_task_can_be_stopped_and_is_told_once(rig: NativeRig) -> None:
    task_id = await rig.sh("adopted", "trap 'exit 4' TERM; echo up; while :; do sleep 0.02; done")
    while not await rig.log(task_id):
        await asyncio.sleep(0.01)
    executor = await rig.reopen(is_clean=False)
    exit = await executor.stop(task_id, signal=signal.SIGTERM, grace_s=10)
    assert exit is not None
    assert exit.code == 4
    ends: list[ExitEvent] = []

    async def collect() -> None:
        async for ended in executor.events():
            ends.append(ended)  # noqa: PERF401 - it never ends by itself

    collecting = asyncio.create_task(collect())
    while not ends:
        await asyncio.sleep(0.01)
    await executor.remove(task_id)
    collecting.cancel()
    assert [ended.task_id for ended in ends] == [task_id]


async def test_a_dead_launcher_is_replaced(rig: NativeRig) -> None:
    first = await rig.sh("first", "sleep 1000")
    launcher = rig.executor._launcher.pid
    os.kill(launcher, signal.SIGKILL)
    await wait_until(lambda: not is_running(launcher), "the launcher is gone")
    second = await rig.sh("second", "sleep 1000")
    assert rig.executor._launcher.pid != launcher
    for task_id in (first, second):
        assert is_running(await pid_of(rig, task_id))


async def test_the_launcher_ends_with_the_daemon_and_tasks_do_not(rig: NativeRig) -> None:
    """The daemon here is a process of its own, killed outright."""
    program = f"""
import asyncio, pathlib
from agent.executor.base import Launch, Sandbox
from agent.executor.native.executor import NativeExecutor
from agent.executor.native.shim import supervise
from swarmpy.model.specs import ContainerSpec
async def main():
    executor = NativeExecutor(pathlib.Path({str(rig.data_dir)!r}), cgroup_parent={rig.parent!r})
    await executor.start_up()
    spec = ContainerSpec(image="host", command=("/bin/sh", "-c", "echo up; exec sleep 1000"))
    image = await executor.ensure_image("host")
    sandbox = Sandbox(netns="")
    await executor.create(Launch(task_id="own", name="own", spec=spec, image=image, sandbox=sandbox))
    await executor.start("own")
    print(executor._launcher.pid, flush=True)
    await asyncio.sleep(1000)
asyncio.run(main())
"""
    await rig.executor.shut_down()
    daemon = spawn(sys.executable, "-c", program)
    assert daemon.stdout is not None
    launcher = int(daemon.stdout.readline())
    daemon.kill()
    daemon.wait()
    daemon.stdout.close()
    await wait_until(lambda: not is_running(launcher), "the launcher is gone")
    rig.executor = NativeExecutor(rig.data_dir, cgroup_parent=rig.parent)
    await rig.executor.start_up()
    task_id = TaskId("own")
    assert is_running(await pid_of(rig, task_id))
    while not await rig.log(task_id):
        await asyncio.sleep(0.01)
    assert [line.data for line in await rig.log(task_id)] == [b"up\n"]
    exit = await rig.executor.stop(task_id, signal=signal.SIGTERM, grace_s=0)
    assert exit is not None
    assert exit.code == 137


async def test_half_made_folders_and_stray_groups_are_cleared(rig: NativeRig) -> None:
    """Groups that are no task's are not ours: the parent may be a slice of systemd's, or the root."""
    task_id = await rig.sh("kept", "sleep 1000")
    half = folder_of(rig, "half")
    (half / "upper").mkdir(parents=True)
    parents = [group.parent for group in cgroups_of(rig, task_id)]
    stray = [parent / make_id(bytes(ID_BYTES)) for parent in parents]
    foreign = [parent / "ssh.service" for parent in parents]
    for group in (*stray, *foreign):
        group.mkdir()
    with other_process_in(foreign[0]) as process:
        executor = await rig.reopen(is_clean=False)
        assert process.poll() is None
    assert [found.task_id for found in await executor.list()] == [task_id]
    assert not half.exists()
    assert not any(group.exists() for group in stray)
    for group in foreign:
        group.rmdir()


@contextlib.contextmanager
def other_process_in(group: Path) -> Iterator[subprocess.Popen[bytes]]:
    """As a service of the node's."""
    process = subprocess.Popen(["sleep", "1000"])
    try:
        (group / "cgroup.procs").write_text(str(process.pid))
        yield process
    finally:
        process.kill()
        process.wait()


async def test_a_start_that_broke_off_can_be_repeated(rig: NativeRig) -> None:
    """The shim dies before the command is executed: nothing ran, so the task is as created."""
    launch = await rig.launch("again", "/bin/true")
    await rig.executor.create(launch)
    folder = folder_of(rig, "again")
    job = (folder / "job.json").read_text()
    (folder / "job.json").write_text("{")  # the shim breaks on it
    with pytest.raises(Unavailable):
        await rig.executor.start(launch.task_id)
    (folder / "job.json").write_text(job)
    await rig.executor.start(launch.task_id)
    assert (await rig.wait_exit(launch.task_id)).exit.code == 0


async def test_two_daemons_start_a_task_once(rig: NativeRig) -> None:
    """The order of a former life and that of its successor, at the same time."""
    launch = await rig.launch("once", "/bin/sh", "-c", "echo ran; exec sleep 1000")
    await rig.executor.create(launch)
    former = rig.executor
    executor = await rig.reopen(is_clean=False)
    one, two = await asyncio.gather(former.start(launch.task_id), executor.start(launch.task_id))
    assert one.pid == two.pid > 0
    while not await rig.log(launch.task_id):
        await asyncio.sleep(0.01)
    assert [line.data for line in await rig.log(launch.task_id)] == [b"ran\n"]


async def test_a_reused_pid_is_not_signalled(rig: NativeRig) -> None:
    """Records of a task that is gone name a pid that is somebody else's now."""
    other = spawn("sleep", "1000")
    folder = folder_of(rig, "stale")
    folder.mkdir()
    launch = await rig.launch("model", "/bin/true")
    await rig.executor.create(launch)
    (folder / "job.json").write_bytes((folder_of(rig, "model") / "job.json").read_bytes())
    record = {"pid": other.pid, "pid_start": 1, "shim": other.pid, "at": 1}
    (folder / "started").write_text(json.dumps(record))
    executor = await rig.reopen()
    assert (await rig.wait_exit(TaskId("stale"))).exit.code == 137
    await executor.remove(TaskId("stale"))
    assert other.poll() is None
    other.kill()
    other.communicate()


async def test_an_end_is_not_lost_to_passing_trouble(rig: NativeRig, monkeypatch: pytest.MonkeyPatch) -> None:
    task_id = await rig.sh("trouble", "sleep 0.2; exit 3")
    failures = [OSError(24, "Too many open files"), Unavailable("not now")]
    settle = rig.executor._settle

    def failing(name: TaskId) -> object:
        if failures:
            raise failures.pop()
        return settle(name)

    monkeypatch.setattr(rig.executor, "_settle", failing)
    assert (await rig.wait_exit(task_id)).exit.code == 3
    assert failures == []


async def test_remove_kills_and_leaves_nothing(rig: NativeRig) -> None:
    task_id = await rig.sh("gone", "trap '' TERM; (setsid sleep 1000 &) ; echo up; sleep 1000")
    while not await rig.log(task_id):
        await asyncio.sleep(0.01)
    pids = [int(text) for text in (cgroups_of(rig, task_id)[0] / "cgroup.procs").read_text().split()]
    assert len(pids) >= 2
    await rig.executor.remove(task_id)
    assert not any(map(is_running, pids))
    assert cgroups_of(rig, task_id) == []
    assert not folder_of(rig, task_id).exists()
    assert not (rig.data_dir / "logs" / task_id).exists()


def listening_sockets() -> set[str]:
    """Those at which somebody waits for connections, as /proc names them among a process's files."""
    lines = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    return {f"socket:[{fields[6]}]" for fields in lines if int(fields[3], 16) & LISTENING}


async def test_a_shim_is_small_and_holds_nothing_of_the_daemon(rig: NativeRig) -> None:
    task_id = await rig.sh("small", "sleep 1000")
    shim = folders.lock_holder(folder_of(rig, task_id))
    targets: list[str] = []

    def is_settled() -> bool:
        """It closes the report of the start, its record and the task's folder soon after it has told."""
        with contextlib.suppress(FileNotFoundError):
            targets[:] = [os.readlink(path) for path in Path(f"/proc/{shim}/fd").iterdir()]
            is_syncing = any(target.endswith(("/started", "/small")) for target in targets)
            return len(targets) <= SHIM_FILES_MAX and not is_syncing
        return False

    await wait_until(is_settled, "the shim's files")
    # one socket is its own, where clients are attached to the task; none leads to the daemon or the launcher
    (door,) = [target for target in targets if target.startswith("socket:")]
    assert door in listening_sockets()
    assert os.getpgid(shim) == shim
    fields = Path(f"/proc/{shim}/smaps_rollup").read_text().splitlines()
    pss_kib = next(int(line.split()[1]) for line in fields if line.startswith("Pss:"))
    assert pss_kib < 6_000


def test_a_shim_loads_the_standard_library_only() -> None:
    """Every module that the launcher loads is memory of every task."""
    program = (
        "import sys; sys.path.append(sys.argv[1]); import agent.executor.native.shim.launcher; "
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    argv = [sys.executable, "-I", "-S", "-c", program, str(Path(folders.__file__).parents[3])]
    loaded = set(subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split())
    foreign = {name for name in loaded if name not in sys.stdlib_module_names}
    assert foreign <= {"agent", "__main__"}
    assert not loaded & {"asyncio", "socket", "typing", "logging", "dataclasses", "pathlib", "subprocess"}


async def test_the_log_is_exact_across_rotation(rig: NativeRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.executor.native.job.LOG_FILE_BYTES_MAX", 10_000)
    monkeypatch.setattr("agent.executor.native.job.LOG_FILES_MAX", 100)
    task_id = await rig.sh("rotates", "i=0; while [ $i -lt 3000 ]; do echo line-$i; i=$((i+1)); done")
    following = asyncio.create_task(rig.log(task_id, LogQuery(is_following=True)))
    await rig.wait_exit(task_id)
    expected = [b"line-%d\n" % number for number in range(3000)]
    assert [line.data for line in await rig.log(task_id)] == expected
    assert [line.data for line in await following] == expected
    assert [line.data for line in await rig.log(task_id, LogQuery(tail=1234))] == expected[-1234:]
    files = sorted((rig.data_dir / "logs" / task_id).iterdir())
    assert len(files) > 5
    assert max(file.stat().st_size for file in files) <= 10_000


async def test_old_log_files_go(rig: NativeRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.executor.native.job.LOG_FILE_BYTES_MAX", 10_000)
    task_id = await rig.sh("bounded", "i=0; while [ $i -lt 3000 ]; do echo line-$i; i=$((i+1)); done")
    await rig.wait_exit(task_id)
    files = sorted((rig.data_dir / "logs" / task_id).iterdir())
    assert len(files) == 3
    assert sum(file.stat().st_size for file in files) <= 30_000
    lines = [line.data for line in await rig.log(task_id)]
    assert lines == [b"line-%d\n" % number for number in range(3000 - len(lines), 3000)]


async def test_a_long_line_is_kept_in_pieces(rig: NativeRig) -> None:
    task_id = await rig.sh("long", "head -c 50000 /dev/zero | tr '\\0' x; echo; echo next")
    await rig.wait_exit(task_id)
    lines = [line.data for line in await rig.log(task_id)]
    assert b"".join(lines) == b"x" * 50_000 + b"\nnext\n"
    assert max(map(len, lines)) <= 16_385
