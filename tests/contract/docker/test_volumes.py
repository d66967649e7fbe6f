"""``/volumes``: made, made again, listed, removed, pruned; every mistake."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from oracle import Both


@pytest.fixture(autouse=True)
def _tidy(both: Both) -> Iterator[None]:
    yield
    for name in ("vol", "vol2", "tmp"):
        both.send("DELETE", f"/volumes/{name}")


def test_made_and_read(both: Both) -> None:
    both("GET", "/volumes")
    both("POST", "/volumes/create", {"Name": "vol", "Labels": {"a": "b"}})
    both("GET", "/volumes/vol")
    both("POST", "/volumes/create", {"Name": "vol2", "Driver": "local"})
    both("GET", "/volumes/vol2")
    both("GET", "/volumes")
    for filters in (
        {"name": ["vol"]}, {"name": ["2"]}, {"name": ["v.l"]}, {"label": ["a"]}, {"label": ["a=b"]},
        {"label": ["a=c"]}, {"driver": ["local"]}, {"driver": ["bogus"]}, {"dangling": ["true"]},
        {"dangling": ["false"]},
        {"dangling": ["1"]}, {"dangling": ["perhaps"]}, {"dangling": ["true", "false"]}, {"bogus": ["x"]},
    ):  # fmt: skip
        both("GET", "/volumes", filters=filters)
    both("DELETE", "/volumes/vol")
    both("GET", "/volumes/vol")
    both("DELETE", "/volumes/vol")
    both("DELETE", "/volumes/vol", force="1")


def test_made_again(both: Both) -> None:
    wish = {"Name": "tmp", "DriverOpts": {"type": "tmpfs", "device": "tmpfs", "o": "size=1m"}}
    both("POST", "/volumes/create", wish)
    both("POST", "/volumes/create", wish)
    both("POST", "/volumes/create", {"Name": "tmp"})
    both("POST", "/volumes/create", {"Name": "tmp", "Labels": {"new": "label"}})
    both(
        "POST",
        "/volumes/create",
        {**wish, "DriverOpts": {"type": "tmpfs", "device": "tmpfs", "o": "size=2m"}},
    )
    both("GET", "/volumes/tmp")


@pytest.mark.parametrize(
    "body",
    [
        {"Name": "a"},
        {"Name": "a b"},
        {"Name": "/x/y"},
        {"Name": "-xx"},
        {"Name": "vol", "DriverOpts": {"bogus": "x"}},
        {"Name": "vol", "DriverOpts": {"device": "/x"}},
        {"Name": "vol", "DriverOpts": {"type": "tmpfs"}},
        {"Name": "vol", "DriverOpts": {"o": "size=1m"}},
        {"Name": 1},
        {"Name": "vol", "Labels": ["a"]},
    ],
)
def test_what_cannot_be_made(both: Both, body: dict[str, object]) -> None:
    both("POST", "/volumes/create", body)


@pytest.mark.parametrize("raw", [b"{", b"[]", b'"x"'])
def test_bodies_that_are_none(both: Both, raw: bytes) -> None:
    both("POST", "/volumes/create", raw=raw)


def test_one_without_a_name(both: Both) -> None:
    made = both("POST", "/volumes/create", {})
    both.name("volume", made, "Name")
    both("GET", "/volumes/$volume")
    both("DELETE", "/volumes/$volume")


def test_prune(both: Both) -> None:
    both("POST", "/volumes/create", {"Name": "vol", "Labels": {"gone": "soon"}})
    both("POST", "/volumes/prune", filters={"label": ["nobody"]})
    both("POST", "/volumes/prune", filters={"bogus": ["x"]})
    both("POST", "/volumes/prune", filters={"label!": ["gone"]})
    both("POST", "/volumes/prune", filters={"label": ["gone=soon"]})
    both("GET", "/volumes/vol")
