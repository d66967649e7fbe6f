"""The docker CLI on a swarm of one node, from its init to its end: what it prints is what a person looks at.

Every version of the CLI that is here goes through all of it, each with a swarm of its own on the same node.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

import pytest
from docker_cli import DockerCli, docker_programs
from lab_cli import running, tasks_of, wait_for, wait_running
from lab_services import lab_of

from swarmpy.lab.cluster import Lab

CLI: Final = "docker CLI"
QUICK: Final = ("--update-monitor", "100ms", "--stop-grace-period", "100ms", "--no-resolve-image", "--quiet")
SLEEP: Final = ("box:1", "sleep", "100000")
works = pytest.mark.works

STACK = """
version: "3.8"
services:
  web:
    image: box:1
    command: [sh, -c, "echo here; cat /run/secrets/password /settings; sleep 100000"]
    environment: {LEVEL: info}
    networks: [front]
    secrets: [password]
    configs: [{source: settings, target: /settings}]
    volumes: [data:/data]
    ports: ["31080:80"]
    stop_grace_period: 100ms
    healthcheck: {test: [CMD, "true"], interval: 1s}
    deploy:
      replicas: 2
      labels: {tier: front}
      update_config: {parallelism: 2, order: start-first, monitor: 100ms}
      restart_policy: {condition: on-failure, max_attempts: 3}
      resources: {limits: {memory: 64M}}
      placement: {constraints: [node.role == manager]}
networks: {front: {attachable: true, driver: overlay}}
secrets: {password: {file: password}}
configs: {settings: {file: settings}}
volumes: {data: }
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with lab_of(managers=1, workers=0, has_swarm=False) as lab:
        yield lab


@pytest.fixture(scope="module", params=list(docker_programs()))
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def docker(
    lab: Lab, version: str, image_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DockerCli]:
    """On a manager; the swarm is made and left by the same CLI."""
    folder = tmp_path_factory.mktemp("docker")
    docker = DockerCli(docker_programs()[version], lab.docker_host("node-1"), folder)
    assert "Swarm: inactive" in docker.good("info")
    assert "This node is not a swarm manager" in docker.bad("service", "ls")
    assert docker.good("load", "-i", str(image_file)).splitlines() == [
        "Loaded image: box:1",
        "Loaded image: box:2",
    ]
    said = docker.good("swarm", "init", "--advertise-addr", lab.host("node-1").address)
    assert re.match(r"Swarm initialized: current node \(\w{25}\) is now a manager\.\n", said)
    assert "docker swarm join --token SWMTKN-1-" in said
    yield docker
    assert "participating as a manager" in docker.bad("swarm", "leave")
    assert docker.good("swarm", "leave", "--force").strip() == "Node left the swarm."
    assert "Swarm: inactive" in docker.good("info")


@pytest.fixture
def clean(docker: DockerCli, lab: Lab) -> Iterator[DockerCli]:
    """Services that a test leaves are removed."""
    yield docker
    names = docker.good("service", "ls", "-q").split()
    if names:
        docker.good("service", "rm", *names)
        wait_for(lab.tasks, lambda tasks: not tasks, what="no task should be left")


@works(CLI, "`swarm init`, `swarm leave`", "`version`, `info`", "`load`, `images`")
@works(CLI, "`-H`, `DOCKER_HOST`, `context create` and `--context`")
def test_who_answers(docker: DockerCli, lab: Lab) -> None:
    info = docker.good("info")
    for line in ("Swarm: active", "Is Manager: true", "Managers: 1", "Nodes: 1", "Name: node-1"):
        assert line in info
    assert docker.good("version", "--format", "{{.Server.Version}}").strip()
    assert {"box:1", "box:2"} <= set(docker.rows("images", "--format", "{{.Repository}}:{{.Tag}}"))

    nobody = "unix:///nobody.sock"
    docker.good("context", "create", "swarm", "--docker", f"host={docker.host}")
    named = docker("--context", "swarm", "node", "ls", "-q", DOCKER_HOST="")
    assert named.out == docker.good("node", "ls", "-q") != ""
    assert docker("-H", docker.host, "node", "ls", "-q", DOCKER_HOST=nobody).out == named.out
    docker.good("context", "rm", "swarm")


