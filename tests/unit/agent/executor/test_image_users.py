"""Which tasks stand on which image: by their root, and by what they mount."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from agent.executor.base import ImageConfig
from agent.executor.images.records import ImageRecord, StoredImage
from agent.executor.native.image_users import image_users
from swarmpy.model.ids import Timestamp


def image(id_: str, *layers: str) -> StoredImage:
    config = ImageConfig(reference=f"{id_}:latest", digest=id_, layers=layers)
    return StoredImage(ImageRecord(config=config), (f"{id_}:latest",), Timestamp(0))


def task(tasks_dir: Path, name: str, **job: Any) -> None:
    folder = tasks_dir / name
    folder.mkdir(parents=True)
    whole = {"task_id": name, "image": "host", "is_host": False, "layers": [], "mounts": [], **job}
    (folder / "job.json").write_text(json.dumps(whole))


def test_who_uses_what(tmp_path: Path) -> None:
    images = (image("app", "base", "top"), image("base", "base"), image("data", "files"), image("idle", "x"))
    mount = {"type": "image", "source": "", "layers": ["files"]}
    volume = {"type": "volume", "source": "/v/data"}
    task(tmp_path, "t1", image="app:latest", image_id="app", layers=["base", "top"], mounts=[volume])
    task(tmp_path, "t2", image="app:latest", layers=["base", "top"], mounts=[mount])
    task(tmp_path, "t3", is_host=True, mounts=[mount])
    users = image_users(tmp_path, images)
    assert {id_: [user.task_id for user in found] for id_, found in users.items()} == {
        "app": ["t1", "t2"],
        "data": ["t2", "t3"],
    }
