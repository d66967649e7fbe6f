"""``swarmpy network connect`` and ``disconnect``: a running task on a further network, with real packets."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from lab_cli import error, wait_for
from net_hosts import is_reachable
from net_lab import PORT, NetLab, Task, lookup, net_lab

INTERNAL = ("--internal", "--attachable")
"""Nobody outside is asked for names."""


@pytest.fixture(scope="module")
def lab() -> Iterator[NetLab]:
    with net_lab(managers=1, workers=2) as made:
        yield made


def on_node(lab: NetLab, service: str, node: str, network: str) -> Task:
    where = ("--constraint", f"node.hostname=={node}", "--network", network)
    return lab.serve(service, 1, *where)[0]


def process_of(lab: NetLab, task: Task) -> tuple[str, int]:
    """The task's id and its process: a restart would change one or the other."""
    found = lab.lab.call("node-1", "GET", f"/tasks/{task.id}")
    assert found["DesiredState"] == found["Status"]["State"] == "running"
    return found["ID"], found["Status"]["ContainerStatus"]["PID"]


def test_a_running_task_is_joined_to_another_services_network_and_taken_off_it(lab: NetLab) -> None:
    """Each meets the other by name, both ways; afterwards neither does; and nothing was restarted."""
    for network in ("shop", "office"):
        lab.network(network, *INTERNAL)
    web, desk = on_node(lab, "web", "node-2", "shop"), on_node(lab, "desk", "node-3", "office")
    before = process_of(lab, web), process_of(lab, desk)
    assert lookup(desk.path, "web") == lookup(web.path, desk.name) == []
    assert not is_reachable(desk.path, web.at["shop"], PORT)

    lab.good("network", "connect", "--alias", "clerk", "shop", desk.name)
    (joined,) = lab.tasks("desk")
    assert set(joined.at) == {"office", "shop"}
    assert lookup(desk.path, "web") == [lab.vip("web", "shop")]
    assert lookup(desk.path, "tasks.web") == [web.at["shop"]]
    assert lab.meet(desk, lab.vip("web", "shop")).task == web.id
    for name in ("clerk", desk.name):
        wait_for(lambda name=name: lookup(web.path, name) == [joined.at["shop"]])  # type: ignore[misc]
    met = lab.meet(web, joined.at["shop"])
    assert (met.task, met.seen[0]) == (desk.id, web.at["shop"])
    assert lookup(desk.path, "desk") == [lab.vip("desk", "office")], "as before"
    exists = f"{desk.name} is already attached to network shop"
    assert lab.bad("network", "connect", "shop", desk.id) == error(exists)

    lab.good("network", "disconnect", "shop", desk.id)
    assert set(lab.tasks("desk")[0].at) == {"office"}
    wait_for(lambda: lookup(web.path, "clerk") == [])
    assert lookup(desk.path, "web") == []
    assert not is_reachable(desk.path, web.at["shop"], PORT)
    assert not is_reachable(web.path, joined.at["shop"], PORT)
    off = f"container {desk.id} is not connected to network shop"
    assert lab.bad("network", "disconnect", "shop", desk.id) == error(off)
    assert (process_of(lab, web), process_of(lab, desk)) == before
    lab.remove("web", "desk")
    lab.good("network", "rm", "shop", "office")


def test_what_was_joined_outlives_the_daemon_and_not_the_task(lab: NetLab) -> None:
    for network in ("shop", "office"):
        lab.network(network, *INTERNAL)
    web, desk = on_node(lab, "web", "node-2", "shop"), on_node(lab, "desk", "node-3", "office")
    lab.good("network", "connect", "shop", desk.id)
    address = lab.tasks("desk")[0].at["shop"]
    lab.lab.restart("node-3")
    assert lab.meet(web, address).task == desk.id
    lab.good("service", "update", "--force", "--detach", "desk")
    (successor,) = wait_for(
        lambda: [task for task in lab.tasks("desk") if task.id != desk.id], what="the successor should run"
    )
    assert set(successor.at) == {"office"}
    wait_for(lambda: lab.inspect("network", "shop", "--verbose")["Services"].keys() == {"web"})
    lab.remove("web", "desk")
    lab.good("network", "rm", "shop", "office")