@works(CLI, "`swarm join-token`", "`swarm update`, `swarm ca`, `swarm unlock-key`")
def test_settings_of_the_swarm(docker: DockerCli) -> None:
    old = docker.good("swarm", "join-token", "-q", "worker").strip()
    assert f"docker swarm join --token {old} 10.200.0.11:2377" in docker.good("swarm", "join-token", "worker")
    rotated = docker.good("swarm", "join-token", "--rotate", "-q", "worker").strip()
    assert rotated != old
    assert docker.good("swarm", "join-token", "-q", "worker").strip() == rotated
    assert rotated != docker.good("swarm", "join-token", "-q", "manager").strip()

    said = docker.good("swarm", "update", "--task-history-limit", "3", "--cert-expiry", "48h")
    assert said.strip() == "Swarm updated."
    info = docker.good("info")
    assert "Task History Retention Limit: 3" in info
    assert "Expiry Duration: 2 days" in info
    assert "BEGIN CERTIFICATE" in docker.good("swarm", "ca")
    assert "no unlock key is set" in docker.bad("swarm", "unlock-key")


@works(CLI, "`node ls`, `ps`, `inspect`, `update`")
def test_the_node(clean: DockerCli) -> None:
    docker = clean
    columns = "{{.Hostname}} {{.Status}} {{.Availability}} {{.ManagerStatus}} {{.Self}}"
    assert docker.rows("node", "ls", "--format", columns) == ["node-1 Ready Active Leader true"]
    assert docker.json("node", "inspect", "self")[0]["Spec"]["Role"] == "manager"
    docker.good("node", "update", "--label-add", "zone=a", "node-1")
    shown = docker.good("node", "inspect", "--pretty", "node-1")
    for line in (" - zone=a", "Hostname:", "Availability:", "Raft Status:", "Reachable", "Memory:"):
        assert line in shown
    docker.good("node", "update", "--label-rm", "zone", "node-1")

    docker.good("service", "create", "--detach", "--name", "web", *QUICK, *SLEEP)
    wait_for(
        partial(docker.rows, "node", "ps", "--format", "{{.Name}} {{.Node}}"), lambda r: r == ["web.1 node-1"]
    )


@works(CLI, "`network create`, `ls`, `inspect`, `rm`, `prune`")
def test_networks(docker: DockerCli) -> None:
    made = docker.good(
        "network",
        "create",
        "-d",
        "overlay",
        "--attachable",
        "--subnet",
        "10.55.0.0/24",
        "--label",
        "a=b",
        "net",
    )
    assert re.fullmatch(r"\w{25}\n", made)
    assert docker.rows("network", "ls", "--filter", "driver=overlay", "--format", "{{.Name}} {{.Scope}}") == [
        "ingress swarm",
        "net swarm",
    ]
    shown = docker.json("network", "inspect", "net")[0]
    assert (shown["Labels"], shown["Attachable"], shown["Scope"]) == ({"a": "b"}, True, "swarm")
    assert shown["IPAM"]["Config"] == [{"Subnet": "10.55.0.0/24", "Gateway": "10.55.0.1"}]
    assert "network with name net already exists" in docker.bad("network", "create", "-d", "overlay", "net")
    assert docker.good("network", "rm", "net") == "net\n"
    docker.good("network", "create", "-d", "overlay", "idle")
    assert "idle" in docker.good("network", "prune", "--force")
    assert docker.rows("network", "ls", "-q", "--filter", "name=idle") == []


