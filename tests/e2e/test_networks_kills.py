"""What connections and names live through: dead nodes, dead daemons, a dead leader, scaling and updates.

Three managers and a worker, shared; every test leaves the lab whole and as it was.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from lab_cli import tasks_of, wait_for, wait_node
from net_hosts import PATIENCE_S, command_in, is_reachable
from net_lab import (
    PORT,
    Load,
    NetLab,
    Open,
    Task,
    answers,
    belongings,
    lookup,
    net_lab,
    wait_same,
)

from swarmpy.lab.cluster import Daemon

WORKER = "node-4"
PUBLISHED = 8080


@pytest.fixture(scope="module")
def whole() -> Iterator[NetLab]:
    with net_lab(managers=3, workers=1) as lab:
        yield lab


@pytest.fixture
def lab(whole: NetLab) -> Iterator[NetLab]:
    """With a network ``shop``; nothing of a test is left on any host."""
    whole.at = whole.lab.leader()
    before = {name: belongings(whole, name) for name in whole.names}
    whole.network("shop", "--internal")  # nobody outside is asked for names
    yield whole
    for row in whole.lab.status():
        if row.daemon in (Daemon.DEAD, Daemon.OFF):
            whole.lab.start(row.name)
    whole.lab.wait_ready()
    whole.at = whole.lab.leader()
    whole.remove_all()
    whole.good("network", "rm", "shop")
    for name in whole.names:
        wait_same(lambda name=name: belongings(whole, name), before[name], what=name)  # type: ignore[misc]


def serve(lab: NetLab, replicas: int, *words: str) -> list[Task]:
    return lab.serve("web", replicas, "--network", "shop", "--publish", f"{PUBLISHED}:{PORT}", *words)


def client(lab: NetLab, *words: str) -> Task:
    return lab.serve("client", 1, "--network", "shop", *words)[0]


def open_to_all(stack: ExitStack, tasks: list[Task], opened: list[Open], *where: object) -> None:
    """Connections until each task has two: one that will talk, one that stays idle."""
    wanted = {task.id: 2 for task in tasks}
    for _ in range(400):
        if not any(wanted.values()):
            return
        connection = Open(*where)  # type: ignore[arg-type]
        stack.callback(connection.close)
        opened.append(connection)
        wanted[connection.task] = max(0, wanted[connection.task] - 1)
    raise AssertionError(f"no connection led to some of the tasks: {wanted}")


def backends(task: Task) -> set[str]:
    """Where virtual addresses lead, by the task's own table."""
    shown = command_in(task.path, "nft", "list", "map", "inet", "swarmpy_vip", "ip_slots")
    return set(re.findall(r" : ([0-9.]+)", shown))


def holds_not(lab: NetLab, clients: list[Task], gone: Task, network: str = "shop") -> None:
    """The task's address is in no client's slots and names, and in no node's published ports."""
    for each in clients:
        wait_for(
            lambda each=each: gone.at[network] not in {*backends(each), *lookup(each.path, "tasks.web")},  # type: ignore[misc]
            what=f"{gone.name} should be gone for {each.name}",
        )
    for name in {each.node for each in clients}:
        wait_for(
            lambda name=name: (  # type: ignore[misc]
                gone.at["ingress"]
                not in command_in(lab.path(name), "nft", "list", "table", "inet", "swarmpy_mesh")
            ),
            what=f"{gone.name} should be gone from the ports of {name}",
        )


def test_a_node_loses_its_power(lab: NetLab) -> None:
    tasks = serve(lab, 4)
    here = client(lab, "--constraint", "node.hostname==node-1")
    dead = next(task for task in tasks if task.node == WORKER)
    with ExitStack() as stack:
        opened: list[Open] = []
        meshed: list[Open] = []
        open_to_all(stack, tasks, opened, here.path, lab.vip("web", "shop"))
        open_to_all(stack, tasks, meshed, lab.path(), lab.address("node-1"), PUBLISHED)
        lab.lab.kill(WORKER, host=True)
        for each in opened:
            each.socket.settimeout(40.0)
            if each.task == dead.id:
                with pytest.raises(ConnectionError):  # never a timeout: it is told, though it says nothing
                    each.socket.recv(1)
        holds_not(lab, [task for task in tasks if task.id != dead.id] + [here], dead)
        for each in opened + meshed:
            if each.task != dead.id:
                assert each.talk() == each.task, "the others' live on"
        lab.meet_all(here, lab.vip("web", "shop"), among=lab.wait_tasks("web", 4))
    wait_node(lab.lab, WORKER, "down")


def test_daemons_restart_under_open_connections(lab: NetLab) -> None:
    """In good order, as for an upgrade: on the client's node, on that of the published port, on all."""
    tasks = serve(lab, 4)
    here = client(lab, "--constraint", "node.hostname==node-3")
    vip = lab.vip("web", "shop")
    with ExitStack() as stack:
        opened: list[Open] = []
        open_to_all(stack, tasks, opened, here.path, vip)
        open_to_all(stack, tasks, opened, lab.path(), lab.address(WORKER), PUBLISHED)
        loads = [
            stack.enter_context(Load(here.path, vip)),
            stack.enter_context(Load(lab.path(), lab.address(WORKER), PUBLISHED)),
        ]
        for name in lab.names:
            lab.lab.stop(name)
            assert all(each.talk() == each.task for each in opened), "without a daemon"
            lab.lab.start(name)
            lab.lab.wait_ready()
            assert all(each.talk() == each.task for each in opened), "with a new one"
            wait_for(lambda: lookup(here.path, "web") == [vip], what="names should be answered again")
    for load in loads:
        assert not load.failures, load.failures[:3]
        assert set(load.met) == {task.id for task in tasks}


