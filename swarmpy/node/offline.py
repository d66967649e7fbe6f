"""A manager's files read while no daemon runs on them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from manager import manager as managers
from manager.recovery import read_backup as read_files
from swarmpy.errors import FailedPrecondition
from swarmpy.node.lock import locked
from swarmpy.node.recovery import files_of
from swarmpy.node.state import StateFile
from swarmpy.runtime import Env


@contextmanager
def read_backup(data_dir: Path) -> Iterator[Iterator[bytes]]:
    """A backup of what the manager held; ``FailedPrecondition`` if it runs, or there is none."""
    env = Env()
    state = StateFile(env.disk, data_dir).load()
    if state is None or not env.disk.exists(data_dir / "certificates" / "raft.key"):
        raise FailedPrecondition(f"{data_dir} holds no manager's files: there is nothing to back up")
    with locked(data_dir):
        config = files_of(data_dir, state, env)
        if not managers.has_log(config, env):
            raise FailedPrecondition(f"{data_dir} holds no raft log: there is nothing to back up")
        yield read_files(config, env)
