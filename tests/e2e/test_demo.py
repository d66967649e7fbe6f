"""However the demo ends, it says so and leaves nothing behind. The stand-in daemon has no services.

All demos are in this file: there is one at a time on a machine.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from functools import partial

import pytest

from swarmpy.errors import AlreadyExists
from swarmpy.lab import demo, process
from swarmpy.lab.cluster import Lab

DEADLINE_S = 20.0

RUN = """
import signal, sys
from functools import partial
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests may ignore it
from swarmpy.lab import demo
demo.NAME = sys.argv[1]
demo.Lab.up = partial(demo.Lab.up, daemon_command=sys.argv[2:])
sys.exit(demo.run_demo())
"""


@pytest.fixture
def demo_name(lab_name: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(demo, "NAME", lab_name)
    return lab_name


def is_free() -> bool:
    """Whether no demo runs."""
    try:
        with demo._only_demo():
            return True
    except AlreadyExists:
        return False


def is_gone(name: str) -> bool:
    return name not in Lab.names() and not process.inits(name)


def test_the_demo_succeeds_and_leaves_nothing() -> None:
    """``make demo`` to the end, on real daemons."""
    argv = [sys.executable, "-m", "swarmpy", "dev", "demo"]

    done = subprocess.run(argv, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "WHAT HAPPENED" in done.stdout
    assert "10 different answers" in done.stdout
    assert "demo" not in Lab.names()
    assert not process.inits("demo")


def test_a_step_that_fails_is_a_sentence_and_exit_code_1(
    demo_name: str,
    stub_command: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(Lab, "up", partial(Lab.up, daemon_command=stub_command))

    assert demo.run_demo() == 1

    assert "Error: 404: Not Found" in capsys.readouterr().err
    assert is_gone(demo_name)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_cleans_up(
    lab_name: str, stub_command: tuple[str, ...], number: signal.Signals
) -> None:
    argv = [sys.executable, "-c", RUN, lab_name, *stub_command]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr is not None
        has_begun = process.wait_until(lambda: len(process.inits(lab_name)) >= 5, timeout_s=DEADLINE_S)
        child.send_signal(number)
        said = child.stderr.read()
    assert has_begun
    assert child.returncode == 130
    assert said == "\nInterrupted.\n"
    assert is_gone(lab_name)


def test_after_a_demo_that_was_killed_the_next_one_starts_anew(
    demo_name: str, stub_command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = [sys.executable, "-c", RUN, demo_name, *stub_command]
    with subprocess.Popen(argv) as child:
        assert process.wait_until(lambda: len(process.inits(demo_name)) >= 5, timeout_s=DEADLINE_S)
        child.kill()
    # what it was just starting as it was killed may hold its lock for a moment
    assert process.wait_until(is_free, timeout_s=DEADLINE_S)
    monkeypatch.setattr(Lab, "up", partial(Lab.up, daemon_command=stub_command))

    assert demo.run_demo() == 1  # the stand-in has no services; it got that far

    assert is_gone(demo_name)
