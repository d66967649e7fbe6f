"""The oci executor keeps the contract, on real containers of crun or runc."""

from __future__ import annotations

import os
import shutil
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
from oci_rig import OciRig

from agent.executor.base import Executor, Sandbox
from swarmpy.model.ids import TaskId

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make namespaces"),
    pytest.mark.skipif(not shutil.which("conmon"), reason="needs conmon"),
]


@pytest.fixture
async def rig(data_dir: Path) -> AsyncIterator[OciRig]:
    rig = OciRig(data_dir.parent)
    yield rig
    await rig.close()


@pytest.fixture
async def executor(rig: OciRig) -> Executor:
    return await rig.open()


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return suite_image.write_archive(tmp_path_factory.mktemp("image") / "suite.tar")


@pytest.fixture
async def image(rig: OciRig, executor: Executor, archive: Path) -> str:
    await rig.executor.load_image(archive)
    return suite_image.IMAGE


@pytest.fixture
def reopen(rig: OciRig, executor: Executor) -> suite.Reopen:
    async def again(
        *, is_clean: bool = True, meanwhile: Callable[[], Awaitable[None]] = suite.nothing
    ) -> Executor:
        return await rig.reopen(is_clean=is_clean, meanwhile=meanwhile)

    return again


@pytest.fixture
def left(rig: OciRig) -> life_suite.Left:
    async def left() -> list[str]:
        return rig.left()

    return left


@pytest.fixture
def sandbox() -> suite.MakeSandbox:
    async def make(task_id: TaskId) -> Sandbox:
        return Sandbox(netns="")  # a fresh namespace with nothing but loopback

    return make


class TestOciExecutor(suite.ExecutorContract):
    pass


class TestCommandsInOciTasks(exec_suite.ExecContract):
    pass


class TestInsideOciTasks(inside_suite.InsideContract):
    pass


class TestLifeOfOciTasks(life_suite.LifeContract):
    crowd = 20


class TestAdoptionOfOciTasks(life_suite.AdoptionContract):
    pass


class TestLogsOfOciTasks(log_suite.LogContract):
    pass


class TestProcessesInOciTasks(exec_suite.ProcessExecContract):
    pass


class TestContainersOfOci(container_suite.ContainerContract):
    pass


class TestTroubleWithOciTasks(trouble_suite.TroubleContract):
    pass


class TestOciOnAFullDisk(trouble_suite.FullDiskContract):
    pass


class TestOciExecutorOnHost(suite.Suite):
    """What the node's own root makes different: how the task's root is put together, kept and taken apart."""

    @pytest.fixture
    def image(self) -> str:
        return "host"

    test_an_end_is_an_event = suite.ExecutorContract.test_an_end_is_an_event
    test_newer_files = suite.ExecutorContract.test_newer_files_of_a_running_task
    test_remove_takes_all_down = suite.ExecutorContract.test_remove_takes_all_down
    test_a_task_outlives_the_daemon = suite.ExecutorContract.test_a_task_outlives_the_daemon
    test_the_next_daemon_starts_it = (
        suite.ExecutorContract.test_a_created_task_can_be_started_by_the_next_daemon
    )
