"""Secrets and configs on real nodes: where they are, how newer data come, and who never sees them.

One manager and two workers; ``node-3`` gets no task, so nothing of any secret.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
from lab_cli import Cli, running, wait_for, wait_running
from lab_services import lab_of

from swarmpy.lab import hosts
from swarmpy.lab.cluster import Lab

WORD: Final = f"hunter-of-{os.getpid()}"
ON_WORKER: Final = ("--constraint", "node.hostname==node-2")
STAY: Final = "while :; do sleep 0.1; done"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with lab_of(managers=1, workers=2) as lab:
        yield lab


def put(cli: Cli, verb: str, kind: str, name: str, data: str) -> str:
    said = cli(kind, verb, name, "-", text=data)
    assert said.code == 0, said
    return said.out.strip()


def log_of(cli: Cli, service: str, is_right: Callable[[list[str]], bool]) -> list[str]:
    return wait_for(
        lambda: cli.good("service", "logs", "--raw", service).splitlines(), is_right, what=f"log of {service}"
    )


def test_a_secret_is_mounted_rolled_and_rolled_back(cli: Cli) -> None:
    put(cli, "create", "secret", "word", f"{WORD}-one")
    put(cli, "create", "config", "page", "hello")
    script = (
        "stat -c '%a %u' /run/secrets/word; cat /run/secrets/word; echo; cat /tmp/word-page; echo; "
        f"touch /run/secrets/x || echo read-only; {STAY}"
    )
    cli.create(
        "web",
        *("--secret", "source=word,mode=0400,uid=5", "--config", "source=page,target=/tmp/word-page"),
        *("--update-monitor", "100ms", "--update-delay", "0s", "--rollback-monitor", "100ms"),
        *(*ON_WORKER, "host", "sh", "-c", script),
    )
    first = wait_running(cli.lab, "web", 1)[0]
    said = log_of(cli, "web", lambda lines: "read-only" in lines)
    assert said[:3] == ["400 5", f"{WORD}-one", "hello"]

    assert "is in use by the following service: web" in cli.bad("secret", "rm", "word")
    assert put(cli, "update", "secret", "word", f"{WORD}-two") == "word version 2"
    log_of(cli, "web", lambda lines: f"{WORD}-two" in lines)
    second = wait_running(cli.lab, "web", 1)[0]
    assert second["ID"] != first["ID"]

    cli.good("service", "rollback", "--detach", "web")
    log_of(cli, "web", lambda lines: lines.count(f"{WORD}-one") == 2)
    assert [line.split()[-1] for line in cli.good("secret", "history", "word").splitlines()][2] == "web"


@pytest.fixture
def patient(cli: Cli) -> Iterator[None]:
    """A swarm that waits ten times as long for a daemon that died: its start may take seconds."""
    cli.good("swarm", "update", "--dispatcher-heartbeat", "50s")
    yield
    cli.good("swarm", "update", "--dispatcher-heartbeat", "5s")


@pytest.mark.usefixtures("patient")
def test_newer_data_are_put_in_place_also_after_the_daemon_was_away(cli: Cli) -> None:
    put(cli, "create", "secret", "live", f"{WORD}-first")
    script = f"trap 'cat /run/secrets/live; echo' USR1; echo ready; {STAY}"
    secret = ("--secret", "source=live,reload=USR1")
    cli.create("live", *secret, *ON_WORKER, "host", "sh", "-c", script)
    task = wait_running(cli.lab, "live", 1)[0]
    log_of(cli, "live", lambda lines: lines == ["ready"])
    put(cli, "update", "secret", "live", f"{WORD}-second")
    log_of(cli, "live", lambda lines: lines == ["ready", f"{WORD}-second"])

    cli.lab.kill("node-2")
    put(cli, "update", "secret", "live", f"{WORD}-third")
    cli.lab.start("node-2")
    cli.lab.wait_ready()
    log_of(cli, "live", lambda lines: lines == ["ready", f"{WORD}-second", f"{WORD}-third"])
    assert [each["ID"] for each in running(cli.lab, "live")] == [task["ID"]]


def test_who_holds_it_and_what_is_left(cli: Cli) -> None:
    put(cli, "create", "secret", "held", f"{WORD}-held")
    cli.create("held", "--secret", "held", *ON_WORKER, "host", "sh", "-c", STAY)
    wait_running(cli.lab, "held", 1)
    assert is_in_memory(cli.lab, "node-2", WORD), "this would be seen if it were there"
    assert not is_in_memory(cli.lab, "node-3", WORD)
    for host in ("node-1", "node-2", "node-3"):
        assert not on_disk(cli.lab.host(host).data_dir, WORD)
    files = cli.lab.host("node-2").run_dir / "files"
    cli.remove("held")
    # from within the host: the file system in memory is mounted there alone
    wait_for(
        lambda: cli.lab.exec("node-2", ["ls", "-A", str(files)]).stdout,
        lambda left: not left.strip(),
        what="the task's files should be gone",
    )
    assert cli.good("secret", "rm", "held") == "held\n"


def is_in_memory(lab: Lab, name: str, word: str) -> bool:
    """Whether the host's daemon has this word anywhere."""
    daemon = hosts.daemon(lab.host(name))
    assert daemon is not None
    process = Path(f"/proc/{daemon.pid}")
    with (process / "mem").open("rb", buffering=0) as memory:
        for line in (process / "maps").read_text().splitlines():
            area, rights = line.split()[:2]
            if not rights.startswith("rw"):
                continue
            start, end = (int(each, 16) for each in area.split("-"))
            memory.seek(start)
            try:
                if word.encode() in memory.read(end - start):
                    return True
            except OSError:
                continue  # what the kernel keeps for itself
    return False


def on_disk(folder: Path, word: str) -> list[Path]:
    found = []
    for path in folder.rglob("*"):
        try:
            if path.is_file() and "/logs/" not in str(path) and word.encode() in path.read_bytes():
                found.append(path)
        except FileNotFoundError:
            continue
    return found
