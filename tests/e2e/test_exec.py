"""``exec``, ``attach``, ``cp``, ``top``, ``stats``: inside a task on one node by way of any manager.

Three managers and a worker, shared; the last test kills one. The service ``web`` has its one task on the
worker, and is open for input; commands are given to a manager that does not lead.
"""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from lab_cli import Cli, error, processes, wait_for, wait_running
from lab_services import DEADLINE_S, lab_of

from swarmpy.lab import process
from swarmpy.lab.cluster import Lab
from swarmpy.model.container_ids import short_container_id

NODE = "node-4"
AT = "node-2"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with lab_of(managers=3, workers=1) as lab:
        container = {
            "Image": "host",
            "Command": ["sh", "-c", "echo begun; while read word; do echo got $word; done; sleep 1000"],
            "OpenStdin": True,
            "StopGracePeriod": 1_000_000,
        }
        spec = {
            "Name": "web",
            "TaskTemplate": {
                "ContainerSpec": container,
                "Placement": {"Constraints": [f"node.hostname=={NODE}"]},
            },
            "Mode": {"Replicated": {"Replicas": 1}},
        }
        lab.call("node-1", "POST", "/services/create", spec)
        wait_running(lab, "web", 1, on=(NODE,))
        yield lab


@pytest.fixture
def cli(lab: Lab) -> Cli:
    return Cli(lab, at=AT)


@pytest.fixture
def mark() -> str:
    """A length of sleep that no other test has."""
    return f"{2000 + time.monotonic_ns() % 1_000_000}.{os.getpid()}"


