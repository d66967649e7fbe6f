"""A Podman of its own for a test module: its storage, its state and its socket lie in one folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine_rig import SharedEngine

from agent.executor.native.task_files import TaskFiles

START_TIMEOUT_S = 20.0
_POLL_S = 0.02


def options(folder: Path) -> tuple[str, ...]:
    """Of podman, before its command. The storage driver is the kernel's own overlay where it can be."""
    return (
        *("--root", str(folder / "root"), "--runroot", str(folder / "run"), "--tmpdir", str(folder / "tmp")),
        *("--cgroup-manager", "cgroupfs", "--events-backend", "file"),
        *("--runtime", shutil.which("runc") or "runc"),
    )


def _environment(folder: Path) -> dict[str, str]:
    """Podman names the packages of its programs wherever it is asked who it is, which costs the package
    manager a quarter of a second: here that one knows none."""
    programs = folder / "programs"
    programs.mkdir()
    query = programs / "dpkg-query"
    query.write_text("#!/bin/sh\nexit 1\n")
    query.chmod(0o755)
    return {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}


@contextmanager
def podman_engine() -> Iterator[SharedEngine]:
    with tempfile.TemporaryDirectory(prefix="podman-") as name:
        folder = Path(name)
        socket = folder / "sock"
        engine = SharedEngine("podman", str(socket), folder)
        files = TaskFiles(engine.files_dir)
        files.prepare()
        with (folder / "log").open("wb") as log:
            service = subprocess.Popen(
                ["podman", *options(folder), "system", "service", "--time", "0", f"unix://{socket}"],
                cwd=folder,  # monitors leave their notes where it stands
                env=_environment(folder),
                stdout=log,
                stderr=log,
            )
        try:
            deadline = time.monotonic() + START_TIMEOUT_S
            while not socket.exists():
                if service.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(
                        f"podman's service did not start: {(folder / 'log').read_text()[-2_000:]}"
                    )
                time.sleep(_POLL_S)
            yield engine
        finally:
            service.terminate()
            service.wait()
            clear(folder)
            files.unmount()


def clear(folder: Path) -> None:
    """Containers that tests have left, and what is mounted of the storage."""
    subprocess.run(
        ["podman", *options(folder), "rm", "--all", "--force", "--time", "0"],
        check=False,
        capture_output=True,
    )
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for mount in reversed(mounts):
        if mount.startswith(f"{folder}/") and mount != f"{folder}/files":
            subprocess.run(["umount", "--lazy", mount], check=False)


def has_podman() -> bool:
    return os.geteuid() == 0 and shutil.which("podman") is not None
