"""The walk of docs/guestbook.md, as it is printed there: image, stack, data, update, way back."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from console_page import Step, steps_of
from lab_cli import DEADLINE_S
from lab_services import lab_of

from swarmpy.lab.cluster import Lab

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "guestbook.md"
PREPARED = ("make lab-up", ". .venv/bin/activate", 'eval "$(swarmpy dev env node-1)"', "cd deploy/guestbook")
"""What the test has in place of the page's own lab."""
CHANGES = 3
"""How a plan ends that would change something."""


def run(lab: Lab, folder: Path, step: Step) -> None:
    command = step.command.replace(
        "swarmpy dev exec switch", f"swarmpy dev exec --name {lab.layout.name} switch"
    )
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env={
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(folder),
            "SWARMPY_HOST": lab.docker_host("node-1"),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=2 * DEADLINE_S,
    )
    said = f"{step.command}\n{done.stdout}{done.stderr}"
    assert done.returncode == (CHANGES if "--plan" in command else 0), said
    assert not step.missing(done.stdout + done.stderr), (
        f"{step.missing(done.stdout + done.stderr)!r} in {said}"
    )


@pytest.mark.root
def test_the_walk_is_as_the_page_says(tmp_path: Path) -> None:
    folder = tmp_path / "guestbook"
    shutil.copytree(ROOT / "deploy" / "guestbook", folder)
    steps = steps_of(PAGE)
    assert tuple(step.command for step in steps[: len(PREPARED)]) == PREPARED
    with lab_of(managers=3, workers=2) as lab:
        for step in steps[len(PREPARED) :]:
            run(lab, folder, step)


def test_a_line_that_did_not_come_is_missed() -> None:
    step = Step("echo", ("one", "t…o"))
    assert step.missing("zero\none\nand\ntwo\n") == ""
    assert step.missing("two\none\n") == "t…o"
