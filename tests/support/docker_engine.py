"""A real dockerd for tests and benchmarks: with namespaces, a folder and a network card of its own.

Debian's ``docker.io`` (20.10). It answers on a unix socket, in swarm mode if wished, and can run busybox:
image ``box`` is made of the machine's own. Its addresses reach nobody.
"""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from swarmpy.lab.limits import LAB_POLL_S

ADDRESS = "10.99.0.1"
IMAGE = "box"
APPLETS = ("sh", "sleep", "cat", "echo", "env", "false", "hostname", "ls", "ps", "seq", "touch", "true", "wc")
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0

_START = """
set -e
ip link set lo up
ip link add ext0 type veth peer name ext1
ip addr add {address}/24 dev ext0
ip link set ext0 up
ip link set ext1 up
ip route add default via 10.99.0.254 dev ext0
# it asks a registry for every image of a task; a name server that is not there would hold it up
echo nameserver 127.0.0.1 > {folder}/resolv.conf
mount --bind {folder}/resolv.conf /etc/resolv.conf
exec dockerd --data-root {folder}/data --exec-root {folder}/exec --host unix://{folder}/docker.sock \
    --pidfile {folder}/pid --exec-opt native.cgroupdriver=cgroupfs --cgroup-parent {group} {options}
"""


class DockerEngine:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = folder / "docker.sock"
        self.host = f"unix://{self.socket}"
        self.pid = 0
        """Of dockerd, as the host counts."""

    def cli(
        self, *words: str, data: bytes = b"", program: str = "docker"
    ) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [program, *words],
            env={"PATH": os.environ["PATH"], "HOME": str(self.folder), "DOCKER_HOST": self.host},
            input=data,
            capture_output=True,
            check=False,
            timeout=START_TIMEOUT_S,
        )

    def good(self, *words: str, data: bytes = b"") -> str:
        done = self.cli(*words, data=data)
        assert done.returncode == 0, f"docker {' '.join(words)}: {done.stderr.decode()}"
        return done.stdout.decode().strip()


def box_tar() -> bytes:
    """A root filesystem of nothing but busybox."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as tar:
        tar.add(shutil.which("busybox") or "/bin/busybox", "bin/busybox")
        for name in APPLETS:
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
    return target.getvalue()


@contextmanager
def docker_engine(*, is_swarm: bool = True, options: tuple[str, ...] = ()) -> Iterator[DockerEngine]:
    """Runs while the block does. RuntimeError with the end of its log if it does not start."""
    with tempfile.TemporaryDirectory(prefix="dockerd-") as name:
        engine = DockerEngine(Path(name))
        group = f"swarmpy-oracle-{Path(name).name}"
        script = _START.format(address=ADDRESS, folder=name, group=group, options=" ".join(options))
        with (engine.folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [
                    *("unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"),
                    *("bash", "-c", script),
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            _wait(engine, process)
            [engine.pid] = _children(process.pid)
            engine.good("import", "--change", 'CMD ["sleep", "100000"]', "-", IMAGE, data=box_tar())
            if is_swarm:
                engine.good("swarm", "init", "--advertise-addr", ADDRESS)
            yield engine
        finally:
            _stop(process)
            for left in Path("/sys/fs/cgroup").glob(f"*/{group}"):
                left.rmdir()


def _wait(engine: DockerEngine, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while engine.cli("version").returncode != 0:
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"dockerd did not start: {(engine.folder / 'log').read_text()[-2_000:]}")
        time.sleep(LAB_POLL_S)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """dockerd is the first process of its namespace: with it go all the others."""
    for pid in _children(process.pid):
        os.kill(pid, signal.SIGTERM)
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
