"""What is the oci executor's own: conmon and runtimes that die, or run on while no daemon does."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import signal
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import cast

import pytest
import suite_image
from msgspec.structs import replace
from native_rig import DEADLINE_S, NativeRig, wait_until
from oci_rig import OciRig

from agent.executor.base import Attachment, Channel, Command, Launch
from agent.executor.native import folders
from agent.executor.native.executor import NativeExecutor
from agent.executor.oci import logs, monitor, records
from agent.executor.oci.choice import Choice
from agent.executor.oci.executor import OciExecutor
from agent.executor.oci.runtimes import Runtime
from agent.executor.oci.trial import Trial
from swarmpy.config import NodeConfig
from swarmpy.errors import Unavailable
from swarmpy.model.ids import TaskId
from swarmpy.model.specs import ContainerSpec, Mount
from swarmpy.model.states import MountType
from swarmpy.node.executors import choose, make_executor
from swarmpy.runtime import Env

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make namespaces"),
    pytest.mark.skipif(not shutil.which("conmon"), reason="needs conmon"),
]
RUN_ON = "trap 'exit 0' TERM; sleep 3600 & wait"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
async def rig(folder: Path) -> AsyncIterator[OciRig]:
    rig = OciRig(folder)
    await rig.open()
    await rig.executor.load_image(suite_image.write_archive(folder / "suite.tar"))
    yield rig
    await rig.close()
    assert rig.left() == []


async def launch(rig: OciRig, script: str, name: str = "task", **spec: object) -> Launch:
    wanted = replace(ContainerSpec(image=suite_image.IMAGE, command=("/bin/sh", "-c", script)), **spec)
    return await rig.launch(name, spec=wanted, image=suite_image.IMAGE)


async def run(rig: OciRig, script: str, name: str = "task", **spec: object) -> TaskId:
    wish = await launch(rig, script, name, **spec)
    await rig.executor.create(wish)
    await rig.executor.start(wish.task_id)
    return wish.task_id


def made_of(rig: OciRig, task_id: TaskId) -> records.Made:
    made = records.read_made(rig.data_dir / "tasks" / task_id)
    assert made is not None
    return made


async def until(channel: Channel, wanted: bytes) -> bytes:
    found = b""
    async with asyncio.timeout(DEADLINE_S):
        async for part in channel.output():
            found += part.data
            if wanted in found:
                return found
    return found


async def test_a_conmon_that_is_killed_takes_its_task_with_it(rig: OciRig) -> None:
    task_id = await run(rig, RUN_ON)
    made = made_of(rig, task_id)
    os.kill(made["conmon"], signal.SIGKILL)
    ended = await rig.wait_exit(task_id)
    assert (ended.exit.code, ended.exit.message) == (
        128 + signal.SIGKILL,
        "the task's conmon was killed, and the task with it",
    )
    await wait_until(lambda: not records.is_alive(made), "the task has ended, too")


async def test_a_conmon_that_was_killed_while_no_daemon_ran(rig: OciRig) -> None:
    task_id = await run(rig, RUN_ON)
    made = made_of(rig, task_id)

    async def meanwhile() -> None:
        os.kill(made["conmon"], signal.SIGKILL)

    await rig.reopen(meanwhile=meanwhile)
    assert (await rig.wait_exit(task_id)).exit.code == 128 + signal.SIGKILL
    await wait_until(lambda: not records.is_alive(made), "the task has ended, too")


@pytest.mark.parametrize("steps", [0, 1, 2])
async def test_a_daemon_that_dies_before_its_task_runs(rig: OciRig, steps: int) -> None:
    """0: as the container is being made; 1: it is made; 2: and that is on record. It never ran, so it can."""
    wish = await launch(rig, "echo ran; exit 3")
    await rig.executor.create(wish)
    life, task_folder = rig.executor.life, rig.data_dir / "tasks" / wish.task_id
    job, bundle = folders.read_job(task_folder), records.read_bundle(task_folder)
    assert job is not None
    assert bundle is not None
    assert life.runtime is not None
    if steps:
        made = await asyncio.to_thread(life._make, job, bundle, life.runtime)
        assert records.is_alive(made)
        if steps == 2:
            records.write_made(task_folder, made)
    else:
        records.note_attempt(task_folder)
        (task_folder / "config.json").write_text("{")
    executor = await rig.reopen(is_clean=False)
    assert [(found.pid, found.exit) for found in await executor.list()] == [(0, None)]
    assert not rig.processes()
    await executor.create(wish)
    await executor.start(wish.task_id)
    assert (await rig.wait_exit(wish.task_id)).exit.code == 3
    assert [line.data for line in await rig.log(wish.task_id)] == [b"ran\n"]


async def test_nobody_can_tell_whether_it_runs(rig: OciRig, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is ended: one that waits for its start for ever must not count as running."""
    wish = await launch(rig, RUN_ON)
    await rig.executor.create(wish)
    life, task_folder = rig.executor.life, rig.data_dir / "tasks" / wish.task_id
    job, bundle = folders.read_job(task_folder), records.read_bundle(task_folder)
    assert job is not None
    assert bundle is not None
    assert life.runtime is not None
    records.write_made(task_folder, await asyncio.to_thread(life._make, job, bundle, life.runtime))
    works = Runtime.call

    def call(self: Runtime, *words: str) -> str:
        if words[0] == "state":
            raise Unavailable("no word")
        return works(self, *words)

    monkeypatch.setattr(Runtime, "call", call)
    await rig.reopen(is_clean=False)
    assert (await rig.wait_exit(wish.task_id)).exit.code == 128 + signal.SIGKILL


