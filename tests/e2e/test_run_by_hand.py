"""``docker run`` and its kin, the real CLI against a lab: containers beside services, on one node each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from docker_cli import DockerCli, docker_programs
from lab_cli import running, wait_for
from lab_services import lab_of

from swarmpy.lab.cluster import Lab

PROGRAMS = docker_programs()
pytestmark = pytest.mark.skipif(not PROGRAMS, reason="there is no docker CLI here")
SLEEP = ("host", "sleep", "100000")


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with lab_of(managers=1, workers=1) as lab:
        yield lab


@pytest.fixture(scope="module")
def docker(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> DockerCli:
    newest = max(PROGRAMS, key=lambda version: [int(part) for part in version.split(".")])
    return DockerCli(PROGRAMS[newest], lab.docker_host("node-1"), tmp_path_factory.mktemp("docker"))


def state(docker: DockerCli, name: str, field: str = "Status") -> str:
    return docker.good("inspect", "--format", f"{{{{.State.{field}}}}}", name).strip()


def test_runs_end_with_their_codes_and_leave_nothing(docker: DockerCli) -> None:
    assert docker.good("run", "--rm", "host", "echo", "hello") == "hello\n"
    for code, words in {
        3: ("host", "sh", "-c", "echo out; echo err >&2; exit 3"),
        127: ("host", "no-such-program"),
        126: ("host", "/etc/passwd"),
        125: ("--network", "no-such-network", "host", "true"),
    }.items():
        assert docker("run", "--rm", *words).code == code, words
    assert docker.good("ps", "-aq") == ""


def test_its_life_is_dockers(docker: DockerCli) -> None:
    id_ = docker.good("create", "--name", "life", "-e", "WHO={{.Node.ID}}", *SLEEP).strip()
    assert state(docker, "life") == "created"
    said = docker("create", "--name", "life", *SLEEP)
    assert f'"/life" is already in use by container "{id_}"' in said.err
    docker.good("start", "life")
    assert state(docker, "life") == "running"
    assert docker.good("exec", "life", "sh", "-c", "hostname; echo $WHO").split() == [
        id_[:12],
        "{{.Node.ID}}",
    ]
    assert "You cannot remove a running container" in docker("rm", "life").err
    docker.good("stop", "-t", "1", "life")
    assert (state(docker, "life"), docker.good("wait", "life")) == ("exited", "137\n")
    docker.good("restart", "-t", "0", "life")
    docker.good("kill", "-s", "KILL", "life")
    assert state(docker, "life", "ExitCode") == "137"
    docker.good("rename", "life", "after")
    docker.good("start", id_[:6])
    docker.good("rm", "-f", "after")
    assert "No such container" in docker("start", "after").err


def test_a_signal_reaches_the_process(docker: DockerCli) -> None:
    script = 'trap "echo caught; exit 5" USR1; echo ready; while :; do sleep 0.05; done'
    docker.good("run", "-d", "--name", "trap", "host", "bash", "-c", script)
    wait_for(lambda: docker.good("logs", "trap"), lambda log: "ready" in log, what="it should be ready")
    docker.good("kill", "-s", "USR1", "trap")
    assert docker.good("wait", "trap") == "5\n"
    assert "caught" in docker.good("logs", "trap")
    docker.good("rm", "trap")


def test_containers_and_services_find_each_other_by_name(docker: DockerCli, lab: Lab) -> None:
    docker.good("network", "create", "--driver", "overlay", "--attachable", "meet")
    constraint = ("--constraint", "node.hostname==node-2")
    docker.good("service", "create", "--detach", "--name", "web", "--network", "meet", *constraint, *SLEEP)
    wait_for(lambda: running(lab, "web"), what="the service should run")
    docker.good("run", "-d", "--name", "alone", "--network", "meet", "--network-alias", "other", *SLEEP)
    id_ = docker.good("ps", "-qf", "name=alone").strip()
    for name in ("alone", "other", id_, "web"):
        assert docker.good("run", "--rm", "--network", "meet", "host", "getent", "hosts", name)
    docker.good("exec", "alone", "ping", "-c", "1", "-W", "5", "tasks.web")
    assert docker.good("service", "ls", "--format", "{{.Name}}").split() == ["web"]

    before = running(lab, "web")
    docker.good("kill", "web.1")
    wait_for(
        lambda: running(lab, "web"),
        lambda now: len(now) == 1 and now[0]["ID"] != before[0]["ID"],
        what="the service should have started another task",
    )
    assert "is a task of a service" in docker("rename", "web.1", "mine").err
    docker.good("rm", "-f", "alone")
    docker.good("service", "rm", "web")
    wait_for(
        lambda: docker("network", "rm", "meet").code, lambda code: code == 0, what="none should be on it"
    )


def test_restart_policies(docker: DockerCli) -> None:
    docker.good("run", "-d", "--name", "twice", "--restart", "on-failure:2", "host", "sh", "-c", "exit 4")
    docker.good("run", "-d", "--name", "ever", "--restart", "always", "host", "sh", "-c", "exit 0")
    wait_for(
        lambda: (_restarts(docker, "twice"), state(docker, "twice"), _restarts(docker, "ever")),
        lambda seen: seen[:2] == (2, "exited") and seen[2] >= 2,
        what="both should have been restarted",
    )
    assert state(docker, "twice", "ExitCode") == "4"
    docker.good("stop", "ever")
    assert state(docker, "ever") == "exited"
    assert "Total reclaimed space" in docker.good("container", "prune", "--force")
    assert docker.good("ps", "-aq") == ""


def _restarts(docker: DockerCli, name: str) -> int:
    return int(docker.good("inspect", "--format", "{{.RestartCount}}", name))


def test_it_outlives_the_daemon_and_stays_on_a_drained_node(docker: DockerCli, lab: Lab) -> None:
    node = docker.good("node", "ls", "--filter", "role=manager", "--format", "{{.ID}}").strip()
    docker.good("node", "update", "--availability", "drain", node)
    docker.good("run", "-d", "--name", "stays", *SLEEP)
    pid = state(docker, "stays", "Pid")
    lab.restart("node-1")
    wait_for(lambda: docker("node", "ls").code, lambda code: code == 0, what="the node should lead again")
    assert (state(docker, "stays"), state(docker, "stays", "Pid")) == ("running", pid)
    docker.good("rm", "-f", "stays")
    docker.good("node", "update", "--availability", "active", node)
