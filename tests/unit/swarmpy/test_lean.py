"""The daemon does without what it never uses."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import ssl, sys
make_context = ssl.create_default_context
from swarmpy.lean import lean_imports
with lean_imports():
    import swarmpy.node
loaded = [name for name in ("rich", "pysyncobj", "manager.manager") if name in sys.modules]
assert not loaded, loaded
assert ssl.create_default_context is make_context
import rich  # it is held back for the time of the imports only
"""


def test_a_daemon_loads_no_terminal_library_and_no_raft_before_it_manages() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
