"""A manager whose keys are sealed: what opens them at every moment, and what is readable without.

The disk is photographed before each change of it. A photo is what a crash leaves, or a thief takes away.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from manager_rig import until
from msgspec.structs import replace
from node_rig import Camera, FailingDisk, Host, hosts_in

from agent.executor.fake import FakeTask
from manager import dispatcher as dispatcher_module
from manager.api import autolock
from manager.api.control import InitRequest, JoinRequest, LocalState, RecoverRequest, RestoreRequest
from swarmpy.errors import (
    AlreadyExists,
    Corrupt,
    FailedPrecondition,
    InvalidArgument,
    NotInSwarm,
    Unauthenticated,
)
from swarmpy.model.changes import Update
from swarmpy.model.cluster_specs import ClusterSpec, EncryptionConfig
from swarmpy.model.ids import TaskId
from swarmpy.model.objects import Cluster
from swarmpy.model.states import NodeRole
from swarmpy.node import daemon as daemon_module
from swarmpy.node import part as part_module
from swarmpy.node.keys import NodeKeys, is_wrapped
from swarmpy.pki.unlock import UNLOCK_KEY_BYTES, parse_unlock_key, unlock_key_text
from swarmpy.runtime import Env, SystemDisk

KEYS = [unlock_key_text(bytes([n]) * UNLOCK_KEY_BYTES) for n in range(3)]
_BEGIN_KEY = b"-----BEGIN PRIVATE KEY-----"


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


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part_module, "RENEW_RETRY_MIN_S", 0.2)
    monkeypatch.setattr(daemon_module, "START_RETRY_MIN_S", 0.1)
    monkeypatch.setattr(dispatcher_module, "SESSION_STARTS_MAX", 1_000)  # a host begins again and again


async def init_locked(host: Host) -> str:
    """A swarm with autolock; its unlock key."""
    spec = ClusterSpec(encryption_config=EncryptionConfig(auto_lock_managers=True))
    await host.running.init(InitRequest(spec=spec))
    return key_of(host)


def key_of(host: Host) -> str:
    cluster = host.view.cluster()
    assert cluster is not None
    assert cluster.spec.encryption_config.auto_lock_managers == bool(cluster.unlock_key)
    return unlock_key_text(cluster.unlock_key)


async def change_key(host: Host, text: str) -> None:
    """Autolock with this key; empty: none."""
    cluster = host.view.cluster()
    assert cluster is not None
    spec = replace(cluster.spec, encryption_config=EncryptionConfig(auto_lock_managers=bool(text)))
    key = parse_unlock_key(text) if text else b""
    await host.propose(Update(object=replace(cluster, spec=spec, unlock_key=key)))


def raft_key(folder: Path) -> bytes:
    return (folder / "certificates" / "raft.key").read_bytes()


def private_key(folder: Path) -> bytes:
    return (folder / "certificates" / "swarm-node.key").read_bytes()


def is_sealed(folder: Path) -> bool:
    return is_wrapped(raft_key(folder)) and is_wrapped(private_key(folder))


def opened_by(folder: Path, text: str) -> bool:
    """Whether a copy of these files is locked, and with this key no more."""
    keys = NodeKeys(Env(), folder / "certificates")
    keys.load()
    if not keys.is_locked:
        return False
    try:
        keys.unlock(text)
    except Unauthenticated:
        return False
    return True


def running(host: Host) -> dict[TaskId, FakeTask]:
    return {
        task_id: task for task_id, task in host.machine.tasks.items() if task.started_at and task.exit is None
    }


def telling(photos: list[Path]) -> list[Path]:
    """Those before which something of the keys had changed."""
    found: dict[tuple[tuple[str, bytes], ...], Path] = {}
    for photo in photos:
        files = sorted((photo / "certificates").iterdir())
        found.setdefault(tuple((path.name, path.read_bytes()) for path in files), photo)
    return list(found.values())


async def restart(host: Host) -> None:
    await host.stop()
    await host.start()


async def test_a_manager_that_starts_again_waits_for_its_key(tmp_path: Path) -> None:
    async with hosts_in(tmp_path, 1) as (host,):
        key = await init_locked(host)
        await host.run_service(2)
        await until(lambda: len(running(host)) == 2)
        with pytest.raises(AlreadyExists, match=r"^swarm is not locked$"):
            await host.running.unlock(key)
        before = running(host)
        await restart(host)
        local = host.running.local()
        assert (local.state, local.node_id, local.is_manager) == (LocalState.LOCKED, "", False)
        assert local.node_addr == "127.0.0.1"
        assert local.error.startswith("Swarm is encrypted and needs to be unlocked before it can be used.")
        assert host.running.cluster() is None
        for bad in ("", "foo", "SWMKEY-1-!", "SWMKEY-1-f"):
            with pytest.raises(InvalidArgument, match=r"^invalid key string$"):
                await host.running.unlock(bad)
        for wrong in (KEYS[0], "SWMKEY-1-foo", key[:-4] + ("AAAA" if key[-4:] != "AAAA" else "BBBB")):
            with pytest.raises(Unauthenticated, match=r"^swarm could not be unlocked: invalid key provided$"):
                await host.running.unlock(wrong)
        with pytest.raises(NotInSwarm, match="needs to be unlocked"):
            await host.running.recover(RecoverRequest(force=True))
        with pytest.raises(NotInSwarm, match="already part of a swarm"):
            await host.running.join(JoinRequest(remote_addrs=(host.address,), join_token="x"))
        assert host.state is LocalState.LOCKED
        assert running(host) == before  # tasks run on, looked after
        await host.running.unlock(key)
        await host.propose()
        assert key_of(host) == key
        await until(lambda: len(running(host)) == 2)
        assert running(host) == before


async def test_a_new_swarm_is_never_on_disk_in_the_clear(tmp_path: Path) -> None:
    async with photographed(tmp_path) as (host, camera):
        camera.is_on = True
        key = await init_locked(host)
        camera.is_on = False
        part = host.running.part
        assert part is not None
        secret = part._keys.raft_key()
    written = [path for photo in [*camera.photos, host.folder] for path in photo.rglob("*") if path.is_file()]
    assert sum(path.name == "raft.key" for path in written) > 3
    for path in written:
        data = path.read_bytes()
        assert secret not in data
        assert _BEGIN_KEY not in data
        assert parse_unlock_key(key) not in data


async def test_every_moment_of_a_change_of_the_key_opens_with_the_old_or_the_new_one(tmp_path: Path) -> None:
    """On, another key, off: each photo is a manager that can be had with a key that somebody knows."""
    async with photographed(tmp_path) as (host, camera):
        await host.init()
        phases: list[tuple[set[str], list[Path]]] = []
        known = ""
        for text in (*KEYS[1:], ""):
            camera.is_on, start = True, len(camera.photos)
            await change_key(host, text)
            part = host.running.part
            assert part is not None
            await until(lambda part=part, text=text: unlock_key_text(part._keys.unlock_key) == text)  # type: ignore[misc]
            await until(lambda text=text: is_sealed(host.folder) == bool(text))  # type: ignore[misc]
            await until(lambda start=start: len(camera.photos) - start >= 3)  # type: ignore[misc]
            camera.is_on = False
            phases.append(({known, text}, camera.photos[start:]))
            known = text
        assert private_key(host.folder).startswith(_BEGIN_KEY)
        await host.stop()
    for texts, photos in phases:
        openers: set[str] = set()
        for photo in photos:
            again = host.moved_to(photo)
            await again.start()
            opener = ""
            if again.state is LocalState.LOCKED:
                (opener,) = [text for text in texts if text and opened_by(photo, text)]
                await again.running.unlock(opener)
            openers.add(opener)
            assert again.state is LocalState.ACTIVE
            await again.propose()
            await again.stop()
        assert openers == texts


async def test_a_key_that_was_readable_is_replaced_when_it_is_locked_up(tmp_path: Path) -> None:
    async with hosts_in(tmp_path, 1) as (host,):
        await host.init()
        part = host.running.part
        assert part is not None
        before = part.identity.key
        assert private_key(host.folder) == before
        await change_key(host, KEYS[0])
        await until(lambda: part.identity.key != before)
        await until(lambda: is_sealed(host.folder))
        now = part.identity.key
        await change_key(host, KEYS[1])
        await until(lambda: opened_by(host.folder, KEYS[1]))
        assert part.identity.key == now


async def test_all_managers_follow_and_one_that_was_away_goes_by_what_it_knew(tmp_path: Path) -> None:
    async with hosts_in(tmp_path, 3) as (first, second, third):
        key = await init_locked(first)
        for other in (second, third):
            await other.join(first, NodeRole.MANAGER)
        for host in (first, second, third):
            await until(lambda host=host: opened_by(host.folder, key) and is_sealed(host.folder))  # type: ignore[misc]
        await third.stop()
        await change_key(first, KEYS[0])
        await until(lambda: opened_by(first.folder, KEYS[0]) and opened_by(second.folder, KEYS[0]))
        await third.start()
        with pytest.raises(Unauthenticated):
            await third.running.unlock(KEYS[0])
        await third.running.unlock(key)
        await until(lambda: opened_by(third.folder, KEYS[0]))
        await restart(third)
        await third.running.unlock(KEYS[0])
        await third.propose()


async def test_managers_come_and_go_with_their_role(tmp_path: Path) -> None:
    """A promoted worker writes no key of a log in the clear; a demoted manager needs nobody to start."""
    async with hosts_in(tmp_path, 1) as (first,):
        key = await init_locked(first)
        async with photographed(tmp_path) as (host, camera):
            await host.join(first)
            node_id = host.running.local().node_id
            assert private_key(host.folder).startswith(_BEGIN_KEY)
            camera.is_on = True
            await first.wish_role(node_id, NodeRole.MANAGER)
            await until(lambda: host.running.cluster() is not None)
            await until(lambda: first.node(node_id).manager_status is not None)
            camera.is_on = False
            part = host.running.part
            assert part is not None
            assert is_sealed(host.folder)
            readable = [path.read_bytes() for path in tmp_path.glob("**/swarm-node*.key")]
            await until(lambda: part.identity.key not in readable)
            secret = part._keys.raft_key()
            assert not [path for path in tmp_path.rglob("raft.key") if secret in path.read_bytes()]
            camera.is_on = True
            await first.wish_role(node_id, NodeRole.WORKER)
            await until(lambda: not host.running.local().is_manager)
            await until(lambda: not (host.folder / "raft").exists())
            await until(lambda: not (host.folder / "certificates" / "raft.key").exists())
            camera.is_on = False
            assert private_key(host.folder).startswith(_BEGIN_KEY)
        states = []
        for photo in telling(camera.photos):
            again = host.moved_to(photo)
            await again.start()
            states.append(again.state)
            if again.state is LocalState.LOCKED:
                await again.running.unlock(key)
            await until(lambda again=again: again.state is LocalState.ACTIVE)  # type: ignore[misc]
            await until(lambda again=again: not again.running.local().is_manager)  # type: ignore[misc]
            await again.stop()
        locked = [state is LocalState.LOCKED for state in states]
        assert (locked[0], any(locked), locked[-1]) == (False, True, False)


async def test_a_locked_node_can_leave(tmp_path: Path) -> None:
    async with hosts_in(tmp_path, 1) as (host,):
        for _ in range(2):
            await init_locked(host)
            await restart(host)
            assert host.state is LocalState.LOCKED
            await host.running.leave(force=True)
            assert host.running.part is None
        await host.init()
        assert not is_wrapped(raft_key(host.folder))
        await restart(host)
        assert host.state is LocalState.ACTIVE


async def test_a_full_disk_delays_the_sealing_and_no_more(tmp_path: Path) -> None:
    for nth in (1, 2):
        host = Host(tmp_path / f"host-{nth}")
        host.folder.mkdir()
        await host.start()
        await host.init()
        part = host.running.part
        assert part is not None
        disk = FailingDisk(nth)
        part._keys._env, part._files._disk = Env(disk=disk), disk
        await change_key(host, KEYS[0])
        await until(lambda host=host: is_sealed(host.folder))  # type: ignore[misc]
        assert disk.has_failed
        await restart(host)
        await host.running.unlock(KEYS[0])
        await host.stop()


async def test_recovering_and_restoring_keep_the_lock(tmp_path: Path) -> None:
    async with hosts_in(tmp_path, 2) as (host, other):
        key = await init_locked(host)
        access = host.running.cluster()
        assert access is not None
        backup = b"".join(access.backup(Env().clock.now()))
        await restart(host)
        await host.running.unlock(key)
        await host.running.recover(RecoverRequest(force=True))
        assert is_sealed(host.folder)
        await restart(host)
        await host.running.unlock(key)
        await host.propose()
        await host.stop()

        async def chunks() -> AsyncIterator[bytes]:
            yield backup

        await other.running.restore(RestoreRequest(), chunks())
        assert is_sealed(other.folder)
        await restart(other)
        assert other.state is LocalState.LOCKED
        await other.running.unlock(key)
        await other.propose()


def test_settings_decide_on_the_key() -> None:
    on = Cluster(id="c", store_format=2)  # type: ignore[arg-type]
    on = replace(on, spec=replace(on.spec, encryption_config=EncryptionConfig(auto_lock_managers=True)))
    off = Cluster(id="c", store_format=2, unlock_key=b"old")  # type: ignore[arg-type]
    assert autolock.keyed(on, b"new", is_rotating=False).unlock_key == b"new"
    kept = replace(on, unlock_key=b"old")
    assert autolock.keyed(kept, b"new", is_rotating=False) == kept
    assert autolock.keyed(kept, b"new", is_rotating=True).unlock_key == b"new"
    for is_rotating in (False, True):
        assert autolock.keyed(off, b"new", is_rotating=is_rotating).unlock_key == b""
    with pytest.raises(FailedPrecondition, match="needs a newer SwarmPy on every manager"):
        autolock.keyed(replace(on, store_format=1), b"new", is_rotating=False)


@pytest.mark.parametrize("byte", [0, 25, 40, -1])
async def test_a_damaged_key_file_opens_with_nothing(tmp_path: Path, byte: int) -> None:
    async with hosts_in(tmp_path, 1) as (host,):
        key = await init_locked(host)
        await host.stop()
        path = host.folder / "certificates" / "raft.key"
        data = bytearray(path.read_bytes())
        data[byte] ^= 1
        SystemDisk().write_atomic(path, bytes(data))
        with pytest.raises((Corrupt, Unauthenticated), match=r"damaged|invalid key provided"):
            await _start_and_unlock(host, key)


async def _start_and_unlock(host: Host, key: str) -> None:
    await host.start()
    await host.running.unlock(key)
