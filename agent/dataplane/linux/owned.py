"""Network namespaces that belong to a user namespace with other ids, for tasks that have these (``TaskIds``).

A task takes over the user namespace with its network (``shim/user_ids``), so that NET_ADMIN and NET_RAW hold
there. The daemon has threads and may not make one for itself: a process of its own does, and is gone as soon
as the network is kept at its path, which keeps its user namespace too. All else is as with any namespace: the
node's root has all rights in it.

A crash at any step leaves at most a file that nothing is mounted on; the process ends with its input.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path
from typing import Final

from agent.dataplane.linux import namespaces
from agent.executor.native.id_ranges import TaskIds
from agent.executor.native.shim import kernel
from swarmpy.errors import Unavailable

OWNER_START_S: Final = 20.0
"""For an interpreter to start and make two namespaces, on a machine that has much else to do."""
_ANSWER_BYTES: Final = 1024
_READY: Final = b"ready"
_SOURCE_ROOT: Final = Path(__file__).resolve().parents[3]
_PROGRAM: Final = """
import os, sys
sys.path.append(sys.argv[1])
from agent.executor.native.shim import kernel
try:
    kernel.unshare(kernel.CLONE_NEWUSER | kernel.CLONE_NEWNET)
except OSError as error:
    os.write(1, (error.strerror or str(error)).encode())
else:
    os.write(1, b"ready")
    os.read(0, 1)
"""


def make(path: Path, ids: TaskIds) -> None:
    """A new namespace at ``path``, as ``namespaces.make`` makes one. OSError or Unavailable if it fails."""
    path.touch(mode=0o444)
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _PROGRAM, str(_SOURCE_ROOT)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env={"LC_ALL": "C.UTF-8"},
    ) as process:
        try:
            _wait_ready(process)
            for name, (first, size) in (("gid_map", ids.groups), ("uid_map", ids.users)):
                Path(f"/proc/{process.pid}/{name}").write_text(f"0 {first} {size}\n", encoding="ascii")
            kernel.mount(f"/proc/{process.pid}/ns/net", str(path), flags=kernel.MS_BIND)
        finally:
            process.kill()
    namespaces.settle(path)


def _wait_ready(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    poll = select.poll()
    poll.register(process.stdout, select.POLLIN)
    answer = b"it does not answer"
    if poll.poll(OWNER_START_S * 1000):
        answer = os.read(process.stdout.fileno(), _ANSWER_BYTES)
    if answer != _READY:
        raise Unavailable(
            "the user namespace of a task's network cannot be made "
            f"({answer.decode(errors='replace') or 'its process has died'}): --userns-remap needs a kernel "
            "with user namespaces, and user.max_user_namespaces above 0"
        )
