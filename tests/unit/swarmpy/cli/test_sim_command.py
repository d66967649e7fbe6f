"""``swarmpy sim``: what it prints, what it takes, what it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import structlog

from swarmpy.cli.app import main
from swarmpy.sim.checkers.violations import Violation
from swarmpy.sim.runner import replay
from swarmpy.sim.workload import shape_of, tasks_of
from swarmpy.sim.world import Options, Report, World

STACK = """
services:
  web:
    image: web:1
    deploy: {replicas: 3}
  agent:
    image: agent:1
    deploy: {mode: global}
"""


@pytest.fixture(autouse=True)
def _own_log() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def sim(*words: str) -> int:
    return main(["sim", *words], {})


def test_a_run_is_told_in_a_line_and_a_table(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    log = tmp_path / "events"
    assert sim("--nodes", "4", "--minutes", "0.1", "--faults", "kill,power", "--log", str(log)) == 0
    out, err = capsys.readouterr()
    first, *rest = out.splitlines()
    assert first.startswith("seed 1     ok ")
    assert "1 seeds, 0 bad" in rest
    assert "healing" in err
    assert "phase founding" in log.read_text()


def test_faults_come_as_often_as_asked_for_and_the_command_to_repeat_a_run_says_so(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert sim("--nodes", "3", "--minutes", "0.5", "--faults", "duplicate", "--gap", "0.2") == 0
    line = capsys.readouterr().out.splitlines()[0]
    assert int(line.partition(" faults")[0].split()[-1]) > 75
    assert "--gap 0.2 " in f"{replay(Options(fault_gap_s=0.2))} "
    assert "--gap" not in replay(Options())


def test_the_users_own_stack_is_run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    stack, log = tmp_path / "stack.yml", tmp_path / "events"
    stack.write_text(STACK)
    words = ("-c", str(stack), "--nodes", "4", "--minutes", "0.1", "--faults", "none", "--log", str(log))
    assert sim(*words) == 0
    events = log.read_text()
    assert "name=stack_web" in events
    assert "name=stack_agent" in events
    assert "client remove" not in events


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--seed", "x"], 'invalid argument "x" for "--seed" flag: give a number, or A-B'),
        (["--seed", "9-3"], "the last comes before the first"),
        (["--faults", "kill,rain"], 'invalid argument "rain" for "--faults" flag: give some of kill, '),
        (["--minutes", "-1"], 'invalid argument "-1" for "--minutes" flag'),
        (["--gap", "0"], 'invalid argument "0" for "--gap" flag: give seconds from 0.1 to 3600'),
        (["--gap", "nan"], 'invalid argument "nan" for "--gap" flag: give seconds from 0.1 to 3600'),
        (["--minutes", "inf"], 'invalid argument "inf" for "--minutes" flag: give a number from 0 to 1440'),
        (["--seeds", "-2"], 'invalid argument "-2" for "--seeds" flag: give a number from 0 to 100000'),
        (
            ["--seed", "1-100001"],
            'invalid argument "1-100001" for "--seed" flag: give 100000 seeds at the most',
        ),
        (["--tasks", "-1"], 'invalid argument "-1" for "--tasks" flag: give a number from 0 to '),
        (["--clients", "1001"], 'invalid argument "1001" for "--clients" flag: give a number from 0 to 1000'),
        (["--nodes", "2"], "give at least one manager, and from that many to 20000 nodes"),
        (["--seeds", "2", "--log", "x"], "--log takes the events of one run: give one seed"),
    ],
)
def test_wrong_flags_are_named(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert sim(*words) == 2
    assert said in capsys.readouterr().err


def test_a_stack_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert sim("-c", "/nowhere.yml") == 1
    assert "/nowhere.yml cannot be read: No such file or directory" in capsys.readouterr().err


def test_a_stack_that_is_no_text_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    stack = tmp_path / "stack.yml"
    stack.write_bytes(b"services:\n  caf\xe9: {}\n")
    assert sim("-c", str(stack)) == 1
    assert capsys.readouterr().err == f"Error: {stack} is not a text file in UTF-8: give a Compose file\n"


def test_a_log_that_cannot_be_written_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert sim("--log", "/nowhere/events") == 1
    assert capsys.readouterr().err == "Error: /nowhere/events cannot be written: No such file or directory\n"


def test_a_run_that_went_wrong_says_how_to_see_it_again(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = tmp_path / "my stack.yml"
    stack.write_text(STACK)

    real_run = World.run

    def run(world: World) -> Report:
        violation = Violation(at=1.0, checker="test", sentence="it is broken")
        return replace(real_run(world), violations=(violation,))

    monkeypatch.setattr(World, "run", run)
    words = ("--nodes", "4", "--tasks", "5", "--clients", "2", "--minutes", "0.1", "--faults", "kill")
    assert sim(*words, "-c", str(stack), "--seed", "7") == 1
    again = f"--minutes 0.1 --faults kill --tasks 5 --clients 2 -c '{stack}'"
    assert f"swarmpy sim --seed 7 --nodes 4 --managers 3 {again}\n" in capsys.readouterr().out


def test_the_command_to_repeat_a_run_names_only_what_is_not_so_anyway() -> None:
    assert replay(Options(seed=3, shape=shape_of(tasks_of(Options().nodes)))) == (
        "swarmpy sim --seed 3 --nodes 10 --managers 3 --minutes 2"
    )