@works(CLI, "`secret` and `config`: `create`, `ls`, `inspect`, `rm`")
@pytest.mark.parametrize("noun", ["secret", "config"])
def test_secrets_and_configs(docker: DockerCli, noun: str) -> None:
    assert re.fullmatch(
        r"\w{25}\n", docker.good(noun, "create", "--label", "a=b", "one", "-", text="content")
    )
    assert docker.rows(noun, "ls", "--format", "{{.Name}} {{.Labels}}") == ["one a=b"]
    shown = docker.good(noun, "inspect", "--pretty", "one")
    assert re.search(r"Name:\s+one\n", shown)
    spec = docker.json(noun, "inspect", "one")[0]["Spec"]
    assert spec.get("Data") == (None if noun == "secret" else "Y29udGVudA==")
    assert f"{noun} one already exists" in docker(noun, "create", "one", "-", text="other").err
    assert docker.good(noun, "rm", "one") == "one\n"
    assert re.search(
        f"{noun} one not found|no such {noun}: one", docker.bad(noun, "inspect", "one"), re.IGNORECASE
    )


@works(CLI, "`service create` with its progress, `ls`, `ps`, `inspect`, `rm`")
@works(CLI, "`service scale`, `update` (env, image, publish, force), `rollback`")
def test_the_life_of_a_service(clean: DockerCli, lab: Lab) -> None:
    docker = clean
    publish = ("--publish", "31081:80")
    made = docker.good(
        *("service", "create", "--name", "web", "--replicas", "2", "--label", "tier=front", *publish),
        *(word for word in QUICK if word != "--quiet"), *SLEEP,
    )  # fmt: skip
    assert "overall progress: 2 out of 2 tasks" in made
    assert "verify: Service" in made
    assert len(running(lab, "web")) == 2
    columns = "{{.Name}} {{.Mode}} {{.Replicas}} {{.Image}} {{.Ports}}"
    assert docker.rows("service", "ls", "--format", columns) == ["web replicated 2/2 box:1 *:31081->80/tcp"]
    tasks = docker.rows(
        "service", "ps", "web", "--format", "{{.Name}} {{.Image}} {{.Node}} {{.CurrentState}}"
    )
    assert [line.split()[:4] for line in tasks] == [
        [f"web.{n}", "box:1", "node-1", "Running"] for n in (1, 2)
    ]
    assert docker.json("service", "inspect", "web")[0]["Spec"]["Labels"] == {"tier": "front"}
    pretty = docker.good("service", "inspect", "--pretty", "web")
    for line in ("Service Mode:\tReplicated\n Replicas:\t2", "PublishedPort = 31081", "Image:\t\tbox:1"):
        assert line in pretty

    docker.good("service", "create", "--name", "side", *QUICK, *SLEEP)
    scaled = docker.good("service", "scale", "web=3", "side=2")
    assert ("web scaled to 3" in scaled, "side scaled to 2" in scaled) == (True, True)
    assert (len(running(lab, "web")), len(running(lab, "side"))) == (3, 2)

    before = {task["ID"] for task in running(lab, "web")}
    change = (
        "--env-add",
        "A=1",
        "--image",
        "box:2",
        "--publish-add",
        "31082:81",
        "--update-parallelism",
        "0",
    )
    updated = docker.good("service", "update", "--no-resolve-image", *change, "web")
    assert "overall progress: 0 out of 3 tasks" in updated  # it may be completed before the CLI looks again
    assert not before & {task["ID"] for task in running(lab, "web")}
    container = docker.json("service", "inspect", "web")[0]["Spec"]["TaskTemplate"]["ContainerSpec"]
    assert (container["Image"], container["Env"]) == ("box:2", ["A=1"])
    assert "Update status" not in updated
    assert "State:\t\tcompleted" in docker.good("service", "inspect", "--pretty", "web").replace(
        "UpdateStatus:\n ", ""
    )
    history = docker.rows("service", "ps", "web", "--format", "{{.Name}} {{.DesiredState}}")
    history = [row.removeprefix("\\_ ") for row in history]
    assert history.count("web.1 Shutdown") == 1

    forced = {task["ID"] for task in running(lab, "side")}
    docker.good("service", "update", "--force", "--quiet", "side")
    assert not forced & {task["ID"] for task in running(lab, "side")}

    rolled = docker.good("service", "rollback", "web")
    assert "rollback: manually requested rollback" in rolled
    container = docker.json("service", "inspect", "web")[0]["Spec"]["TaskTemplate"]["ContainerSpec"]
    assert (container["Image"], "Env" in container) == ("box:1", False)
    assert docker.good("service", "rm", "web", "side") == "web\nside\n"
    assert docker.good("service", "ls", "-q") == ""


