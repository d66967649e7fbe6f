"""A node with the image ``trial:1``, one for each module."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from isolation_rig import write_image
from native_rig import NativeRig


@pytest.fixture(scope="session")
def trial_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_image(tmp_path_factory.mktemp("trial"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def trial_node(tmp_path_factory: pytest.TempPathFactory, trial_image: Path) -> AsyncIterator[NativeRig]:
    rig = NativeRig(tmp_path_factory.mktemp("trial-node"))
    await rig.open()
    await rig.executor.load_image(trial_image)
    yield rig
    await rig.close()


@pytest_asyncio.fixture(loop_scope="module")
async def rig(trial_node: NativeRig) -> AsyncIterator[NativeRig]:
    """The module's node; tasks and volumes that a test leaves are removed."""
    yield trial_node
    for found in await trial_node.executor.list():
        await trial_node.executor.remove(found.task_id)
    trial_node.executor.volumes.prune(is_all=True)
