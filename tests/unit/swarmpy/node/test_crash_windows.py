"""A daemon that is killed between two changes of its files: what is left is a place in the swarm, or none.

The disk is photographed before each change that ``init``, ``join``, ``leave`` and a change of role make. A
daemon that finds a photo must come up without help: in the swarm, or outside of it and able to enter again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from manager_rig import until
from node_rig import Camera, Host, hosts_in

from manager.api.control import LocalState
from swarmpy.model.ids import NodeId
from swarmpy.model.states import NodeRole
from swarmpy.node import part as part_module


@asynccontextmanager
async def photographed(tmp_path: Path) -> AsyncIterator[tuple[Host, Camera]]:
    host = Host(tmp_path / "host")
    host.folder.mkdir()
    (tmp_path / "album").mkdir()
    host.disk = camera = Camera(host.folder, tmp_path / "album")
    await host.start()
    try:
        yield host, camera
    finally:
        await host.stop()


def id_of(host: Host) -> NodeId:
    return host.running.local().node_id


async def wait_active(host: Host) -> None:
    await until(lambda: host.state is LocalState.ACTIVE)
    part = host.running._part
    assert part is not None
    await until(lambda: bool(part.agent.manager_addr))


async def test_init(tmp_path: Path) -> None:
    async with photographed(tmp_path) as (host, camera):
        camera.is_on = True
        node_id = await host.init()
        camera.is_on = False
    assert len(camera.photos) > 6
    outcomes = []
    for photo in camera.photos:
        again = host.moved_to(photo)
        await again.start()
        outcomes.append(again.state)
        if again.state is LocalState.INACTIVE:
            await again.init()
        else:
            assert id_of(again) == node_id
        await wait_active(again)
        await again.propose()
        await again.stop()
    assert outcomes == sorted(outcomes, key=lambda state: state is LocalState.ACTIVE)


async def test_a_worker_that_dies_while_it_joins_is_in_or_out(tmp_path: Path) -> None:
    async with hosts_in(tmp_path, 1) as (first,):
        await first.init()
        async with photographed(tmp_path) as (host, camera):
            camera.is_on = True
            await host.join(first)
            camera.is_on = False
            node_id = id_of(host)
        assert len(camera.photos) >= 4
        for photo in camera.photos:
            again = host.moved_to(photo)
            await again.start()
            if again.state is LocalState.INACTIVE:
                await again.join(first)
            else:
                assert id_of(again) == node_id
            await wait_active(again)
            await again.stop()


async def test_a_manager_that_dies_while_it_leaves_is_in_or_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(part_module, "RENEW_RETRY_MIN_S", 0.2)
    async with hosts_in(tmp_path, 1) as (first,):
        await first.init()
        async with photographed(tmp_path) as (host, camera):
            await host.join(first, NodeRole.MANAGER)
            camera.is_on = True
            await host.running.leave(force=True)
            camera.is_on = False
        for photo in camera.photos:
            again = host.moved_to(photo)
            await again.start()
            if again.state is not LocalState.INACTIVE:
                # raft has gone on without it: it is a worker now, with nothing of a manager left
                await until(lambda again=again: not again.running.local().is_manager)  # type: ignore[misc]
                await until(lambda photo=photo: not (photo / "raft").exists())  # type: ignore[misc]
            await again.stop()
            await first.propose()


@pytest.mark.slow
async def test_a_node_that_dies_while_its_role_changes_takes_the_role_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(part_module, "RENEW_RETRY_MIN_S", 0.2)
    async with hosts_in(tmp_path, 1) as (first,):
        await first.init()
        async with photographed(tmp_path) as (host, camera):
            await host.join(first)
            node_id = id_of(host)
            camera.is_on = True
            await first.wish_role(node_id, NodeRole.MANAGER)
            await until(lambda: host.running.cluster() is not None)
            await until(lambda: first.node(node_id).manager_status is not None)
            await first.wish_role(node_id, NodeRole.WORKER)
            await until(lambda: not host.running.local().is_manager)
            await until(lambda: not (host.folder / "raft").exists())
            camera.is_on = False
        assert len(camera.photos) > 10
        for photo in camera.photos:
            again = host.moved_to(photo)
            await again.start()
            await wait_active(again)
            await until(lambda again=again: not again.running.local().is_manager)  # type: ignore[misc]
            await until(lambda photo=photo: not (photo / "raft").exists())  # type: ignore[misc]
            assert id_of(again) == node_id
            await again.stop()