@works(CLI, "`service create` with networks, secrets, configs, mounts, health checks, limits, constraints")
def test_a_service_with_everything(clean: DockerCli, lab: Lab) -> None:
    docker = clean
    docker.good("network", "create", "-d", "overlay", "net")
    docker.good("secret", "create", "pass", "-", text="word")
    docker.good("config", "create", "settings", "-", text="a = b")
    docker.good(
        *("service", "create", "--name", "full", *QUICK, "--replicas", "2"),
        *("--network", "name=net,alias=other", "--secret", "pass", "--env", "A=b", "--workdir", "/tmp"),
        *("--config", "source=settings,target=/settings,mode=0400"),
        *("--mount", "type=volume,src=vol,dst=/data"),
        *("--mount", "type=tmpfs,dst=/scratch,tmpfs-size=1000000", "--user", "0:0", "--limit-memory", "64m"),
        *("--limit-cpu", "0.5", "--limit-pids", "50", "--reserve-memory", "16m", "--label", "x=y"),
        *("--restart-condition", "on-failure", "--restart-max-attempts", "3", "--restart-delay", "1s"),
        *("--health-cmd", "cat /settings", "--health-interval", "200ms", "--stop-signal", "SIGINT", "--init"),
        *("--update-order", "start-first", "--update-failure-action=rollback", "--rollback-parallelism=2"),
        *("--constraint", "node.role==manager", "--placement-pref", "spread=node.labels.zone", "--tty"),
        *("--hostname", "{{.Task.Name}}", "--host", "db:10.1.2.3", "--dns", "10.1.2.4"),
        *("--replicas-max-per-node", "2", "--cap-add", "NET_ADMIN", "--sysctl", "net.ipv4.ip_default_ttl=66"),
        "--container-label", "c=d", "--log-driver", "json-file", "box:1",
        *("sh", "-c", "cat /run/secrets/pass /settings; hostname; echo $A; cat /etc/hosts; sleep 100000"),
    )  # fmt: skip
    assert len(running(lab, "full")) == 2
    template = docker.json("service", "inspect", "full")[0]["Spec"]["TaskTemplate"]
    assert template["Resources"]["Limits"] == {"NanoCPUs": 500_000_000, "MemoryBytes": 64 << 20, "Pids": 50}
    assert template["Placement"]["Preferences"] == [{"Spread": {"SpreadDescriptor": "node.labels.zone"}}]
    assert template["ContainerSpec"]["CapabilityAdd"] == ["CAP_NET_ADMIN"]
    pretty = docker.good("service", "inspect", "--pretty", "full")
    for line in (
        "Secrets:",
        "Configs:",
        "Mounts:",
        "Networks: net",
        "Healthcheck:",
        "Constraints:\t[node.role==manager]",
    ):
        assert line in pretty
    said = wait_for(
        partial(docker.good, "service", "logs", "--raw", "full"),
        lambda out: len(re.findall(r"\sdb\s", out)) == 2,
    )
    for word in ("word", "a = b", "full.1.", "full.2.", "b"):
        assert word in said
    assert "is in use by the following service: full" in docker.bad("secret", "rm", "pass")
    assert "is in use by the following service: full" in docker.bad("config", "rm", "settings")
    docker.good("service", "rm", "full")
    wait_for(lab.tasks, lambda tasks: not tasks)
    docker.good("secret", "rm", "pass")
    docker.good("config", "rm", "settings")
    docker.good("network", "rm", "net")
    assert "vol" in docker.good("volume", "ls", "-q").split()
    wait_for(lambda: docker("volume", "rm", "vol").code == 0, what="nobody should use the volume")


