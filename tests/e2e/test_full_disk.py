"""A node's disk fills up: the node says which file it could not write, and the swarm loses nothing.

Three managers whose data folders lie on small file systems of their own, shared; every test frees the space
and leaves all daemons running.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator
from typing import Final

import pytest
from lab_cli import Cli, processes, running, tasks_of, wait_for, wait_node, wait_running
from lab_services import lab_of

from swarmpy.errors import SwarmError
from swarmpy.lab import hosts, process
from swarmpy.lab.cluster import Lab

SIZE: Final = "16m"
PADDING: Final = "x" * 2000
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with lab_of(managers=3, workers=0, has_swarm=False) as lab:
        for host in lab.layout.hosts:
            lab.stop(host.name)
            run(lab, host.name, "mount", "-t", "tmpfs", "-o", f"size={SIZE}", "small", str(host.data_dir))
            lab.start(host.name)
        lab.make_swarm()
        yield lab


@pytest.fixture
def cli(lab: Lab) -> Iterator[Cli]:
    cli = Cli(lab)
    yield cli
    for host in lab.layout.hosts:
        free(lab, host.name)
        if hosts.daemon(host) is None:
            lab.start(host.name)
    lab.wait_ready()
    cli.remove_all()


def run(lab: Lab, name: str, *argv: str) -> None:
    done = lab.exec(name, list(argv))
    assert done.returncode == 0, done


def fill(lab: Lab, name: str) -> None:
    """Until not a byte fits any more."""
    done = lab.exec(name, ["dd", "if=/dev/zero", f"of={lab.host(name).data_dir}/filler", "bs=4k"])
    assert "No space left on device" in done.stderr


def free(lab: Lab, name: str) -> None:
    run(lab, name, "rm", "-f", f"{lab.host(name).data_dir}/filler")


def log_of(lab: Lab, name: str) -> str:
    return lab.log(name).read_text()


class Writer:
    """Creates services at one manager and remembers which were acknowledged."""

    def __init__(self, lab: Lab, at: str) -> None:
        self.lab = lab
        self.at = at
        self.acknowledged: list[str] = []

    def write(self) -> bool:
        """One more service; whether it was acknowledged."""
        name = f"s{next(_numbers)}"
        spec = {
            "Name": name,
            "Labels": {"padding": PADDING},
            "TaskTemplate": {"ContainerSpec": {"Image": "host"}},
            "Mode": {"Replicated": {"Replicas": 0}},
        }
        try:
            reply = self.lab.request(self.at, "POST", "/services/create", spec, timeout_s=5.0)
        except SwarmError:
            return False
        if reply.is_ok:
            self.acknowledged.append(name)
        return reply.is_ok

    def must_write(self, count: int) -> None:
        for _ in range(count):
            wait_for(self.write, what=f"{self.at} should accept a write")


def wait_ended(lab: Lab, name: str) -> None:
    wait_for(lambda: hosts.daemon(lab.host(name)) is None, what=f"the daemon of {name} should have ended")


def services_at(lab: Lab, name: str) -> list[str]:
    return sorted(service["Spec"]["Name"] for service in lab.call(name, "GET", "/services"))


def check_equal(lab: Lab, acknowledged: list[str]) -> None:
    """Every manager has each acknowledged service once, and all managers have the same."""
    lists = [services_at(lab, host.name) for host in lab.layout.managers]
    assert lists[0] == lists[1] == lists[2]
    assert len(set(lists[0])) == len(lists[0])
    assert set(acknowledged) <= set(lists[0])


def test_a_follower_without_space_is_left_behind_and_catches_up(cli: Cli) -> None:
    lab = cli.lab
    leader = lab.leader()
    victim = next(host.name for host in lab.layout.managers if host.name != leader)
    writer = Writer(lab, leader)
    writer.must_write(5)

    fill(lab, victim)
    wait_for(lambda: writer.write() and hosts.daemon(lab.host(victim)) is None, what=f"{victim} should end")
    told = f"cannot write the raft log {lab.host(victim).data_dir}/raft/"
    assert told in log_of(lab, victim)
    assert "No space left on device; free or repair the disk, then start again" in log_of(lab, victim)
    writer.must_write(10)
    assert lab.leader() == leader

    free(lab, victim)
    lab.start(victim)
    lab.wait_ready()
    check_equal(lab, writer.acknowledged)


def test_a_leader_without_space_hands_over_and_nothing_acknowledged_is_lost(cli: Cli) -> None:
    lab = cli.lab
    leader = lab.leader()
    other = next(host.name for host in lab.layout.managers if host.name != leader)
    at_leader, elsewhere = Writer(lab, leader), Writer(lab, other)
    at_leader.must_write(5)

    fill(lab, leader)
    while at_leader.write():
        assert len(at_leader.acknowledged) < 1000
    wait_ended(lab, leader)
    assert f"cannot write the raft log {lab.host(leader).data_dir}/raft/" in log_of(lab, leader)
    elsewhere.must_write(10)
    assert lab.leader() != leader
    assert set(at_leader.acknowledged) <= set(services_at(lab, other))

    free(lab, leader)
    lab.start(leader)
    lab.wait_ready()
    check_equal(lab, at_leader.acknowledged + elsewhere.acknowledged)


def test_a_daemon_that_is_started_on_a_full_disk_says_so_and_forgets_nothing(cli: Cli) -> None:
    lab = cli.lab
    leader = lab.leader()
    victim = next(host.name for host in lab.layout.managers if host.name != leader)
    mark = f"{os.getpid()}.61"
    cli.create("web", "--constraint", f"node.hostname=={victim}", "host", "sleep", mark, at=leader)
    task = wait_running(lab, "web", 1, on=[victim])[0]
    pids = processes(mark)
    assert lab.stop(victim)
    fill(lab, victim)

    log_before = len(log_of(lab, victim))
    lab.start(victim, wait=False)
    wait_ended(lab, victim)
    said = log_of(lab, victim)[log_before:]
    assert re.fullmatch(
        f"Error: .* {lab.host(victim).data_dir}/.* cannot be opened: .*; "
        "free or repair the disk, then start again\n",
        said.splitlines(keepends=True)[-1],
    )
    assert processes(mark) == pids
    free(lab, victim)
    lab.start(victim)
    lab.wait_ready()

    wait_node(lab, victim, "ready")
    assert [each["ID"] for each in wait_running(lab, "web", 1, on=[victim])] == [task["ID"]]
    assert processes(mark) == pids
    assert not list((lab.host(victim).data_dir / "agent").glob("*.damaged"))


def test_tasks_run_on_while_the_disk_is_full_and_new_ones_come_when_there_is_space(cli: Cli) -> None:
    lab = cli.lab
    victim = next(host.name for host in lab.layout.managers if host.name != lab.leader())
    mark = f"{os.getpid()}.62"
    on_victim = ("--constraint", f"node.hostname=={victim}")
    cli.create("old", *on_victim, "host", "sleep", mark)
    wait_running(lab, "old", 1)
    pids = processes(mark)

    fill(lab, victim)
    cli.create("new", *on_victim, "host", "sleep", "100000", at=lab.leader())
    wait_for(
        lambda: hosts.daemon(lab.host(victim)) is None or tasks_of(lab, "new"),
        what="either the daemon ends or the task is there",
    )
    assert pids <= processes(mark)

    free(lab, victim)
    if hosts.daemon(lab.host(victim)) is None:
        lab.start(victim)
    lab.wait_ready()
    wait_running(lab, "new", 1, on=[victim])
    assert len(running(lab, "old")) == 1
    assert pids <= processes(mark)


def test_a_lab_file_system_is_as_small_as_it_should_be(lab: Lab) -> None:
    """What the other tests rest on."""
    argv = process.enter_argv(hosts.init(lab.host("node-1")), ["df", "--output=size", "-m"])
    done = process.run([*argv, str(lab.host("node-1").data_dir)])
    assert done.split()[-1] == SIZE.removesuffix("m")