@pytest.mark.parametrize("script", [RUN_ON, "exit 3"])
async def test_a_daemon_that_dies_as_its_task_has_begun_to_run(rig: OciRig, script: str) -> None:
    wish = await launch(rig, script)
    await rig.executor.create(wish)
    life, task_folder = rig.executor.life, rig.data_dir / "tasks" / wish.task_id
    job, bundle = folders.read_job(task_folder), records.read_bundle(task_folder)
    assert job is not None
    assert bundle is not None
    assert life.runtime is not None
    made = await asyncio.to_thread(life._make, job, bundle, life.runtime)
    records.write_made(task_folder, made)
    await asyncio.to_thread(life.runtime.call, "start", wish.task_id)
    if script != RUN_ON:
        await wait_until(lambda: not records.is_watched(made), "it ends while nobody looks")
    executor = await rig.reopen(is_clean=False)
    (found,) = await executor.list()
    assert found.pid == made["pid"]
    assert (await executor.start(wish.task_id)).pid == made["pid"]
    if script == RUN_ON:
        await executor.signal(wish.task_id, signal.SIGTERM)
    assert (await rig.wait_exit(wish.task_id)).exit.code == (0 if script == RUN_ON else 3)


async def test_a_log_that_grows_while_no_daemon_runs(rig: OciRig, monkeypatch: pytest.MonkeyPatch) -> None:
    """conmon begins another file by itself, and nothing is lost of the one before."""
    monkeypatch.setattr(monitor, "LOG_BACKSTOP_BYTES", 20_000)
    script = "read go; i=0; while [ $i -lt 500 ]; do echo line$i; i=$((i+1)); done; echo over; cat"
    task_id = await run(rig, script, open_stdin=True)
    made = made_of(rig, task_id)
    task_folder = rig.data_dir / "tasks" / task_id

    async def meanwhile() -> None:
        before = os.stat(rig.data_dir / "logs" / task_id / logs.CURRENT).st_ino
        feed = next(
            entry
            for entry in Path(f"/proc/{made['conmon']}/fd").iterdir()
            if os.readlink(entry) == f"pipe:[{made['stdin']}]"
        )
        feed.write_bytes(b"go\n")
        current = rig.data_dir / "logs" / task_id / logs.CURRENT
        await wait_until(lambda: b"over" in current.read_bytes(), "all is printed")
        assert os.stat(current).st_ino != before

    await rig.reopen(meanwhile=meanwhile)
    assert (task_folder / "made").exists()
    said = [line.data for line in await rig.log(task_id)]
    assert said == [b"line%d\n" % number for number in range(500)] + [b"over\n"]


@pytest.fixture
def deep(tmp_path: Path) -> Path:
    folder = tmp_path / ("d" * 100) / ("e" * 100)
    folder.mkdir(parents=True)
    return folder


