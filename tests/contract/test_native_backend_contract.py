"""The Linux backend keeps the contract, on real links in a scratch network namespace."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import backend_suite as suite
import pytest
from scratch_network import scratch_network

from agent.dataplane.base import Backend
from agent.dataplane.linux.backend import LinuxBackend

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make namespaces"),
]


@pytest.fixture(autouse=True)
def network() -> Iterator[None]:
    with scratch_network():
        yield


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[list[LinuxBackend]]:
    """All backends of one test, the present one last."""
    made = [LinuxBackend(run_dir=tmp_path)]
    await made[0].start_up()
    yield made
    await made[-1].destroy()
    for backend in made:
        await backend.shut_down()


@pytest.fixture
def backend(made: list[LinuxBackend]) -> Backend:
    return made[0]


@pytest.fixture
def reopen_backend(made: list[LinuxBackend], tmp_path: Path) -> suite.ReopenBackend:
    async def again() -> Backend:
        backend = LinuxBackend(run_dir=tmp_path)
        await backend.start_up()
        made.append(backend)
        return backend

    return again


class TestLinuxBackend(suite.BackendContract):
    pass
