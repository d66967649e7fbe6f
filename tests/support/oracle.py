"""The same request to dockerd and to SwarmPy, and what a client sees that is not the same.

``Both`` sends, evens out what must differ between two clusters (ids, times, addresses, version numbers, the
host's name) and compares status, headers and JSON: which fields there are, and null, [] and absent are three
different things. What differs on purpose is in ``oracle_differences``; the rest fails the test, all of it at
once, at the test's end.
"""

from __future__ import annotations

import http.client
import json
import re
import socket
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from oracle_differences import Difference

TIMEOUT_S: Final = 60.0
WAIT_S: Final = 40.0
POLL_S: Final = 0.05
VERSION: Final = "1.41"
"""What dockerd 20.10 speaks at most."""

UNSEEN_HEADERS: Final = frozenset({"date", "content-length", "transfer-encoding", "connection"})

COUNTS: Final = frozenset(
    {"Containers", "ContainersRunning", "ContainersStopped", "NFd", "NGoroutines", "NEventsListener"}
)
"""What is counted or listed of a whole daemon, which other tests have used as well."""

_EVEN: Final = (
    (re.compile(r"\b0001-01-01T00:00:00Z\b"), "<never>"),
    # as Go writes times: no zeros at the end
    (re.compile(r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{0,8}[1-9])?Z"), "<time>"),
    (re.compile(r"\bSWMTKN-1-[0-9a-z]{50}-[0-9a-z]{25}\b"), "<token>"),
    (re.compile(r"-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----"), "<certificate>"),
    (re.compile(r"\AM[A-Za-z0-9+/]{20,}={0,2}\Z"), "<der>"),
    (re.compile(r"\b[0-9a-f]{64}\b"), "<hex>"),
    (re.compile(r"\b(?:[0-9a-f]{2}:){5}[0-9a-f]{2}\b"), "<mac>"),
    (re.compile(r"\b[0-9a-z]{25}\b"), "<id>"),
    (re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}\b"), "<address>"),
)
_NAMED: Final = re.compile(r"\$(\w+)")


@dataclass(frozen=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def message(self) -> str:
        text: str = self.json["message"]
        return text


class Side:
    """One of the two: its socket, and what the test's names (``$web``) stand for there."""

    def __init__(self, name: str, socket_path: Path) -> None:
        self.name = name
        self.socket_path = socket_path
        self.names: dict[str, str] = {}
        self.hostname: str = self.send("GET", f"/v{VERSION}/info").json["Name"]

    def send(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        connection = _Connection(self.socket_path)
        try:
            connection.request(method, path, body=body, headers=dict(headers or {}))
            answer = connection.getresponse()
            return Reply(
                answer.status, {key.lower(): value for key, value in answer.getheaders()}, answer.read()
            )
        finally:
            connection.close()

    def named(self, text: str) -> str:
        return _NAMED.sub(lambda match: self.names.get(match[1], match[0]), text)

    def even(self, value: Any, key: str = "") -> Any:
        """The value without what no two clusters have in common."""
        if isinstance(value, dict):
            return {self.even(name): self.even(part, name) for name, part in value.items()}
        if key in COUNTS and isinstance(value, int | list):
            return "<count>"
        if isinstance(value, list):
            return [self.even(part) for part in value]
        if key in ("Index", "Pid", "PID", "Created") and isinstance(value, int) and value:
            return "<number>"
        if isinstance(value, str):
            for pattern, name in _EVEN:
                value = pattern.sub(name, value)
            return value.replace(self.hostname, "<host>") if value else value
        return value


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(TIMEOUT_S)
        self.sock.connect(str(self._path))


@dataclass(frozen=True)
class Pair:
    docker: Reply
    swarmpy: Reply


@dataclass
class Ledger:
    """What may differ, and which of it did."""

    allowed: tuple[Difference, ...]
    used: set[Difference] = field(default_factory=set)

    def is_allowed(self, request: str, where: str) -> bool:
        found = [each for each in self.allowed if each.covers(request, where)]
        self.used.update(found)
        return bool(found)


class Both:
    """``both("GET", "/services/$web")``; ``$web`` is on each side what ``both.name`` said."""

    def __init__(self, docker: Side, swarmpy: Side, ledger: Ledger) -> None:
        self.docker = docker
        self.swarmpy = swarmpy
        self.ledger = ledger
        self.found: list[str] = []

    def __call__(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        raw: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        api: str = VERSION,
        **query: Any,
    ) -> Pair:
        """``body`` is JSON, ``raw`` goes as it is, ``api`` is the version in the path ("": none); query
        values that are dicts are JSON (filters)."""
        pair = self.send(method, path, body, raw=raw, headers=headers, api=api, **query)
        self._compare(f"{method} {path}", pair, f"{_shown(query)}{_shown(body)}")
        return pair

    def at_once(self, *requests: tuple[str, str, object]) -> None:
        """Of a method, a path and a body each, for what dockerd takes long to answer."""
        with ThreadPoolExecutor(len(requests)) as threads:
            pairs = list(threads.map(lambda request: self.send(*request), requests))
        for (method, path, body), pair in zip(requests, pairs, strict=True):
            self._compare(f"{method} {path}", pair, _shown(body))

    def _compare(self, request: str, pair: Pair, shown: str) -> None:
        for where, expected, got in differences(self.docker, pair.docker, self.swarmpy, pair.swarmpy):
            if not self.ledger.is_allowed(request, where):
                self.found.append(
                    f"{request} {shown}\n    {where}: docker {expected}\n    {where}: swarmpy {got}"
                )

    def send(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        raw: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        api: str = VERSION,
        **query: Any,
    ) -> Pair:
        """Without comparing."""
        data = raw if body is None else json.dumps(body).encode()
        sent = {} if data is None else {"Content-Type": "application/json"}
        sent |= headers or {}
        replies = []
        for side in (self.docker, self.swarmpy):
            words = {
                name: side.named(json.dumps(value) if isinstance(value, dict) else str(value))
                for name, value in query.items()
            }
            where = (f"/v{api}" if api else "") + side.named(path)
            if words:
                where += "?" + urllib.parse.urlencode(words)
            content = None if data is None else side.named(data.decode("latin-1")).encode("latin-1")
            replies.append(side.send(method, where, content, sent))
        return Pair(*replies)

    def name(self, name: str, pair: Pair, key: str = "ID") -> None:
        """What ``$name`` stands for from now on: a field of both answers."""
        for side, reply in ((self.docker, pair.docker), (self.swarmpy, pair.swarmpy)):
            assert reply.status < 300, f"{side.name}: {reply.status} {reply.body!r}"
            side.names[name] = str(reply.json[key])

    def read_version(self, name: str, path: str) -> None:
        """``$name`` stands for the present version of the object at ``path``."""
        for side in (self.docker, self.swarmpy):
            reply = side.send("GET", f"/v{VERSION}{side.named(path)}")
            side.names[name] = str(reply.json["Version"]["Index"])

    def wait(self, path: str, is_so: Callable[[Any], bool], **query: Any) -> None:
        """Until the answers of both are as wished for. AssertionError with the last one otherwise."""
        deadline = time.monotonic() + WAIT_S
        while True:
            pair = self.send("GET", path, **query)
            if is_so(pair.docker.json) and is_so(pair.swarmpy.json):
                return
            assert time.monotonic() < deadline, f"{path}: {pair}"
            time.sleep(POLL_S)

    def check(self) -> None:
        found, self.found = self.found, []
        assert not found, f"{len(found)} differences that are not listed:\n" + "\n".join(found)


def differences(
    docker: Side, expected: Reply, swarmpy: Side, got: Reply
) -> Iterator[tuple[str, object, object]]:
    """Where, what dockerd said, what SwarmPy said."""
    if expected.status != got.status:
        yield "status", f"{expected.status} {expected.body[:300]!r}", f"{got.status} {got.body[:300]!r}"
        return
    for name in sorted((set(expected.headers) | set(got.headers)) - UNSEEN_HEADERS):
        pair = expected.headers.get(name), got.headers.get(name)
        if pair[0] != pair[1]:
            yield f"header {name}", *pair
    is_json = "json" in expected.headers.get("content-type", "") and expected.body
    if not is_json:
        if expected.body != got.body:
            yield "body", expected.body[:300], got.body[:300]
        return
    try:
        values = docker.even(expected.json), swarmpy.even(got.json)
    except ValueError:
        values = expected.body, got.body
    yield from _parts("", *values)


def _parts(where: str, expected: Any, got: Any) -> Iterator[tuple[str, object, object]]:
    if isinstance(expected, dict) and isinstance(got, dict):
        for name in sorted(expected.keys() | got.keys()):
            path = f"{where}.{name}" if where else name
            if name not in got:
                yield path, _shown(expected[name]), "absent"
            elif name not in expected:
                yield path, "absent", _shown(got[name])
            else:
                yield from _parts(path, expected[name], got[name])
    elif isinstance(expected, list) and isinstance(got, list):
        if len(expected) != len(got):
            yield f"{where}[]", _shown(expected), _shown(got)
            return
        pairs = zip(sorted(expected, key=_order), sorted(got, key=_order), strict=True)
        for one, other in pairs if _are_objects(expected) else zip(expected, got, strict=True):
            yield from _parts(f"{where}[]", one, other)
    elif type(expected) is not type(got) or expected != got:
        yield where, _shown(expected), _shown(got)


def _are_objects(items: list[Any]) -> bool:
    """Lists of objects come in an order that follows from their ids."""
    return all(isinstance(item, dict) for item in items)


def _order(item: Any) -> str:
    if not isinstance(item, dict):
        return ""
    name = item.get("Name") or item.get("Names") or (item.get("Spec") or {}).get("Name") or item.get("Slot")
    return f"{name} {json.dumps(item, sort_keys=True)}"


def _shown(value: object) -> str:
    return "" if value is None or value == {} else json.dumps(value)[:2_000] + " "