class TestInput:
    @pytest.fixture
    def folder(self, deep: Path) -> Path:
        """Far longer than the path of a socket may be."""
        return deep

    async def test_one_of_its_clients_closes_it(self, rig: OciRig) -> None:
        task_id = await run(rig, "cat; echo end; exit 4", open_stdin=True)
        channels = [await rig.executor.attach(task_id) for _ in range(2)]
        await channels[0].write(b"one\n")
        assert await until(channels[1], b"one\n") == b"one\n"
        await channels[1].close_input()
        assert b"end\n" in await until(channels[0], b"end\n")
        assert await channels[0].exit_code() == 4
        for channel in channels:
            await channel.close()
        late = await rig.executor.attach(task_id, Attachment(replays=True))
        assert await until(late, b"end\n") == b"one\nend\n"
        await late.close()

    async def test_more_than_a_pipe_holds(self, rig: OciRig) -> None:
        task_id = await run(rig, "wc -c", open_stdin=True)
        channel = await rig.executor.attach(task_id)
        await channel.write(b"x" * 1_000_000)
        await channel.close_input()
        assert (await until(channel, b"\n")).strip() == b"1000000"
        await channel.close()

    async def test_of_a_terminal(self, rig: OciRig) -> None:
        task_id = await run(rig, "read a; stty size; read b; echo got $b", tty=True, open_stdin=True)
        channel = await rig.executor.attach(task_id)
        await channel.resize(rows=33, columns=77)
        await channel.write(b"a\n")
        assert b"33 77" in await until(channel, b"33 77")
        await channel.close()  # its input outlives who is attached
        channel = await rig.executor.attach(task_id)
        await channel.write(b"word\n")
        assert b"got word" in await until(channel, b"got word")
        assert await channel.exit_code() == 0
        await channel.close()


async def test_what_it_may_do(rig: OciRig) -> None:
    """The same in the task and in a command inside of it."""
    look = "grep -E '^(CapEff|CapBnd|Seccomp|NoNewPrivs):' /proc/self/status"
    task_id = await run(rig, f"{look}; {RUN_ON}")
    async with asyncio.timeout(DEADLINE_S):
        while len(said := await rig.log(task_id)) < 4:
            await asyncio.sleep(0.01)
    lines = [line.data.decode().split() for line in said]
    assert lines == [
        ["CapEff:", "00000000a80425fb"],
        ["CapBnd:", "00000000a80425fb"],
        ["NoNewPrivs:", "0"],
        ["Seccomp:", "2"],
    ]
    channel = await rig.executor.exec(task_id, Command(argv=("/bin/sh", "-c", look)))
    assert [line.split() for line in (await until(channel, b"\0")).decode().splitlines()] == lines
    await channel.close()


async def test_what_docker_shows(rig: OciRig) -> None:
    """Its control groups, to be read; and any account may take any port."""
    script = """
        ls -d /sys/fs/cgroup/memory /sys/fs/cgroup/memory.max 2>/dev/null | wc -l
        mkdir /sys/fs/cgroup/memory/own /sys/fs/cgroup/own 2>/dev/null || echo read-only
        cat /proc/sys/net/ipv4/ip_unprivileged_port_start
    """
    task_id = await run(rig, script)
    assert (await rig.output(task_id)).split() == ["1", "read-only", "0"]


async def test_a_privileged_task(rig: OciRig) -> None:
    script = "mount -t tmpfs none /tmp && echo mounted; ls /dev | grep -c .; grep Seccomp: /proc/self/status"
    task_id = await run(rig, script, privileged=True)
    said = (await rig.output(task_id)).split()
    assert said[0] == "mounted"
    assert int(said[1]) > 15
    assert said[-1] == "0"


async def test_a_command_inside_is_in_all_control_groups_of_the_task(rig: OciRig) -> None:
    """Also in those that hold no limit of ours: the task may be frozen, its devices are limited."""
    task_id = await run(rig, f"cat /proc/self/cgroup; echo; {RUN_ON}")
    async with asyncio.timeout(DEADLINE_S):
        while not (said := b"".join([line.data for line in await rig.log(task_id)])).endswith(b"\n\n"):
            await asyncio.sleep(0.01)
    channel = await rig.executor.exec(task_id, Command(argv=("/bin/cat", "/proc/self/cgroup")))
    inside = await until(channel, b"\0")
    await channel.close()
    assert inside == said.removesuffix(b"\n")
    pid = made_of(rig, task_id)["pid"]
    own = Path(f"/proc/{pid}/cgroup").read_text()
    assert sum(row.endswith(f"/{task_id}") for row in own.splitlines()) > 1 or "::" in own


async def test_a_runtime_that_is_not_here(tmp_path: Path) -> None:
    rig = OciRig(tmp_path)
    rig.executor = OciExecutor(rig.data_dir, cgroup_parent=rig.parent, runtime="none")
    found = await rig.executor.probe()
    assert not found.is_usable
    assert "The OCI runtime none is not on this node." in found.missing
    assert not (rig.data_dir / "oci-trial").exists()
    await rig.close()


async def test_the_trial_leaves_nothing(rig: OciRig) -> None:
    rig.executor.life.runtime = rig.executor.choice.runtime = None
    found = await rig.executor.probe()
    assert found.is_usable
    assert rig.left() == []
    assert not (rig.data_dir / "oci-trial").exists()


