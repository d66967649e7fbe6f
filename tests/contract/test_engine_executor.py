"""What executors in general do not have: engines restart, and others use them, too."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import suite_image
from docker_rig import DockerDaemon, docker_daemon, has_docker
from engine_rig import EngineRig, SharedEngine
from executor_suite import DEADLINE_S, RUN_ON, Tasks, found, read_log, wait_exit
from native_rig import is_running
from podman_rig import clear, has_podman, options

from agent.dataplane.linux import namespaces
from agent.executor.base import Found, Sandbox
from agent.executor.engine import pause
from agent.executor.engine.executor import EngineExecutor
from agent.executor.engine.service import PodmanService
from swarmpy.errors import FailedPrecondition, TaskRejected, Unavailable
from swarmpy.model.ids import TaskId

pytestmark = [pytest.mark.root, pytest.mark.skipif(not has_docker(), reason="needs root and dockerd")]

Docker = tuple[DockerDaemon, SharedEngine]


@pytest.fixture(scope="module")
def docker() -> Iterator[Docker]:
    with docker_daemon("--live-restore") as found:
        yield found


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return suite_image.write_archive(tmp_path_factory.mktemp("image") / "suite.tar")


@pytest.fixture
async def rig(tmp_path: Path, docker: Docker, archive: Path) -> AsyncIterator[EngineRig]:
    (tmp_path / "node").mkdir()
    rig = EngineRig(tmp_path / "node", docker[1])
    await rig.open()
    await rig.load(archive)
    yield rig
    await rig.close()


@pytest.fixture
def short() -> Iterator[Path]:
    """Podman's state may not lie deep."""
    with tempfile.TemporaryDirectory(prefix="podman-") as name:
        yield Path(name)


@pytest.fixture
def tasks(rig: EngineRig) -> Tasks:
    async def sandbox(task_id: TaskId) -> Sandbox:
        return rig.sandbox()

    return Tasks(rig.executor, sandbox, suite_image.IMAGE)


async def test_an_engine_that_is_away_and_comes_back(rig: EngineRig, docker: Docker, tasks: Tasks) -> None:
    """Nobody is taken for dead meanwhile; who has ended meanwhile is told, once."""
    stays, ends = await tasks.run(1, RUN_ON), await tasks.run(2, RUN_ON)
    before = await found(rig.executor, stays)
    dying = await found(rig.executor, ends)
    assert before is not None
    assert dying is not None
    docker[0].stop()
    with pytest.raises(Unavailable, match="not reachable"):
        await rig.executor.ensure_image("other:1")
    os.kill(dying.pid, signal.SIGKILL)
    successor = await rig.reopen()  # with no engine to be asked
    assert await found(successor, stays) == before
    assert (await successor.start(stays)).exit is None
    docker[0].start()
    assert (await wait_exit(successor, ends)).code == 137
    assert await found(successor, stays) == before
    assert is_running(before.pid)
    assert not any(event.task_id == ends for event in successor._ends._ended)


async def test_an_engine_that_takes_its_containers_along(
    tmp_path: Path, archive: Path, docker: Docker
) -> None:
    """Without live restore its tasks have ended when it is back, with the codes that it gives. Another engine
    is not asked for them."""
    with docker_daemon() as (daemon, shared):
        (tmp_path / "other").mkdir()
        rig = EngineRig(tmp_path / "other", shared)

        async def sandbox(task_id: TaskId) -> Sandbox:
            return rig.sandbox()

        await rig.open()
        await rig.load(archive)
        tasks = Tasks(rig.executor, sandbox, suite_image.IMAGE)
        first = await tasks.run(1, "trap 'exit 9' TERM; sleep 3600 & wait")

        async def try_another() -> None:
            other = EngineExecutor(
                rig.data_dir, flavour="docker", socket=docker[1].socket, files_dir=shared.files_dir
            )
            with pytest.raises(FailedPrecondition, match="is another docker than the one that 1 task of"):
                await other.start_up()
            with pytest.raises(Unavailable, match="another docker"):
                await other.remove(first)
            await other.shut_down()

        await rig.reopen(meanwhile=try_another)
        assert (await found(rig.executor, first) or Found(task_id=first)).pid > 0
        daemon.stop()
        daemon.start()
        assert (await wait_exit(rig.executor, first)).code == 9
        await rig.close()


