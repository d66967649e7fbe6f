"""The cluster and its nodes: read, changed, refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from oracle import Both, Side

UPDATE = "/swarm/update"
NODE = "/nodes/$node"
GOOD = {"Role": "manager", "Availability": "active"}


@pytest.fixture
def spec(both: Both) -> Iterator[dict[str, Any]]:
    """The cluster's spec as dockerd reads it; restored on both sides."""
    pair = both.send("GET", "/swarm")
    found: dict[str, Any] = pair.docker.json["Spec"]
    yield found
    both.read_version("version", "/swarm")
    both("POST", UPDATE, found, version="$version")


@pytest.fixture
def node(both: Both, sides: tuple[Side, Side]) -> Iterator[None]:
    for side in sides:
        side.names["node"] = side.send("GET", "/v1.41/nodes").json[0]["ID"]
    yield
    change_node(both, GOOD)


def change(both: Both, body: object, **query: Any) -> None:
    both.read_version("version", "/swarm")
    both("POST", UPDATE, body, **{"version": "$version", **query})


def change_node(both: Both, body: object, **query: Any) -> None:
    both.read_version("version", NODE)
    both("POST", NODE + "/update", body, **{"version": "$version", **query})


def test_the_cluster(both: Both) -> None:
    both("GET", "/swarm")


def test_a_change_of_the_cluster(both: Both, spec: dict[str, Any]) -> None:
    for body in (
        {**spec, "Labels": {"a": "b", "c": ""}},
        {**spec, "Name": ""},
        {**spec, "Orchestration": {"TaskHistoryRetentionLimit": 3}},
        {**spec, "Raft": {"SnapshotInterval": 500, "KeepOldSnapshots": 1}},
        {**spec, "Dispatcher": {"HeartbeatPeriod": 7_000_000_000}},
        {**spec, "CAConfig": {"NodeCertExpiry": 7_200_000_000_000}},
    ):
        change(both, body)
        both("GET", "/swarm")


def test_changes_of_the_cluster_that_are_refused(both: Both, spec: dict[str, Any]) -> None:
    change(both, {**spec, "Name": "other"})
    change(both, {**spec, "CAConfig": {"NodeCertExpiry": 1_000}})
    change(both, {**spec, "Dispatcher": {"HeartbeatPeriod": -1}})
    for flag in ("rotateWorkerToken", "rotateManagerToken", "rotateManagerUnlockKey"):
        change(both, spec, **{flag: "perhaps"})
    for version in ("", "x", "-1", "999999999"):
        both("POST", UPDATE, spec, version=version)
    both("POST", UPDATE, raw=b"", version="1")
    both("POST", UPDATE, [], version="1")


def test_what_a_swarm_that_is_there_refuses(both: Both) -> None:
    both("POST", "/swarm/init", {"ListenAddr": "0.0.0.0:2377"})
    both("POST", "/swarm/init", raw=b"")
    both("POST", "/swarm/join", {"RemoteAddrs": ["192.0.2.1:2377"], "JoinToken": "x"})
    both("POST", "/swarm/unlock", {"UnlockKey": "x"})
    both("GET", "/swarm/unlockkey")
    both("POST", "/swarm/leave")
    both("POST", "/swarm/leave", force="0")


def test_nodes(both: Both, node: None) -> None:
    both("GET", "/nodes")
    both("GET", NODE)
    both("GET", "/nodes/nope")
    for filters in (
        {"role": ["manager"]},
        {"role": ["worker"]},
        {"role": ["other"]},
        {"membership": ["accepted"]},
        {"membership": ["pending"]},
        {"membership": ["other"]},
        {"id": ["zz"]},
        {"name": ["zz"]},
        {"label": ["x"]},
        {"node.label": ["x"]},
        {"availability": ["active"]},
    ):
        both("GET", "/nodes", filters=filters)


def test_a_change_of_a_node(both: Both, node: None) -> None:
    for body in (
        {**GOOD, "Labels": {"a": "b", "c": ""}},
        {**GOOD, "Name": "other"},
        {"role": "MANAGER", "availability": "Pause"},
        GOOD,
    ):
        change_node(both, body)
        both("GET", NODE)


def test_changes_of_a_node_that_are_refused(both: Both, node: None) -> None:
    for body in (
        {**GOOD, "Role": "other"},
        {**GOOD, "Availability": "other"},
        {"Role": "manager"},
        {"Availability": "active"},
        {**GOOD, "Role": "worker"},
        {**GOOD, "Labels": ["x"]},
        {},
    ):
        change_node(both, body)
    for version in ("", "x", "-1", "999999999"):
        both("POST", NODE + "/update", GOOD, version=version)
    both("POST", "/nodes/nope/update", GOOD, version="1")
    both("DELETE", NODE)
    both("DELETE", NODE, force="1")
    both("DELETE", "/nodes/nope")
