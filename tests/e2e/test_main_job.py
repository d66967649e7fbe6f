"""The main job on real daemons: a replicated service is kept running through every fault of the lab.

The tests of this file share one lab; each leaves it whole and without services.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from lab_services import DEADLINE_S, SleepService, refusal

from swarmpy.errors import SwarmError
from swarmpy.lab.cluster import Daemon, Lab
from swarmpy.lab.network import Way

_numbers = itertools.count(1)
NODES = [f"node-{number}" for number in range(1, 6)]


def make_whole(lab: Lab) -> None:
    for row in lab.status():
        if row.cut:
            lab.heal(row.name)
        if row.daemon is Daemon.PAUSED:
            lab.resume(row.name)
        if row.daemon in (Daemon.DEAD, Daemon.OFF):
            lab.start(row.name)
    lab.wait_ready()


@pytest.fixture
def web(lab: Lab) -> Iterator[SleepService]:
    """Five replicas, one on each node."""
    service = SleepService(lab, f"web{next(_numbers)}")
    service.create(5)
    yield service
    make_whole(lab)
    service.entry = lab.leader()
    service.remove()


def other_manager(lab: Lab, *names: str) -> str:
    return next(host.name for host in lab.layout.managers if host.name not in names)


def wait_write(lab: Lab, node: str, spec: dict[str, object]) -> None:
    """Until the node accepts a write; asked again after a lost answer, it may have been made already."""

    def is_accepted() -> bool:
        try:
            reply = lab.request(node, "POST", "/services/create", spec, timeout_s=5.0)
        except SwarmError:
            return False
        return reply.is_ok or reply.status == 409

    lab.wait(is_accepted, timeout_s=DEADLINE_S, explain=lambda: f"{node} accepts no write.")


def wait_without_leader(lab: Lab, node: str) -> None:
    """Until a manager knows that it has no leader: from then on what it refuses is certainly not made."""

    def is_so() -> bool:
        reply = lab.request(node, "GET", "/nodes", timeout_s=DEADLINE_S)
        return reply.status == 503 and "does not have a leader" in reply.message

    lab.wait(is_so, timeout_s=DEADLINE_S, explain=lambda: f"{node} still has a leader.")


def test_replicas_are_spread_and_scaled(lab: Lab, web: SleepService) -> None:
    assert sorted(web.running().values()) == NODES
    web.wait_processes(5)

    web.scale(12)
    counts = [list(web.wait_running(12).values()).count(node) for node in NODES]
    assert max(counts) - min(counts) <= 1
    web.wait_processes(12)

    web.scale(2)
    web.wait_running(2)
    web.wait_processes(2)


def test_every_manager_serves_and_a_worker_says_that_it_is_none(lab: Lab, web: SleepService) -> None:
    for host in lab.layout.managers:
        assert lab.call(host.name, "GET", f"/services/{web.name}")["Spec"]["Name"] == web.name
    assert "This node is not a swarm manager" in refusal(lab, "node-5", web.spec(1))


def test_the_command_line_works_on_a_host_without_settings(lab: Lab) -> None:
    done = lab.exec("node-2", ["swarmpy", "node", "ls"])

    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in NODES)


def test_a_restarted_daemon_adopts_its_tasks(lab: Lab, web: SleepService) -> None:
    before = web.running()
    processes = web.wait_processes(5)

    lab.restart("node-5")
    lab.restart("node-3")
    lab.wait_ready()

    assert web.wait_running(5) == before
    assert web.processes() == processes


def test_tasks_go_on_when_every_daemon_is_killed_and_are_adopted(lab: Lab, web: SleepService) -> None:
    processes = web.wait_processes(5)

    with ThreadPoolExecutor(len(NODES)) as pool:  # at once: none is there to call the others down
        list(pool.map(lab.kill, NODES))
    assert web.processes() == processes
    for node in NODES:
        lab.start(node, wait=False)

    make_whole(lab)
    web.wait_running(5)
    assert web.wait_processes(5) == processes


def test_a_killed_leader_is_replaced_and_its_tasks_too(lab: Lab, web: SleepService) -> None:
    leader = lab.leader()
    web.entry = other_manager(lab, leader)

    lab.kill(leader)

    wait_write(lab, web.entry, SleepService(lab, f"{web.name}-w").spec(0))
    assert lab.leader() != leader
    web.wait_running(5, away_from=[leader])
    lab.start(leader)
    lab.wait_ready()
    web.wait_running(5)
    web.wait_processes(5)  # what had gone on over there has been stopped
    lab.call(web.entry, "DELETE", f"/services/{web.name}-w")


def test_a_worker_without_power_loses_its_tasks_to_others(lab: Lab, web: SleepService) -> None:
    lab.kill("node-4", host=True)

    web.wait_running(5, away_from=["node-4"])
    web.wait_processes(5)
    lab.start("node-4")
    lab.wait_ready()
    web.wait_running(5)
    web.wait_processes(5)


def test_a_leader_whose_cable_is_pulled_is_replaced_and_refuses_writes(lab: Lab, web: SleepService) -> None:
    leader = lab.leader()
    web.entry = other_manager(lab, leader)

    lab.cut(leader)

    wait_write(lab, web.entry, SleepService(lab, f"{web.name}-c").spec(0))
    wait_without_leader(lab, leader)
    assert "does not have a leader" in refusal(lab, leader, web.spec(9) | {"Name": "lost"})
    web.wait_running(5, away_from=[leader])
    lab.heal(leader)
    lab.wait_ready()
    web.wait_processes(5)
    assert lab.request(leader, "GET", "/services/lost").status == 404
    lab.call(web.entry, "DELETE", f"/services/{web.name}-c")


@pytest.mark.parametrize("way", [Way.IN, Way.OUT])
def test_a_worker_cut_in_one_direction_is_replaced(lab: Lab, web: SleepService, way: Way) -> None:
    lab.cut("node-5", way)

    web.wait_running(5, away_from=["node-5"])
    lab.heal("node-5")
    lab.wait_ready()
    web.wait_running(5)
    web.wait_processes(5)


def test_a_frozen_leader_is_replaced_and_does_no_harm_when_it_goes_on(lab: Lab, web: SleepService) -> None:
    leader = lab.leader()
    web.entry = other_manager(lab, leader)

    lab.pause(leader)
    wait_write(lab, web.entry, SleepService(lab, f"{web.name}-p").spec(0))
    web.wait_running(5, away_from=[leader])
    lab.resume(leader)

    lab.wait_ready()
    assert lab.call(leader, "GET", f"/services/{web.name}-p")["Spec"]["Name"] == f"{web.name}-p"
    web.wait_running(5)
    web.wait_processes(5)
    lab.call(web.entry, "DELETE", f"/services/{web.name}-p")


def test_without_a_quorum_nothing_is_written_and_tasks_go_on(lab: Lab, web: SleepService) -> None:
    processes = web.wait_processes(5)
    lab.kill("node-2")
    lab.kill("node-3")

    wait_without_leader(lab, "node-1")
    assert "does not have a leader" in refusal(lab, "node-1", web.spec(9) | {"Name": "lost"})
    assert web.processes() == processes

    lab.start("node-2")
    wait_write(lab, "node-1", SleepService(lab, f"{web.name}-q").spec(0))
    make_whole(lab)
    web.wait_running(5)
    web.wait_processes(5)
    assert lab.request("node-1", "GET", "/services/lost").status == 404
    lab.call("node-1", "DELETE", f"/services/{web.name}-q")


def test_a_drained_node_gives_its_tasks_up(lab: Lab, web: SleepService) -> None:
    def set_availability(availability: str) -> None:
        node = lab.call("node-1", "GET", "/nodes/node-4")
        spec = node["Spec"] | {"Availability": availability}
        lab.call("node-1", "POST", f"/nodes/{node['ID']}/update?version={node['Version']['Index']}", spec)

    set_availability("drain")
    web.wait_running(5, away_from=["node-4"])
    web.wait_processes(5)
    set_availability("active")
    web.scale(10)
    assert "node-4" in web.wait_running(10).values()