@works(CLI, "`service create --mode global`, `replicated-job`, `global-job`; ports in host mode")
def test_modes(clean: DockerCli, lab: Lab) -> None:
    docker = clean
    host_port = "mode=host,published=31083,target=80"
    docker.good("service", "create", "--name", "all", "--mode", "global", "-p", host_port, *QUICK, *SLEEP)
    assert "*:31083->80/tcp" in docker.good("service", "ps", "all")
    assert "scale can only be used with replicated" in docker.bad("service", "scale", "all=2")
    job = docker.good(
        *("service", "create", "--name", "job", "--mode", "replicated-job", "--replicas", "3"),
        *("--max-concurrent", "2", "--no-resolve-image", "box:1", "true"),
    )
    assert "job complete" in job
    docker.good(
        *("service", "create", "--quiet", "--no-resolve-image", "--name", "each"),
        *("--mode", "global-job", "box:1", "true"),
    )
    assert docker.rows("service", "ls", "--format", "{{.Name}} {{.Mode}} {{.Replicas}}") == [
        "all global 1/1",
        "each global job 0/0 (1/1 completed)",
        "job replicated job 0/2 (3/3 completed)",
    ]
    states = docker.rows("service", "ps", "job", "--format", "{{.CurrentState}}")
    assert [line.split()[0] for line in states] == ["Complete"] * 3


@works(
    CLI,
    "`service logs`: `--follow`, `--tail`, `--timestamps`, `--raw`, `--no-task-ids`, `--since`, of a task",
)
def test_logs(clean: DockerCli, lab: Lab) -> None:
    docker = clean
    talk = ("sh", "-c", "for n in 1 2 3; do echo line $n; done; echo wrong >&2; exec sleep 100000")
    docker.good("service", "create", "--name", "talk", *QUICK, "box:1", *talk)
    logs = partial(docker.good, "service", "logs")
    said = wait_for(partial(logs, "talk"), lambda out: out.count("line") == 3)
    assert all(re.match(r"talk\.1\.\w{12}@node-1 +\| line \d", line) for line in said.splitlines())
    assert "wrong" in docker("service", "logs", "talk").err
    assert logs("--raw", "talk") == "line 1\nline 2\nline 3\n"
    assert logs("--tail", "2", "--raw", "talk").count("line") <= 2
    assert re.match(
        r"\d{4}-\d\d-\d\dT[\d:.]+Z talk\.1@node-1 +\| line 1", logs("-t", "--no-task-ids", "talk")
    )
    assert re.match(r"talk\.1\.\w{25}@node-1", logs("--no-trunc", "talk"))
    assert "line" not in logs("--since", "2100-01-01", "talk")
    task = docker.good("service", "ps", "-q", "--no-trunc", "talk").strip()
    assert "line 3" in logs(task)

    following = docker.follow("service", "logs", "--follow", "--raw", "--tail", "0", "talk")
    try:
        docker.good("service", "update", "--force", "--quiet", "talk")
        assert following.stdout is not None
        assert following.stdout.readline() == "line 1\n"
    finally:
        following.kill()
        following.communicate()


