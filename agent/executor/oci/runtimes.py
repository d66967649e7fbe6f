"""The programs that make containers: where they are, how they are called, and what their errors mean.

``failure_of`` turns the words of runc and crun into docker's words and exit codes; it is pure. crun refuses
nodes that have control groups of both versions at once, as long as it sees the second: there, all that has to
do with it runs where that hierarchy is not mounted, in a mount namespace that follows the node's (``Runtime.
is_apart``).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

from agent.executor.native.shim import inner, kernel
from agent.executor.oci.limits import RUNTIME_OUTPUT_BYTES_MAX, RUNTIME_TIMEOUT_S
from swarmpy.errors import Unavailable

T = TypeVar("T")
NAMES: Final = ("crun", "runc")
"""In the order in which they are tried: the first is the faster one."""
_SEARCHED: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/libexec/podman"
_INITS: Final = ("docker-init", "tini-static", "catatonit", "tini")
_UNIFIED: Final = "/sys/fs/cgroup/unified"
_HYBRID: Final = "cgroups in hybrid mode not supported"
_INTERPRETED: Final = 3
"""The kind of a program's header that names a loader."""


class Failure(NamedTuple):
    """As the shim of native reports one."""

    kind: str
    code: int
    message: str


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """``root``: where it keeps what it knows of containers. ``is_apart``: see the module."""

    name: str
    path: str
    root: Path
    is_apart: bool = False

    @property
    def arguments(self) -> list[str]:
        return [f"--root={self.root}"]

    def knows(self, task_id: str) -> bool:
        return (self.root / task_id).is_dir()

    def call(self, *words: str) -> str:
        """What it prints. Unavailable if it fails; the text is its own."""
        command = [self.path, *self.arguments, *words]
        done = self.run(lambda: _run(command))
        if done.returncode:
            said = done.stderr or done.stdout
            text = said[-RUNTIME_OUTPUT_BYTES_MAX:].decode(errors="replace").strip()
            raise Unavailable(f"{self.name} {words[0]} failed: {text or done.returncode}")
        return done.stdout.decode(errors="replace")

    def run(self, call: Callable[[], T]) -> T:
        """Call what starts a process that is to see the node as this runtime has to."""
        return _apart(call) if self.is_apart else call()


def find(name: str) -> str:
    """The program's path; empty if it is not here."""
    return shutil.which(name, path=_SEARCHED) or ""


def environment() -> dict[str, str]:
    return {"PATH": _SEARCHED, "LC_ALL": "C.UTF-8"}


def find_init() -> str:
    """A static program that reaps: one that needs libraries would look for them in the image."""
    return next((path for name in _INITS if (path := find(name)) and is_static(path)), "")


def is_static(path: str) -> bool:
    """Whether an ELF program of 64 bits names no loader."""
    try:
        with open(path, "rb") as file:
            head = file.read(64)
            if head[:5] != b"\x7fELF\x02":
                return False
            file.seek(int.from_bytes(head[32:40], "little"))
            size, count = (int.from_bytes(head[at : at + 2], "little") for at in (54, 56))
            headers = file.read(size * count)
    except OSError:
        return False
    kinds = [int.from_bytes(headers[at : at + 4], "little") for at in range(0, len(headers), size)]
    return _INTERPRETED not in kinds


def is_hybrid_refusal(message: str) -> bool:
    return _HYBRID in message


_CRUN_MISSING: Final = re.compile(
    r"executable file `(?P<name>[^`]*)` not found(?: in \$PATH)?(?P<more>.*)", re.DOTALL
)
_CRUN_OPEN: Final = re.compile(r"open executable: (?P<why>.*)", re.DOTALL)
_RUNC: Final = re.compile(
    r"(?:runc create failed: )?unable to start container process: (?P<what>.*)", re.DOTALL
)
_NOT_FOUND: Final = ("executable file not found", "no such file or directory", "not a directory")


def failure_of(message: str, argv: Sequence[str]) -> Failure:
    """What a runtime said as it could not make the container. What the task asked for is at fault where its
    command is; for the rest it is rejected, with the runtime's own words."""
    text = message.strip()
    name = argv[0] if argv else ""
    if match := _CRUN_MISSING.search(text):
        if "/" in name:
            return Failure(
                "failed", inner.NOT_FOUND, f'exec: "{name}": stat {name}: no such file or directory'
            )
        return Failure("failed", inner.NOT_FOUND, f'exec: "{name}": executable file not found in $PATH')
    if _CRUN_OPEN.search(text):
        return Failure("failed", inner.NOT_EXECUTABLE, f'exec: "{name}": permission denied')
    if "oom_score_adj" in text:
        words = f"the OOM score cannot be set on this node: {text}; one below the daemon's own needs "
        return Failure("rejected", inner.NOT_STARTED, words + "CAP_SYS_RESOURCE")
    if match := _RUNC.search(text):
        text = match["what"].strip()
    if text.startswith(("exec:", "exec ", "chdir ")):
        is_missing = any(words in text for words in _NOT_FOUND)
        return Failure("failed", inner.NOT_FOUND if is_missing else inner.NOT_EXECUTABLE, text)
    return Failure("rejected", inner.NOT_STARTED, text or "the runtime ended without a word")


def _run(command: list[str]) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=environment(),
            cwd="/",
            timeout=RUNTIME_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{' '.join(command)} did not end in {RUNTIME_TIMEOUT_S:g} s") from None
    except OSError as error:
        raise Unavailable(f"{command[0]} cannot be run: {error.strerror}") from None


def _apart(call: Callable[[], T]) -> T:
    """In a thread with a mount namespace of its own; what it starts stays there. The node's mounts and
    unmounts go on reaching it."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            kernel.unshare(kernel.CLONE_NEWNS)
            if os.path.ismount(_UNIFIED):
                # of all that is mounted only what this one is mounted on is cut off from the node: it is to
                # hear what is unmounted there, and a task that shares mounts with the node is to be heard
                above = os.path.dirname(_UNIFIED)
                point = above if os.path.ismount(above) else "/"
                kernel.mount("", point, flags=kernel.MS_SLAVE)
                kernel.unmount(_UNIFIED, kernel.MNT_DETACH)
            results.append(call())
        except BaseException as error:  # noqa: BLE001 - carried over to the thread that waits
            errors.append(error)

    thread = threading.Thread(target=run, name="oci-apart")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
