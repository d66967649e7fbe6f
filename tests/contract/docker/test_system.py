"""Who answers: ``/_ping``, ``/version``, ``/info``, pages that are not there, versions that nobody speaks."""

from __future__ import annotations

import pytest
from oracle import Both

METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS")


@pytest.mark.parametrize("api", ["", "1.24", "1.41"])
def test_ping(both: Both, api: str) -> None:
    both("GET", "/_ping", api=api)
    both("HEAD", "/_ping", api=api)


def test_version(both: Both) -> None:
    both("GET", "/version")
    both("GET", "/version", api="")


@pytest.mark.parametrize("api", ["1.24", "1.41"])
def test_info(both: Both, api: str) -> None:
    both("GET", "/info", api=api)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("api", ["", "1.41"])
def test_pages_that_are_not_there(both: Both, method: str, api: str) -> None:
    for path in ("/nope", "/", "/services/x/y", "/services/create/x", "/swarm/nope"):
        both(method, path, api=api)


def test_methods_that_are_not_there(both: Both) -> None:
    for path, methods in (
        ("/_ping", ("POST", "DELETE")),
        ("/version", ("HEAD", "POST")),
        ("/services", ("HEAD", "POST", "DELETE")),
        ("/services/create", ("PUT",)),
        ("/swarm/init", ("PUT", "DELETE")),
        ("/tasks", ("HEAD", "POST")),
        ("/nodes", ("POST",)),
    ):
        for method in methods:
            both(method, path)


@pytest.mark.parametrize("api", ["1.99", "2.0", "9", "1.99.1"])
def test_versions_that_are_too_new(both: Both, api: str) -> None:
    pair = both.send("GET", "/version", api=api)
    docker, swarmpy = pair.docker, pair.swarmpy
    assert (docker.status, swarmpy.status) == (400, 400)
    assert docker.message.replace("1.41", "1.47") == swarmpy.message
    assert docker.headers.keys() == swarmpy.headers.keys()


def test_versions_that_are_too_old(both: Both) -> None:
    """1.24 is where SwarmPy begins; what is older reads texts instead of JSON."""
    pair = both.send("GET", "/version", api="1.11")
    docker, swarmpy = pair.docker, pair.swarmpy
    assert (docker.status, swarmpy.status) == (400, 400)
    assert docker.body.decode().strip().replace("1.12", "1.24") == swarmpy.message
