"""``swarmpy sim``: a swarm in virtual time, with faults, from a seed; with a stack of one's own if given."""

from __future__ import annotations

import shlex
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TextIO

from swarmpy.cli.flags import Command, Options, UsageError, listed, number, switch, text
from swarmpy.cli.session import Session
from swarmpy.errors import InvalidArgument
from swarmpy.limits import REPLICAS_MAX

if TYPE_CHECKING:
    from swarmpy.sim.world import Options as WorldOptions
    from swarmpy.sim.world import Report

NO_FAULTS = "none"
STACK_NAME = "stack"
HOSTS_MAX = 20_000
SEEDS_MAX = 100_000
CLIENTS_MAX = 1_000
MINUTES_MAX = 60.0 * 24
GAP_MIN_S, GAP_MAX_S = 0.1, 3600.0


def sim(session: Session, arguments: list[str], options: Options) -> int:
    from swarmpy.sim import runner

    wish, seeds = wish_of(session, options), seeds_of(options)
    began = time.monotonic()
    reports: list[Report] = []
    log_path = options.text("log")
    if log_path and len(seeds) > 1:
        raise UsageError("--log takes the events of one run: give one seed")
    stack_flags = "".join(f" -c {shlex.quote(path)}" for path in options.many("compose-file"))
    runs = _run_here(wish, seeds[0], log_path) if len(seeds) == 1 else runner.run_many(wish, seeds)
    for report in runs:
        reports.append(report)
        print(runner.line_of(report), flush=True)
        if not report.is_good:
            command = runner.replay(report.options) + stack_flags
            print("\n".join(runner.details(report, command=command)), flush=True)
    print("", *runner.table(reports), f"{time.monotonic() - began:.0f} s in all", sep="\n")
    return 0 if all(report.is_good for report in reports) else 1


def _run_here(wish: WorldOptions, seed: int, log_path: str) -> list[Report]:
    """One run, which says how far it is."""
    from swarmpy.sim.world import World

    def tell(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    with _log_at(log_path) as log:
        return [World(with_seed(wish, seed), on_progress=tell, log=log).run()]


def _log_at(path: str) -> AbstractContextManager[TextIO | None]:
    try:
        return open(path, "w") if path else nullcontext()
    except OSError as error:
        raise InvalidArgument(f"{path} cannot be written: {error.strerror}") from error


def with_seed(wish: WorldOptions, seed: int) -> WorldOptions:
    return replace(wish, seed=seed)


def wish_of(session: Session, options: Options) -> WorldOptions:
    """What the flags ask for, but for the seed."""
    from swarmpy.sim.workload import shape_of, tasks_of
    from swarmpy.sim.world import Options as WorldOptions

    managers, nodes = options.number("managers"), options.number("nodes")
    if not 1 <= managers <= nodes <= HOSTS_MAX:
        raise UsageError(f"give at least one manager, and from that many to {HOSTS_MAX} nodes")
    tasks = _count(options, "tasks", most=REPLICAS_MAX) or tasks_of(nodes)
    stack, networks = _stack(session, options.many("compose-file"))
    return WorldOptions(
        managers=managers,
        nodes=nodes,
        minutes=_decimal(options, "minutes", "a number", 0, MINUTES_MAX),
        fault_gap_s=_decimal(options, "gap", "seconds", GAP_MIN_S, GAP_MAX_S),
        faults=_faults(options.text("faults")),
        is_liveness=options.on("liveness"),
        shape=shape_of(tasks, clients=_count(options, "clients", most=CLIENTS_MAX)),
        stack=stack,
        networks=networks,
    )


def seeds_of(options: Options) -> list[int]:
    first, count = options.text("seed"), _count(options, "seeds", most=SEEDS_MAX)
    low, dash, high = first.partition("-")
    try:
        begin, end = int(low), int(high) if dash else int(low) + max(count, 1) - 1
    except ValueError:
        raise UsageError(f'invalid argument "{first}" for "--seed" flag: give a number, or A-B') from None
    if end < begin:
        raise UsageError(f'invalid argument "{first}" for "--seed" flag: the last comes before the first')
    if end - begin >= SEEDS_MAX:
        raise UsageError(f'invalid argument "{first}" for "--seed" flag: give {SEEDS_MAX} seeds at the most')
    return list(range(begin, end + 1))


def _decimal(options: Options, flag: str, what: str, least: float, most: float) -> float:
    given = options.text(flag)
    try:
        value = float(given)
    except ValueError:
        value = float("nan")
    if not least <= value <= most:
        raise UsageError(
            f'invalid argument "{given}" for "--{flag}" flag: give {what} from {least:g} to {most:g}'
        )
    return value


def _count(options: Options, flag: str, *, most: int) -> int:
    value = options.number(flag)
    if not 0 <= value <= most:
        raise UsageError(f'invalid argument "{value}" for "--{flag}" flag: give a number from 0 to {most}')
    return value


def _faults(given: str) -> tuple[str, ...]:
    from swarmpy.sim.faults import FAULTS

    if not given:
        return tuple(FAULTS)
    names = [] if given == NO_FAULTS else given.split(",")
    for name in names:
        if name not in FAULTS:
            known = ", ".join(FAULTS)
            raise UsageError(f'invalid argument "{name}" for "--faults" flag: give some of {known}, or none')
    return tuple(names)


Bodies = tuple[dict[str, Any], ...]


def _stack(session: Session, paths: list[str]) -> tuple[Bodies, Bodies]:
    """The specs of the user's stack and its networks, as the API takes them. In a simulated swarm there are
    no networks from outside, so those are made, too."""
    if not paths:
        return (), ()
    import json

    from manager.api.docker_json import encode
    from swarmpy.cli import stack_files
    from swarmpy.compose.runnable import without_files

    stack, _ = stack_files.read(STACK_NAME, paths, environment=session.environment)
    stack = without_files(stack)
    for warning in stack.warnings:
        print(warning, file=sys.stderr)
    services = tuple(json.loads(encode(service.spec)) for service in stack.services)
    return services, tuple(network.request() for network in stack.networks if not network.is_predefined)


COMMANDS = {
    "sim": Command(
        sim,
        "Run a swarm in virtual time, with faults, and judge it",
        flags=(
            number("nodes", "How many nodes, managers included", default="10"),
            number("managers", "How many of them are managers", default="3"),
            text("seed", "Seed of the first run, or A-B: the same seed makes the same run", default="1"),
            number("seeds", "How many runs, each with the next seed, as many at a time as there are cores"),
            text("minutes", "Virtual minutes of faults and clients", default="2"),
            text("faults", "Which faults, separated by commas (default all of them; none for none)"),
            text("gap", "Virtual seconds between two faults, on the average", default="3"),
            switch("liveness", "Faults never end, but spare a majority, which must get its work done"),
            number("tasks", "Replicas of all services together, about (default two a node)"),
            number("clients", "Clients at a time", default="4"),
            listed("compose-file", "Run this stack instead of random services", short="c"),
            text("log", "Write every event of the run to this file"),
        ),
    )
}
