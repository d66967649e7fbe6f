"""One request over a unix socket, against a server that answers as told."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from swarmpy.errors import Unavailable
from swarmpy.lab import engine_http
from swarmpy.lab.engine_http import Reply

Serve = Callable[[bytes], Path]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Answer one connection with these bytes, and close it."""
    listener = socket.socket(socket.AF_UNIX)
    path = tmp_path / "s"
    threads: list[threading.Thread] = []

    def start(answer: bytes) -> Path:
        listener.bind(str(path))
        listener.listen()

        def run() -> None:
            connection, _ = listener.accept()
            with connection:
                asked = b""
                while not asked.endswith(b'{"a": 1}'):  # headers and body come apart
                    asked += connection.recv(65_536)
                connection.sendall(answer)

        threads.append(threading.Thread(target=run))
        threads[0].start()
        return path

    yield start
    for thread in threads:
        thread.join()
    listener.close()


def answer(status: str, content_type: str, body: str) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    return (head + body).encode()


def ask(path: Path) -> Reply:
    return engine_http.request(path, "POST", "/x", {"a": 1}, timeout_s=2.0)


def test_json_is_decoded(serve: Serve) -> None:
    reply = ask(serve(answer("200 OK", "application/json; charset=utf-8", '{"ID": 7}')))

    assert reply == Reply(200, {"ID": 7})
    assert reply.is_ok


def test_an_error_keeps_the_daemons_words(serve: Serve) -> None:
    reply = ask(serve(answer("503 Service Unavailable", "application/json", '{"message": "no swarm"}')))

    assert not reply.is_ok
    assert reply.message == "no swarm"


def test_text_and_nothing_are_what_they_are(serve: Serve) -> None:
    assert ask(serve(answer("200 OK", "text/plain", "OK"))) == Reply(200, "OK")


def test_an_empty_body_is_none(serve: Serve) -> None:
    assert ask(serve(answer("204 No Content", "application/json", ""))) == Reply(204, None)


@pytest.mark.parametrize("garbage", [b"", b"nonsense\r\n\r\n"])
def test_what_is_no_http_counts_as_no_answer(serve: Serve, garbage: bytes) -> None:
    with pytest.raises(Unavailable, match=r"POST /x at .* was not answered"):
        ask(serve(garbage))


def test_a_missing_socket_counts_as_no_answer(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="No such file"):
        ask(tmp_path / "none")
