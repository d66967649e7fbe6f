"""A dockerd of its own for a test module, as the engine of a node is: with the node's processes and mounts.

So it is in no pid or mount namespace, unlike ``docker_engine``'s. Its network is its own.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine_rig import SharedEngine

from agent.executor.native.task_files import TaskFiles

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0
_POLL_S = 0.05
_CGROUPS = Path("/sys/fs/cgroup")
_START = """
set -e
ip link set lo up
exec dockerd --data-root {folder}/data --exec-root {folder}/exec --host unix://{folder}/sock \
    --pidfile {folder}/pid --exec-opt native.cgroupdriver=cgroupfs --cgroup-parent {group} \
    --bridge none --iptables=false {options}
"""


class DockerDaemon:
    """``stop`` may be followed by ``start``, which finds the containers that live."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.socket = folder / "sock"
        self.group = f"swarmpy-{folder.name}"
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.socket.unlink(missing_ok=True)
        script = _START.format(folder=self.folder, group=self.group, options=" ".join(self._options))
        words = ("unshare", "--net", "bash", "-c", script)
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(words, stdout=log, stderr=log)
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"dockerd did not start: {(self.folder / 'log').read_text()[-2_000:]}")
            time.sleep(_POLL_S)

    def _answers(self) -> bool:
        words = ("docker", "--host", f"unix://{self.socket}", "version")
        return subprocess.run(words, capture_output=True, check=False).returncode == 0

    def stop(self) -> None:
        """Asked to end: it stops its containers, unless it was told to let them live."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def clear(self) -> None:
        """Whatever is left of it: containerd, shims, containers, mounts, groups."""
        self.stop()
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while pids := self._left():
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            assert time.monotonic() < deadline, f"of dockerd there is still {pids}"
            time.sleep(_POLL_S)
        mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for mount in reversed(mounts):
            if mount.startswith(f"{self.folder}/"):
                subprocess.run(["umount", "--lazy", mount], check=False)
        for left in sorted(_CGROUPS.glob(f"*/{self.group}/**/"), reverse=True):
            with contextlib.suppress(OSError):
                left.rmdir()

    def _left(self) -> list[int]:
        """Processes that name the folder, or are in the group."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                words = (entry / "cmdline").read_text().split("\0")
                groups = (entry / "cgroup").read_text()
            except OSError:
                continue
            is_its = any(word.startswith((f"{self.folder}/", f"unix://{self.folder}/")) for word in words[1:])
            if (is_its and "containerd" in words[0]) or f"/{self.group}/" in groups:
                found.append(int(entry.name))
        return found


@contextmanager
def docker_daemon(*options: str) -> Iterator[tuple[DockerDaemon, SharedEngine]]:
    with tempfile.TemporaryDirectory(prefix="docker-") as name:
        folder = Path(name)
        engine = SharedEngine("docker", str(folder / "sock"), folder)
        files = TaskFiles(engine.files_dir)
        files.prepare()
        daemon = DockerDaemon(folder, *options)
        try:
            daemon.start()
            yield daemon, engine
        finally:
            daemon.clear()
            files.unmount()


def has_docker() -> bool:
    return os.geteuid() == 0 and shutil.which("dockerd") is not None
