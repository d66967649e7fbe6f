"""Where tasks may run and what becomes of them there: availability, constraints, limits, restarts.

One manager and two workers, shared; every test leaves all nodes active, without labels and without services.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Final

import pytest
from lab_cli import (
    Cli,
    moment,
    processes,
    reason,
    running,
    state,
    tasks_of,
    wait_ended,
    wait_for,
    wait_running,
    wait_states,
)
from lab_services import lab_of

from swarmpy.lab.cluster import Lab

NODES: Final = ("node-1", "node-2", "node-3")
SLEEP: Final = ("host", "sleep", "100000")


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with lab_of(managers=1, workers=2) as lab:
        yield lab


@pytest.fixture
def cli(cli: Cli) -> Iterator[Cli]:
    yield cli
    for name in NODES:
        node = cli.lab.call("node-1", "GET", f"/nodes/{name}")
        labels = [word for key in node["Spec"].get("Labels") or {} for word in ("--label-rm", key)]
        if labels or node["Spec"]["Availability"] != "active":
            cli.good("node", "update", "--availability", "active", *labels, name)


def why_pending(cli: Cli, service: str) -> str:
    """The error of the service's first task, once it says why it is not placed."""
    tasks = wait_for(
        lambda: tasks_of(cli.lab, service),
        lambda tasks: any(state(task) == "pending" and reason(task) for task in tasks),
        what=f"{service} should be pending and say why",
    )
    why = next(reason(task) for task in tasks if state(task) == "pending")
    assert f'"{why}"' in cli.good("service", "ps", "--no-trunc", service)
    return why


# --- availability


def test_drain_moves_tasks_away_and_back_only_when_there_is_work(cli: Cli) -> None:
    cli.create("web", "--replicas", "3", *SLEEP)
    wait_running(cli.lab, "web", 3, on=NODES)

    cli.good("node", "update", "--availability", "drain", "node-2")
    moved = wait_running(cli.lab, "web", 3)
    wait_for(lambda: running(cli.lab, "web"), lambda ts: {t["Node"] for t in ts} == {"node-1", "node-3"})
    moved = wait_running(cli.lab, "web", 3)
    old = [task for task in tasks_of(cli.lab, "web") if task["Node"] == "node-2"]
    assert {task["DesiredState"] for task in old} == {"shutdown"}

    cli.good("node", "update", "--availability", "active", "node-2")
    cli.good("service", "scale", "--detach", "web=4")
    after = wait_running(cli.lab, "web", 4)
    assert {task["ID"] for task in moved} < {task["ID"] for task in after}  # nothing is moved back
    assert next(task["Node"] for task in after if task["Slot"] == 4) == "node-2"


def test_pause_keeps_what_runs_and_takes_nothing_new(cli: Cli) -> None:
    cli.create("web", "--replicas", "3", *SLEEP)
    before = {task["ID"] for task in wait_running(cli.lab, "web", 3, on=NODES)}

    cli.good("node", "update", "--availability", "pause", "node-3")
    cli.good("service", "scale", "--detach", "web=9")
    after = wait_running(cli.lab, "web", 9)

    assert before < {task["ID"] for task in after}
    assert [task["Node"] for task in after].count("node-3") == 1
    assert cli.good("node", "inspect", "--format", "{{.Spec.Availability}}", "node-3").strip() == "pause"


def test_with_no_node_available_the_reason_is_told_and_the_end_of_it_is_noticed(cli: Cli) -> None:
    for name in NODES:
        cli.good("node", "update", "--availability", "pause" if name == "node-1" else "drain", name)
    cli.create("web", *SLEEP)

    assert why_pending(cli, "web") == "no suitable node (3 nodes not available for new tasks)"

    cli.good("node", "update", "--availability", "active", "node-2")
    wait_running(cli.lab, "web", 1, on=["node-2"])


# --- constraints


def test_a_task_follows_its_label(cli: Cli) -> None:
    cli.create("disk", "--constraint", "node.labels.disk==ssd", *SLEEP)
    assert why_pending(cli, "disk") == "no suitable node (scheduling constraints not satisfied on 3 nodes)"

    cli.good("node", "update", "--label-add", "disk=ssd", "node-2")
    wait_running(cli.lab, "disk", 1, on=["node-2"])

    cli.good("node", "update", "--label-add", "disk=ssd", "node-3")
    cli.good("node", "update", "--label-rm", "disk", "node-2")
    wait_running(cli.lab, "disk", 1, on=["node-3"])
    old = next(task for task in tasks_of(cli.lab, "disk") if task["Node"] == "node-2")
    assert (state(old), reason(old)) == ("rejected", "assigned node no longer meets constraints")


