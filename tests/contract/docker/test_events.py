"""``/events``: what the swarm's objects tell, from the past and as it happens; spans of time and filters."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from docker_engine import DockerEngine, box_tar
from oracle import Both, Side
from registry_server import has_registry, registry_server

from swarmpy.lab.cluster import Lab

BOUND_S = 20.0
REGISTRY = "127.0.0.1:5000"
"""On each side's own loopback."""
ALL = {"type": ["image"]}
ACTIONS = {"import", "tag", "push", "save", "untag", "delete", "load", "pull", "prune"}
NOBODY = {"X-Registry-Auth": "e30="}


@pytest.fixture(autouse=True)
def _tidy(both: Both) -> Iterator[None]:
    yield
    for path in ("/services/told", "/secrets/told", "/configs/told", "/networks/told"):
        both.send("DELETE", path)


def test_what_objects_tell(both: Both) -> None:
    """Their kinds, actions, attributes and order; updates by the swarm itself are each one's own affair."""
    since = datetime.now(UTC).timestamp()
    both.send("POST", "/networks/create", {"Name": "told", "Driver": "overlay"})
    for kind in ("secret", "config"):
        both.send("POST", f"/{kind}s/create", {"Name": "told", "Data": "eA==", "Labels": {"a": "b"}})
        both.read_version("version", f"/{kind}s/told")
        both.send("POST", f"/{kind}s/told/update?version=$version", {"Name": "told", "Labels": {"a": "c"}})
        both.send("DELETE", f"/{kind}s/told")
    body = {
        "Name": "told",
        "TaskTemplate": {"ContainerSpec": {"Image": "box"}},
        "Mode": {"Replicated": {"Replicas": 0}},
    }
    both.send("POST", "/services/create", body)
    both.send("DELETE", "/services/told")
    both.send("DELETE", "/networks/told")
    docker, swarmpy = (_told(side, since) for side in (both.docker, both.swarmpy))
    assert swarmpy == docker
    assert [(event["Type"], event["Action"]) for event in swarmpy if event["Type"] == "secret"] == [
        ("secret", action) for action in ("create", "update", "remove")
    ]


