"""Requests for any route of the API, made up from the router and from the types that its bodies are read as.

What is drawn depends on a seed and on the route alone, so that a new route changes nothing for the others.
"""

from __future__ import annotations

import base64
import enum
import json
import random
import re
import types
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints
from urllib.parse import quote

import msgspec

from swarmpy.model.value import Value

API = Path(__file__).parents[2] / "manager" / "api"
DEPTH_MAX = 6
TEXTS = (
    "", "a", "web", "0", "1", "-1", "true", "box:latest", "x" * 300, "ünï", "\x00", "../../etc", "%",
    "\ud800", "a=b", "10.0.0.0/24", "10.0.0.300", "::1", "1h", "9" * 25, "2026-01-01T00:00:00Z", "overlay",
    "\n", "{}",
)  # fmt: skip
TAME_TEXTS = ("", "a", "web", "box", "10.1.0.0/24")
TAME_NUMBERS = (0, 1, 2, 80)
NUMBERS = (0, 1, -1, 2, 7, 80, 65_536, 2**31, 2**53, 2**63 - 1, -(2**63), 2**64, 10**40, 1.5, 1e308, -0.0)
RAW = (
    b"", b"{", b"[]", b"null", b'"x"', b"0", b"\xff\xfe", b"{}{}", b"[" * 3_000, b'{"a":' * 3_000, b"NaN",
    b'{"Name":"a","Name":"b"}', b'{"Name":"\\ud800"}', b'{"Name":"\\u0000"}', b'{"Name":1e999}', b"\x00" * 64,
    b'{"Labels":{"":""}}', b'{"Name":' + b"9" * 5_000 + b"}",
)  # fmt: skip


def _query_names() -> tuple[str, ...]:
    """Every name that some route asks for."""
    found: set[str] = {"filters"}
    for file in sorted(API.glob("*.py")):
        text = file.read_text()
        found |= set(re.findall(r"query\.get(?:all)?\(\s*\"(\w[\w-]*)\"", text))
        found |= set(re.findall(r"flag\(\s*request,\s*\"(\w[\w-]*)\"", text))
    return tuple(sorted(found))


def _filter_names() -> tuple[str, ...]:
    found: set[str] = set()
    for file in sorted(API.glob("*.py")):
        for block in re.findall(r"FILTERS[^=]*= frozenset\(\s*\{([^}]*)\}", file.read_text()):
            found |= set(re.findall(r'"([^"]+)"', block))
    return tuple(sorted(found))


QUERY_NAMES = _query_names()
FILTER_NAMES = _filter_names()


@dataclass(frozen=True)
class Made:
    method: str
    target: str
    body: bytes | None


class Maker:
    """Makes requests for one route, every other one tame: then nothing in it is of a wrong kind.

    ``known`` are ids and names that exist, by the path's first word.
    """

    def __init__(self, seed: int, method: str, path: str, known: Mapping[str, tuple[str, ...]]) -> None:
        self._draw = random.Random(f"{seed} {method} {path}")
        self._method = method
        self._path = path
        self._fitting = known.get(path.split("/")[1], ("bogus",))
        self._known = tuple(name for names in known.values() for name in names)
        self._is_tame = False

    def request(self, body_type: object | None, versions: tuple[int, ...]) -> Made:
        """``versions``: of the objects that there are."""
        draw = self._draw
        self._is_tame = draw.random() < 0.5
        path = re.sub(r"\{[^}]*\}", lambda _: self._reference(), self._path)
        if draw.random() < 0.3:
            path = draw.choice(("/v1.24", "/v1.41", "/v1.47")) + path
        names = draw.sample(QUERY_NAMES, draw.choice((0, 0, 1, 2, 4)))
        words = {name: self._query(name) for name in names}
        if self._is_tame:
            words |= {"version": str(draw.choice(versions)), "path": "/", "stdout": "1"}
        query = "&".join(f"{name}={quote(words[name], safe='', errors='surrogatepass')}" for name in words)
        method = draw.choice(("GET", "POST", "PUT", "DELETE")) if draw.random() < 0.05 else self._method
        body = None if method in ("GET", "HEAD") else self._body(body_type)
        return Made(method, path + ("?" + query if query else ""), body)

    def _reference(self) -> str:
        draw = self._draw
        if self._is_tame:
            return quote(draw.choice(self._fitting), safe="")
        if draw.random() < 0.7:
            known = draw.choice(self._known)
            return quote(known if draw.random() < 0.8 else known[: draw.randrange(1, 5)], safe="")
        return quote(draw.choice(TEXTS), safe="", errors="surrogatepass") or "%20"

    def _query(self, name: str) -> str:
        draw = self._draw
        if name == "filters" and draw.random() < 0.8:
            names = draw.sample(FILTER_NAMES, draw.choice((1, 1, 2)))
            values = [draw.choice((*TEXTS, *self._known)) for _ in range(draw.choice((0, 1, 2)))]
            return json.dumps(
                {each: values if draw.random() < 0.5 else dict.fromkeys(values, True) for each in names}
            )
        return draw.choice((*TEXTS, *self._known, "1", "1700000000", "all"))

    def _body(self, body_type: object | None) -> bytes:
        draw = self._draw
        if body_type is None and self._is_tame:
            return b"{}"
        if body_type is None or (not self._is_tame and draw.random() < 0.3):
            return draw.choice(RAW)
        return json.dumps(self.value(body_type, 0)).encode()

    def value(self, hint: Any, depth: int) -> Any:
        """JSON that would do for the type; now and then JSON that would not."""
        draw = self._draw
        if depth > DEPTH_MAX:
            return None
        if not self._is_tame and draw.random() < 0.04:
            return draw.choice((None, [], {}, "x", 1, True, [None], {"a": None}, -1, 2**70))
        hint = getattr(hint, "__supertype__", hint)
        origin, parts = get_origin(hint), get_args(hint)
        if origin in (Union, types.UnionType):
            return self.value(draw.choice(parts), depth)
        if origin is tuple or origin is list:
            return [self.value(parts[0], depth + 1) for _ in range(draw.choice((0, 1, 1, 2)))]
        if origin is dict:
            return {
                draw.choice(self._texts()): self.value(parts[1], depth + 1)
                for _ in range(draw.choice((0, 1, 2)))
            }
        if isinstance(hint, type):
            return self._of_class(hint, depth)
        return draw.choice((None, "x", 1))

    def _of_class(self, type_: type, depth: int) -> Any:
        draw = self._draw
        if issubclass(type_, Value):
            hints = get_type_hints(type_)
            wanted = draw.choice((0.1, 0.3, 0.6)) if depth else 0.7
            return {
                field.encode_name: self.value(hints[field.name], depth + 1)
                for field in msgspec.structs.fields(type_)
                if draw.random() < wanted
            }
        if issubclass(type_, enum.Enum):
            return draw.choice([*(member.value for member in type_), *([] if self._is_tame else ["bogus"])])
        if issubclass(type_, bool):
            return draw.random() < 0.5
        if issubclass(type_, (int, float)):
            return draw.choice(TAME_NUMBERS if self._is_tame else NUMBERS)
        if issubclass(type_, bytes):
            return base64.b64encode(draw.randbytes(draw.choice((0, 1, 30)))).decode()
        if issubclass(type_, str):
            return draw.choice(self._texts())
        return None

    def _texts(self) -> tuple[str, ...]:
        return TAME_TEXTS if self._is_tame else (*TEXTS, *self._known)
