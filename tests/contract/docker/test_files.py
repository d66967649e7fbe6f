"""``/secrets`` and ``/configs``: made, listed, changed, used, removed; every mistake."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import pytest
from oracle import Both

DATA = base64.b64encode(b"hush").decode()
KINDS = ("secret", "config")
_USERS = 6
"""So many that dockerd names them in the order of their names by chance once in half a million runs."""


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, both: Both) -> Iterator[str]:
    yield request.param
    for name in ("key", "key2", "other", "big"):
        both.send("DELETE", f"/{request.param}s/{name}")


def test_made_and_read(both: Both, kind: str) -> None:
    made = both("POST", f"/{kind}s/create", {"Name": "key", "Data": DATA, "Labels": {"a": "b"}})
    both.name("key", made)
    both("GET", f"/{kind}s/$key")
    both("GET", f"/{kind}s/key")
    both("POST", f"/{kind}s/create", {"Name": "key2", "Data": DATA})
    both("GET", f"/{kind}s/key2")
    wishes: tuple[dict[str, list[str]], ...] = (
        {"name": ["key"]}, {"names": ["key"]}, {"names": ["ke"]}, {"id": ["$key"]}, {"label": ["a"]},
        {"label": ["a=b"]}, {"label": ["a=c"]}, {"name": ["bogus"]}, {"bogus": ["x"]}, {"name": []},
    )  # fmt: skip
    for filters in wishes:
        both("GET", f"/{kind}s", filters=filters)
    both("GET", f"/{kind}s")
    both("DELETE", f"/{kind}s/key")
    both("GET", f"/{kind}s/key")
    both("DELETE", f"/{kind}s/key")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"Name": ""},
        {"Name": "key"},
        {"Name": "key", "Data": ""},
        {"Name": "key", "Data": "not base64!"},
        {"Name": "key", "Data": 1},
        {"Name": "a b", "Data": DATA},
        {"Name": "-x", "Data": DATA},
        {"Name": "x" * 65, "Data": DATA},
        {"Name": "x" * 64 + "/", "Data": DATA},
        {"Name": 1, "Data": DATA},
        {"Name": "key", "Data": DATA, "Labels": ["a"]},
        {"Name": "key", "Data": DATA, "Templating": {"Name": "bogus"}},
        {"Name": "key", "Data": DATA, "Templating": {}},
        {"Name": "big", "Data": base64.b64encode(b"x" * (500 * 1024 + 1)).decode()},
        {"Name": "big", "Data": base64.b64encode(b"x" * (1000 * 1024 + 1)).decode()},
    ],
    ids=range(16),
)
def test_what_cannot_be_made(both: Both, kind: str, body: dict[str, object]) -> None:
    both("POST", f"/{kind}s/create", body)


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"null", b'"x"', b'{"Name":"\xff"}'])
def test_bodies_that_are_none(both: Both, kind: str, raw: bytes) -> None:
    both("POST", f"/{kind}s/create", raw=raw)


def test_the_largest(both: Both, kind: str) -> None:
    size = 500 * 1024 if kind == "secret" else 1000 * 1024
    data = base64.b64encode(b"x" * (size - (1 if kind == "secret" else 0))).decode()
    both("POST", f"/{kind}s/create", {"Name": "big", "Data": data})


def test_templated(both: Both, kind: str) -> None:
    both("POST", f"/{kind}s/create", {"Name": "key", "Data": DATA, "Templating": {"Name": "golang"}})
    both("GET", f"/{kind}s/key")


def test_a_name_that_is_taken(both: Both, kind: str) -> None:
    both("POST", f"/{kind}s/create", {"Name": "key", "Data": DATA})
    both("POST", f"/{kind}s/create", {"Name": "key", "Data": DATA})


def test_only_labels_may_change(both: Both, kind: str) -> None:
    both.name("key", both("POST", f"/{kind}s/create", {"Name": "key", "Data": DATA}))
    both.read_version("version", f"/{kind}s/key")
    path = f"/{kind}s/$key/update"
    both("POST", path, {"Name": "key", "Labels": {"a": "b"}})
    both("POST", path + "?version=", {"Name": "key"})
    both("POST", path + "?version=x", {"Name": "key"})
    both("POST", path + "?version=-1", {"Name": "key"})
    both("POST", path + "?version=1", {"Name": "key", "Labels": {"a": "b"}})
    both("POST", path + "?version=$version", {"Name": "other", "Labels": {"a": "b"}})
    other = base64.b64encode(b"other").decode()
    both("POST", path + "?version=$version", {"Name": "key", "Data": other, "Labels": {"a": "b"}})
    both("POST", path + "?version=$version", {"Name": "key", "Labels": {"a": "b"}})
    both("GET", f"/{kind}s/key")
    both("POST", path + "?version=$version", {"Name": "key", "Labels": {"a": "c"}})
    both.read_version("version", f"/{kind}s/key")
    both("POST", path + "?version=$version", {"Labels": {"a": "c"}})
    both.read_version("version", f"/{kind}s/key")
    both("POST", f"/{kind}s/key/update?version=$version", {"Name": "key", "Data": DATA})
    both("GET", f"/{kind}s/key")
    both("POST", f"/{kind}s/bogus/update?version=1", {"Name": "key"})


def test_in_use(both: Both, kind: str) -> None:
    both.name("key", both("POST", f"/{kind}s/create", {"Name": "key", "Data": DATA}))
    title = kind.capitalize()
    file = {
        f"{title}ID": "$key",
        f"{title}Name": "key",
        "File": {"Name": "key", "UID": "0", "GID": "0", "Mode": 292},
    }
    for number in range(_USERS, 0, -1):
        body = {
            "Name": f"user{number}",
            "TaskTemplate": {"ContainerSpec": {"Image": "box", f"{title}s": [file]}},
            "Mode": {"Replicated": {"Replicas": 0}},
        }
        both.send("POST", "/services/create", body)
        both("DELETE", f"/{kind}s/key")
    for number in range(_USERS, 0, -1):
        both.send("DELETE", f"/services/user{number}")


def test_lookup(both: Both, kind: str) -> None:
    both("GET", f"/{kind}s/bogus")
    both("GET", f"/{kind}s/%20")
    both("DELETE", f"/{kind}s/bogus")
    both("PUT", f"/{kind}s/bogus")
    both("GET", f"/{kind}s/bogus/update")
