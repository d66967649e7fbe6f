"""A manager's files read while no daemon runs on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from manager import manager as managers
from manager.recovery import read_backup as read_files
from swarmpy.errors import FailedPrecondition
from swarmpy.node.keys import NodeKeys
from swarmpy.node.lock import locked
from swarmpy.node.recovery import files_of
from swarmpy.node.state import StateFile
from swarmpy.runtime import Env


@contextmanager
def read_backup(data_dir: Path, unlock_key: Callable[[], str]) -> Iterator[Iterator[bytes]]:
    """A backup of what the manager held; ``FailedPrecondition`` if it runs, or there is none.

    ``unlock_key`` is asked for the text of the key if the manager was locked.
    """
    env = Env()
    state = StateFile(env.disk, data_dir).load()
    keys = NodeKeys(env, data_dir / "certificates")
    if state is None or not keys.is_there:
        raise FailedPrecondition(f"{data_dir} holds no manager's files: there is nothing to back up")
    with locked(data_dir):
        keys.load()
        if keys.is_locked:
            keys.unlock(unlock_key())
        config = files_of(data_dir, state, keys)
        if not managers.has_log(config, env):
            raise FailedPrecondition(f"{data_dir} holds no raft log: there is nothing to back up")
        yield read_files(config, env)
