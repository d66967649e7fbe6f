"""The Windows backend over a fake HNS keeps the contract that the others keep, but for what Windows cannot.

Every request of these tests is held against the published schemas. Nothing here ran on Windows.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import backend_suite as suite
import pytest
from fake_hns import FakeHns

from agent.dataplane.base import Backend, Endpoint
from agent.dataplane.windows.backend import WindowsBackend
from swarmpy.errors import TaskRejected

VERSIONS = {"V1, no way out": (7, 2), "V2": (9, 3), "V2, newest": (15, 5)}


@pytest.fixture(params=list(VERSIONS.values()), ids=list(VERSIONS))
def hns(request: pytest.FixtureRequest) -> FakeHns:
    return FakeHns(version=request.param)


@pytest.fixture
async def made(hns: FakeHns) -> AsyncIterator[list[WindowsBackend]]:
    made = [WindowsBackend(lambda: hns)]
    await made[0].start_up()
    yield made
    await made[-1].destroy()
    assert (hns.networks, hns.endpoints, hns.balancers, hns.namespaces) == ({}, {}, {}, {})
    for backend in made:
        await backend.shut_down()


@pytest.fixture
def backend(made: list[WindowsBackend]) -> Backend:
    return made[0]


@pytest.fixture
def reopen_backend(made: list[WindowsBackend], hns: FakeHns) -> suite.ReopenBackend:
    async def again() -> Backend:
        made.append(WindowsBackend(lambda: hns))
        await made[-1].start_up()
        return made[-1]

    return again


class TestWindowsBackend(suite.BackendContract):
    async def test_a_task_has_the_addresses_that_it_was_given(self, backend: Backend) -> None:
        """From HNS 9.2 on the way out leads through the first network, so there is no address of its own."""
        blue, red, inside = suite.network(1), suite.network(2), suite.network(3, is_internal=True)
        wish = suite.on_networks(1, blue, red)
        await backend.apply(suite.state(wish))
        found = (await backend.attach(wish)).addresses
        assert found[:2] == ("10.77.1.2/24", "10.77.2.2/24")
        assert isinstance(backend, WindowsBackend)
        has_own_way_out = not backend.has_overlay_way_out
        assert len(found) == (3 if has_own_way_out else 2)
        with pytest.raises(TaskRejected, match=r"network3 is internal.*node\.platform\.os==linux"):
            await backend.attach(suite.on_networks(2, inside))

    async def test_modes_without_a_network(self, backend: Backend) -> None:
        """There is none; a task cannot be in the node's own network."""
        bare = Endpoint(task_id=suite.task_id(1), mode="none")
        assert (await backend.attach(bare)).addresses == ()
        assert await backend.list() == (bare.task_id,)
        await backend.detach(bare.task_id)
        assert await backend.list() == ()
        with pytest.raises(TaskRejected, match="node's own network"):
            await backend.attach(Endpoint(task_id=suite.task_id(2), mode="host"))
