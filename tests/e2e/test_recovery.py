"""A cluster that lost its managers, its disks or its power comes back, and its tasks run on meanwhile."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab_cli import Cli, node, wait_for
from lab_services import SleepService, lab_of

from swarmpy.lab import hosts
from swarmpy.lab.cluster import Lab

MANAGERS = ("node-1", "node-2", "node-3")
WORKERS = ("node-4", "node-5")
WRITES_WITHIN_S = 10.0


@pytest.fixture
def lab() -> Iterator[Lab]:
    with lab_of(managers=3, workers=2) as lab:
        yield lab


def cluster_id(cli: Cli, at: str) -> str:
    return cli.good("info", "--format", "{{.Swarm.Cluster.ID}}", at=at).strip()


def swarm_of(cli: Cli, at: str) -> dict[str, str]:
    found: dict[str, str] = cli.lab.call(at, "GET", "/info")["Swarm"]
    return found


def wipe(lab: Lab, *names: str) -> None:
    """The machine comes back with a new disk: nothing of SwarmPy is on it."""
    for name in names:
        for path in lab.host(name).data_dir.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def wait_ready(lab: Lab, *names: str) -> None:
    wait_for(
        lambda: {n["Description"]["Hostname"] for n in lab.nodes() if n["Status"]["State"] == "ready"},
        lambda ready: set(names) <= ready,
        what=f"{names} should be ready",
    )


def join_as_manager(cli: Cli, name: str, *, through: str) -> None:
    token = cli.good("join-token", "--quiet", "manager", at=through).strip()
    address = cli.lab.host(name).address.split("/")[0]
    target = cli.lab.host(through).listen
    cli.good("join", "--token", token, "--advertise-addr", address, target, at=name)


def test_two_of_three_managers_are_lost_for_good_and_the_third_goes_on(lab: Lab) -> None:
    cli = Cli(lab, at="node-3")
    service = SleepService(lab, "web", entry="node-3")
    service.create(10)
    before = cluster_id(cli, "node-3")
    for name in ("node-1", "node-2"):
        lab.kill(name, host=True)
    spared = service.processes()
    assert spared
    assert "does not have a leader" in cli.bad("service", "ls")
    assert "on a terminal" in cli("recover").err

    begun = time.monotonic()
    said = cli.good("recover", "--yes")
    cli.create("after", "--replicas", "0", "host")
    took_s = time.monotonic() - begun
    print(f"recover, then a write: {took_s:.1f} s")
    assert took_s < WRITES_WITHIN_S
    assert "is now its only manager" in said
    assert cluster_id(cli, "node-3") == before
    service.wait_running(10, away_from=("node-1", "node-2"))
    assert spared <= service.wait_processes(10), "tasks that ran were started again"
    assert sorted(n["Description"]["Hostname"] for n in lab.nodes()) == ["node-3", "node-4", "node-5"]

    for name in ("node-1", "node-2"):  # together they would be a quorum of what the swarm was
        lab.start(name, wait=False)
    for name in ("node-1", "node-2"):
        swarm = wait_for(
            lambda name=name: swarm_of(cli, name),  # type: ignore[misc]
            lambda swarm: swarm["LocalNodeState"] == "error",
            what=f"{name} should be refused",
        )
        assert "was removed from the swarm" in swarm["Error"]
        cli.good("leave", "--force", at=name)
        join_as_manager(cli, name, through="node-3")
    lab.wait_ready()
    assert spared <= service.processes()
    assert "is no swarm manager" not in cli.good("service", "ls", at="node-1")


def test_a_backup_under_load_brings_the_swarm_back_after_all_managers_were_wiped(
    lab: Lab, tmp_path: Path
) -> None:
    cli = Cli(lab)
    service = SleepService(lab, "web")
    service.create(10)
    before = cluster_id(cli, "node-1")
    stopping = threading.Event()
    made: list[str] = []

    def write() -> None:
        while not stopping.is_set():
            spec = service.spec(0) | {"Name": f"load-{len(made)}"}
            lab.call("node-2", "POST", "/services/create", spec)
            made.append(spec["Name"])

    writer = threading.Thread(target=write)
    writer.start()
    try:
        wait_for(lambda: len(made), lambda count: count > 50, what="services should be created")
        acknowledged = len(made)
        target = tmp_path / "swarm.backup"
        cli.good("backup", str(target), at="node-3")
        at_end = len(made)
        wait_for(lambda: len(made), lambda count: count > at_end + 20, what="more should be created")
    finally:
        stopping.set()
        writer.join()

    for name in MANAGERS:
        lab.kill(name, host=True)
    wipe(lab, *MANAGERS)
    spared = service.processes()
    lab.start("node-1")
    address = lab.host("node-1").address.split("/")[0]
    print(cli.good("restore", str(target), "--advertise-addr", address))
    assert cluster_id(cli, "node-1") == before
    wait_ready(lab, "node-1", *WORKERS)
    service.wait_running(10)
    assert spared <= service.wait_processes(10), "tasks of workers were started again"
    names = {each["Spec"]["Name"] for each in lab.call("node-1", "GET", "/services")}
    assert set(made[:acknowledged]) <= names
    loaded = len(names) - 1
    assert names == {"web", *made[:loaded]}, "the backup is of one version"
    assert loaded <= at_end + 1
    for name in ("node-2", "node-3"):
        lab.start(name)
        join_as_manager(cli, name, through="node-1")
    lab.wait_ready()


def test_a_wiped_manager_does_not_come_back_as_what_it_was(lab: Lab) -> None:
    cli = Cli(lab)
    old = node(lab, "node-3")["ID"]
    lab.kill("node-3")
    wipe(lab, "node-3")
    lab.start("node-3")
    assert swarm_of(cli, "node-3")["LocalNodeState"] == "inactive"
    wait_for(lambda: node(lab, "node-3")["Status"]["State"], lambda state: state == "down")
    assert node(lab, "node-3")["ManagerStatus"]["Reachability"] == "unreachable"

    cli.good("node", "demote", old)
    wait_for(lambda: node(lab, "node-3").get("ManagerStatus"), lambda status: not status)
    cli.good("node", "rm", old)
    join_as_manager(cli, "node-3", through="node-1")
    lab.wait_ready()
    assert node(lab, "node-3")["ID"] != old
    lab.kill("node-1", host=True)
    wait_for(lambda: cli("service", "ls", at="node-3").code, lambda code: code == 0)
    lab.start("node-1")

    # a log that is refused: away with it, and the manager gets everything from the others
    lab.wait_ready()
    lab.kill("node-2")
    folder = lab.host("node-2").data_dir / "raft"
    path = folder / "raft.wal"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x40
    path.write_bytes(data)
    lab.start("node-2", wait=False)
    wait_for(lambda: hosts.daemon(lab.host("node-2")), lambda daemon: daemon is None, what="it should end")
    assert f"{path} is damaged at byte" in lab.log("node-2").read_text()
    folder.rename(folder.with_name("raft.damaged"))
    lab.start("node-2")
    lab.wait_ready()


def test_everything_stops_and_starts_again_in_reverse_order_one_by_one(lab: Lab) -> None:
    cli = Cli(lab)
    service = SleepService(lab, "web")
    service.create(10)
    before = cluster_id(cli, "node-1")
    ran, tasks = service.processes(), set(service.running())
    every = [host.name for host in lab.layout.hosts]
    for name in every:
        lab.stop(name)
    for name in reversed(every):
        lab.start(name)
    lab.wait_ready()
    assert cluster_id(cli, "node-1") == before
    assert set(service.wait_running(10)) == tasks
    assert service.wait_processes(10) == ran
    lists = [
        sorted((each["ID"], each["Version"]["Index"]) for each in lab.call(name, "GET", "/services"))
        for name in MANAGERS
    ]
    assert lists[0] == lists[1] == lists[2]
