"""The HTTP client of the CLI and of tests: the Engine API over a unix socket or TCP, one call at a time.

Standard library only and synchronous, so that a command starts in a fraction of a second. It keeps no
connection and repeats nothing: what a call's failure means is the caller's to judge.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

from swarmpy.errors import SwarmError, Unavailable
from swarmpy.limits import CLIENT_CONNECT_TIMEOUT_S, CLIENT_TIMEOUT_S
from swarmpy.version import API_VERSION

Json = dict[str, Any]
Query = Mapping[str, str | int | bool]

STALE_HEADER: Final = "X-SwarmPy-Stale"
_UPGRADE: Final = {"Connection": "Upgrade", "Upgrade": "tcp"}
_JSON: Final = "application/json"


class DaemonAbsent(Unavailable):
    """Nobody answers at the address."""


class ErrorAnswer(SwarmError):
    """The daemon answered with an error: its status and its words."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("swarmpy", timeout=CLIENT_CONNECT_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Conversation:
    """A connection that HTTP has left. One thread may read while another writes."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.content_type: Final = response.getheader("Content-Type", "").split(";")[0]
        # whatever was read along with the head waits in the response's own buffer
        self._reader = response.fp
        self._socket = socket.socket(fileno=os.dup(self._reader.fileno()))

    def read(self, size: int) -> bytes:
        """Some bytes; none at the end."""
        return self._reader.read1(size)

    def read_exactly(self, size: int) -> bytes:
        """Fewer only at the end."""
        return self._reader.read(size)

    def write(self, data: bytes) -> None:
        self._socket.sendall(data)

    def finish(self) -> None:
        """Nothing more will be written; what is still said to us can be read."""
        with suppress(OSError):  # it has ended already
            self._socket.shutdown(socket.SHUT_WR)

    def break_off(self) -> None:
        """End it from another thread: who reads comes to the end."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._socket.close()


class Client:
    """One daemon's API. ``address``: ``unix:///path``, a path, ``tcp://host:port`` or ``http://host:port``.

    ``api_version`` "": the newest that the daemon speaks.
    """

    def __init__(self, address: str, *, is_stale: bool = False, api_version: str = API_VERSION) -> None:
        self.address: Final = address if "://" in address else f"unix://{address}"
        self._prefix: Final = f"/v{api_version}" if api_version else ""
        self._headers = {STALE_HEADER: "true"} if is_stale else {}

    def get(self, path: str, query: Query | None = None) -> Any:
        return self._call("GET", path, query)

    def post(self, path: str, body: object = None, query: Query | None = None) -> Any:
        return self._call("POST", path, query, body)

    def delete(self, path: str, query: Query | None = None) -> Any:
        return self._call("DELETE", path, query)

    def ping(self) -> Mapping[str, str]:
        """The answer's headers."""
        with self._request("GET", "/_ping", None, None) as response:
            response.read()
            return dict(response.getheaders())

    @contextmanager
    def stream(
        self,
        path: str,
        query: Query | None = None,
        *,
        upload: Iterable[bytes] | None = None,
        method: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> Iterator[http.client.HTTPResponse]:
        """An answer to be read as it comes; with ``upload``, a POST (or ``method``) of those bytes."""
        method = method or ("GET" if upload is None else "POST")
        with self._request(method, path, query, upload, timeout_s=None, headers=headers) as response:
            yield response

    @contextmanager
    def upgrade(self, path: str, query: Query | None = None, body: object = None) -> Iterator[Conversation]:
        """A POST that makes the connection one of plain bytes, both ways."""
        data = None if body is None else json.dumps(body).encode()
        with self._request("POST", path, query, data, timeout_s=None, headers=_UPGRADE) as response:
            conversation = Conversation(response)
            try:
                yield conversation
            finally:
                conversation.close()

    def _call(self, method: str, path: str, query: Query | None, body: object = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        with self._request(method, path, query, data) as response:
            answer = response.read()
            if answer and response.getheader("Content-Type", "").startswith(_JSON):
                return json.loads(answer)
        return None

    @contextmanager
    def _request(
        self,
        method: str,
        path: str,
        query: Query | None,
        body: bytes | Iterable[bytes] | None,
        *,
        timeout_s: float | None = CLIENT_TIMEOUT_S,
        headers: Mapping[str, str] | None = None,
    ) -> Iterator[http.client.HTTPResponse]:
        target = self._prefix + quote(path, safe="/:@")
        if query:
            target += "?" + urlencode({name: _plain(value) for name, value in query.items()})
        connection = self._connection()
        try:
            self._connect(connection)
            connection.sock.settimeout(timeout_s)
            headers = {**self._headers, **(headers or {})}
            if isinstance(body, bytes):
                headers["Content-Type"] = _JSON
            with suppress(BrokenPipeError, ConnectionResetError):  # answered before all was sent: read it
                connection.request(method, target, body, headers)
            response = connection.getresponse()
            if response.status >= HTTPStatus.BAD_REQUEST:
                raise ErrorAnswer(_message(response), response.status)
            yield response
        except TimeoutError as error:
            raise Unavailable(f"The daemon at {self.address} did not answer in time.") from error
        except (http.client.HTTPException, ConnectionError) as error:
            reason = str(error) or type(error).__name__
            raise Unavailable(f"The daemon at {self.address} broke the connection: {reason}") from error
        finally:
            connection.close()

    def _connect(self, connection: http.client.HTTPConnection) -> None:
        try:
            connection.connect()
        except PermissionError as error:
            raise DaemonAbsent(
                f"You may not use the daemon's socket {self.address}: run this as root, "
                "or as a member of the socket's group."
            ) from error
        except OSError as error:
            raise DaemonAbsent(
                f"Cannot connect to the SwarmPy daemon at {self.address}. Is it running? "
                "'swarmpy init' and 'swarmpy join' start it."
            ) from error

    def _connection(self) -> http.client.HTTPConnection:
        parts = urlsplit(self.address)
        if parts.scheme == "unix":
            return _UnixConnection(parts.path)
        if parts.scheme in ("tcp", "http") and parts.hostname:
            try:
                port = parts.port
            except ValueError:
                port = None
            if port is not None:
                return http.client.HTTPConnection(parts.hostname, port, timeout=CLIENT_CONNECT_TIMEOUT_S)
        raise DaemonAbsent(
            f'"{self.address}" is no address of a daemon: give unix:///path/to/socket or tcp://host:port.'
        )


def _plain(value: str | int | bool) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def filters(wanted: Mapping[str, Iterable[str]]) -> Query:
    """The ``filters`` parameter, or none."""
    chosen = {name: list(values) for name, values in wanted.items()}
    return {"filters": json.dumps(chosen)} if chosen else {}


def _message(response: http.client.HTTPResponse) -> str:
    data = response.read()
    try:
        return str(json.loads(data)["message"])
    except (ValueError, KeyError, TypeError):
        return data.decode(errors="replace").strip() or response.reason
