"""A dockerd 20.10 and a SwarmPy daemon beside each other, both with the image ``box``, for the whole run.

``both`` is a test's way to ask them the same. Tests remove what they make, on both sides.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from docker_engine import IMAGE, DockerEngine, docker_engine
from lab_services import lab_of
from oracle import Both, Ledger, Side
from oracle_differences import DIFFERENCES, EVERYWHERE

from swarmpy.lab.cluster import Lab

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """dockerd and the lab's hosts need root."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.root)
            if os.geteuid() != 0:
                item.add_marker(pytest.mark.skip(reason="needs root"))


@pytest.fixture(scope="session")
def machines() -> Iterator[tuple[DockerEngine, Lab]]:
    with docker_engine() as engine, lab_of(managers=1, workers=0) as lab:
        yield engine, lab


@pytest.fixture(scope="session")
def sides(machines: tuple[DockerEngine, Lab]) -> tuple[Side, Side]:
    engine, lab = machines
    docker = Side("docker", engine.socket)
    swarmpy = Side("swarmpy", Path(lab.docker_host("node-1").removeprefix("unix://")))
    image = docker.send("GET", f"/images/{IMAGE}/get").body
    loaded = swarmpy.send("POST", "/images/load", image, {"Content-Type": "application/x-tar"})
    assert loaded.status == 200, loaded
    return docker, swarmpy


@pytest.fixture(scope="module")
def ledger(request: pytest.FixtureRequest) -> Iterator[Ledger]:
    """What may differ in this file; in a whole run of it that went well, all of it must."""
    part = Path(request.path).stem.removeprefix("test_")
    ledger = Ledger(DIFFERENCES[EVERYWHERE] + DIFFERENCES.get(part, ()))
    failed = request.session.testsfailed
    yield ledger
    wanted = {name for name in vars(request.module) if name.startswith("test_")}
    ran = {
        getattr(item, "originalname", item.name)
        for item in request.session.items
        if item.path == request.path
    }
    if wanted <= ran and request.session.testsfailed == failed:
        unused = [entry for entry in DIFFERENCES.get(part, ()) if entry not in ledger.used]
        assert not unused, f"listed as different, and are not: {unused}"


@pytest.fixture
def both(sides: tuple[Side, Side], ledger: Ledger) -> Iterator[Both]:
    both = Both(*sides, ledger)
    yield both
    both.check()
