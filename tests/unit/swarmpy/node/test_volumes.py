"""Which volumes a node's own API keeps: those that a task has, whatever executor made that."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agent.executor.engine import records
from agent.executor.engine.task import Record
from swarmpy.model.ids import TaskId
from swarmpy.node.volumes import users


def _of_native(folder: Path, volumes: Path) -> None:
    mounts = [{"type": "volume", "source": str(volumes / "data" / "_data"), "target": "/data"}]
    job: dict[str, Any] = {"task_id": folder.name, "layers": [], "mounts": mounts}
    (folder / "job.json").write_text(json.dumps(job))


def _of_an_engine(folder: Path, volumes: Path) -> None:
    task_id = TaskId(folder.name)
    records.write(folder, Record(task_id=task_id, name="n", container="c", image="i", volumes=("data",)))


@pytest.mark.parametrize("write", [_of_native, _of_an_engine])
def test_a_volume_that_a_task_has_is_in_use(tmp_path: Path, write: Any) -> None:
    folder = tmp_path / "tasks" / "task1"
    folder.mkdir(parents=True)
    write(folder, tmp_path / "volumes")
    assert users(tmp_path / "tasks") == {"data": ("task1",)}
