"""The native executor keeps the contract, on real processes: of an image, and of the node's own root."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
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
from native_rig import NativeRig

from agent.executor.base import Executor, Sandbox
from swarmpy.model.ids import TaskId

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make namespaces"),
]


@pytest.fixture
async def rig(data_dir: Path) -> AsyncIterator[NativeRig]:
    rig = NativeRig(data_dir.parent)
    yield rig
    await rig.close()


@pytest.fixture
async def executor(rig: NativeRig) -> Executor:
    return await rig.open()


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return suite_image.write_archive(tmp_path_factory.mktemp("image") / "suite.tar")


@pytest.fixture
async def image(rig: NativeRig, executor: Executor, archive: Path) -> str:
    await rig.executor.load_image(archive)
    return suite_image.IMAGE


@pytest.fixture
def reopen(rig: NativeRig, executor: Executor) -> suite.Reopen:
    async def again(
        *, is_clean: bool = True, meanwhile: Callable[[], Awaitable[None]] = suite.nothing
    ) -> Executor:
        return await rig.reopen(is_clean=is_clean, meanwhile=meanwhile)

    return again


@pytest.fixture
def left(rig: NativeRig) -> life_suite.Left:
    async def left() -> list[str]:
        """Control groups of tasks."""
        roots = [Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").iterdir()]
        folders = [root / rig.parent.strip("/") for root in roots]
        return [
            str(path) for folder in folders if folder.is_dir() for path in folder.iterdir() if path.is_dir()
        ]

    return left


@pytest.fixture
def sandbox() -> suite.MakeSandbox:
    async def make(task_id: TaskId) -> Sandbox:
        return Sandbox(netns="")  # a fresh namespace with nothing but loopback

    return make


class TestNativeExecutor(suite.ExecutorContract):
    pass


class TestCommandsInNativeTasks(exec_suite.ExecContract):
    pass


class TestInsideNativeTasks(inside_suite.InsideContract):
    pass


class TestLifeOfNativeTasks(life_suite.LifeContract):
    pass


class TestAdoptionOfNativeTasks(life_suite.AdoptionContract):
    pass


class TestLogsOfNativeTasks(log_suite.LogContract):
    pass


class TestProcessesInNativeTasks(exec_suite.ProcessExecContract):
    pass


class TestSurroundingsOfNativeTasks(container_suite.ContainerContract):
    pass


class TestTroubleWithNativeTasks(trouble_suite.TroubleContract):
    pass


class TestNativeOnAFullDisk(trouble_suite.FullDiskContract):
    pass


class OnHost:
    @pytest.fixture
    def image(self) -> str:
        return "host"


class TestNativeExecutorOnHost(OnHost, suite.ExecutorContract):
    pass


class TestCommandsInNativeTasksOnHost(OnHost, exec_suite.ExecContract):
    pass


class TestInsideNativeTasksOnHost(OnHost, inside_suite.InsideContract):
    pass
