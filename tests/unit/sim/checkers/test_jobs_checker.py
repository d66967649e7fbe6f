"""The checker of jobs finds what it is there to find, and nothing in what is right."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from swarmpy.model.ids import ServiceId, TaskId, Timestamp
from swarmpy.model.objects import CronRun, CronStatus, JobStatus, Service, Task, TaskStatus
from swarmpy.model.specs import CronJob, ReplicatedJob, ServiceMode, ServiceSpec
from swarmpy.model.states import RunState, TaskState
from swarmpy.sim.checkers.jobs import Jobs
from swarmpy.sim.checkers.violations import Violations

JOB = ServiceMode(replicated_job=ReplicatedJob(total_completions=3, max_concurrent=2))
CRON = ServiceMode(cron_job=CronJob(schedule="@daily", total_completions=1, max_concurrent=1))


class Bench:
    def __init__(self, mode: ServiceMode) -> None:
        self.violations = Violations()
        self.checker = Jobs(self.violations)
        self.service = Service(
            id=ServiceId("s"), spec=ServiceSpec(name="s", mode=mode), job_status=JobStatus()
        )
        self.checker.service_event(None, self.service)

    def change(self, **fields: Any) -> None:
        old, self.service = self.service, replace(self.service, **fields)
        self.checker.service_event(old, self.service)

    def begin(self, *slots: int, run: int = 0) -> list[Task]:
        tasks = [
            Task(
                id=TaskId(f"t{run}.{slot}"),
                service_id=ServiceId("s"),
                slot=slot,
                job_iteration=run,
                desired_state=TaskState.COMPLETE,
            )
            for slot in slots
        ]
        for task in tasks:
            self.checker.task_event(None, task)
        self.checker.batch_end()
        return tasks

    def end(self, task: Task) -> None:
        self.checker.task_event(task, replace(task, status=TaskStatus(state=TaskState.COMPLETE)))
        self.checker.batch_end()

    @property
    def found(self) -> list[str]:
        return [violation.sentence for violation in self.violations]


def cron_status(last: int, *runs: tuple[int, int]) -> CronStatus:
    return CronStatus(
        last_tick=Timestamp(last),
        runs=tuple(
            CronRun(iteration=number, tick=Timestamp(tick), state=RunState.RUNNING) for number, tick in runs
        ),
    )


def ran(iteration: int, status: CronStatus) -> dict[str, Any]:
    return {"job_status": JobStatus(iteration=iteration), "cron_status": status}


def test_a_job_as_it_should_be() -> None:
    bench = Bench(JOB)
    first, second = bench.begin(0, 1)
    bench.end(first)
    bench.begin(2)
    bench.end(second)
    bench.change(job_status=JobStatus(iteration=1))
    bench.begin(0, 1, run=1)
    assert bench.found == []


def test_too_many_at_work() -> None:
    bench = Bench(JOB)
    bench.begin(0, 1)
    bench.begin(2)
    assert bench.found == ["service s has 3 tasks of run 0 at work and may have 2"]


def test_a_slot_too_many() -> None:
    bench = Bench(JOB)
    bench.begin(3)
    assert bench.found == ["service s has 3 slots and a task in slot 3"]


@pytest.mark.parametrize(("before", "after"), [(0, 2), (1, 0)])
def test_an_iteration_that_jumps(before: int, after: int) -> None:
    bench = Bench(JOB)
    bench.service = replace(bench.service, job_status=JobStatus(iteration=before))
    bench.change(job_status=JobStatus(iteration=after))
    assert bench.found == [f"service s went from iteration {before} to {after}"]


def test_a_cron_job_as_it_should_be() -> None:
    bench = Bench(CRON)
    bench.change(**ran(0, cron_status(5)))
    bench.change(**ran(1, cron_status(10, (1, 10))))
    bench.change(**ran(1, cron_status(20, (1, 10))))
    bench.change(**ran(2, cron_status(30, (1, 10), (2, 30))))
    assert bench.found == []


@pytest.mark.parametrize(
    ("status", "iteration", "told"),
    [
        (cron_status(20, (1, 10), (2, 10)), 2, "service s has run 2 for tick 10, which run 1 was for"),
        (cron_status(20, (1, 20)), 1, "service s has run 1 for tick 20, which run 1 was for"),
        (cron_status(5, (1, 10)), 1, "service s goes back behind its tick 10 to 5"),
        (cron_status(10, (1, 10)), 2, "service s began run 2 without a tick"),
    ],
)
def test_a_tick_that_is_run_twice(status: CronStatus, iteration: int, told: str) -> None:
    bench = Bench(CRON)
    bench.change(**ran(0, cron_status(5)))
    bench.change(**ran(1, cron_status(10, (1, 10))))
    bench.change(**ran(iteration, status))
    assert bench.found == [told]
