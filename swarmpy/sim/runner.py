"""Many simulated lives, one seed each, in as many processes as there are cores; what is printed of them."""

from __future__ import annotations

import multiprocessing
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace

from swarmpy.sim.workload import Shape, tasks_of
from swarmpy.sim.world import Options, Report, World

VIOLATIONS_SHOWN = 10
LINES_SHOWN = 60


def run_one(options: Options) -> Report:
    return World(options).run()


def run_many(options: Options, seeds: Sequence[int], *, processes: int = 0) -> Iterator[Report]:
    """The reports, as they come. ``processes`` 0: one for each core."""
    workers = min(len(seeds), processes or os.cpu_count() or 1)
    # not forked: a fork of a process with gRPC in it may hang
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, max_tasks_per_child=1) as pool:
        futures = [pool.submit(run_one, replace(options, seed=seed)) for seed in seeds]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def line_of(report: Report) -> str:
    """One run in one line."""
    rest = (
        "never at rest" if report.converged_in_s is None else f"at rest after {report.converged_in_s:.0f} s"
    )
    operations = report.summary.operations if report.summary is not None else 0
    return (
        f"seed {report.options.seed:<5} {'ok ' if report.is_good else 'BAD'} "
        f"{report.virtual_s:7.0f} virtual s in {report.wall_s:6.1f} s  "
        f"{report.faults.total():4} faults  {operations:5} calls  {rest}  {report.digest}"
    )


def details(report: Report, *, command: str) -> list[str]:
    """What went wrong in a run, what came last, and how to see it again."""
    lines = [f"seed {report.options.seed}: {len(report.violations)} violations"]
    lines += [f"  {violation}" for violation in report.violations[:VIOLATIONS_SHOWN]]
    if report.summary is not None and report.summary.undecided:
        lines.append(
            f"  not decided within its bounds: the order of calls on {', '.join(report.summary.undecided)}"
        )
    lines += [f"  logged: {first_line}" for first_line in _first_lines(report.errors)]
    lines.append("  the last events before:")
    lines += [f"    {line}" for line in report.last_lines[-LINES_SHOWN:]]
    lines.append(f"  to see it again: {command}")
    return lines


def _first_lines(errors: Iterable[str]) -> Iterator[str]:
    for error in list(errors)[:VIOLATIONS_SHOWN]:
        yield error.partition("\n")[0]


def table(reports: Sequence[Report]) -> list[str]:
    """All runs together."""
    faults: Counter[str] = Counter()
    stats: Counter[str] = Counter()
    for report in reports:
        faults += report.faults
        stats += report.stats
    virtual_s = sum(report.virtual_s for report in reports)
    wall_s = sum(report.wall_s for report in reports)
    calls = sum(report.summary.operations for report in reports if report.summary is not None)
    bad = [report.options.seed for report in reports if not report.is_good]
    lines = [
        f"{len(reports)} seeds, {len(bad)} bad" + (f": {', '.join(map(str, sorted(bad)))}" if bad else ""),
        f"{virtual_s:.0f} virtual seconds, {virtual_s / wall_s:.1f} per second of one core",
        f"{calls} calls of clients, {stats['messages']} messages between nodes",
        f"{faults.total()} faults:",
    ]
    lines += _columns(faults)
    points = Counter(
        {name.removeprefix("fault point "): n for name, n in stats.items() if name.startswith("fault")}
    )
    if points:
        lines.append(f"{points.total()} fault points in the code:")
        lines += _columns(points)
    return lines


def _columns(counts: Counter[str]) -> list[str]:
    return [f"  {name:<28}{count:>8}" for name, count in sorted(counts.items())]


def replay(options: Options, program: str = "swarmpy sim") -> str:
    """The command that makes the same run; but for a stack, which has its own flags."""
    shape = options.shape
    words = [program, f"--seed {options.seed}", f"--nodes {options.nodes}", f"--managers {options.managers}"]
    words.append(f"--minutes {options.minutes:g}")
    if options.faults != Options().faults:
        words.append(f"--faults {','.join(options.faults) or 'none'}")
    if options.fault_gap_s != Options().fault_gap_s:
        words.append(f"--gap {options.fault_gap_s:g}")
    if shape.tasks != tasks_of(options.nodes):
        words.append(f"--tasks {shape.tasks}")
    if shape.clients != Shape.clients:
        words.append(f"--clients {shape.clients}")
    if options.is_liveness:
        words.append("--liveness")
    return " ".join(words)