def _told(side: Side, since: float) -> list[dict[str, Any]]:
    """Swarm events of the test's objects, in their order by kind; those of networks and services without
    what the swarm itself changed."""
    deadline = time.monotonic() + BOUND_S
    while True:
        query = f"since={since:.9f}&until={datetime.now(UTC).timestamp():.9f}&filters=" + json.dumps(
            {"scope": ["swarm"]}
        )
        reply = side.send("GET", "/v1.41/events?" + query.replace(" ", "").replace('"', "%22"))
        assert reply.status == 200, reply
        found = [json.loads(line) for line in reply.body.splitlines()]
        told = [event for event in found if event["Actor"]["Attributes"]["name"] == "told"]
        if any((event["Type"], event["Action"]) == ("network", "remove") for event in told):
            break
        assert time.monotonic() < deadline, found
    own = [e for e in told if e["Type"] not in ("network", "service") or e["Action"] != "update"]
    assert sorted(own, key=lambda event: event["timeNano"]) == own
    assert all(event["time"] == event["timeNano"] // 10**9 for event in own)
    own.sort(key=lambda event: str(event["Type"]))
    return [side.even({**event, "time": "", "timeNano": ""}) for event in own]


@pytest.fixture(scope="module")
def registries(machines: tuple[DockerEngine, Lab]) -> Iterator[None]:
    if not has_registry():
        pytest.fail("docker-registry is not installed; .ci/run installs it")
    engine, lab = machines
    with (
        registry_server(inside=("nsenter", "--target", str(engine.pid), "--net"), port=5000),
        registry_server(inside=tuple(lab.exec_argv("node-1", [])), port=5000),
    ):
        yield


def test_what_images_tell(both: Both, registries: None) -> None:
    """Every action, in its order, with what it names and the image's labels; what filters leave of it."""
    since = datetime.now(UTC).timestamp()
    app = f"{REGISTRY}/app"
    both.send("POST", "/images/create?fromSrc=-", raw=box_tar())
    both.send("POST", "/images/prune")
    both.send("POST", "/images/create?fromSrc=-&repo=lab&tag=1&changes=LABEL+c=d+a=b", raw=box_tar())
    for tag in (1, 1, 2):
        both.send("POST", f"/images/lab:1/tag?repo={app}&tag={tag}")
    for path in (f"{app}/push?tag=1", f"{app}/push", f"{REGISTRY}/nope/push"):
        both.send("POST", f"/images/{path}", headers=NOBODY)
    for side in (both.docker, both.swarmpy):
        id_ = side.names["lab"] = side.send("GET", "/images/lab:1/json").json["Id"]
        digest = side.names["digest"] = side.send("GET", f"/images/{app}:1/json").json["RepoDigests"][0]
        archive = side.send("GET", "/images/lab:1/get").body
        for name in (f"{app}:2", f"{app}:1", "lab:1"):  # its digest goes with the second
            side.send("DELETE", f"/images/{name}")
        side.send("POST", "/images/load", archive, {"Content-Type": "application/x-tar"})
        for name in (f"{app}:1", f"{app}:1", f"{app}:nope", digest):
            side.send("POST", f"/images/create?fromImage={name}")
        side.send("DELETE", f"/images/{id_}?force=1")
        side.send("POST", f"/images/create?fromImage={digest}")
        for dangling in ("true", "false"):  # one that has a digest alone is both
            query = f"filters=%7B%22dangling%22:[%22{dangling}%22]%7D"
            side.names[dangling] = str(len(side.send("GET", f"/images/json?{query}").json))
        side.send("POST", "/images/prune")
    assert both.swarmpy.names["true"] == both.docker.names["true"] == "1"
    assert both.swarmpy.names["false"] == both.docker.names["false"]
    docker, swarmpy = (_of_images(side, since, ALL) for side in (both.docker, both.swarmpy))
    assert swarmpy == docker
    assert {event["Action"] for event in swarmpy} == ACTIONS
    for wanted in (
        {"type": ["image"], "event": ["pull", "delete"]},
        {"image": ["lab"]},
        {"image": ["lab:1"]},
        {"image": ["$lab"]},
        {"image": [f"{app}:1", "nope"]},
        {"image": ["lab:2"]},
        {"label": ["a=b"]},
        {"label": ["a", "c=e"]},
        {"type": ["image"], "scope": ["swarm"]},
        {"container": ["la"], "event": ["tag"]},
        {"service": ["127"], "type": ["image"]},
        {"service": ["127"], "volume": ["lab"]},
        {"daemon": ["lab"], "type": ["image"]},
        {"node": ["nope"]},
    ):
        docker, swarmpy = (_of_images(side, since, wanted) for side in (both.docker, both.swarmpy))
        assert (wanted, swarmpy) == (wanted, docker)


def test_what_tasks_pull_is_told(both: Both, registries: None) -> None:
    since = datetime.now(UTC).timestamp()
    image = f"{REGISTRY}/pulled:1"
    query = f"fromSrc=-&repo={REGISTRY}/pulled&tag=1&changes=LABEL+a=b"
    both.send("POST", f"/images/create?{query}", raw=box_tar())
    both.send("POST", f"/images/{REGISTRY}/pulled/push?tag=1", headers=NOBODY)
    both.send("DELETE", f"/images/{image}")
    spec = {"ContainerSpec": {"Image": image, "Command": ["sleep", "100"]}}
    both.send("POST", "/services/create", {"Name": "told", "TaskTemplate": spec})
    told = [_pulled(side, since) for side in (both.docker, both.swarmpy)]
    assert [event["Actor"]["Attributes"] for event in told] == [{"a": "b", "name": f"{REGISTRY}/pulled"}] * 2
    # docker's client asks for the digest, here the manager does: the names differ by it
    assert told[0]["id"] == image
    service = both.swarmpy.send("GET", "/services/told").json
    assert told[1]["id"] == service["Spec"]["TaskTemplate"]["ContainerSpec"]["Image"]
    assert told[1]["id"].startswith(f"{image}@sha256:")


def _pulled(side: Side, since: float) -> dict[str, Any]:
    deadline = time.monotonic() + BOUND_S
    while not (found := _told_of_images(side, since, {"event": ["pull"]})):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found[0]


def _of_images(side: Side, since: float, wanted: dict[str, list[str]]) -> list[dict[str, Any]]:
    """Without what no two engines have in common: an image's id counts as the same or another, no more."""
    found = _told_of_images(side, since, wanted)
    text = json.dumps([{**event, "time": "", "timeNano": ""} for event in found])
    text = text.replace(side.names["digest"], "<digest>")
    ids = dict.fromkeys(event["id"] for event in found if event.get("id", "").startswith("sha256:"))
    for number, id_ in enumerate(ids):
        text = text.replace(id_, f"<image {number}>")
    shown: list[dict[str, Any]] = json.loads(text)
    for event in shown:
        if event["Action"] == "prune":  # each one counts in its own way
            assert event["Actor"]["Attributes"].pop("reclaimed").isdecimal()
    return shown


def _told_of_images(side: Side, since: float, wanted: dict[str, list[str]]) -> list[dict[str, Any]]:
    query = f"since={since:.9f}&until={datetime.now(UTC).timestamp():.9f}&filters="
    query += side.named(json.dumps(wanted)).replace(" ", "").replace('"', "%22")
    reply = side.send("GET", f"/v1.41/events?{query}")
    assert reply.status == 200, reply
    found = [event for line in reply.body.splitlines() if (event := json.loads(line))["Type"] == "image"]
    assert sorted(found, key=lambda event: int(event["timeNano"])) == found
    assert all(event["time"] == event["timeNano"] // 10**9 for event in found)
    return found


def test_spans_of_time(both: Both) -> None:
    for query in (
        {"since": "0", "until": "1"},
        {"since": "1700000000.123", "until": "1700000001"},
        {"since": "5", "until": "3"},
        {"since": "1", "until": "0"},
        {"until": "1", "filters": {"type": ["bogus"]}},
        {"until": "1", "filters": {"bogus": ["x"]}},
        {"until": "1", "filters": {"event": ["bogus"], "label": ["a=b"]}},
    ):
        both("GET", "/events", **query)


@pytest.mark.parametrize("text", ["x", "2h", "1700000000.5.5"])
def test_times_that_are_none(both: Both, text: str) -> None:
    both("GET", "/events", since=text, until="1900000000")
