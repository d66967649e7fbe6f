"""``make demo`` to the end, on real daemons."""

from __future__ import annotations

import subprocess
import sys

from swarmpy.lab import process
from swarmpy.lab.cluster import Lab


def test_the_demo_succeeds_and_leaves_nothing() -> None:
    argv = [sys.executable, "-m", "swarmpy", "dev", "demo"]

    done = subprocess.run(argv, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "WHAT HAPPENED" in done.stdout
    assert "10 different answers" in done.stdout
    assert "demo" not in Lab.names()
    assert not process.inits("demo")
