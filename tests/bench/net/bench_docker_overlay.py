"""Overlay networks of a real Docker Engine and of SwarmPy, side by side on the same two hosts.

    PYTHONPATH=tests/support python tests/bench/net/bench_docker_overlay.py [--rounds 7] [--seconds 0.5]

Two hosts of a lab run both: ``dockerd`` in swarm mode (data path port 5789) and SwarmPy (4789), each with a
task per host; clients are on the first, servers on the second. Both services are ``dnsrr`` and asked at a
task's address, so that nothing balances. Runs go in turn, and the medians of ratios are printed.

Needs root, gcc, a static busybox, the docker CLI; ``dockerd``, containerd, runc and iptables on the PATH. To
have them without installing, unpack Debian's packages (docker.io, containerd, runc, iptables, its libraries)
with ``dpkg -x`` and set PATH, LD_LIBRARY_PATH and XTABLES_LIBDIR. What dockerd makes wherever it runs
is left: ``/etc/docker/key.json`` and empty folders in ``/opt/containerd``.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "support"))

from lab_cli import wait_for
from net_lab import NetLab, net_lab
from traffic import KINDS, Way, compare, serving, traffic_program

PORT = 7_000
CLIENT, SERVER = "node-1", "node-2"
SLEEP = ("sleep", "1000000")
TOOLS = ("docker", "dockerd", "containerd", "runc", "iptables", "busybox", "gcc")
START_S = 60.0


class Engine:
    """A dockerd within a host of the lab; its files lie in a folder of its own."""

    def __init__(self, lab: NetLab, node: str, folder: Path) -> None:
        self.lab, self.node = lab, node
        self._socket = lab.lab.host(node).run_dir / "docker.sock"
        self._folder = folder / node
        self._folder.mkdir()

    @contextmanager
    def running(self) -> Iterator[None]:
        words = [
            shutil.which("dockerd") or "dockerd",
            *("--data-root", str(self._folder / "data"), "--exec-root", str(self._folder / "exec")),
            *("--host", "unix:///run/swarmpy/docker.sock", "--pidfile", str(self._folder / "pid")),
            *(
                "--exec-opt",
                "native.cgroupdriver=cgroupfs",
                "--cgroup-parent",
                f"swarmpy-bench-{os.getpid()}",
            ),
        ]
        log = self._folder / "log"
        with log.open("wb") as out:
            daemon = subprocess.Popen(
                self.lab.lab.exec_argv(self.node, words), stdout=out, stderr=subprocess.STDOUT
            )
        try:
            wait_for(
                lambda: self.ask("version") or daemon.poll() is not None, timeout_s=START_S, what="an answer"
            )
            assert daemon.poll() is None, log.read_text()[-2_000:]
            yield
        finally:
            daemon.terminate()
            daemon.wait()

    def ask(self, *words: str) -> str:
        """What the CLI printed; empty if it failed."""
        done = self._run(words, b"")
        return done.stdout.decode().strip() if done.returncode == 0 else ""

    def good(self, *words: str, data: bytes = b"") -> str:
        done = self._run(words, data)
        assert done.returncode == 0, f"docker {' '.join(words)}: {done.stderr.decode()}"
        return done.stdout.decode().strip()

    def _run(self, words: tuple[str, ...], data: bytes) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            ["docker", "--host", f"unix://{self._socket}", *words],
            input=data,
            capture_output=True,
            check=False,
        )

    def namespace(self, container: str) -> Path:
        """As this process sees it."""
        pid = self.good("inspect", "--format", "{{.State.Pid}}", container)
        return Path(f"/proc/{self.lab.init(self.node)}/root/proc/{pid}/ns/net")


def image() -> bytes:
    """A root filesystem of nothing but busybox."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as tar:
        tar.add(shutil.which("busybox") or "/bin/busybox", "bin/busybox")
        link = tarfile.TarInfo("bin/sleep")
        link.type, link.linkname = tarfile.SYMTYPE, "busybox"
        tar.addfile(link)
    return target.getvalue()


def docker_ways(engines: dict[str, Engine]) -> tuple[Way, Path]:
    """From a task on the first host to one on the second, and the namespace of that."""
    first, second = engines[CLIENT], engines[SERVER]
    lab = first.lab
    address = {name: lab.address(name) for name in engines}
    swarm = ("--listen-addr", "0.0.0.0:2378", "--advertise-addr")
    first.good("swarm", "init", *swarm, f"{address[CLIENT]}:2378", "--data-path-port", "5789")
    token = first.good("swarm", "join-token", "-q", "worker")
    second.good(
        "swarm", "join", *swarm, f"{address[SERVER]}:2378", "--token", token, f"{address[CLIENT]}:2378"
    )
    for engine in engines.values():
        engine.good("import", "-", "bench", data=image())
    first.good("network", "create", "--driver", "overlay", "--subnet", "10.77.0.0/24", "bench")
    words = ("--mode", "global", "--endpoint-mode", "dnsrr", "--network", "bench", "--no-resolve-image")
    first.good("service", "create", "--detach", "--name", "bench", *words, "bench", *SLEEP)
    ids = {
        name: wait_for(partial(engine.ask, "ps", "-q"), what=f"a task on {name}", timeout_s=START_S)
        for name, engine in engines.items()
    }
    shown = '{{(index .NetworkSettings.Networks "bench").IPAddress}}'
    server = second.good("inspect", "--format", shown, ids[SERVER])
    return Way(first.namespace(ids[CLIENT]), server, PORT), second.namespace(ids[SERVER])


def own_ways(lab: NetLab) -> tuple[Way, Path]:
    lab.network("bench", "--subnet", "10.78.0.0/24")
    lab.create("bench", "--mode", "global", "--endpoint-mode", "dnsrr", "--network", "bench", "host", *SLEEP)
    tasks = wait_for(lambda: lab.tasks("bench"), lambda found: len(found) == 2, what="two should run")
    client, server = (next(task for task in tasks if task.node == name) for name in (CLIENT, SERVER))
    return Way(client.path, server.at["bench"], PORT), server.path


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.5)
    wished = parser.parse_args()
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        print(f"left out: {', '.join(missing)} missing")
        return
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    with ExitStack() as stack:
        folder = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="swarmpy-bench-", dir="/var/tmp"))
        )
        lab = stack.enter_context(net_lab(managers=1, workers=1))
        engines = {name: Engine(lab, name, folder) for name in (CLIENT, SERVER)}
        for engine in engines.values():
            stack.enter_context(engine.running())
        own, own_server = own_ways(lab)
        docker, docker_server = docker_ways(engines)
        program = stack.enter_context(traffic_program())
        stack.enter_context(serving(own_server, program, PORT))
        stack.enter_context(serving(docker_server, program, PORT))
        version = engines[CLIENT].good("version", "--format", "{{.Server.Version}}")
        for kind, label in KINDS.items():
            found = compare(program, kind, own, docker, rounds=wished.rounds, seconds=wished.seconds)
            rest = f", latency {found.own_us:.1f} us ({found.added_us:+.1f})" if kind != "push" else ""
            print(
                f"SwarmPy ÷ Docker {version}, task to task across hosts: {label} {found.rate:.2f}{rest}",
                flush=True,
            )


if __name__ == "__main__":
    main()