@works(CLI, "`stack deploy`, `ls`, `services`, `ps`, `rm`")
def test_a_stack(clean: DockerCli, lab: Lab, tmp_path: Path) -> None:
    docker = clean
    (tmp_path / "password").write_text("secret word\n")
    (tmp_path / "settings").write_text("level = one\n")
    file = tmp_path / "stack.yml"
    file.write_text(STACK)
    made = docker.good("stack", "deploy", "-c", str(file), "st").splitlines()
    assert made == [
        "Creating network st_front",
        "Creating secret st_password",
        "Creating config st_settings",
        "Creating service st_web",
    ]
    wait_running(lab, "st_web", 2)
    assert docker.rows("stack", "ls", "--format", "{{.Name}} {{.Services}}") == ["st 1"]
    columns = "{{.Name}} {{.Replicas}} {{.Image}} {{.Ports}}"
    assert docker.rows("stack", "services", "st", "--format", columns) == ["st_web 2/2 box:1 *:31080->80/tcp"]
    rows = docker.rows("stack", "ps", "st", "--format", "{{.Name}} {{.Node}} {{.DesiredState}}")
    assert rows == ["st_web.1 node-1 Running", "st_web.2 node-1 Running"]
    assert "level = one" in docker.good("service", "logs", "st_web")

    before = tasks_of(lab, "st_web")
    again = docker.good("stack", "deploy", "-c", str(file), "st")
    assert again.startswith("Updating service st_web")
    assert len(tasks_of(lab, "st_web")) == len(before)
    file.write_text(STACK.replace("LEVEL: info", "LEVEL: debug"))
    docker.good("stack", "deploy", "-c", str(file), "st")
    wait_for(
        lambda: {task["ID"] for task in running(lab, "st_web")},
        lambda now: len(now) == 2 and not now & {task["ID"] for task in before},
        what="both tasks should be replaced",
    )
    gone = docker("stack", "rm", "st")
    assert gone.code == 0, gone
    assert "Removing network st_front" in gone.out + gone.err
    assert docker.good("stack", "ls", "--format", "{{.Name}}") == ""
    assert docker.rows("network", "ls", "-q", "--filter", "name=st_front") == []


@works(CLI, "`events` of swarm objects")
def test_events(clean: DockerCli) -> None:
    docker = clean
    since = _now()
    docker.good("config", "create", "first", "-", text="x")
    docker.good("service", "create", "--detach", "--name", "web", *QUICK, *SLEEP)
    docker.good("service", "rm", "web")
    docker.good("config", "rm", "first")
    kinds = ("--filter", "type=config", "--filter", "type=service")
    seen = docker.good(
        *("events", "--since", since, "--until", _now(), "--filter", "scope=swarm", *kinds),
        *("--format", "{{.Type}} {{.Action}} {{.Actor.Attributes.name}}"),
    )
    assert [line for line in seen.splitlines() if line != "service update web"] == [
        "config create first",
        "service create web",
        "service remove web",
        "config remove first",
    ]


def _now() -> str:
    return str(datetime.now(UTC).timestamp())


REFUSED: Final = [
    (["service", "create", "--constraint", "node.role=x", "box:1"], "constraint expected one operator"),
    (["service", "create", "--name", "a b", "box:1"], "name must be valid as a DNS name component"),
    (["service", "inspect", "nope"], "no such service: nope"),
    (["service", "ps", "nope"], "no such service: nope"),
    (["service", "logs", "nope"], "no such task or service: nope"),
    (["service", "rm", "nope"], "service nope not found|no such service: nope"),
    (["service", "scale", "nope=1"], "service nope not found|no such service: nope"),
    (["stack", "rm", "nope"], "Nothing found in stack: nope"),
    (["node", "inspect", "nope"], "node nope not found|no such node: nope"),
    (["node", "demote", "node-1"], "attempting to demote the last manager of the swarm"),
    (["node", "rm", "node-1"], "is a cluster manager and is a member of the raft cluster"),
    (["network", "rm", "nope"], "network nope not found|no such network: nope"),
    (["secret", "rm", "nope"], "secret nope not found|no such secret: nope"),
    (["swarm", "init"], "This node is already part of a swarm."),
]


@works(CLI, "what is refused is told in docker's words")
def test_refusals(docker: DockerCli) -> None:
    for words, told in REFUSED:
        said = docker(*words)
        assert re.search(told, said.err + said.out, re.IGNORECASE), (words, said)
        assert said.code == (0 if words[0] == "stack" else 1), (words, said)
