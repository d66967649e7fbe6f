"""Whole commands: what is printed where, and the exit code."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from api_node import FIRST, MANAGER_TOKEN, WORKER_TOKEN, FakeCluster, FakeNode
from cli_run import Run
from image_files import tar_of, write_docker_save

from manager.api.control import LogLine
from swarmpy.cli import app, progress
from swarmpy.client import Client
from swarmpy.errors import NoLeader
from swarmpy.model.ids import NodeId, ServiceId, TaskId, Timestamp
from swarmpy.model.states import NodeRole, TaskState
from swarmpy.version import VERSION

SECOND = NodeId("n2bbbbbbbbbbbbbbbbbbbbbbb")


def create(run: Run, *argv: str) -> str:
    result = run("service", "create", "--detach", *argv)
    assert result.code == 0, result.err
    return result.out.strip()


def test_init_and_join_tokens(run: Run, node: FakeNode) -> None:
    result = run("init", "--advertise-addr", "10.0.0.1")
    assert result.code == 0, result.err
    assert result.lines[0] == f"Swarm initialized: current node ({FIRST}) is now a manager."
    assert f"    swarmpy join --token {WORKER_TOKEN} 10.0.0.1:2377" in result.lines
    again = run("init")
    assert again.code == 1
    assert again.err == (
        "Error response from daemon: This node is already part of a swarm. "
        'Use "swarmpy leave" to leave this swarm and join another one.\n'
    )
    assert run("join-token", "-q", "manager").out == f"{MANAGER_TOKEN}\n"
    assert run("join-token", "boss").code == 2
    rotated = run("join-token", "--rotate", "worker")
    assert rotated.lines[0] == "Successfully rotated worker join token."
    assert WORKER_TOKEN not in rotated.out
    assert run("leave").code == 1
    assert run("leave", "--force").out == "Node left the swarm.\n"


def test_join(run: Run, node: FakeNode) -> None:
    assert run("join", "10.0.0.1:2377").code == 2
    result = run("join", "--token", WORKER_TOKEN, "10.0.0.1:2377")
    assert (result.code, result.out) == (0, "This node joined a swarm as a worker.\n")
    refused = run("service", "ls")
    assert refused.code == 1
    assert "This node is not a swarm manager. Worker nodes can't be used" in refused.err
    assert refused.out == ""


def test_outside_a_swarm_all_commands_fail_alike(run: Run) -> None:
    said = {
        run(*command).err for command in (("service", "ps", "web"), ("node", "ls"), ("join-token", "worker"))
    }
    assert said == {
        "Error response from daemon: This node is not a swarm manager. "
        'Use "swarmpy init" or "swarmpy join" to connect this node to swarm and try again.\n'
    }
    assert run("join-token", "worker").out == ""


def test_service_ls_looks_like_dockers(run: Run, cluster: FakeCluster) -> None:
    assert run("service", "ls").out == "ID        NAME      MODE      REPLICAS   IMAGE     PORTS\n"
    id_ = create(run, "--name", "web", "--replicas", "3", "-p", "8080:80", "host", "sh", "-c", "sleep 1")
    cluster.add_task("t1", id_)
    assert run("service", "ls").lines == [
        "ID             NAME      MODE         REPLICAS   IMAGE     PORTS",
        f"{id_[:12]}   web       replicated   1/3        host      *:8080->80/tcp",
    ]
    assert run("service", "ls", "-q").out == f"{id_}\n"
    assert run("service", "ls", "--format", "{{.Name}} {{.Replicas}}").out == "web 1/3\n"
    assert json.loads(run("service", "ls", "--format", "json").out)["Image"] == "host"
    assert run("service", "ls", "--format", "table {{.Name}}\t{{.ID}}").lines[0] == "NAME      ID"
    assert run("service", "ls", "--filter", "name=nope").lines[1:] == []
    assert run("service", "ls", "--format", "{{bogus .ID}}").code == 2
    assert run("service", "ls", "--filter", "name").code == 2


def test_service_ps_shows_the_present_and_the_past(run: Run, cluster: FakeCluster) -> None:
    id_ = create(run, "--name", "web", "--replicas", "2", "host")
    cluster.add_task("told", id_, state=TaskState.FAILED, err="task: non-zero exit (1)")
    cluster.order("told", TaskState.SHUTDOWN)
    cluster.add_task("new", id_, slot=2)
    lines = run("service", "ps", "web").lines
    assert lines[0].split() == [
        "ID",
        "NAME",
        "IMAGE",
        "NODE",
        "DESIRED",
        "STATE",
        "CURRENT",
        "STATE",
        "ERROR",
        "PORTS",
    ]
    assert "web.1" in lines[1]
    assert "Shutdown" in lines[1]
    assert "Failed" in lines[1]
    assert '"task: non-zero exit (1)"' in lines[1]
    assert "web.2" in lines[2]
    assert "node-1" in lines[2]
    missing = run("service", "ps", "nope", "web")
    assert missing.code == 1
    assert missing.err == "no such service: nope\n"
    assert len(missing.lines) == 3


def test_service_changes(run: Run, cluster: FakeCluster) -> None:
    id_ = ServiceId(create(run, "--name", "web", "-e", "A=1", "host"))
    assert run("service", "scale", "-d", "web=4").out == "web scaled to 4\n"
    assert run("service", "update", "-d", "--env-add", "B=2", "--image", "host:2", "web").out == "web\n"
    service = cluster.store.service(id_)
    assert service is not None
    container = service.spec.task_template.container_spec
    assert container is not None
    assert (container.image, container.env) == ("host:2", ("A=1", "B=2"))
    assert run("service", "rollback", "-d", "web").code == 0
    shown = run("service", "inspect", "web", "--format", "{{.Spec.TaskTemplate.ContainerSpec.Image}}")
    assert shown.out == "host\n"
    assert json.loads(run("service", "inspect", "web").out)[0]["ID"] == id_
    removed = run("service", "rm", "web", "nope")
    assert (removed.code, removed.out) == (1, "web\n")
    assert removed.err == "Error response from daemon: service nope not found\n"


def test_a_stale_version_is_read_again(run: Run, cluster: FakeCluster) -> None:
    create(run, "--name", "web", "--replicas", "1", "host")
    threads = [
        threading.Thread(
            target=app.main, args=(["-H", run.address, "service", "scale", "-d", f"web={n}"], {})
        )
        for n in range(2, 8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    (service,) = cluster.store.services()
    assert len(cluster.store.revisions_of(service.id)) == 7, "every scaling took effect, one after the other"


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["service", "create"], "requires at least 1 argument"),
        (["service", "create", "--bogus", "host"], "unknown flag: --bogus"),
        (["service", "create", "--replicas", "-1", "host"], "it cannot be negative"),
        (["service", "create", "--replicas", "x", "host"], "it is no whole number"),
        (["service", "scale", "web"], "invalid scale specifier 'web'"),
        (["service", "scale", "web=-1"], "invalid replicas value -1"),
        (["service", "fly"], "unknown command: swarmpy service fly"),
        (["fly"], "'fly' is not a swarmpy command"),
        (["--bogus"], "unknown flag: --bogus"),
        (["node", "ls", "extra"], "accepts no arguments"),
    ],
)
def test_wrong_lines_exit_2(run: Run, cluster: FakeCluster, argv: list[str], words: str) -> None:
    result = run(*argv)
    assert (result.code, result.out) == (2, "")
    assert words in result.err
    assert "--help'." in result.err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--replicas", "1000000000", "host"], "Number of replicas must be at most 100000"),
        (["--constraint", "node ~ a", "host"], "constraint expected one operator from ==, !="),
        (["--network", "nowhere", "host"], "network nowhere not found"),
        (["Host:"], "is not a valid repository/tag"),
    ],
)
def test_refusals_exit_1(run: Run, cluster: FakeCluster, argv: list[str], words: str) -> None:
    result = run("service", "create", *argv)
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("Error response from daemon: ")
    assert words in result.err


def test_nodes(run: Run, cluster: FakeCluster) -> None:
    cluster.add_node(SECOND, "node-2")
    assert run("node", "ls").lines == [
        "ID                            HOSTNAME   STATUS    AVAILABILITY   MANAGER STATUS   ENGINE VERSION",
        f"{FIRST} *   node-1     Ready     Active         Leader           0.1.0",
        f"{SECOND}     node-2     Ready     Active                          0.1.0",
    ]
    assert run("node", "promote", "node-2").out == "Node node-2 promoted to a manager in the swarm.\n"
    assert run("node", "promote", "node-2").out == "Node node-2 is already a manager.\n"
    assert run("node", "demote", "node-2").out == "Manager node-2 demoted in the swarm.\n"
    last = run("node", "demote", "node-1")
    assert last.code == 1
    assert "attempting to demote the last manager of the swarm" in last.err
    assert run("node", "update", "--availability", "drain", "--label-add", "a=b", "node-2").code == 0
    node = cluster.store.node(SECOND)
    assert node is not None
    assert (node.spec.availability, node.spec.labels) == ("drain", {"a": "b"})
    assert node.spec.role is NodeRole.WORKER
    assert run("node", "update", "--label-rm", "z", "node-2").code == 2
    assert run("node", "inspect", "self", "-f", "{{.Description.Hostname}}").out == "node-1\n"
    assert run("node", "rm", "node-2").code == 1
    assert run("node", "rm", "--force", "node-2").out == "node-2\n"
    assert run("node", "ps", "node-2").code == 1


def test_an_ambiguous_prefix(run: Run, cluster: FakeCluster) -> None:
    cluster.add_node(SECOND, "node-2")
    result = run("node", "inspect", "n")
    assert result.code == 1
    assert "node n is ambiguous (2 matches found)" in result.err


def test_no_leader_and_stale(run: Run, cluster: FakeCluster) -> None:
    cluster.barrier_error = NoLeader()
    refused = run("service", "ls")
    assert refused.code == 1
    assert "The swarm does not have a leader." in refused.err
    assert run("--stale", "service", "ls").code == 0


def test_tasks_and_logs(run: Run, cluster: FakeCluster) -> None:
    id_ = create(run, "--name", "web", "host")
    cluster.add_task("task1aaaaaaaaaaaaaaaaaaaaa", id_)
    cluster.log_lines = tuple(
        LogLine(
            task_id=TaskId("task1aaaaaaaaaaaaaaaaaaaaa"),
            node_id=FIRST,
            service_id=ServiceId(id_),
            timestamp=Timestamp(1),
            stream=stream,
            data=data,
        )
        for stream, data in ((1, b"hello\n"), (2, b"trouble"))
    )
    result = run("service", "logs", "web")
    assert result.out == "web.1.task1aaaaaaa@node-1    | hello\n"
    assert result.err == "web.1.task1aaaaaaa@node-1    | trouble\n"
    assert run("service", "logs", "--raw", "task1").out == "hello\n"
    assert (
        run("service", "logs", "--timestamps", "--raw", "web").out == "1970-01-01T00:00:00.000000001Z hello\n"
    )
    cluster.log_warnings = ("node node-9 is not available",)
    partial = run("service", "logs", "web")
    assert partial.code == 1
    assert "node node-9 is not available" in partial.err
    assert "web.1" in run("task", "ls").out
    assert json.loads(run("task", "inspect", "task1").out)[0]["ServiceID"] == id_
    assert run("service", "logs", "nope").err == "Error response from daemon: no such task or service: nope\n"


def test_images(run: Run, node: FakeNode, tmp_path: Path) -> None:
    file = write_docker_save(tmp_path / "image.tar", [tar_of(("a", b"a"))], names=["registry:5000/app:1"])
    assert run("image", "load", str(file)).out == "Loaded image: registry:5000/app:1\n"
    (found,) = json.loads(run("image", "inspect", "registry:5000/app:1").out)
    short = found["Id"][7:19]
    assert run("image", "ls").lines[1].split()[:3] == ["registry:5000/app", "1", short]
    assert run("image", "rm", "registry:5000/app:1").lines[0] == "Untagged: registry:5000/app:1"
    gone = run("image", "rm", "registry:5000/app:1")
    assert (gone.code, gone.err) == (1, "Error response from daemon: No such image: registry:5000/app:1\n")
    assert "cannot be read" in run("image", "load", str(tmp_path / "none")).err


def test_images_by_other_ways(run: Run, node: FakeNode, tmp_path: Path) -> None:
    rootfs, saved = tmp_path / "rootfs.tar", tmp_path / "saved.tar"
    rootfs.write_bytes(tar_of(("a", b"a" * 2_000)))
    id_ = run(
        "image", "import", "-c", "CMD x", "-c", "ENV A=b", "-m", "made", str(rootfs), "app:1"
    ).out.strip()
    (found,) = json.loads(run("image", "inspect", "app:1").out)
    assert (found["Id"], found["Config"]["Env"], found["Comment"]) == (id_, ["A=b"], "made")
    assert run("image", "history", "app:1").lines[1].split()[0] == id_[7:19]
    assert run("image", "tag", "app:1", "web:2").code == 0
    assert run("image", "save", "-o", str(saved), "web:2").code == 0
    assert "image is referenced in multiple" in run("image", "rm", id_).err
    assert run("image", "rm", "-f", id_).lines[:2] == ["Untagged: app:1", "Untagged: web:2"]
    assert run("image", "load", str(saved)).out == "Loaded image: web:2\n"
    assert run("image", "prune").code == 2
    assert run("image", "prune", "-a", "-f").lines[-1] == "Total reclaimed space: 2kB"
    assert "asks no registries" in run("image", "pull", "app:1").err
    assert run("image", "push", "app:1").err == "Error: tag does not exist: app:1\n"
    assert run("image", "pull", "-u", "joe", "app:1").code == 2


def test_events_until(run: Run, cluster: FakeCluster) -> None:
    timer = threading.Timer(0.3, lambda: create_quietly(run.address))
    timer.start()
    result = run("events", "--until", "1s", "--filter", "type=service")
    timer.join()
    assert result.code == 0
    (line,) = result.lines
    assert " service create " in line
    assert line.endswith("(name=web)")


def create_quietly(address: str) -> None:
    from swarmpy.client import Client

    spec = {"Name": "web", "TaskTemplate": {"ContainerSpec": {"Image": "host"}}}
    Client(address).post("/services/create", spec)


def test_create_waits_until_it_runs(run: Run, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "MONITOR_S", 0.3)
    has_seen_one = threading.Event()
    look = progress.look

    def noted(client: Client, id_: str) -> progress.Picture | None:
        picture = look(client, id_)
        if picture is not None and picture.running == 1:
            has_seen_one.set()
        return picture

    monkeypatch.setattr(progress, "look", noted)

    def start_tasks() -> None:
        while not cluster.store.services():
            time.sleep(0.01)
        (service,) = cluster.store.services()
        cluster.add_task("t1", service.id)
        has_seen_one.wait(10)
        cluster.add_task("t2", service.id, slot=2)

    starter = threading.Thread(target=start_tasks)
    starter.start()
    result = run("service", "create", "--name", "web", "--replicas", "2", "host")
    starter.join(10)
    assert result.code == 0, result.err
    shown = [line for line in result.lines[1:] if line != "overall progress: 0 out of 2 tasks"]
    assert shown == [
        "overall progress: 1 out of 2 tasks",
        "overall progress: 2 out of 2 tasks",
        "verify: Waiting for tasks to be stable",
        "verify: Service converged",
    ]


def test_an_interrupt_leaves_the_work_going(
    run: Run, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(progress, "look", interrupted)
    result = run("service", "create", "--name", "web", "host")
    assert result.code == 0
    assert result.err.startswith("Operation continuing in background.\n")
    assert len(cluster.store.services()) == 1


# --- outside a daemon


def test_no_daemon(run: Run) -> None:
    result = run("service", "ls", address="/nowhere/x.sock")
    assert result.code == 1
    assert "Cannot connect to the SwarmPy daemon at unix:///nowhere/x.sock. Is it running?" in result.err
    assert run("service", "ls", address="tcp://nowhere").code == 1
    version = run("version", address="/nowhere/x.sock")
    assert version.code == 1
    assert "Client: SwarmPy" in version.out


def test_help_and_version(run: Run) -> None:
    assert run("--version").out == f"SwarmPy version {VERSION}\n"
    overview = run()
    assert overview.code == 0
    for word in ("init", "join", "service", "node", "daemon", "dev"):
        assert f"  {word} " in overview.out
    assert run("service").out.startswith("Usage:  swarmpy service COMMAND")
    assert run("service", "create", "--help").out.startswith("Usage:  swarmpy service create [OPTIONS] IMAGE")
    assert run("help", "node", "ls").out.startswith("Usage:  swarmpy node ls")


def test_addresses() -> None:
    assert app.default_address({}) == "/run/swarmpy/swarmpy.sock"
    assert app.default_address({"DOCKER_HOST": "unix:///d"}) == "unix:///d"
    assert app.default_address({"DOCKER_HOST": "unix:///d", "SWARMPY_SOCKET": "/s"}) == "/s"
    assert app.default_address({"SWARMPY_HOST": "tcp://h:1", "SWARMPY_SOCKET": "/s"}) == "tcp://h:1"


def test_the_list_path_imports_nothing_heavy() -> None:
    heavy = ("typer", "rich", "aiohttp", "grpc", "msgspec", "pydantic", "asyncio")
    program = (
        "import sys; from swarmpy.cli.app import main; main(['-H', '/nowhere', 'service', 'ls']); "
        f"print([m for m in {heavy} if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_optimised_python_is_refused() -> None:
    result = subprocess.run(
        [sys.executable, "-O", "-m", "swarmpy", "version"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert "does not run under python -O" in result.stderr


def test_anothers_packages_are_refused(tmp_path: Path) -> None:
    (tmp_path / "agent").mkdir()
    (tmp_path / "agent" / "__init__.py").write_text("raise SystemExit('the wrong agent was run')")
    result = subprocess.run(
        [sys.executable, "-m", "swarmpy", "version"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert result.returncode == 1
    assert 'The package "agent" is found at' in result.stderr
    assert "environment of its own" in result.stderr
