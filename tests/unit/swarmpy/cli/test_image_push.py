"""``swarmpy image push``: which push is meant, and what is said of each node."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path

import pytest
from api_node import FakeCluster
from cli_run import Run

from swarmpy.cli.flags import UsageError, parse
from swarmpy.cli.image_push import COMMANDS, Wish, _steps, _tell_story, summary, wish_of
from swarmpy.cli.session import Session
from swarmpy.client import Client, ErrorAnswer
from swarmpy.model.ids import NodeId
from swarmpy.model.states import NodeState

PUSH = COMMANDS["push"]


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "app.tar"
    path.write_bytes(b"")
    return str(path)


def wish(*argv: str) -> Wish | None:
    return wish_of(*parse(PUSH, argv))


def test_one_word_is_a_name_for_a_registry_whatever_lies_around(file: str) -> None:
    assert wish("app") is None
    assert wish("app:1", "--username", "me", "--password-stdin") is None
    assert wish(file) is None, "a file's name alone names no node"


def test_forms_that_speak_of_nodes(file: str) -> None:
    assert wish("n1", file) == Wish(("n1",), False, file, "")
    assert wish("n1", "n2", "-") == Wish(("n1", "n2"), False, "-", "")
    assert wish("--all", file) == Wish((), True, file, "")
    assert wish("--image", "app:1", "n1", "n2") == Wish(("n1", "n2"), False, "", "app:1")
    assert wish("--all", "--image", "app:1", "--name", "x") == Wish((), True, "", "app:1")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ((), "say what to push, and where to"),
        (("--all",), "say what to push, and where to"),
        (("--image", "app:1"), "name the nodes to push to, or give --all"),
        (("--image", "app:1", "--all", "n1"), "--all means every node: name none beside it (n1)"),
        (("--all", "n1", "FILE"), "--all means every node: name none beside it (n1)"),
        (("n1", "app:1"), 'there is no file "app:1"'),
        (("n1", "app:1"), "is pushed with --image app:1"),
        (("n1", "FILE", "--username", "me"), "--username is for registries"),
        (("app:1", "--name", "x"), "--name is for what goes to nodes"),
    ],
)
def test_bad_use_is_told(argv: tuple[str, ...], words: str, file: str) -> None:
    with pytest.raises(UsageError) as caught:
        wish(*(file if word == "FILE" else word for word in argv))
    assert words in str(caught.value)


def test_nodes_that_are_down_are_told_of_before_anything_is_sent(
    run: Run, cluster: FakeCluster, file: str
) -> None:
    cluster.add_node(NodeId("nodebbbbbbbbbbbbbbbbbbbbb"), "node-2", state=NodeState.DOWN)
    said = run("image", "push", "node-2", "node-9", file)
    assert (said.code, said.out) == (1, "")
    assert said.err.splitlines() == [
        "Error response from daemon: node node-9 not found",
        "Error: node-2: the node is down; push to it again once it is back",
    ]


def test_a_lack_of_everything_is_told_by_the_daemon(run: Run, file: str) -> None:
    said = run("image", "push", "--all", file)
    assert said.code == 1
    assert "not a swarm manager" in said.err


def end(node: str, **more: object) -> bytes:
    return json.dumps({"id": node, "status": "x", "aux": {"NodeID": node, "Node": node, **more}}).encode()


GOOD = {"Images": ["app:1"], "LayersSent": 2, "LayersPresent": 1, "BytesSent": 1_500_000}


def test_one_line_for_each_node_and_an_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    session = Session(Client("/nowhere"))

    def told(*lines: bytes, is_quiet: bool = False) -> tuple[int, str, str]:
        nodes = {name: name for name in ("n1", "n2")}
        code = _tell_story(session, _steps(lines, frozenset({"n3"})), nodes, is_quiet=is_quiet)
        out, err = capsys.readouterr()
        return code, out, err

    moving = b'{"id": "n1", "status": "Pushing", "progressDetail": {}, "progress": "[>  ]"}'
    good = "app:1 (2 layers sent, 1.5MB, 1 there already)\n"
    away = end("n3", Error="it is down, as was told.")
    assert told(moving, end("n1", **GOOD), b"", away, end("n2", **GOOD)) == (0, f"n1: {good}n2: {good}", "")
    assert told(end("n1", Error="it is full."), end("n2", **GOOD)) == (
        1,
        f"n2: {good}",
        "Error: n1: it is full.\n",
    )
    assert told(end("n1", **GOOD), is_quiet=True) == (
        1,
        "",
        "Error: n2: the daemon has not said how the push to it ended\n",
    )
    assert told(b'{"error": "all is lost"}') == (1, "", "Error: all is lost\n")


def test_what_is_said_of_a_node() -> None:
    assert summary({**GOOD, "LayersSent": 0}) == "app:1 (no layer sent, 1 there already)"
    assert summary({**GOOD, "LayersSent": 1, "LayersPresent": 0}) == "app:1 (1 layer sent, 1.5MB)"
    assert summary({**GOOD, "Images": []}).startswith("the image (2 layers")


def test_on_a_terminal_lines_move(capsys: pytest.CaptureFixture[str]) -> None:
    session = Session(Client("/nowhere"), is_terminal=True)
    moving = b'{"id": "n1", "status": "Pushing", "progressDetail": {}, "progress": "[>  ]  1MB/3MB"}'
    lines = (moving, end("n2", Error="it is full."), end("n1", **GOOD))
    assert _tell_story(session, _steps(lines, frozenset()), {"n1": "n1", "n2": "n2"}, is_quiet=False) == 1
    out, err = capsys.readouterr()
    assert "n1: app:1 (2 layers sent, 1.5MB, 1 there already)" in out
    assert "n2: failed" in out
    assert err == "Error: n2: it is full.\n"


def test_an_answer_that_comes_before_all_is_sent_is_read(tmp_path: Path) -> None:
    """A daemon that refuses does not take the rest of an archive in."""
    path, body = tmp_path / "socket", b'{"message": "no more pushes"}'
    head = b"HTTP/1.1 503 No\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)

    def refuse() -> None:
        with listener.accept()[0] as connection:
            connection.recv(1_000)
            connection.sendall(head + body)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=refuse)
        thread.start()
        try:
            sending = Client(str(path)).stream("/x", upload=(b"a" * (1 << 20) for _ in range(20)))
            with pytest.raises(ErrorAnswer, match="no more pushes"), sending:
                pass
        finally:
            thread.join()
