"""Which processes the lab takes for its own, and how it signals them."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from swarmpy.errors import Unavailable
from swarmpy.lab import process
from swarmpy.lab.process import Running

HOST_SH = "/x/host.sh"


@pytest.fixture
def sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sleep", "60"])


@pytest.mark.parametrize(
    ("words", "is_ours"),
    [
        (["sh", HOST_SH, "swarmpy-lab", "a", "node-1", "/f"], True),
        (["/usr/bin/unshare", "--pid", "sh", HOST_SH, "swarmpy-lab", "a", "node-1", "/f"], True),
        (["sh", HOST_SH, "swarmpy-lab", "ab", "node-1", "/f"], False),
        (["sh", HOST_SH, "swarmpy-lab"], False),
        (["grep", "host.sh", "swarmpy-lab", "a", "node-1"], False),
        (["sh", "-c", "swarmpy-lab", "a"], False),
        (["swarmpy-lab", "a"], False),
        ([], False),
    ],
)
def test_only_a_marked_command_line_is_an_init_of_the_lab(
    words: list[str], is_ours: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_pids", lambda: iter([1]))
    monkeypatch.setattr(process, "_command_line", lambda pid: words)
    monkeypatch.setattr(process, "start_time", lambda pid: 5)

    assert process.inits("a") == ([Running(1, 5)] if is_ours else [])
    assert process.inits("a", "node-1") == ([Running(1, 5)] if is_ours else [])
    assert process.inits("a", "node-2") == []


def test_a_later_process_of_the_same_pid_is_not_signalled(sleeper: subprocess.Popen[bytes]) -> None:
    with sleeper:
        start = process.start_time(sleeper.pid)
        assert start is not None
        stranger = Running(sleeper.pid, start + 1)

        assert process.send(stranger, signal.SIGKILL) is False
        assert process.state_letter(stranger) is None
        assert sleeper.poll() is None
        assert process.send(Running(sleeper.pid, start), signal.SIGKILL) is True
        assert sleeper.wait() == -signal.SIGKILL


def test_a_process_that_only_waits_to_be_reaped_is_gone(sleeper: subprocess.Popen[bytes]) -> None:
    with sleeper:
        start = process.start_time(sleeper.pid)
        assert start is not None
        running = Running(sleeper.pid, start)
        assert process.state_letter(running) in ("S", "R", "D")
        sleeper.kill()

        assert process.wait_gone(running, timeout_s=5.0)
        assert process.start_time(sleeper.pid) is None


def test_a_failing_command_is_reported_in_its_own_words() -> None:
    with pytest.raises(Unavailable, match="no such thing"):
        process.run(["sh", "-c", "echo no such thing >&2; exit 3"])


def test_the_tail_of_a_log_is_its_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert process.tail(log) == "(no log)"
    log.write_text("")
    assert process.tail(log) == "(the log is empty)"
    log.write_text("a\nb\nc\n")
    assert process.tail(log, lines=2) == "b\nc"
