"""One byte of a node's files is flipped: they are refused by name, or nothing of what they say has changed.

A raft log may lose its end, where a torn write and damage look alike: then what is left is a state that had
been acknowledged. A log that was closed in good order loses nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from manager_rig import DEADLINE_S, Host, managers_in, until
from msgspec.structs import replace

from agent.identity import IdentityFiles
from manager import manager as manager_module
from manager.raft.log import RaftConfig
from manager.raft.recover import Survivor
from manager.raft.sealing import AesGcmSealer
from manager.store.store import Store
from swarmpy.errors import Corrupt
from swarmpy.model.changes import Create
from swarmpy.model.cluster_specs import ConfigSpec
from swarmpy.model.ids import ConfigId
from swarmpy.model.objects import Config, Kind
from swarmpy.node.state import NodeState, StateFile
from swarmpy.runtime import Env, SystemDisk

T = TypeVar("T")
SAMPLE = 500
SNAPSHOT_ENTRIES = 20


def digest(store: Store) -> str:
    """Of all that the store holds but its outcomes and its epoch, which no client sees."""
    objects = sorted(repr(each) for kind in Kind for each in store.all(kind))
    return f"{store.version} {hashlib.sha256(repr(objects).encode()).hexdigest()}"


def stored(folder: Path, key: bytes) -> str:
    """What a manager that starts on this folder would serve; ``Corrupt`` if it refuses."""
    store = Store()
    Survivor(SystemDisk(), folder, AesGcmSealer(key, Env().entropy), store).close()
    return digest(store)


class States:
    """Every state that a store was in, with the number of the last change that was acknowledged by then: the
    leader makes changes of its own in between."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: dict[str, int] = {}
        self.number = 0
        self.store: Store | None = None
        apply = Store.apply

        def noting(store: Store, *args: Any, **more: Any) -> Any:
            applied = apply(store, *args, **more)
            if store is self.store:
                self.seen.setdefault(digest(store), self.number)
            return applied

        monkeypatch.setattr(Store, "apply", noting)


async def written(host: Host, folder: Path, states: States) -> tuple[dict[str, int], Path, Path]:
    """The states of a store as changes are acknowledged, a copy of the live files, and the closed ones."""
    manager = await host.start() if host.manager is None else host.running
    store = manager.access.view
    assert isinstance(store, Store)
    states.store, seen = store, states.seen
    seen[digest(store)] = 0
    for number in range(1, 3 * SNAPSHOT_ENTRIES):
        config = Config(id=ConfigId(f"c{number}"), spec=ConfigSpec(name=f"c{number}", data=b"x" * number))
        await manager.propose((Create(object=config),))
        states.number = seen[digest(store)] = number
        if number == 2 * SNAPSHOT_ENTRIES:
            await until((host.config.folder / "raft.snapshot").exists)
    live, closed = folder / "live", folder / "closed"
    shutil.copytree(host.config.folder, live)
    await host.stop()
    shutil.copytree(host.config.folder, closed)
    return seen, live, closed


@pytest.mark.parametrize("name", ["raft.wal", "raft.snapshot"])
async def test_a_flipped_byte_of_a_managers_files_is_never_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def small(config: manager_module.ManagerConfig, env: Env) -> RaftConfig:
        sealer = AesGcmSealer(config.key, env.entropy)
        return RaftConfig(folder=config.folder, sealer=sealer, snapshot_entries=SNAPSHOT_ENTRIES)

    monkeypatch.setattr(manager_module, "_raft_config", small)
    states = States(monkeypatch)
    async with managers_in(tmp_path) as managers:
        host = await managers.found()
        seen, live, closed = await written(host, tmp_path, states)
    key, last = host.config.key, max(seen.values())
    assert seen[stored(closed, key)] == last
    assert seen[stored(live, key)] == last
    chance = random.Random(7)
    for source in (live, closed):
        whole = (source / name).read_bytes()
        places = sorted(chance.sample(range(len(whole)), min(SAMPLE, len(whole))))
        outcomes = [flipped(source, name, place, key, tmp_path / "trial") for place in places]
        refused = sum(found is None for found in outcomes)
        assert refused > len(outcomes) // 2
        for found in outcomes:
            assert found is None or found in seen, "a state that never was"
        if source is closed:
            assert all(found is None or seen[found] == last for found in outcomes)
        await asyncio.sleep(0)


def flipped(source: Path, name: str, place: int, key: bytes, trial: Path) -> str | None:
    """What is served with one bit of one byte flipped; None if the file is refused by its name."""
    shutil.rmtree(trial, ignore_errors=True)
    shutil.copytree(source, trial)
    data = bytearray((trial / name).read_bytes())
    data[place] ^= 1 << place % 8
    (trial / name).write_bytes(data)
    found, refusal = tried(lambda: stored(trial, key))
    assert found is not None or str(trial / name) in refusal
    return found


def tried(load: Callable[[], T]) -> tuple[T | None, str]:
    """What was loaded, or the sentence that refuses it."""
    try:
        return load(), ""
    except Corrupt as error:
        return None, str(error)


def test_a_flipped_byte_of_the_addresses_is_refused_by_name(tmp_path: Path) -> None:
    file, path = StateFile(SystemDisk(), tmp_path), tmp_path / "state.json"
    state = NodeState(listen_addr="0.0.0.0:2377", advertise_addr="10.0.0.1:2377", managers=("10.0.0.2:2377",))
    state = replace(state, data_path_addr="10.1.0.1")
    file.save(state)
    whole = path.read_bytes()
    for place in range(len(whole)):
        for bit in range(8):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
            found, refusal = tried(file.load)
            assert found == state or str(path) in refusal
    path.write_bytes(b'{"listen_addr": "0.0.0.0:1", "advertise_addr": "10.0.0.7:1"}')  # by hand
    assert file.load() == NodeState(listen_addr="0.0.0.0:1", advertise_addr="10.0.0.7:1")
    path.write_bytes(whole[:-20])
    with pytest.raises(Corrupt, match=r"state\.json is damaged"):
        file.load()


async def test_a_flipped_byte_of_the_identity_is_refused_by_name(tmp_path: Path) -> None:
    async with managers_in(tmp_path) as managers:
        async with asyncio.timeout(DEADLINE_S):
            host = await managers.found()
    folder = tmp_path / "certificates"
    files = IdentityFiles(SystemDisk(), folder)
    files.save(host.identity)
    for path in sorted(folder.iterdir()):
        whole = path.read_bytes()
        refusals = 0
        for place in range(len(whole)):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
            found, refusal = tried(files.load)
            if found is None:
                assert str(folder) in refusal
                refusals += 1
            else:
                assert (found.node_id, found.role) == (host.identity.node_id, host.identity.role)
        assert refusals > len(whole) // 2
        path.write_bytes(whole)
