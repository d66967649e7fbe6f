"""``/containers``: what clients send and get from the making of a container to its removal; every mistake."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from docker_engine import IMAGE
from oracle import Both

SLEEP = {"Image": IMAGE, "Cmd": ["sleep", "1000"], "StopTimeout": 0}


@pytest.fixture(autouse=True)
def _tidy(both: Both) -> Iterator[None]:
    yield
    for name in ("box", "other", "short"):
        both.send("DELETE", f"/containers/{name}", force="1")


def test_its_life(both: Both) -> None:
    both.name("box", both("POST", "/containers/create", SLEEP, name="box"), key="Id")
    both("POST", "/containers/create", SLEEP, name="box")
    both("POST", "/containers/box/stop")
    both("POST", "/containers/box/kill")
    both("GET", "/containers/box/top")
    both("POST", "/containers/box/start")
    both("POST", "/containers/$box/start")
    both("DELETE", "/containers/box")
    both("POST", "/containers/box/rename")
    both("POST", "/containers/box/rename", name="box")
    both("POST", "/containers/box/rename", name="a b")
    both("POST", "/containers/box/rename", name="other")
    both("POST", "/containers/box/start")
    both("POST", "/containers/other/kill", signal="FOO")
    both("POST", "/containers/other/kill", signal="CONT")
    both("POST", "/containers/other/update", {"RestartPolicy": {"Name": "bogus"}})
    both("POST", "/containers/other/restart", t="0")
    both("POST", "/containers/other/stop", t="x")
    both("POST", "/containers/other/stop", t="0")
    both("POST", "/containers/other/stop", t="0")
    both("POST", "/containers/other/wait")
    both("DELETE", "/containers/other")
    both("DELETE", "/containers/other")


def test_how_it_ends(both: Both) -> None:
    for code in (0, 3):
        wish = {"Image": IMAGE, "Cmd": ["sh", "-c", f"echo out; exit {code}"]}
        both.send("POST", "/containers/create", wish, name="short")
        both("POST", "/containers/short/start")
        both("POST", "/containers/short/wait")
        both("GET", "/containers/json", all="1", filters={"name": ["short"], "exited": [str(code)]})
        both("GET", "/containers/json", filters={"name": ["short"]})
        both.send("DELETE", "/containers/short")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"Image": "bogus:1"},
        {**SLEEP, "HostConfig": {"Memory": 1000}},
        {**SLEEP, "HostConfig": {"RestartPolicy": {"Name": "bogus"}}},
        {**SLEEP, "HostConfig": {"RestartPolicy": {"Name": "always", "MaximumRetryCount": 2}}},
        {**SLEEP, "HostConfig": {"RestartPolicy": {"Name": "always"}, "AutoRemove": True}},
        {**SLEEP, "HostConfig": {"Binds": ["a:b"]}},
        {**SLEEP, "HostConfig": {"Binds": ["vol:/x:bogus"]}},
        {**SLEEP, "HostConfig": {"Binds": ["vol:/x", "vol2:/x"]}},
        {**SLEEP, "HostConfig": {"NanoCpus": 1_000_000_000, "CpuPeriod": 1000, "CpuQuota": 1000}},
    ],
)
def test_what_cannot_be_made(both: Both, body: object) -> None:
    both("POST", "/containers/create", body, name="short")


def test_what_is_not_there(both: Both) -> None:
    for verb in ("start", "stop", "kill", "restart", "wait", "rename", "resize", "attach"):
        both("POST", f"/containers/bogus/{verb}", name="x", h="1", w="1")
    for part in ("json", "top", "logs", "stats", "export"):
        both("GET", f"/containers/bogus/{part}", stdout="1")
    both("DELETE", "/containers/bogus")
    for filters in ({"status": ["bogus"]}, {"health": ["bogus"]}, {"exited": ["x"]}, {"bogus": ["x"]}):
        both("GET", "/containers/json", filters=filters)
    both("GET", "/containers/json", limit="x")