async def test_what_was_probed_need_not_be_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the executor that the same daemon starts then."""
    tried: list[str] = []
    real = Trial._try

    def noting(trial: Trial, runtime: Runtime) -> str:
        tried.append(runtime.name)
        return real(trial, runtime)

    monkeypatch.setattr(Trial, "_try", noting)
    rig, choice = OciRig(tmp_path), Choice()
    probed = OciExecutor(rig.data_dir, cgroup_parent=rig.parent, choice=choice)
    assert (await probed.probe()).is_usable
    await probed.shut_down()
    before = len(tried)
    assert before
    rig.executor = OciExecutor(rig.data_dir, cgroup_parent=rig.parent, choice=choice)
    await rig.open()
    assert len(tried) == before
    assert rig.executor.life.runtime == probed.life.runtime
    await rig.close()


async def test_no_runtime_no_task(rig: OciRig) -> None:
    wish = await launch(rig, RUN_ON)
    await rig.executor.create(wish)
    works, rig.executor.life.runtime = rig.executor.life.runtime, None
    with pytest.raises(Unavailable, match="no OCI runtime"):
        await rig.executor.start(wish.task_id)
    rig.executor.life.runtime = works
    assert (await rig.executor.start(wish.task_id)).pid


async def test_groups_of_what_was_half_removed(rig: OciRig) -> None:
    """Also those that the runtime alone had made."""
    wish = await launch(rig, RUN_ON)
    await rig.executor.create(wish)
    task_folder = rig.data_dir / "tasks" / wish.task_id
    bundle = records.read_bundle(task_folder)
    assert bundle is not None

    async def meanwhile() -> None:
        (task_folder / "job.json").unlink()
        for root in (Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").iterdir()):
            if root.is_mount() and (root / "cgroup.procs").exists():
                group = root / bundle["linux"]["cgroupsPath"].strip("/")
                group.mkdir(parents=True, exist_ok=True)

    await rig.reopen(meanwhile=meanwhile)
    assert not task_folder.exists()
    assert rig.left() == []


async def test_no_room_for_a_record(rig: OciRig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of it runs, and it can be started as soon as there is room."""

    def fails(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    wish = await launch(rig, RUN_ON)
    await rig.executor.create(wish)
    with monkeypatch.context() as patch:
        patch.setattr(records, "write_made", fails)
        with pytest.raises(Unavailable, match="No space left"):
            await rig.executor.start(wish.task_id)
    assert not rig.processes()
    assert (await rig.executor.start(wish.task_id)).pid


async def test_a_node_that_changes_its_executor_and_back(tmp_path: Path) -> None:
    """Images, volumes, and the logs of tasks that have ended stay, whoever ran them."""
    env = Env()
    ran: list[TaskId] = []
    archive = suite_image.write_archive(tmp_path / "suite.tar")
    own = OciRig(tmp_path)
    rig: NativeRig = own
    mount = Mount(type=MountType.VOLUME, source="kept", target="/kept")
    script = "printf half; sleep 0.1; echo of $0 >> /kept/all; cat /kept/all"
    for name in ("native", "oci", "native"):
        config = NodeConfig(
            data_dir=rig.data_dir, run_dir=tmp_path / "run", cgroup_parent=rig.parent, executor=name
        )
        assert await choose(config, env, partial(make_executor, config, env)) == name
        assert not any((rig.data_dir / "tasks").glob("*"))
        rig.executor = cast("NativeExecutor", make_executor(config, env, name))
        await rig.executor.start_up()
        if not ran:
            await rig.executor.load_image(archive)
        command = ("/bin/sh", "-c", script, f"{name}{len(ran)}")
        spec = ContainerSpec(image=suite_image.IMAGE, command=command, mounts=(mount,))
        ran.append(await rig.run(f"task{len(ran)}", spec=spec, image=suite_image.IMAGE))
        assert (await rig.wait_exit(ran[-1])).exit.code == 0
        expected = "half"
        for number, task_id in enumerate(ran):
            expected += f"of {('native', 'oci')[number % 2]}{number}\n"
            assert b"".join([line.data for line in await rig.log(task_id)]).decode() == expected
        late = await rig.executor.attach(ran[0], Attachment(replays=True))
        assert await until(late, b"\n") == b"halfof native0\n"
        await late.close()
        await rig.executor.shut_down()
    rig.executor = cast("NativeExecutor", make_executor(config, env, "native"))
    await rig.executor.start_up()
    await rig.close()
    assert own.left() == []
