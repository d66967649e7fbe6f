"""``/events``: what the swarm's objects tell, from the past and as it happens; spans of time and filters."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from oracle import Both, Side

BOUND_S = 20.0


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
