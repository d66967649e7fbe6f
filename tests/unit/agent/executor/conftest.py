"""A node with the image ``box:1``, one for each module that uses it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from box_image import layer
from image_files import write_layout
from native_rig import NativeRig


@pytest.fixture(scope="session")
def box_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("options") / "box"
    return write_layout(folder, [layer()], name="box:1", Entrypoint=["/bin/sh", "-c"], Cmd=["true"])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def box_node(tmp_path_factory: pytest.TempPathFactory, box_image: Path) -> AsyncIterator[NativeRig]:
    rig = NativeRig(tmp_path_factory.mktemp("options-node"))
    await rig.open()
    await rig.executor.load_image(box_image)
    yield rig
    await rig.close()


@pytest_asyncio.fixture(loop_scope="module")
async def rig(box_node: NativeRig) -> AsyncIterator[NativeRig]:
    """The module's node; tasks and volumes that a test leaves are removed."""
    yield box_node
    for found in await box_node.executor.list():
        await box_node.executor.remove(found.task_id)
    box_node.executor.volumes.prune(is_all=True)
