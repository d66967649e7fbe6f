"""The engine executor keeps the contract with a real Docker."""

from __future__ import annotations

import asyncio
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
from docker_rig import docker_daemon, has_docker
from engine_rig import CROWD, EngineRig, SharedEngine

from agent.executor.base import Attachment, Executor, Sandbox
from swarmpy.model.ids import TaskId

pytestmark = [pytest.mark.root, pytest.mark.skipif(not has_docker(), reason="needs root and dockerd")]


@pytest.fixture(scope="module")
def engine() -> Iterator[SharedEngine]:
    with docker_daemon() as (_, engine):
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


class TestDockerExecutor(suite.ExecutorContract):
    pass


class TestCommandsInDockerTasks(exec_suite.ExecContract):
    pass


class TestCommandsByDocker(exec_suite.ExecContract):
    """As where our own way into a container is not sound."""

    @pytest.fixture(autouse=True)
    def no_way(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("agent.executor.engine.inside.write_way", lambda *_: None)


class TestInsideDockerTasks(inside_suite.InsideContract):
    pass


class TestAttachedToDockerTasks(suite.Suite):
    async def test_before_the_start_and_behind_it(self, executor: Executor, tasks: suite.Tasks) -> None:
        """What has no line's end is not in Docker's log yet: who came in time hears it all the same."""
        launch = await tasks.launch(1, "echo one; printf two; read line; echo $line; exit 7", open_stdin=True)
        await executor.create(launch)
        wish = Attachment(replays=True)
        early = await executor.attach(launch.task_id, wish)
        await executor.start(launch.task_id)
        heard = b""
        async with asyncio.timeout(suite.DEADLINE_S):
            async for part in early.output():
                heard += part.data
                if heard == b"one\ntwo":
                    await early.write(b"three\n")
            assert heard == b"one\ntwothree\n"
            assert await early.exit_code() == 7
            await early.close()
            late = await executor.attach(launch.task_id, wish)
            assert b"".join([part.data async for part in late.output()]) == heard
            await late.close()


class TestLifeOfDockerTasks(life_suite.LifeContract):
    crowd = CROWD


class TestAdoptionOfDockerTasks(life_suite.AdoptionContract):
    pass


class TestLogsOfDockerTasks(log_suite.LogContract):
    pass


class TestProcessesInDockerTasks(exec_suite.ProcessExecContract):
    pass


class TestDockerContainers(container_suite.ContainerContract):
    pass


class TestTroubleWithDocker(trouble_suite.TroubleContract):
    pass


class TestDockerOnAFullDisk(trouble_suite.FullDiskContract):
    pass