def test_the_daemon_of_an_entry_dies(lab: NetLab) -> None:
    """kill -9, and its node may be given up: what comes in there is led on all the same, old and new."""
    tasks = serve(lab, 3, "--constraint", f"node.hostname!={WORKER}")
    with ExitStack() as stack:
        opened: list[Open] = []
        open_to_all(stack, tasks, opened, lab.path(), lab.address(WORKER), PUBLISHED)
        load = stack.enter_context(Load(lab.path(), lab.address(WORKER), PUBLISHED))
        lab.lab.kill(WORKER)
        wait_node(lab.lab, WORKER, "down")
        lab.meet_all(lab.path(), lab.address(WORKER), PUBLISHED, among=tasks)
        lab.lab.start(WORKER)
        lab.lab.wait_ready()
        assert all(each.talk() == each.task for each in opened)
    assert not load.failures, load.failures[:3]


def test_the_leader_dies(lab: NetLab) -> None:
    """Its node may be given up before it is back; no connection that does not lead there may notice."""
    tasks = serve(lab, 4)
    leader = lab.lab.leader()
    other = next(name for name in lab.names if name not in (leader, WORKER))
    here = client(lab, "--constraint", f"node.hostname=={other}")
    vip = lab.vip("web", "shop")
    with ExitStack() as stack:
        opened: list[Open] = []
        open_to_all(stack, tasks, opened, here.path, vip)
        open_to_all(stack, tasks, opened, lab.path(), lab.address(other), PUBLISHED)
        lasting = [each for each in opened for task in tasks if each.task == task.id and task.node != leader]
        with (
            Load(here.path, vip, is_patient=True) as inside,
            Load(lab.path(), lab.address(other), PUBLISHED, is_patient=True) as outside,
        ):
            lab.lab.kill(leader)
            lab.at = other
            wait_for(lambda: lab.lab.leader() != leader, what="another should lead")
            lab.lab.start(leader)
            lab.lab.wait_ready()
            lab.good("service", "scale", "--detach", "web=6")
            new = {task.id for task in lab.wait_tasks("web", 6)} - {task.id for task in tasks}
            wait_for(lambda: new <= set(inside.met) & set(outside.met), what="new tasks should be met")
        failures = inside.failures + outside.failures
        assert not failures, failures[:3]
        assert all(each.talk() == each.task for each in lasting)


def loads_on(stack: ExitStack, lab: NetLab, here: Task, *, is_patient: bool) -> list[Load]:
    """From a task, from outside, and from a node itself."""
    ways = (
        (here.path, lab.vip("web", "shop"), PORT),
        (lab.path(), lab.address("node-1"), PUBLISHED),
        (lab.path(WORKER), "127.0.0.1", PUBLISHED),
    )
    return [stack.enter_context(Load(*way, is_patient=is_patient)) for way in ways]


def test_no_request_fails_while_tasks_are_stopped(lab: NetLab) -> None:
    """A task is gone from everywhere before it is told to stop."""
    serve(lab, 6)
    here = client(lab)
    with ExitStack() as stack:
        loads = loads_on(stack, lab, here, is_patient=False)
        for count in (4, 2):
            lab.good("service", "scale", "--detach", f"web={count}")
            left = lab.wait_tasks("web", count)
            wait_for(
                lambda: len(tasks_of(lab.lab, "web")),
                lambda all_, count=count: all_ == count,  # type: ignore[misc]
                what="the others should have ended",
            )
            assert {task.at["shop"] for task in left} | {here.at["shop"]} == backends(here)
            before = [load.count for load in loads]
            wait_for(
                lambda before=before: all(  # type: ignore[misc]
                    load.count > count + 20 for load, count in zip(loads, before, strict=True)
                )
            )
    for load in loads:
        assert not load.failures, f"{len(load.failures)} of {load.count}: {load.failures[:3]}"


def test_no_request_fails_while_a_service_grows_and_is_updated(lab: NetLab) -> None:
    serve(lab, 2, "--update-order", "start-first", "--update-parallelism", "2")
    here = client(lab)
    with ExitStack() as stack:
        loads = loads_on(stack, lab, here, is_patient=True)
        lab.good("service", "scale", "--detach", "web=6")
        before = {task.id for task in lab.wait_tasks("web", 6)}
        wait_for(lambda: all(before <= set(load.met) for load in loads), what="all should be met")
        lab.good("service", "update", "--detach", "--force", "web")
        after = wait_for(
            lambda: lab.tasks("web"),
            lambda tasks: len(tasks) == 6 and not before & {task.id for task in tasks},
            what="all should be new",
        )
        new = {task.id for task in after}
        wait_for(lambda: all(new <= set(load.met) for load in loads), what="the new should be met")
    for load in loads:
        assert not load.failures, f"{len(load.failures)} of {load.count}: {load.failures[:3]}"


def test_what_is_removed_refuses_at_once_and_is_gone(lab: NetLab) -> None:
    serve(lab, 2)
    here = client(lab)
    vip = lab.vip("web", "shop")
    assert answers(here.path, vip, timeout_s=PATIENCE_S)
    said = lab.bad("network", "rm", "shop")
    assert "in use" in said
    lab.remove("web")
    wait_for(lambda: lookup(here.path, "web") == [], what="its name should be gone")
    wait_for(lambda: vip not in command_in(here.path, "nft", "list", "table", "inet", "swarmpy_vip"))
    assert not is_reachable(here.path, vip, PORT)
    for name in lab.names:
        wait_for(
            lambda name=name: not is_reachable(lab.path(), lab.address(name), PUBLISHED),  # type: ignore[misc]
            what=f"{name} should not serve it",
        )
