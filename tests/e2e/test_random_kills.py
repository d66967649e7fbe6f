"""Daemons and hosts are killed, paused and cut off at random while services are written and read.

Afterwards every acknowledged write holds, on every manager alike, refused ones have left no trace, what is
wanted runs and nothing else does. ``make crash-test MINUTES=5`` runs it for longer. The seed is printed; the
kernel's and the network's timing are not ours to repeat.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

import pytest
from crash_faults import PERIOD_S, Fault, Wrecker, all_live_tasks, live_tasks
from crash_load import Owned, Sampler, Writer, label_of, spec
from lab_cli import tasks_of, wait_for
from lab_services import lab_of

from swarmpy.lab import hosts
from swarmpy.lab.cluster import Lab

DURATION_S: Final = float(os.environ.get("CRASH_MINUTES", "0")) * 60 or 75.0
WRITERS: Final = 3
SETTLE_S: Final = 90.0
SHIM_LOST: Final = "task: non-zero exit (137): the task's shim was killed, and the task with it"
"""What a host says of its tasks when it is back from a power failure."""
MARK: Final = f"8000{os.getpid()}"


pytestmark = pytest.mark.timeout(DURATION_S + 4 * SETTLE_S)


@pytest.fixture
def lab() -> Iterator[Lab]:
    with lab_of(managers=3, workers=2) as lab:
        yield lab


def test_nothing_acknowledged_is_lost_and_nothing_unwanted_is_left(lab: Lab) -> None:
    seed = int(os.environ.get("SEED") or "0") or random.SystemRandom().randrange(1, 1 << 31)
    print(f"SEED={seed}, {DURATION_S:.0f} s")
    lab.call("node-1", "POST", "/services/create", spec("steady", 10, MARK))
    wait_for(lambda: len(all_live_tasks(lab, MARK)) == 10, what="ten tasks should run")
    first = all_live_tasks(lab, MARK)
    until = time.monotonic() + DURATION_S
    writers = [Writer(lab, seed=seed + number, until=until, mark=MARK) for number in range(1, WRITERS + 1)]
    sampler = Sampler(lab, until=until)
    wrecker = Wrecker(lab, seed, MARK)

    for thread in (*writers, sampler):
        thread.start()
    try:
        wrecker.run(until)
    finally:
        for thread in (*writers, sampler):
            thread.join()
    lab.wait_ready(timeout_s=SETTLE_S)

    counts: Counter[str] = sum((writer.history.counts for writer in writers), Counter())
    print(f"faults: {show(wrecker.counts)}")
    print(f"requests: {show(counts)}; {sampler.compared} digests compared")
    defects = [defect for writer in writers for defect in writer.history.defects]
    defects += wrecker.defects + sampler.defects
    print("\n".join(defects))
    assert defects == []
    assert wrecker.counts.total() >= DURATION_S / PERIOD_S / 2
    assert counts["create acknowledged"] >= 20, "the load was too small to say anything"
    services = {name: owned for writer in writers for name, owned in writer.history.services.items()}
    check_services(lab, services, gone={name for writer in writers for name in writer.history.gone})
    check_tasks(lab, first, had_power_failures=bool(wrecker.counts[Fault.POWER]))
    wait_for(lambda: digests(sampler), lambda found: len(found) == 1, what="the stores should be equal")
    assert sampler.defects == []
    assert [host.name for host in lab.layout.hosts if hosts.daemon(host) is None] == []


def show(counts: Counter[Any]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))


def digests(sampler: Sampler) -> set[tuple[int, str]]:
    """Where each manager stands, and what its store is; None of one that does not answer is a difference."""
    shown = [sampler.sample(host.name) or {} for host in sampler.lab.layout.managers]
    return {(each.get("Applied", 0), each.get("Digest", "")) for each in shown}


def check_services(lab: Lab, services: dict[str, Owned], *, gone: set[str]) -> None:
    """Each acknowledged service is there once, under its id, as last written, on every manager.

    What was removed, or refused for want of a leader, is not.
    """
    lists = [
        sorted(
            (each["Spec"]["Name"], each["ID"], label_of(each), each["Version"]["Index"])
            for each in lab.call(at, "GET", "/services")
        )
        for at in (host.name for host in lab.layout.managers)
    ]
    assert lists[0] == lists[1] == lists[2]
    found = {name: (id_, label) for name, id_, label, _ in lists[0]}
    assert len(found) == len(lists[0]), "a name stands there twice"
    for name, owned in services.items():
        if owned.is_open and name not in found:
            continue
        assert name in found, f"{name} was acknowledged and is lost"
        id_, label = found[name]
        assert id_ == owned.id_ or not owned.id_
        assert label in owned.labels, f"{name}: label {label} is none of {owned.labels}"
    assert not gone & set(found)
    assert set(found) <= set(services) | {"steady"}


def check_tasks(lab: Lab, first: dict[str, set[int]], *, had_power_failures: bool) -> None:
    """What is wanted runs, once and on the right host, nothing else does, and what has run on is the same."""
    services = lab.call("node-1", "GET", "/services")
    wanted = {each["ID"]: each["Spec"]["Mode"]["Replicated"]["Replicas"] for each in services}

    def is_settled() -> list[str]:
        """What is still wrong."""
        wrong = []
        tasks = [task for task in tasks_of(lab) if task["DesiredState"] == "running"]
        running = [task for task in tasks if task["Status"]["State"] == "running"]
        for id_, replicas in wanted.items():
            count = sum(task["ServiceID"] == id_ for task in running)
            if count != replicas:
                wrong.append(f"{count} of {replicas} tasks of {id_} run")
        on_hosts = {
            (host.name, task) for host in lab.layout.hosts for task in live_tasks(lab, host.name, MARK)
        }
        in_store = {(task["Node"], task["ID"]) for task in running}
        wrong += [f"orphan {task} on {name}" for name, task in sorted(on_hosts - in_store)]
        wrong += [f"{task} does not run on {name}" for name, task in sorted(in_store - on_hosts)]
        return wrong

    wait_for(is_settled, lambda wrong: wrong == [], what="desired should be running", timeout_s=SETTLE_S)
    now = all_live_tasks(lab, MARK)
    for task in first.keys() & now.keys():
        assert now[task] == first[task], f"task {task} was started again"
    ends = {
        task["Status"].get("Err", "")
        for task in tasks_of(lab)
        if task["Status"]["State"] in ("failed", "rejected")
    }
    assert ends <= ({SHIM_LOST} if had_power_failures else set()), "no task has come to grief by itself"
