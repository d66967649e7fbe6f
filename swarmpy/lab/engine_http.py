"""The Engine API of one lab host over its unix socket: one request, one answer, standard library only.

For the lab itself, its demo, tests and benches. It does no streaming and keeps no connection.
"""

from __future__ import annotations

import http.client
import json
import socket
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import msgspec

from swarmpy.errors import SwarmError, Unavailable

_JSON: Final = "application/json"


class Reply(msgspec.Struct, frozen=True):
    """Status and decoded body: JSON where the daemon says so, text otherwise, None when empty."""

    status: int
    body: Any

    @property
    def is_ok(self) -> bool:
        return self.status < HTTPStatus.BAD_REQUEST

    @property
    def message(self) -> str:
        """The daemon's own words about an error."""
        if isinstance(self.body, dict) and "message" in self.body:
            return str(self.body["message"])
        return str(self.body)


class Refused(SwarmError):
    """The daemon answered with an error; ``reply`` holds it, ``str()`` are the daemon's words."""

    def __init__(self, message: str, reply: Reply) -> None:
        super().__init__(message)
        self.reply = reply


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, *, timeout_s: float) -> None:
        super().__init__("swarmpy", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def request(path: Path, method: str, target: str, body: Any = None, *, timeout_s: float) -> Reply:
    """Ask once. Unavailable if nobody answers in time; an error status is an ordinary Reply."""
    connection = _UnixConnection(path, timeout_s=timeout_s)
    headers = {} if body is None else {"Content-Type": _JSON}
    try:
        connection.request(method, target, None if body is None else json.dumps(body), headers)
        response = connection.getresponse()
        data = response.read()
        content_type = response.getheader("Content-Type", "")
    except (OSError, http.client.HTTPException) as error:
        reason = str(error) or type(error).__name__
        raise Unavailable(f"{method} {target} at {path} was not answered: {reason}") from error
    finally:
        connection.close()
    return Reply(response.status, _decode(data, content_type))


def _decode(data: bytes, content_type: str) -> Any:
    if not data:
        return None
    if content_type.startswith(_JSON):
        return json.loads(data)
    return data.decode(errors="replace")