def test_constraints_by_hostname_and_role_and_their_negation(cli: Cli) -> None:
    cli.create("here", "--replicas", "2", "--constraint", "node.hostname==NODE-3", *SLEEP)
    cli.create("there", "--replicas", "4", "--constraint", "node.hostname!=node-3", *SLEEP)
    cli.create("workers", "--replicas", "4", "--constraint", "node.role != manager", *SLEEP)

    wait_running(cli.lab, "here", 2, on=["node-3"] * 2)
    wait_running(cli.lab, "there", 4, on=["node-1", "node-1", "node-2", "node-2"])
    wait_running(cli.lab, "workers", 4, on=["node-2", "node-2", "node-3", "node-3"])


def test_an_update_of_constraints_moves_only_who_has_to(cli: Cli) -> None:
    cli.create("web", "--replicas", "3", *SLEEP)
    before = {task["Node"]: task["ID"] for task in wait_running(cli.lab, "web", 3, on=NODES)}

    cli.good("service", "update", "--detach", "--constraint-add", "node.hostname!=node-1", "web")

    wait_for(
        lambda: [task["Node"] for task in running(cli.lab, "web")],
        lambda nodes: len(nodes) == 3 and "node-1" not in nodes,
        what="none should stay on node-1",
    )
    after = {task["ID"] for task in running(cli.lab, "web")}
    assert {before["node-2"], before["node-3"]} < after


# --- how many, how much


def test_max_replicas_per_node(cli: Cli) -> None:
    cli.create("few", "--replicas", "4", "--replicas-max-per-node", "1", *SLEEP)

    wait_running(cli.lab, "few", 3, on=NODES)
    assert why_pending(cli, "few") == "no suitable node (max replicas per node limit exceed)"
    shown = cli.good("service", "ls", "--format", "{{.Replicas}}", "--filter", "name=few").strip()
    assert shown == "3/4 (max 1 per node)"


