"""Images: lists, inspection, history, names, removal, archives, imports, disk usage."""

from __future__ import annotations

import tarfile
from io import BytesIO
from typing import Any

import pytest
from docker_engine import box_tar
from oracle import Both, Pair

MISSING = ("nope", "nope:1", f"nope@sha256:{'a' * 64}", "a" * 64, f"sha256:{'a' * 64}", "sha256:abcd")


def imported(both: Both, repo: str = "", *changes: str) -> Pair:
    query = "&".join(["fromSrc=-", f"repo={repo}", *(f"changes={change}" for change in changes)])
    return both.send("POST", f"/images/create?{query}", raw=box_tar())


@pytest.fixture
def web(both: Both) -> Any:
    """``web:1`` on both sides, of its own image; gone afterwards."""
    imported(both, "web:1", "LABEL+a=b", "ENV+A=b", 'CMD+["sleep","1000"]', "EXPOSE+80+90/udp", "USER+u")
    yield
    for side in (both.docker, both.swarmpy):
        for image in side.send("GET", "/v1.41/images/json?all=1").json:
            if "box:latest" not in (image["RepoTags"] or ()):
                side.send("DELETE", f"/v1.41/images/{image['Id']}?force=1")


def test_lists(both: Both, web: None) -> None:
    both("GET", "/images/json")
    both("GET", "/images/json", filters={"reference": ["w*"]})
    both("GET", "/images/json", filters={"reference": ["web:2"]})
    both("GET", "/images/json", filters={"label": ["a=b"]})
    both("GET", "/images/json", filters={"label": ["a=c"]})
    both("GET", "/images/json", filters={"dangling": ["true"]})
    both("GET", "/images/json", filters={"dangling": ["maybe"]})
    both("GET", "/images/json", filters={"before": ["web:1"]})
    both("GET", "/images/json", filters={"since": ["box"]})
    both("GET", "/images/json", filters={"since": ["nope"]})
    both("GET", "/images/json", filters={"bad": ["x"]})
    imported(both)
    both("GET", "/images/json", filters={"dangling": ["true"]})
    both("GET", "/images/json", filters={"dangling": ["true"]}, api="1.24")


def test_inspection(both: Both, web: None) -> None:
    both("GET", "/images/box/json")
    both("GET", "/images/web:1/json")
    both("GET", "/images/web:1/history")
    both("GET", "/images/box/history")
    for name in (*MISSING, "UP"):
        both("GET", f"/images/{name}/json")
    both("GET", "/images/nope/history")


def test_names(both: Both, web: None) -> None:
    both("POST", "/images/web:1/tag", repo="team/web", tag="2")
    both("POST", "/images/web:1/tag", repo="team/web:3", tag="4")
    both("GET", "/images/json", filters={"reference": ["team/*"]})
    for repo, tag in (("A/b", ""), ("", ""), ("a", "!"), ("sha256", "x"), (f"a@sha256:{'0' * 64}", "")):
        both("POST", "/images/web:1/tag", repo=repo, tag=tag)
    both("POST", "/images/nope/tag", repo="x")
    both("DELETE", "/images/team/web:2")
    both("DELETE", "/images/team/web:4")
    for name in MISSING:
        both("DELETE", f"/images/{name}")


def test_removal_by_id(both: Both, web: None) -> None:
    for side in (both.docker, both.swarmpy):
        side.names["web"] = side.send("GET", "/v1.41/images/web:1/json").json["Id"]
    both("POST", "/images/web:1/tag", repo="other")
    # its own digits are in the text, which is the same otherwise
    texts = [reply.message for reply in _both_of(both.send("DELETE", "/images/$web"))]
    short = [side.names["web"][7:19] for side in (both.docker, both.swarmpy)]
    assert texts[0].replace(short[0], "ID") == texts[1].replace(short[1], "ID")
    both("DELETE", "/images/$web", force="1")
    both("POST", "/images/prune")
    both("POST", "/images/prune", filters={"dangling": ["x"]})
    both("POST", "/images/prune", filters={"until": ["x"]})
    both("POST", "/images/prune", filters={"bad": ["x"]})


def test_archives(both: Both, web: None) -> None:
    saved = both.send("GET", "/images/get", names="box")
    layers = []
    for reply in _both_of(saved):
        with tarfile.open(fileobj=BytesIO(reply.body)) as archive:
            found = [archive.extractfile(each) for each in archive if each.name.endswith("/layer.tar")]
            layers.append([each.read() for each in found if each is not None])
    assert layers[0] == layers[1]
    for body in _both_of(saved):  # each reads what the other wrote
        both("POST", "/images/load", raw=body.body, headers={"Content-Type": "application/x-tar"})
    both("GET", "/images/nope/get")
    both("GET", "/images/get", names="nope")


def test_imports(both: Both, web: None) -> None:
    for change in ("FOO+x", "RUN+x", "STOPSIGNAL+TERM"):
        both("POST", f"/images/create?fromSrc=-&repo=z&changes={change}", raw=box_tar()[:1])
    both("POST", "/images/create", fromSrc="-", repo="z", platform="windows", raw=b"x")


def test_disk_usage(both: Both, web: None) -> None:
    """What is on the disk is what all tests have left there; it is told in the same way."""
    docker, swarmpy = (reply.json for reply in _both_of(both.send("GET", "/system/df")))
    assert docker.keys() == swarmpy.keys()
    assert docker["Images"][0].keys() == swarmpy["Images"][0].keys()
    both("POST", "/build/prune")


def _both_of(pair: Pair) -> tuple[Any, Any]:
    return pair.docker, pair.swarmpy
