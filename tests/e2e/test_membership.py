"""Nodes change their role, leave, come back and are removed, while services run.

Three managers and two workers, shared; every test leaves them so, and the cluster object the same.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from typing import Final

import pytest
from lab_cli import (
    Cli,
    error,
    node,
    processes,
    reason,
    running,
    state,
    tasks_of,
    wait_for,
    wait_node,
    wait_running,
)
from lab_services import lab_of

from swarmpy.errors import SwarmError
from swarmpy.lab.cluster import Lab

_numbers = itertools.count(1)
SLEEP: Final = ("host", "sleep", "100000")
ROLE: Final = "{{.Spec.Role}}"
STATUS: Final = "{{.ManagerStatus}}"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with lab_of(managers=3, workers=2) as lab:
        yield lab


@pytest.fixture
def cli(lab: Lab) -> Iterator[Cli]:
    cli = Cli(lab)
    cluster = cli.good("info", "--format", "{{.Swarm.Cluster.ID}}")
    yield cli
    cli.remove_all()
    lab.wait_ready()
    roles = {n["Description"]["Hostname"]: n["Spec"]["Role"] for n in lab.nodes()}
    assert roles == {host.name: "manager" if host.is_manager else "worker" for host in lab.layout.hosts}
    assert cli.good("info", "--format", "{{.Swarm.Cluster.ID}}") == cluster


def managers(cli: Cli) -> dict[str, str]:
    """Managers by name, and what is said of them; asked of any manager."""
    found = {}
    for each in cli.lab.nodes():
        status = each.get("ManagerStatus")
        if status:
            leads = "leader" if status.get("Leader") else status.get("Reachability", "")
            found[each["Description"]["Hostname"]] = leads
    return found


def wait_managers(cli: Cli, *names: str) -> None:
    """Until exactly these are managers, all reachable, and one leads."""

    def is_right(found: dict[str, str]) -> bool:
        return sorted(found) == sorted(names) and sorted(found.values()) == ["leader"] + ["reachable"] * (
            len(names) - 1
        )

    wait_for(lambda: managers(cli), is_right, what=f"{names} should be the managers")


def serves(cli: Cli, name: str) -> bool:
    """Whether a node answers for the cluster."""
    try:
        return cli.lab.request(name, "GET", "/nodes").is_ok
    except SwarmError:
        return False


def follower(lab: Lab) -> str:
    leader = lab.leader()
    return next(host.name for host in lab.layout.managers if host.name != leader)


def write(cli: Cli, at: str) -> None:
    name = f"w{next(_numbers)}"
    cli.create(name, "--replicas", "0", "host", at=at)
    cli.good("service", "rm", name, at=at)


def token(cli: Cli, role: str) -> str:
    return cli.good("join-token", "--quiet", role).strip()


def come_back(cli: Cli, name: str, role: str) -> None:
    """A node that has left joins anew; its old record is removed."""
    at = next(host for host in managers(cli) if host != name)
    old = [n["ID"] for n in cli.lab.nodes() if n["Description"]["Hostname"] == name]
    address = f"{cli.lab.host(at).address}:2377"
    joined = cli.good("join", "--token", cli.good("join-token", "-q", role, at=at).strip(), address, at=name)
    assert joined == f"This node joined a swarm as a {role}.\n"
    for id_ in old:
        cli.good("node", "rm", "--force", id_, at=at)


# --- roles


def test_promote_and_demote_a_worker_while_its_tasks_run(cli: Cli) -> None:
    cli.create("web", "--constraint", "node.hostname==node-4", *SLEEP)
    before = wait_running(cli.lab, "web", 1, on=["node-4"])
    assert cli.good("node", "promote", "node-4") == "Node node-4 promoted to a manager in the swarm.\n"
    wait_managers(cli, "node-1", "node-2", "node-3", "node-4")
    wait_for(lambda: serves(cli, "node-4"), what="node-4 should serve as a manager")
    write(cli, at="node-4")

    assert cli.good("node", "promote", "node-4") == "Node node-4 is already a manager.\n"
    assert cli.good("node", "demote", "node-4", at="node-4") == "Manager node-4 demoted in the swarm.\n"
    wait_managers(cli, "node-1", "node-2", "node-3")
    wait_for(lambda: not serves(cli, "node-4"), what="node-4 should be a worker")
    told = cli.bad("node", "ls", at="node-4")
    assert told.startswith(error("This node is not a swarm manager. Worker nodes can't be used to view"))

    assert not (cli.lab.host("node-4").data_dir / "raft").exists()  # a worker holds no state of the swarm
    wait_node(cli.lab, "node-4", "ready")
    assert [task["ID"] for task in running(cli.lab, "web")] == [task["ID"] for task in before]


def test_demote_the_leader(cli: Cli) -> None:
    leader = cli.lab.leader()
    others = [host.name for host in cli.lab.layout.managers if host.name != leader]

    cli.good("node", "demote", leader, at=others[0])

    wait_managers(cli, *others)
    write(cli, at=others[1])
    wait_for(lambda: not serves(cli, leader), what=f"{leader} should be a worker")
    wait_node(cli.lab, leader, "ready")
    cli.good("node", "promote", leader, at=others[0])
    wait_managers(cli, *others, leader)
    wait_for(lambda: serves(cli, leader), what=f"{leader} should be a manager again")
    write(cli, at=leader)


def test_demoted_down_to_one_and_back(cli: Cli) -> None:
    cli.good("node", "demote", "node-2", "node-3")
    wait_managers(cli, "node-1")
    assert cli.bad("node", "demote", "node-1") == error(
        "rpc error: code = FailedPrecondition desc = attempting to demote the last manager of the swarm"
    )
    write(cli, at="node-1")

    wait_for(lambda: not serves(cli, "node-2") and not serves(cli, "node-3"))
    cli.good("node", "promote", "node-2", "node-3")
    wait_managers(cli, "node-1", "node-2", "node-3")
    wait_for(lambda: serves(cli, "node-2") and serves(cli, "node-3"))
    write(cli, at="node-3")


def test_a_demotion_that_costs_the_quorum_is_refused(cli: Cli) -> None:
    dead, alive = "node-3", "node-2"
    cli.lab.kill(dead)
    wait_for(lambda: managers(cli).get(dead), lambda status: status == "unreachable")

    said = cli.bad("node", "demote", alive)

    assert said == error(
        "rpc error: code = FailedPrecondition desc = can't remove member from the raft: "
        "this would result in a loss of quorum"
    )
    cli.lab.start(dead)
    wait_managers(cli, "node-1", "node-2", "node-3")


def test_a_manager_that_was_demoted_while_it_was_down_is_a_worker_when_it_returns(cli: Cli) -> None:
    name = follower(cli.lab)
    at = cli.lab.leader()
    others = [host.name for host in cli.lab.layout.managers if host.name != name]
    cli.lab.kill(name)
    wait_for(lambda: managers(cli).get(name), lambda status: status == "unreachable")

    cli.good("node", "demote", name, at=at)
    wait_managers(cli, *others)
    cli.lab.start(name)

    wait_for(lambda: not serves(cli, name) and node(cli.lab, name)["Status"]["State"] == "ready")
    cli.good("node", "promote", name, at=at)
    wait_managers(cli, *others, name)
    wait_for(lambda: serves(cli, name))


# --- leaving and removing


def test_a_ready_node_is_not_removed_without_force(cli: Cli) -> None:
    id_ = node(cli.lab, "node-5")["ID"]

    assert cli.bad("node", "rm", "node-5") == error(
        f"rpc error: code = FailedPrecondition desc = node {id_} is not down and can't be removed"
    )
    assert node(cli.lab, "node-5")["Status"]["State"] == "ready"


def test_a_manager_is_not_removed_even_with_force(cli: Cli) -> None:
    name = follower(cli.lab)
    id_ = node(cli.lab, name)["ID"]
    told = error(
        f"rpc error: code = FailedPrecondition desc = node {id_} is a cluster manager and is a member "
        "of the raft cluster. It must be demoted to worker before removal"
    )

    assert cli.bad("node", "rm", name) == told
    assert cli.bad("node", "rm", "--force", name) == told


def test_a_removed_node_gives_up_and_its_tasks_run_elsewhere(cli: Cli) -> None:
    mark = f"{os.getpid()}.333"
    cli.create("web", "--replicas", "5", "host", "sleep", mark)
    wait_running(cli.lab, "web", 5, on=[host.name for host in cli.lab.layout.hosts])

    cli.good("node", "rm", "--force", "node-5")

    tasks = wait_running(cli.lab, "web", 5)
    assert "node-5" not in {task["Node"] for task in tasks}
    said = wait_for(
        lambda: cli("info", "--format", "{{.Swarm.LocalNodeState}} {{.Swarm.Error}}", at="node-5").out,
        lambda text: text.startswith("error"),
        what="the removed node should say so",
    )
    assert "was removed from the swarm; it has to join anew" in said
    wait_for(lambda: processes(mark), lambda pids: len(pids) == 5, what="node-5 should have stopped its task")
    assert "was removed from the swarm" in cli.bad("node", "ls", at="node-5")
    cli.lab.restart("node-5")
    wait_for(lambda: "was removed from the swarm" in cli("info", at="node-5").out, what="it says so again")
    cli.good("leave", at="node-5")
    come_back(cli, "node-5", "worker")
    cli.lab.wait_ready()


def test_a_worker_leaves_and_returns_as_another_node(cli: Cli) -> None:
    cli.create("web", "--replicas", "5", *SLEEP)
    wait_running(cli.lab, "web", 5, on=[host.name for host in cli.lab.layout.hosts])
    old = node(cli.lab, "node-4")["ID"]

    assert cli.good("leave", at="node-4") == "Node left the swarm.\n"

    wait_node(cli.lab, "node-4", "down")
    wait_for(
        lambda: {task["Node"] for task in running(cli.lab, "web")},
        lambda nodes: "node-4" not in nodes,
        what="its tasks should run elsewhere",
    )
    wait_running(cli.lab, "web", 5)
    assert cli.good("info", "--format", "{{.Swarm.LocalNodeState}}", at="node-4").strip() == "inactive"
    assert cli.bad("leave", at="node-4") == error("This node is not part of a swarm")
    assert cli.good("node", "rm", old) == f"{old}\n"  # it is down: no force is needed
    come_back(cli, "node-4", "worker")
    cli.lab.wait_ready()
    assert node(cli.lab, "node-4")["ID"] != old


def test_a_manager_leaves_only_by_force_and_the_others_go_on(cli: Cli) -> None:
    name = follower(cli.lab)
    others = [host.name for host in cli.lab.layout.managers if host.name != name]

    said = cli.bad("leave", at=name)
    assert said == error(
        "You are attempting to leave the swarm on a node that is participating as a manager. "
        "The only way to restore a swarm that has lost consensus is to reinitialize it with "
        "`--force-new-cluster`. Use `--force` to suppress this message."
    )
    assert cli.good("leave", "--force", at=name) == "Node left the swarm.\n"

    wait_managers(cli, *others)
    write(cli, at=others[0])
    come_back(cli, name, "manager")
    wait_managers(cli, *others, name)


def test_the_leader_leaves_by_force(cli: Cli) -> None:
    leader = cli.lab.leader()
    others = [host.name for host in cli.lab.layout.managers if host.name != leader]

    cli.good("leave", "--force", at=leader)

    wait_managers(cli, *others)
    write(cli, at=others[0])
    come_back(cli, leader, "manager")
    wait_managers(cli, *others, leader)
    cli.lab.wait_ready()


def test_a_task_of_a_node_that_is_gone_says_what_became_of_it(cli: Cli) -> None:
    cli.create("web", "--constraint", "node.hostname==node-5", *SLEEP)
    wait_running(cli.lab, "web", 1, on=["node-5"])
    cli.good("leave", at="node-5")
    wait_node(cli.lab, "node-5", "down")
    cli.good("node", "rm", "node-5")

    tasks = wait_for(
        lambda: tasks_of(cli.lab, "web"),
        lambda tasks: {state(task) for task in tasks} == {"orphaned", "pending"},
        what="the old task should be orphaned",
    )
    assert reason(tasks[0]) == "no suitable node (scheduling constraints not satisfied on 4 nodes)"
    come_back(cli, "node-5", "worker")
    wait_running(cli.lab, "web", 1, on=["node-5"])
