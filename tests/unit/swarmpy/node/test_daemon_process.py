"""The daemon as a process of its own: what its settings do before it is in any swarm."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from swarmpy.client import Client, DaemonAbsent

DEADLINE_S = 30.0


@contextmanager
def daemon(folder: Path, *flags: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "swarmpy", "daemon", "--data-dir", str(folder / "data")]
    command += ["--run-dir", str(folder / "run"), *flags]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_answer(process: subprocess.Popen[str], client: Client) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while True:
        try:
            client.ping()
        except DaemonAbsent:
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline, "the daemon does not answer"
            time.sleep(0.02)
        else:
            return


def run_and_stop(folder: Path, *flags: str) -> list[str]:
    """The lines that a daemon logs between start and SIGTERM."""
    with daemon(folder, *flags) as process:
        wait_answer(process, Client(f"unix://{folder}/run/swarmpy.sock"))
        process.send_signal(signal.SIGTERM)
        log = process.communicate(timeout=DEADLINE_S)[1]
        assert process.returncode == 0, log
        return log.splitlines()


def test_the_log_is_written_as_its_settings_say(tmp_path: Path) -> None:
    said = [json.loads(line) for line in run_and_stop(tmp_path / "a", "--log-format", "json")]
    assert [(line["event"], line["level"]) for line in said] == [
        ("executor_chosen", "info"),
        ("daemon_started", "info"),
    ]
    assert "daemon_started" in run_and_stop(tmp_path / "b")[1]
    assert run_and_stop(tmp_path / "c", "--log-level", "warning") == []


def test_it_can_be_stopped_while_it_waits_for_its_engine(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "executor.json").write_text('{"executor": "docker"}')
    with daemon(tmp_path, "--engine-socket", str(tmp_path / "none.sock")) as process:
        assert process.stderr is not None
        assert "engine_awaited" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 0


def test_a_second_daemon_on_the_same_data_folder_is_refused(tmp_path: Path) -> None:
    with daemon(tmp_path) as first:
        wait_answer(first, Client(f"unix://{tmp_path}/run/swarmpy.sock"))
        with daemon(tmp_path, "--run-dir", str(tmp_path / "other")) as second:
            log = second.communicate(timeout=DEADLINE_S)[1]
            assert second.returncode == 1
        assert f"another daemon (pid {first.pid}) uses the data folder {tmp_path / 'data'}" in log
        assert "Traceback" not in log
        assert first.poll() is None


def test_damaged_state_ends_the_daemon_with_a_sentence(tmp_path: Path) -> None:
    certificates = tmp_path / "data" / "certificates"
    certificates.mkdir(parents=True)
    for name in ("swarm-node.crt", "swarm-node.key", "swarm-root-ca.crt"):
        (certificates / name).write_text("no certificate\n")
    with daemon(tmp_path) as process:
        log = process.communicate(timeout=DEADLINE_S)[1]
        assert process.returncode == 1
    assert "identity in" in log
    assert "is damaged" in log
    assert "Traceback" not in log