async def test_containers_of_others(rig: EngineRig, docker: Docker, tasks: Tasks, tmp_path: Path) -> None:
    """Strangers and other nodes keep theirs; what is ours and has no record goes at the next start."""
    cli = ("docker", "--host", f"unix://{docker[1].socket}")

    def run(*words: str) -> str:
        done = subprocess.run((*cli, *words), capture_output=True, text=True, check=True)
        return done.stdout.strip()

    key = (rig.data_dir / "engine.key").read_text()
    box = ("--network", "none", suite_image.IMAGE, "sleep", "3600")
    stranger = run("run", "-d", *box)
    labels = ("--label", "io.swarmpy.task=gone", "--label", "io.swarmpy.kind=task", "--label")
    other = run("run", "-d", *labels, "io.swarmpy.node=0123", *box)
    left = run("run", "-d", *labels, f"io.swarmpy.node={key}", *box)
    mine = await tasks.run(1, RUN_ON)
    executor = tasks.executor = await rig.reopen()
    present = run("ps", "--no-trunc", "--quiet").split()
    assert stranger in present
    assert other in present
    assert left not in present
    assert (await found(executor, mine)) is not None
    launch = await tasks.launch(2, RUN_ON)
    run("create", "--name", launch.name, *box)
    with pytest.raises(TaskRejected, match="taken in docker by a container of others"):
        await executor.create(launch)
    run("rm", "--force", stranger, other, launch.name)


async def test_a_container_that_somebody_removes(rig: EngineRig, docker: Docker, tasks: Tasks) -> None:
    id_ = await tasks.run(1, RUN_ON)
    name = f"web.1.{id_}"
    words = ("docker", "--host", f"unix://{docker[1].socket}", "rm", "--force", name)
    await asyncio.to_thread(subprocess.run, words, capture_output=True, check=True)
    exit = await wait_exit(rig.executor, id_)
    assert exit.code == 137
    await rig.executor.remove(id_)
    assert await rig.left() == []


async def test_the_network_is_there_from_the_first_instruction_on(rig: EngineRig, tasks: Tasks) -> None:
    """An interface that we put into the namespace before the task: the task's first program looks for it."""
    launch = await tasks.launch(1, "", command=("/bin/cat", "/sys/class/net/first0/address", "/etc/hostname"))
    netns = Path(launch.sandbox.netns)
    await asyncio.to_thread(_add_link, netns)
    id_ = await tasks.begin(launch)
    assert (await wait_exit(rig.executor, id_)).code == 0
    address, hostname = [line.data.decode().strip() for line in await read_log(rig.executor, id_)]
    assert address == "02:00:00:00:00:07"
    assert hostname == launch.hostname


def _add_link(netns: Path) -> None:
    with namespaces.inside(netns):
        words = ("ip", "link", "add", "first0", "address", "02:00:00:00:00:07", "type", "bridge")
        subprocess.run(words, check=True)


async def test_a_namespace_that_was_made_anew(rig: EngineRig, tasks: Tasks) -> None:
    """As after a reboot: what holds the former one is started again in the new one."""
    launch = await tasks.launch(1, "ls /sys/class/net")
    await rig.executor.create(launch)
    holder = rig.executor._tasks[launch.task_id].pause
    await rig.executor._containers.start(holder)
    netns = Path(launch.sandbox.netns)
    await asyncio.to_thread(namespaces.remove, netns)
    (await asyncio.to_thread(namespaces.make, netns)).close()
    await asyncio.to_thread(_add_link, netns)
    await rig.executor.create(launch)
    await rig.executor.start(launch.task_id)
    await wait_exit(rig.executor, launch.task_id)
    assert b"first0\n" in [line.data for line in await read_log(rig.executor, launch.task_id)]


async def test_a_socket_of_another_engine(tmp_path: Path, docker: Docker) -> None:
    executor = EngineExecutor(tmp_path, flavour="podman", socket=docker[1].socket)
    found = await executor.probe()
    await executor.shut_down()
    assert not found.is_usable
    assert found.missing == (f"What answers at {docker[1].socket} is docker, not podman.",)


@pytest.mark.skipif(not has_podman(), reason="needs podman")
async def test_a_podman_that_nobody_serves(short: Path) -> None:
    """It is served by a child of ours, with a runtime that works here; tasks outlive the child."""
    data_dir = short / "node"
    data_dir.mkdir()
    *own, _, _ = options(short)  # the runtime is for the service to find
    netns = short / "net"

    def make() -> EngineExecutor:
        service = PodmanService(data_dir, tuple(own))
        return EngineExecutor(data_dir, flavour="podman", service=service)

    (await asyncio.to_thread(namespaces.make, netns)).close()
    executor = make()
    try:
        assert (await executor.probe()).missing == ()
        await executor.start_up()

        async def sandbox(task_id: TaskId) -> Sandbox:
            return Sandbox(netns=str(netns))

        tasks = Tasks(executor, sandbox, pause.IMAGE)
        id_ = await tasks.begin(await tasks.launch(1, "", command=(pause.PROGRAM,)))
        before = await found(executor, id_)
        child = executor._service._child if executor._service else None
        assert child is not None
        child.kill()  # it is started again
        async with asyncio.timeout(DEADLINE_S):
            while executor._service is not None and executor._service._child is child:
                await asyncio.sleep(0.02)
        await executor.shut_down()
        executor = make()
        await executor.start_up()
        assert await found(executor, id_) == before
        await executor.remove(id_)
    finally:
        await executor.shut_down()
        await asyncio.to_thread(namespaces.remove, netns)
        await asyncio.to_thread(clear, short)
