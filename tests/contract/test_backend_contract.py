"""The fake backend keeps the contract that the real ones keep."""

from __future__ import annotations

import backend_suite as suite
import pytest

from agent.dataplane.base import Backend
from agent.dataplane.fake import FakeBackend, FakeNetwork


@pytest.fixture
def network() -> FakeNetwork:
    return FakeNetwork()


@pytest.fixture
def backend(network: FakeNetwork) -> Backend:
    return FakeBackend(network)


@pytest.fixture
def reopen_backend(network: FakeNetwork) -> suite.ReopenBackend:
    async def again() -> Backend:
        return FakeBackend(network)

    return again


class TestFakeBackend(suite.BackendContract):
    pass
