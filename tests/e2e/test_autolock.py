"""Locked managers and the API on TCP, as the docker CLI meets them.

Three managers, shared; every test leaves them unlocked. They serve the API on TCP as well.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final

import pytest
from api_certificates import Authority
from lab_cli import DEADLINE_S, Said, processes, wait_for, wait_running
from lab_services import new_name

from swarmpy.lab.cluster import Lab
from swarmpy.lab.layout import DAEMON_COMMAND

DOCKER: Final = shutil.which("docker")
pytestmark = pytest.mark.skipif(DOCKER is None, reason="there is no docker CLI here")
LOCKED: Final = (
    "Error response from daemon: Swarm is encrypted and needs to be unlocked before it can be used. "
    'Please use "docker swarm unlock" to unlock it.'
)
ADDRESS: Final = "10.200.0.11"
PORT: Final = 2376
BIG: Final = 1 << 20
MARK: Final = f"54321.{os.getpid()}"


def remote(certificates: Path) -> list[str]:
    """What to set for a client of node-1 over TCP."""
    return [f"DOCKER_HOST=tcp://{ADDRESS}:{PORT}", "DOCKER_TLS_VERIFY=1", f"DOCKER_CERT_PATH={certificates}"]


class Docker:
    """``docker("node", "ls", at="node-2")`` on that host's socket, or with ``certificates`` over TCP."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    def __call__(
        self, *words: str, at: str = "node-1", text: str = "", certificates: Path | None = None
    ) -> Said:
        argv = [DOCKER or "docker", *words]
        if certificates is not None:
            over_tcp = ["env", *remote(certificates), *argv]
            done = self.lab.exec("node-2", over_tcp, text=text, timeout_s=DEADLINE_S)
        else:
            done = subprocess.run(
                argv,
                env={"PATH": os.environ["PATH"], "HOME": "/root", "DOCKER_HOST": self.lab.docker_host(at)},
                input=text,
                capture_output=True,
                text=True,
                check=False,
                timeout=DEADLINE_S,
            )
        return Said(done.returncode, done.stdout, done.stderr)

    def good(self, *words: str, at: str = "node-1", text: str = "", certificates: Path | None = None) -> str:
        said = self(*words, at=at, text=text, certificates=certificates)
        assert said.code == 0, f"docker {' '.join(words)}: {said}"
        return said.out.strip()

    def state(self, at: str) -> str:
        return self("info", "--format", "{{.Swarm.LocalNodeState}}", at=at).out.strip()


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="autolock-e2e-") as name:
        yield Path(name)


@pytest.fixture(scope="module")
def lab(authority: Authority, folder: Path) -> Iterator[Lab]:
    server = authority.write(folder / "server", "node-1", address=ADDRESS)
    files = {"--tlscacert": "ca.pem", "--tlscert": "cert.pem", "--tlskey": "key.pem"}
    flags = [word for flag, name in files.items() for word in (flag, str(server / name))]
    command = (*DAEMON_COMMAND, "--api", f"0.0.0.0:{PORT}", "--tlsverify", *flags)
    with Lab.up(managers=3, workers=0, name=new_name(), daemon_command=command) as lab:
        yield lab


@pytest.fixture
def docker(lab: Lab) -> Docker:
    return Docker(lab)


def raft_key(lab: Lab, name: str) -> bytes:
    return (lab.host(name).data_dir / "certificates" / "raft.key").read_bytes()


def wait_sealed(lab: Lab, before: dict[str, bytes]) -> dict[str, bytes]:
    """Until every manager's key is sealed otherwise than before."""
    names = [host.name for host in lab.layout.hosts]

    def now() -> dict[str, bytes]:
        return {name: raft_key(lab, name) for name in names}

    return wait_for(
        now,
        lambda keys: all(
            key.startswith(b"SwarmPy sealed key") and key != before.get(name) for name, key in keys.items()
        ),
        what="every manager's key should be sealed anew",
    )


