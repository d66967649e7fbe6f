"""Labs for end-to-end tests: real daemons (``lab``, ``fresh_lab``) or the lab's own stand-in (``stub_lab``).

Every lab's name holds the test process's pid, so runs beside each other do not meet.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab_cli import Cli
from lab_services import lab_of, new_name

from swarmpy.lab.cluster import Lab
from swarmpy.lab.layout import DAEMON_COMMAND

STUB_COMMAND = (sys.executable, str(Path(__file__).with_name("lab_stub.py")), *DAEMON_COMMAND[4:])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of this folder drives labs; without root none of it can run."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.e2e)
            item.add_marker(pytest.mark.root)
            if os.geteuid() != 0:
                item.add_marker(pytest.mark.skip(reason="needs root"))


@pytest.fixture
def lab_name() -> Iterator[str]:
    """A name of which nothing is left afterwards, whatever the test did."""
    name = new_name()
    yield name
    Lab.remove(name)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Three managers and two workers, shared by the tests of a module; they leave it whole."""
    with lab_of(managers=3, workers=2) as lab:
        yield lab


@pytest.fixture
def cli(lab: Lab) -> Iterator[Cli]:
    """The command line on the first host of the module's lab; services that a test leaves are removed."""
    cli = Cli(lab)
    yield cli
    cli.remove_all()


@pytest.fixture
def fresh_lab() -> Iterator[Lab]:
    """Three managers and two workers for one test alone."""
    with lab_of(managers=3, workers=2) as lab:
        yield lab


@pytest.fixture(scope="module")
def stub_lab() -> Iterator[Lab]:
    """Two managers and a worker of the stand-in daemon."""
    with Lab.up(managers=2, workers=1, name=new_name(), daemon_command=STUB_COMMAND) as lab:
        yield lab


@pytest.fixture
def stub_command() -> tuple[str, ...]:
    return STUB_COMMAND
