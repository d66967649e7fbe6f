"""The engine executor keeps the contract with a real Podman."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import container_suite
import exec_suite
import executor_suite as suite
import inside_suite
import life_suite
import log_suite
import pytest
import suite_image
import trouble_suite
from engine_rig import CROWD, EngineRig, SharedEngine
from podman_rig import has_podman, podman_engine

from agent.executor.base import Executor, Sandbox
from swarmpy.model.ids import TaskId

pytestmark = [pytest.mark.root, pytest.mark.skipif(not has_podman(), reason="needs root and podman")]


@pytest.fixture(scope="module")
def engine() -> Iterator[SharedEngine]:
    with podman_engine() as engine:
        yield engine


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return suite_image.write_archive(tmp_path_factory.mktemp("image") / "suite.tar")


@pytest.fixture
async def rig(data_dir: Path, engine: SharedEngine) -> AsyncIterator[EngineRig]:
    rig = EngineRig(data_dir, engine)
    yield rig
    await rig.close()


@pytest.fixture
async def executor(rig: EngineRig) -> Executor:
    return await rig.open()


@pytest.fixture
async def image(rig: EngineRig, executor: Executor, archive: Path) -> str:
    await rig.load(archive)
    return suite_image.IMAGE


@pytest.fixture
def reopen(rig: EngineRig, executor: Executor) -> suite.Reopen:
    async def again(
        *, is_clean: bool = True, meanwhile: Callable[[], Awaitable[None]] = suite.nothing
    ) -> Executor:
        return await rig.reopen(is_clean=is_clean, meanwhile=meanwhile)

    return again


@pytest.fixture
def sandbox(rig: EngineRig) -> suite.MakeSandbox:
    async def make(task_id: TaskId) -> Sandbox:
        return rig.sandbox()

    return make


@pytest.fixture
def left(rig: EngineRig) -> life_suite.Left:
    return rig.left


class TestPodmanExecutor(suite.ExecutorContract):
    async def test_a_task_whose_conmon_was_killed(
        self, rig: EngineRig, executor: Executor, tasks: suite.Tasks
    ) -> None:
        """Podman says for ever that it runs: it is stopped and gone all the same. How it has ended the
        kernel says, if it is new enough."""
        own_end = "trap 'exit 7' USR1; while :; do sleep 0.1; done"
        stopped, ended = await tasks.run(1, suite.RUN_ON), await tasks.run(2, own_end)
        for task_id in (stopped, ended):
            task = rig.executor._tasks[task_id]
            said = await rig.executor.engine.call("GET", f"/libpod/containers/{task.container}/json")
            os.kill(said["State"]["ConmonPid"], signal.SIGKILL)
        one = await suite.found(executor, ended)
        assert one is not None
        os.kill(one.pid, signal.SIGUSR1)
        exit = await executor.stop(stopped, signal=signal.SIGKILL, grace_s=0)
        assert exit is not None
        untold = "podman cannot tell how it ended: its conmon was killed"
        is_told = tuple(map(int, os.uname().release.split("-")[0].split(".")[:2])) >= (6, 15)
        assert (exit.code, exit.message) == (137, "" if is_told else untold)
        exit = await suite.wait_exit(executor, ended)
        assert (exit.code, exit.message) == ((7, "") if is_told else (137, untold))
        await executor.remove(stopped)
        await executor.remove(ended)
        assert await executor.list() == ()


class TestCommandsInPodmanTasks(exec_suite.ExecContract):
    pass


class TestInsidePodmanTasks(inside_suite.InsideContract):
    pass


class TestLifeOfPodmanTasks(life_suite.LifeContract):
    crowd = CROWD


class TestAdoptionOfPodmanTasks(life_suite.AdoptionContract):
    pass


class TestLogsOfPodmanTasks(log_suite.LogContract):
    pass


class TestProcessesInPodmanTasks(exec_suite.ProcessExecContract):
    pass


class TestPodmanContainers(container_suite.ContainerContract):
    pass


class TestTroubleWithPodman(trouble_suite.TroubleContract):
    pass


class TestPodmanOnAFullDisk(trouble_suite.FullDiskContract):
    pass