def test_reservations_are_counted_and_freed(cli: Cli) -> None:
    node = cli.lab.call("node-1", "GET", "/nodes/node-1")
    memory = node["Description"]["Resources"]["MemoryBytes"]
    cli.create("half", "--replicas", "4", "--reserve-memory", str(memory * 3 // 5), *SLEEP)

    wait_running(cli.lab, "half", 3, on=NODES)
    assert why_pending(cli, "half") == "no suitable node (insufficient resources on 3 nodes)"

    cli.create("small", "--reserve-memory", str(memory // 5), *SLEEP)
    wait_running(cli.lab, "small", 1)
    cli.create("next", "--reserve-memory", str(memory * 3 // 5), *SLEEP)
    assert "insufficient resources on 3 nodes" in why_pending(cli, "next")
    cli.remove("half")
    wait_running(cli.lab, "next", 1)


def test_reasons_are_counted_node_by_node(cli: Cli) -> None:
    cli.good("node", "update", "--availability", "pause", "node-1")
    cli.create("odd", *("--constraint", "node.hostname!=node-3", "--reserve-cpu", "1000"), *SLEEP)

    why = why_pending(cli, "odd")

    assert why.startswith("no suitable node (")
    clauses = why.removeprefix("no suitable node (").removesuffix(")").split("; ")
    assert sorted(clauses) == [
        "1 node not available for new tasks",
        "insufficient resources on 2 nodes",
    ]


# --- restarts


def test_a_command_that_exits_at_once_backs_off_and_says_so(cli: Cli) -> None:
    cli.create("loop", "host", "sh", "-c", "exit 3")

    tasks = wait_for(
        lambda: [task for task in tasks_of(cli.lab, "loop") if state(task) == "failed"],
        lambda failed: len(failed) >= 4,
        what="four failures",
    )
    ends = sorted(moment(task["Status"]["Timestamp"]) for task in tasks)[:4]
    gaps = [(late - early).total_seconds() for early, late in itertools.pairwise(ends)]
    assert gaps[0] < gaps[1] < gaps[2]
    assert gaps[2] >= 2.0
    assert {reason(task) for task in tasks} == {"task: non-zero exit (3)"}

    shown = wait_for(
        lambda: cli.good("service", "ps", "--no-trunc", "loop"),
        lambda text: "restart" in text,
        what="service ps should tell of the delay",
    )
    waiting = next(line for line in shown.splitlines() if "restart" in line)
    assert "Ready" in waiting
    assert " in " in waiting
    assert '"task: non-zero exit (3)"' in shown


def test_an_explicit_delay_is_constant(cli: Cli) -> None:
    cli.create("steady", "--restart-delay", "300ms", "host", "sh", "-c", "exit 1")

    tasks = wait_for(
        lambda: [task for task in tasks_of(cli.lab, "steady") if state(task) == "failed"],
        lambda failed: len(failed) >= 4,
        what="four failures",
    )
    ends = sorted(moment(task["Status"]["Timestamp"]) for task in tasks)
    gaps = [(late - early).total_seconds() for early, late in itertools.pairwise(ends)]
    assert all(gap >= 0.3 for gap in gaps), gaps


def test_restart_condition_none_leaves_it_dead(cli: Cli) -> None:
    cli.create("once", "--restart-condition", "none", "host", "sh", "-c", "exit 9")

    assert reason(wait_ended(cli.lab, "once")) == "task: non-zero exit (9)"
    cli.create("later", *SLEEP)
    wait_running(cli.lab, "later", 1)  # by then a restart without a delay would have been made
    assert len(tasks_of(cli.lab, "once")) == 1


def test_on_failure_gives_up_after_max_attempts(cli: Cli) -> None:
    flags = ("--restart-condition", "on-failure", "--restart-delay", "10ms", "--restart-max-attempts", "2")
    cli.create("tries", *flags, "host", "false")
    cli.create("well", *flags, "host", "true")

    wait_states(cli.lab, "tries", ["failed"] * 3)
    assert state(wait_ended(cli.lab, "well")) == "complete"
    cli.create("later", *SLEEP)
    wait_running(cli.lab, "later", 1)
    assert len(tasks_of(cli.lab, "tries")) == 3
    assert cli.good("service", "ls", "--format", "{{.Replicas}}", "--filter", "name=tries").strip() == "0/1"


def test_create_waits_until_it_runs_and_fails_where_it_cannot(cli: Cli) -> None:
    said = cli("service", "create", "--name", "up", "--quiet", "--replicas", "2", *SLEEP)
    assert said.code == 0, said
    assert len(running(cli.lab, "up")) == 2

    never = ("--restart-condition", "none", "host")
    said = cli("service", "create", "--name", "down", *never, "sh", "-c", "exit 6")
    assert said.code == 1, said
    told = "a task has ended, and the service's restart policy does not start it again"
    assert said.err == f"{told}: task: non-zero exit (6)\n"
    said = cli("service", "create", "--name", "done", *never, "true")
    assert said.code == 0, said


# --- lists, numbers, packing


def test_constraints_by_list_and_number_and_a_service_that_is_packed(cli: Cli) -> None:
    cli.good("node", "update", "--label-add", "zone=b", "--label-add", "cores=8", "node-2")
    cli.good("node", "update", "--label-add", "zone=c", "--label-add", "cores=2", "node-3")
    cli.create("listed", "--replicas", "2", "--constraint", "node.labels.zone in (a, b)", *SLEEP)
    cli.create("large", "--replicas", "2", "--constraint", "node.labels.cores < 8", *SLEEP)
    cli.create("none", "--replicas", "2", "--constraint", "!exists(node.labels.zone)", *SLEEP)
    cli.create("packed", "--replicas", "3", "--placement-strategy", "binpack", *SLEEP)

    wait_running(cli.lab, "listed", 2, on=["node-2"] * 2)
    wait_running(cli.lab, "large", 2, on=["node-3"] * 2)
    wait_running(cli.lab, "none", 2, on=["node-1"] * 2)
    assert len({task["Node"] for task in wait_running(cli.lab, "packed", 3)}) == 1
    said = cli.bad("service", "create", "--constraint", "node.labels.cores > many", *SLEEP)
    assert "'many' is no number: write a number such as 4" in said


# --- nodes that empty, fill up, or are alone


def test_a_drain_starts_the_new_task_first_and_a_rebalance_fills_the_node_again(cli: Cli) -> None:
    cli.create("web", "--replicas", "6", "--update-order", "start-first", *SLEEP)
    wait_running(cli.lab, "web", 6, on=[*NODES, *NODES])

    assert cli.good("node", "drain", "--wait", "--timeout", "30s", "node-3").endswith("node-3\n")
    moved = wait_running(cli.lab, "web", 6)
    assert "node-3" not in {task["Node"] for task in moved}
    everything = {task["ID"]: task for task in tasks_of(cli.lab, "web")}
    for old in (task for task in everything.values() if task["Node"] == "node-3"):
        (new,) = (task for task in moved if task["Slot"] == old["Slot"])
        assert moment(new["Status"]["Timestamp"]) <= moment(old["Status"]["Timestamp"])

    cli.good("node", "activate", "node-3")
    told = cli.good("rebalance", "web").splitlines()
    assert len(told) == 2
    assert all(line.startswith("web.") and line.endswith(" -> node-3") for line in told)
    wait_running(cli.lab, "web", 6, on=[*NODES, *NODES])
    assert cli.good("rebalance", "web") == "web: evenly spread already\n"


def test_a_node_alone_stops_its_tasks_if_it_was_told_to(cli: Cli) -> None:
    cli.good("node", "update", "--stop-after", "1s", "node-3")
    here = "7777777.3"
    cli.create("here", "--constraint", "node.hostname==node-3", "host", "sleep", here)
    (task,) = wait_running(cli.lab, "here", 1, on=["node-3"])
    assert len(processes(here)) == 1

    cli.lab.cut("node-3")
    wait_for(lambda: processes(here), lambda found: not found, what="node-3 should stop its task")
    cli.lab.heal("node-3")

    (again,) = wait_for(
        lambda: [each for each in running(cli.lab, "here") if each["ID"] != task["ID"]],
        lambda found: len(found) == 1,
        what="another task should run on node-3",
    )
    assert again["Node"] == "node-3"
    assert len(processes(here)) == 1
    cli.good("node", "update", "--stop-after", "0s", "node-3")
