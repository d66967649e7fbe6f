"""Bounds made small for the simulation, so that rare paths (pieces, held-back queues) are taken often."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from unittest import mock


@contextlib.contextmanager
def tuned(seed: int) -> Iterator[None]:
    dice = random.Random(seed)
    with (
        mock.patch("manager.raft.snapshotter.RAFT_SNAPSHOT_CHUNK_BYTES", dice.choice([50, 300, 1 << 20])),
        mock.patch("manager.raft.replication.RAFT_BACKLOG_BYTES_MAX", dice.choice([100, 2000, 8 << 20])),
    ):
        yield
