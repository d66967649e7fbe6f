"""Starting the daemon for ``init`` and ``join``, and the daemon's own flags."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from swarmpy.cli import start
from swarmpy.cli.daemon import COMMANDS, node_config
from swarmpy.cli.flags import Command, UsageError, parse
from swarmpy.cli.session import Session
from swarmpy.client import Client, DaemonAbsent
from swarmpy.config import NodeConfig
from swarmpy.errors import Unavailable

SUPPORT = Path(__file__).parents[3] / "support"
STARTER = Command(run=lambda *_: 0, summary="", flags=start.START_FLAGS)


@pytest.fixture
def fake_daemon(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The command that is run is the tests' own node; what was started is ended by its pid."""
    pids: list[int] = []
    spawn = start._spawn

    def remembering(socket: Path, data_dir: Path, log: Path) -> object:
        process = spawn(socket, data_dir, log)
        pids.append(process.pid)
        return process

    monkeypatch.setenv("PYTHONPATH", str(SUPPORT))
    monkeypatch.setattr(
        start,
        "daemon_command",
        lambda socket, data_dir: [sys.executable, str(SUPPORT / "api_node.py"), str(socket)],
    )
    monkeypatch.setattr(start, "_spawn", remembering)
    yield pids
    for pid in pids:
        try:
            os.kill(pid, signal.SIGTERM)
            os.waitpid(pid, 0)
        except (ProcessLookupError, ChildProcessError):
            continue


def test_a_daemon_is_started_once(
    fake_daemon: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    session = Session(Client(str(tmp_path / "d.sock")))
    _, options = parse(STARTER, ["--data-dir", str(tmp_path / "data")])
    start.ensure_daemon(session, options)
    assert len(fake_daemon) == 1
    told = capsys.readouterr().err
    assert f"(pid {fake_daemon[0]})" in told
    assert f"its log: {tmp_path}/data/daemon.log" in told
    start.ensure_daemon(session, options)
    assert len(fake_daemon) == 1, "one that answers is left alone"


def test_a_daemon_that_ends_at_once_shows_its_log(
    fake_daemon: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = "print('the disk is full'); raise SystemExit(7)"
    monkeypatch.setattr(start, "daemon_command", lambda *_: [sys.executable, "-c", program])
    _, options = parse(STARTER, ["--data-dir", str(tmp_path / "data")])
    with pytest.raises(Unavailable, match=r"(?s)exit code 7 .*the disk is full.*daemon\.log"):
        start.ensure_daemon(Session(Client(str(tmp_path / "d.sock"))), options)


def test_anothers_daemon_is_not_started(fake_daemon: list[int]) -> None:
    _, options = parse(STARTER, [])
    with pytest.raises(DaemonAbsent):
        start.ensure_daemon(Session(Client("tcp://127.0.0.1:1")), options)
    assert not fake_daemon


def config(*argv: str) -> NodeConfig:
    _, options = parse(COMMANDS["daemon"], argv)
    return node_config(options)


def test_the_daemons_defaults() -> None:
    found = config()
    assert found.data_dir == Path("/var/lib/swarmpy")
    assert found.socket == Path("/run/swarmpy/swarmpy.sock")
    assert (found.executor, found.listen_address) == ("", "0.0.0.0:2377")
    assert found.hostname


def test_the_daemons_flags() -> None:
    found = config(
        "--data-dir",
        "/d",
        "--run-dir",
        "/r",
        "--hostname",
        "n1",
        "--api",
        "127.0.0.1:2375",
        "--label",
        "a=b",
        "--listen-addr",
        "10.0.0.1:2377",
        "--advertise-addr",
        "10.0.0.1",
        "--cgroup-parent",
        "/c",
        "--log-level",
        "debug",
        "--log-format",
        "json",
    )
    assert found == NodeConfig(
        data_dir=Path("/d"),
        run_dir=Path("/r"),
        socket=Path("/r/swarmpy.sock"),
        api_addresses=("127.0.0.1:2375",),
        hostname="n1",
        listen_address="10.0.0.1:2377",
        advertise_address="10.0.0.1",
        cgroup_parent="/c",
        labels={"a": "b"},
        log_level="debug",
        log_format="json",
    )


@pytest.mark.parametrize(
    "argv", [("--data-dir", "relative"), ("--executor", "magic"), ("--log-level", "loud"), ("--label", "=x")]
)
def test_bad_daemon_flags(argv: tuple[str, str]) -> None:
    with pytest.raises(UsageError):
        config(*argv)