@contextmanager
def started(cli: Cli, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """A command of the client's that goes on; killed at the end if it still does."""
    argv = cli.lab.exec_argv(AT, ["swarmpy", *words])
    with subprocess.Popen(
        argv,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=process.environment(),
        start_new_session=True,
    ) as client:
        try:
            yield client
        finally:
            if client.poll() is None:
                os.killpg(client.pid, signal.SIGKILL)


def wait_processes(mark: str, count: int) -> None:
    """Of the command itself: clients have the mark in their own command line, too."""
    wait_for(lambda: len(sleeping(mark)), lambda found: found == count, what=f"{count} x sleep {mark}")


def sleeping(mark: str) -> list[int]:
    return [pid for pid in processes(mark) if _words(pid)[:1] == [b"sleep"]]


def _words(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return []


def test_a_command_with_streams_environment_and_exit_code(cli: Cli) -> None:
    script = "echo $A in $PWD; echo err >&2; exit 7"
    said = cli("exec", "-e", "A=b", "-w", "/tmp", "web", "--", "sh", "-c", script)
    assert (said.code, said.out, said.err) == (7, "b in /tmp\n", "err\n")
    assert cli("exec", "-i", "web.1", "wc", "-c", text="x" * 300_000).out.strip() == "300000"
    assert cli.good("exec", "-u", "nobody", "web", "id", "-un", at="node-1") == "nobody\n"
    hostname = cli.good("exec", "web", "hostname").strip()
    (task,) = cli.lab.tasks({"service": ["web"], "desired-state": ["running"]})[:1]
    assert hostname == short_container_id(task["ID"])


def test_what_cannot_be_run(cli: Cli) -> None:
    missing = cli("exec", "web", "no-such-command")
    assert (missing.code, missing.out) == (127, "")
    assert missing.err.strip() == (
        "OCI runtime exec failed: exec failed: unable to start container process: "
        'exec: "no-such-command": executable file not found in $PATH: unknown'
    )
    assert cli("exec", "web", "/etc/passwd").code == 126
    assert cli.bad("exec", "nothing", "true") == error("No such container: nothing")
    told = cli.bad("exec", "web", "true", at=NODE)
    assert told.startswith(error("This node is not a swarm manager."))


def test_a_terminal(cli: Cli) -> None:
    master, slave = pty.openpty()
    argv = cli.lab.exec_argv(AT, ["swarmpy", "exec", "-it", "web", "sh"])
    env = process.environment()
    with subprocess.Popen(
        argv, stdin=slave, stdout=slave, stderr=slave, env=env, start_new_session=True
    ) as shell:
        os.close(slave)
        _expect(master, b"# ")
        os.write(master, b"[ -t 0 ] && stty -echo && echo is a $TERM\n")
        _expect(master, b"is a xterm")
        os.write(master, b"exit 5\n")
        assert shell.wait(DEADLINE_S) == 5
    os.close(master)


def _expect(fd: int, wanted: bytes) -> None:
    seen, deadline = b"", time.monotonic() + DEADLINE_S
    while wanted not in seen:
        ready, _, _ = select.select([fd], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, f"{wanted!r} is awaited, but: {seen!r}"
        seen += os.read(fd, 4096)


@pytest.mark.parametrize("flags", [(), ("-i",)], ids=["without input", "with input"])
def test_a_client_that_is_killed_takes_its_command_along(cli: Cli, mark: str, flags: tuple[str, ...]) -> None:
    script = f"sleep {mark} & sleep {mark}"
    with started(cli, "exec", *flags, "web", "sh", "-c", script) as client:
        wait_processes(mark, 2)
        os.killpg(client.pid, signal.SIGKILL)
        wait_processes(mark, 0)
    wait_running(cli.lab, "web", 1)


def test_being_attached(cli: Cli) -> None:
    with started(cli, "attach", "web") as client:
        assert client.stdin is not None
        assert client.stdout is not None
        client.stdin.write(b"one\n")
        client.stdin.flush()
        assert client.stdout.readline() == b"got one\n"
    with started(cli, "attach", "web") as again:  # the task runs on, with its input open
        assert again.stdin is not None
        assert again.stdout is not None
        again.stdin.write(b"two\n")
        again.stdin.flush()
        assert again.stdout.readline() == b"got two\n"


def test_files_both_ways(cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "source"
    (folder / "below").mkdir(parents=True)
    (folder / "below" / "file").write_bytes(bytes(range(256)) * 2000)
    (folder / "link").symlink_to("/etc/passwd")
    cli.good("cp", str(folder), "web:/dev/shm/copied")
    assert cli.good("exec", "web", "readlink", "/dev/shm/copied/link") == "/etc/passwd\n"

    cli.good("cp", "web:/dev/shm/copied", str(tmp_path / "back"))
    assert (tmp_path / "back/below/file").read_bytes() == (folder / "below/file").read_bytes()
    assert os.readlink(tmp_path / "back/link") == "/etc/passwd"
    cli.good("cp", "web:/dev/shm/copied/below/file", str(tmp_path))
    assert (tmp_path / "file").stat().st_size == 512_000

    assert cli.bad("cp", "web:/no/where", str(tmp_path)) == error(
        "Could not find the file /no/where in container"
    )
    assert cli.bad("cp", str(tmp_path / "none"), "web:/tmp").endswith("none: No such file or directory")


def test_processes_and_usage(cli: Cli) -> None:
    top = cli.good("top", "web")
    assert top.splitlines()[1].split() == ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]
    assert "while read word" in top
    rows = cli.good("stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}}", "web").split()
    assert rows[0].startswith("web.1.")
    assert int(rows[1]) >= 1


def test_a_change_of_leader_ends_a_stream_and_says_so(cli: Cli, mark: str) -> None:
    leader = wait_for(cli.lab.leader, bool)
    entry = next(name for name in ("node-1", "node-2", "node-3") if name != leader)
    argv = cli.lab.exec_argv(entry, ["swarmpy", "exec", "web", "sleep", mark])
    with subprocess.Popen(argv, stderr=subprocess.PIPE, env=process.environment()) as client:
        wait_processes(mark, 1)
        cli.lab.kill(leader)
        _, told = client.communicate(timeout=DEADLINE_S)
    assert client.returncode == 1
    assert b"the leader of the swarm has changed" in told
    wait_processes(mark, 0)
    # a node finds the new leader within moments, each by itself
    said = wait_for(
        lambda: cli("exec", "web", "echo", "again", at=entry), lambda said: said.code == 0, what="exec again"
    )
    assert said.out == "again\n"