def test_the_life_of_an_unlock_key(lab: Lab, docker: Docker) -> None:
    docker.good("service", "create", "--detach", "--name", "s", "--replicas", "3", "host", "sleep", MARK)
    wait_running(lab, "s", 3)
    said = docker.good("swarm", "update", "--autolock=true")
    first = docker.good("swarm", "unlock-key", "-q", at="node-2")
    assert first in said
    sealed = wait_sealed(lab, {})
    assert "Successfully rotated manager unlock key." in docker.good("swarm", "unlock-key", "--rotate")
    second = docker.good("swarm", "unlock-key", "-q")
    assert second != first
    wait_sealed(lab, sealed)

    pids = processes(MARK)
    lab.kill("node-3")
    lab.start("node-3")
    assert docker.state("node-3") == "locked"
    assert "Swarm: locked" in docker.good("info", at="node-3")
    for words in (
        ("node", "ls"),
        ("service", "ls"),
        ("swarm", "unlock-key"),
        ("swarm", "join-token", "worker"),
    ):
        assert LOCKED in docker(*words, at="node-3").err
    said = docker("swarm", "leave", at="node-3").err
    assert "Swarm is encrypted and locked. Please unlock it first or use `--force` to ignore" in said
    for key, answer in (
        ("foo", "invalid key string"),
        (first, "swarm could not be unlocked: invalid key provided"),
    ):
        said_of = docker("swarm", "unlock", at="node-3", text=f"{key}\n")
        assert (said_of.code, said_of.err.strip()) == (1, f"Error response from daemon: {answer}")
    assert processes(MARK) >= pids  # its tasks have run on, whatever runs elsewhere for them by now
    docker.good("swarm", "unlock", at="node-3", text=f"{second}\n")
    assert docker.good("node", "ls", "-q", at="node-3").count("\n") == 2
    assert docker("swarm", "unlock", at="node-3").err.strip() == "Error: swarm is not locked"
    wait_running(lab, "s", 3)
    wait_for(lambda: processes(MARK), lambda found: len(found) == 3, what="three processes again")

    for name in ("node-1", "node-2", "node-3"):  # a cold start of them all
        lab.kill(name)
    for name in ("node-1", "node-2", "node-3"):
        lab.start(name, wait=name == "node-3")
    for name in ("node-1", "node-2", "node-3"):
        wait_for(
            partial(docker.state, name), lambda state: state == "locked", what=f"{name} should be locked"
        )
    with ThreadPoolExecutor() as users:  # each waits a while for the others
        argv = ["swarmpy", "unlock"]
        asked = [
            users.submit(lab.exec, name, argv, text=f"{second}\n", timeout_s=DEADLINE_S)
            for name in ("node-1", "node-2", "node-3")
        ]
    assert [each.result().returncode for each in asked] == [0, 0, 0]
    wait_for(lambda: docker("service", "ls", "-q").code, lambda code: code == 0, what="a swarm again")

    assert docker.good("swarm", "update", "--autolock=false") == "Swarm updated."
    wait_for(lambda: len(raft_key(lab, "node-2")), lambda size: size == 32, what="a key in the clear")
    lab.restart("node-2")
    assert docker.state("node-2") == "active"
    assert docker("swarm", "unlock-key").err.strip() == "no unlock key is set"
    docker.good("service", "rm", "s")


def test_a_locked_node_leaves_and_comes_back(lab: Lab, docker: Docker) -> None:
    docker.good("swarm", "update", "--autolock=true")
    wait_sealed(lab, {})
    lab.restart("node-3")
    assert docker.state("node-3") == "locked"
    docker.good("swarm", "leave", "--force", at="node-3")
    assert docker.state("node-3") == "inactive"
    old = next(node["ID"] for node in lab.nodes() if node["Description"]["Hostname"] == "node-3")
    docker.good("node", "demote", old)
    wait_for(lambda: docker("node", "rm", "--force", old).code, lambda code: code == 0, what="removal")
    docker.good("swarm", "join", "--token", docker.good("swarm", "join-token", "-q", "manager"),
                f"{ADDRESS}:2377", at="node-3")  # fmt: skip
    assert raft_key(lab, "node-3").startswith(b"SwarmPy sealed key")
    docker.good("swarm", "update", "--autolock=false")


def test_clients_over_tcp_show_a_certificate(
    lab: Lab, docker: Docker, authority: Authority, folder: Path
) -> None:
    client = authority.write(folder / "client", "alice")
    assert docker.good("node", "ls", "-q", certificates=client).count("\n") == 2
    stranger = Authority("another CA").write(folder / "stranger", "mallory")
    (stranger / "ca.pem").write_bytes(authority.certificate)
    refused = docker("node", "ls", certificates=stranger)
    assert refused.code == 1
    assert "tls" in refused.err.lower()
    for name in ("cert.pem", "key.pem"):
        os.unlink(stranger / name)

    docker.good(
        "service",
        "create",
        "-d",
        "--name",
        "t",
        "--constraint",
        "node.hostname==node-1",
        "host",
        "sleep",
        "9876",
    )
    (task,) = wait_running(lab, "t", 1)
    container = task["Status"]["ContainerStatus"]["ContainerID"]
    data = "x" * BIG + "\n"
    for words, wanted in (
        (("cat",), data),
        (("sh", "-c", "cat >/dev/null; echo all; exit 0"), "all\n"),
    ):
        said = docker("exec", "-i", container, *words, text=data, certificates=client)
        assert (said.code, said.out == wanted) == (0, True), said.err
    typed = ["script", "-qec", f"docker exec -it {container} sh -c 'stty size; read x; echo got $x; exit 7'"]
    environment = [f"DOCKER_HOST=tcp://{ADDRESS}:{PORT}", "DOCKER_TLS_VERIFY=1", f"DOCKER_CERT_PATH={client}"]
    done = lab.exec(
        "node-2", ["env", *environment, *typed, "/dev/null"], text="hello\n", timeout_s=DEADLINE_S
    )
    assert "got hello" in done.stdout
    assert done.returncode == 7
    docker.good("service", "rm", "t")
