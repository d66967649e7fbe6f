"""Where a task's mounts come from, as far as that is decided without a node."""

from __future__ import annotations

from agent.executor.base import ImageConfig
from agent.executor.native.mounts import image_volumes, plan_mounts
from swarmpy.model.specs import Mount
from swarmpy.model.states import MountType


def test_nameless_volumes_have_places_of_their_own_in_the_tasks_folder() -> None:
    targets = ("/a/b", "/a-b", "/..", "/.", "/", "/copying", "/" + "x" * 300)
    mounts = tuple(Mount(type=MountType.VOLUME, target=target) for target in targets)
    planned = plan_mounts(mounts, folder="/tasks/t", volumes={}, layers={})
    sources = {mount["source"] for mount in planned}
    assert len(sources) == len(targets)
    for source in sources:
        assert source.startswith("/tasks/t/volumes/")
        assert all(part not in (".", "..") and len(part) < 100 for part in source.split("/"))


def test_an_images_volumes_give_way_to_the_tasks_mounts() -> None:
    image = ImageConfig(reference="x:1", volumes=("/data/", "/log", "rel/./x", "/rel/x", "/"))
    own = (Mount(type=MountType.TMPFS, target="/log/"),)
    assert [mount.target for mount in image_volumes(image, own)] == ["/data", "/rel/x"]
