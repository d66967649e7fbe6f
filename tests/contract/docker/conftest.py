"""A dockerd 20.10 and a SwarmPy daemon beside each other, both with the image ``box``, for the whole run.

``both`` is a test's way to ask them the same. Tests remove what they make, on both sides.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from docker_engine import IMAGE, DockerEngine, docker_engine
from lab_services import lab_of
from oracle import POLL_S, VERSION, WAIT_S, Both, Ledger, Side
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


@pytest.fixture(scope="module", autouse=True)
def _nothing_left(sides: tuple[Side, Side]) -> Iterator[None]:
    """Which files share a pair of daemons is chance: what one leaves, as dockerd does the volumes of a
    request that it refuses, the next one would list."""
    yield
    for side in sides:
        deadline = time.monotonic() + WAIT_S
        while left := clear(side):
            assert time.monotonic() < deadline, f"left on {side.name}: {left}"
            time.sleep(POLL_S)


def clear(side: Side) -> list[str]:
    """Have everything removed but the image; what there was, and may be there still."""
    services = _listed(side, "/services")
    containers = _listed(side, "/containers/json?all=1")
    volumes = (side.send("GET", f"/v{VERSION}/volumes").json or {}).get("Volumes") or []
    images = _listed(side, "/images/json")
    wanted = {f"/images/{tag}" for image in images for tag in image["RepoTags"] or ()}
    paths = [f"/services/{each['ID']}" for each in services]
    paths += [f"/containers/{each['Id']}?force=1&v=1" for each in containers]
    paths += [f"/volumes/{each['Name']}?force=1" for each in volumes]
    paths += sorted(wanted - {f"/images/{IMAGE}:latest", f"/images/{IMAGE}", "/images/<none>:<none>"})
    for path in paths:
        side.send("DELETE", f"/v{VERSION}{path}")
    side.send("POST", f"/v{VERSION}/images/prune")
    return paths


def _listed(side: Side, path: str) -> list[dict[str, Any]]:
    """Nothing, where the daemon is in no swarm."""
    reply = side.send("GET", f"/v{VERSION}{path}")
    return list(reply.json or ()) if reply.status == HTTPStatus.OK else []


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
