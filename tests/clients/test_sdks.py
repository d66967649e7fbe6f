"""docker-py, aiodocker and python-on-whales: what their users do with a swarm."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import aiodocker
import docker
import docker.errors
import docker.types
import pytest
from docker_cli import docker_programs
from lab_cli import wait_for, wait_running
from lab_services import lab_of
from python_on_whales import DockerClient
from python_on_whales.exceptions import DockerException, NotASwarmManager

from swarmpy.lab.cluster import Lab

PY: Final = "docker-py"
AIO: Final = "aiodocker"
WHALES: Final = "python-on-whales"
SLEEP: Final = ["sleep", "100000"]
SECOND_NS: Final = 1_000_000_000
works = pytest.mark.works


@pytest.fixture(scope="module")
def lab(image_file: Path) -> Iterator[Lab]:
    with lab_of(managers=1, workers=1) as lab:
        for name in ("node-1", "node-2"):
            client = docker.DockerClient(base_url=lab.docker_host(name))
            loaded = client.images.load(image_file.read_bytes())
            assert {tag for image in loaded for tag in image.tags} == {"box:1", "box:2"}
            client.close()
        yield lab


@pytest.fixture
def client(lab: Lab) -> Iterator[docker.DockerClient]:
    client = docker.DockerClient(base_url=lab.docker_host("node-1"))
    yield client
    for service in client.services.list():
        service.remove()
    client.close()


@pytest.fixture
async def aio(lab: Lab) -> AsyncIterator[aiodocker.Docker]:
    async with aiodocker.Docker(url=lab.docker_host("node-1")) as client:
        yield client


@pytest.fixture
def whales(lab: Lab, tmp_path: Path) -> DockerClient:
    return DockerClient(
        host=lab.docker_host("node-1"), config=tmp_path, client_call=[next(iter(docker_programs().values()))]
    )


# --- docker-py


@works(PY, "`version`, `info`, `ping`, `df`, `swarm.attrs`, `swarm.update`, `swarm.get_unlock_key`")
def test_docker_py_system(client: docker.DockerClient) -> None:
    assert client.ping() is True
    assert client.version()["ApiVersion"] == "1.47"
    assert client.info()["Swarm"]["ControlAvailable"] is True
    assert "Volumes" in client.df()
    assert client.swarm.attrs["JoinTokens"]["Worker"].startswith("SWMTKN-1-")
    assert client.swarm.update(task_history_retention_limit=4, rotate_worker_token=True) is True
    client.swarm.reload()
    assert client.swarm.attrs["Spec"]["Orchestration"]["TaskHistoryRetentionLimit"] == 4
    assert client.swarm.get_unlock_key()["UnlockKey"] == ""


@works(PY, "`nodes.list`, `get`, `update`")
def test_docker_py_nodes(client: docker.DockerClient) -> None:
    found = client.nodes.list(filters={"role": "worker"})
    assert [node.attrs["Description"]["Hostname"] for node in found] == ["node-2"]
    node = client.nodes.get(found[0].id)
    assert node.update({**node.attrs["Spec"], "Labels": {"zone": "a"}}) is True
    node.reload()
    assert node.attrs["Spec"]["Labels"] == {"zone": "a"}
    stale = node.version
    assert node.update({**node.attrs["Spec"], "Labels": {}}) is True
    with pytest.raises(docker.errors.APIError, match="update out of sequence"):
        client.api.update_node(node.id, stale, node.attrs["Spec"])


@works(PY, "`services.create`, `list`, `get`, `tasks`, `scale`, `update`, `force_update`, `logs`, `remove`")
def test_docker_py_services(client: docker.DockerClient, lab: Lab) -> None:
    types = docker.types
    net = client.networks.create("py-net", driver="overlay", attachable=True, labels={"a": "b"})
    secret = client.secrets.create(name="py-secret", data=b"word")
    config = client.configs.create(name="py-config", data=b"a = b")
    made = client.services.create(
        "box:1", ["sh", "-c", "cat /run/secrets/py-secret /settings; echo; exec sleep 100000"],
        name="py", labels={"tier": "front"}, env=["A=b"], networks=["py-net"],
        stop_grace_period=SECOND_NS // 10,
        mode=types.ServiceMode("replicated", replicas=2), hostname="{{.Task.Name}}", init=True,
        secrets=[types.SecretReference(secret.id, "py-secret")], maxreplicas=2,
        configs=[types.ConfigReference(config.id, "py-config", filename="/settings")],
        resources=types.Resources(mem_limit=64 << 20),
        restart_policy=types.RestartPolicy("any", delay=SECOND_NS),
        endpoint_spec=types.EndpointSpec(ports={31180: (80, "tcp")}), constraints=["node.role==manager"],
        healthcheck=types.Healthcheck(test=["CMD", "true"], interval=SECOND_NS // 2),
        update_config=types.UpdateConfig(parallelism=2, order="stop-first"), mounts=["py-data:/data:rw"],
    )  # fmt: skip
    wait_running(lab, "py", 2)
    service = client.services.get("py", insert_defaults=True)
    assert service.id == made.id
    assert service.attrs["Spec"]["Labels"] == {"tier": "front"}
    assert [found.name for found in client.services.list(filters={"label": "tier"}, status=True)] == ["py"]
    assert {task["Status"]["State"] for task in service.tasks({"desired-state": "running"})} == {"running"}
    logged = wait_for(lambda: b"".join(service.logs(stdout=True)), lambda out: out.count(b"a = b") == 2)
    assert b"word" in logged

    service = client.services.get("py")
    assert service.scale(1) == {"Warnings": None}
    wait_running(lab, "py", 1)
    service.reload()
    before = wait_running(lab, "py", 1)[0]["ID"]
    assert service.update(image="box:2", fetch_current_spec=True) == {"Warnings": None}
    wait_for(lambda: [t["ID"] for t in wait_running(lab, "py", 1)], lambda ids: before not in ids)
    service.reload()
    container = service.attrs["Spec"]["TaskTemplate"]["ContainerSpec"]
    assert (container["Image"], container["Env"], container["Hostname"]) == (
        "box:2",
        ["A=b"],
        "{{.Task.Name}}",
    )
    assert service.force_update() == {"Warnings": None}
    with pytest.raises(docker.errors.APIError, match="update out of sequence"):
        service.scale(3)

    service.remove()
    with pytest.raises(docker.errors.NotFound):
        client.services.get("py")
    wait_for(lab.tasks, lambda tasks: not tasks)
    for thing in (net, secret, config):
        thing.remove()


@works(PY, "`secrets`, `configs`, `networks` and `volumes`: create, list, get, remove")
def test_docker_py_things(client: docker.DockerClient) -> None:
    secret = client.secrets.create(name="s", data=b"x", labels={"a": "b"})
    assert [found.name for found in client.secrets.list(filters={"label": "a=b"})] == ["s"]
    assert client.secrets.get(secret.id).name == "s"
    config = client.configs.create(name="c", data=b"x")
    assert client.configs.get(config.id).attrs["Spec"]["Data"] == "eA=="
    with pytest.raises(docker.errors.APIError) as refused:
        client.configs.create(name="c", data=b"x")
    assert refused.value.status_code == 409
    network = client.networks.create("py-things", driver="overlay", scope="swarm")
    assert [found.name for found in client.networks.list(names=["py-things"])] == ["py-things"]
    volume = client.volumes.create("py-volume", labels={"a": "b"})
    assert [found.name for found in client.volumes.list(filters={"label": "a=b"})] == ["py-volume"]
    for thing in (secret, config, network, volume):
        thing.remove()
    with pytest.raises(docker.errors.NotFound):
        client.networks.get("py-things")


@works(PY, "`containers.list`, `get`, `logs`, `exec_run`, `top` of a task's container")
def test_docker_py_containers(client: docker.DockerClient, lab: Lab) -> None:
    client.services.create(
        "box:1", ["sh", "-c", "echo here; exec sleep 100000"], name="py", constraints=["node.role==manager"]
    )
    wait_running(lab, "py", 1)
    (container,) = client.containers.list(filters={"label": "com.docker.swarm.service.name=py"})
    assert (container.status, container.name.startswith("py.1.")) == ("running", True)
    wait_for(container.logs, lambda out: out == b"here\n")
    assert container.exec_run(["echo", "hello"]) == (0, b"hello\n")
    assert container.exec_run("false").exit_code == 1
    assert container.top()["Processes"][0][-1].split() == ["sleep", "100000"]
    assert client.containers.get(container.id[:12]).id == container.id


@works(PY, "`events`")
def test_docker_py_events(client: docker.DockerClient) -> None:
    since = datetime.now(UTC).timestamp()
    network = client.networks.create("py-seen", driver="overlay")
    network.remove()
    filters = {"type": "network", "network": "py-seen"}
    found = list(
        client.events(since=since, until=datetime.now(UTC).timestamp(), decode=True, filters=filters)
    )
    actions = [event["Action"] for event in found if event["Action"] != "update"]
    assert actions == ["create", "remove"]


# --- aiodocker


@works(AIO, "`system.info`, `version`, `swarm.inspect`, `nodes.list`, `inspect`, `update`")
async def test_aiodocker_system(aio: aiodocker.Docker) -> None:
    assert (await aio.version())["ApiVersion"] == "1.47"
    assert (await aio.system.info())["Swarm"]["LocalNodeState"] == "active"
    assert (await aio.swarm.inspect())["ID"]
    node = (await aio.nodes.list(filters={"role": "worker"}))[0]
    spec = {**node["Spec"], "Labels": {"aio": "yes"}}
    await aio.nodes.update(node_id=node["ID"], version=node["Version"]["Index"], spec=spec)
    assert (await aio.nodes.inspect(node_id=node["ID"]))["Spec"]["Labels"] == {"aio": "yes"}


@works(AIO, "`services.create`, `list`, `inspect`, `update`, `logs`, `delete`, `tasks.list`")
async def test_aiodocker_services(aio: aiodocker.Docker, lab: Lab) -> None:
    template = {"ContainerSpec": {"Image": "box:1", "Command": ["sh", "-c", "echo here; exec sleep 100000"]}}
    made = await aio.services.create(task_template=template, name="aio", mode={"Replicated": {"Replicas": 2}})
    wait_running(lab, "aio", 2)
    (found,) = await aio.services.list(filters={"name": "aio"})
    assert found["ID"] == made["ID"]
    tasks = await aio.tasks.list(filters={"service": "aio", "desired-state": "running"})
    assert {task["Status"]["State"] for task in tasks} == {"running"}
    assert (await aio.tasks.inspect(tasks[0]["ID"]))["ServiceID"] == made["ID"]
    version = (await aio.services.inspect("aio"))["Version"]["Index"]
    assert await aio.services.update(service_id="aio", version=version, image="box:2") is True
    spec = (await aio.services.inspect("aio"))["Spec"]
    assert spec["TaskTemplate"]["ContainerSpec"]["Image"] == "box:2"
    wait_running(lab, "aio", 2)
    lines = await aio.services.logs(service_id="aio", stdout=True, tail=1)
    assert any("here" in line for line in lines)
    assert await aio.services.delete(service_id="aio") is True
    wait_for(lab.tasks, lambda tasks: not tasks)


@works(AIO, "`secrets`, `configs`, `networks`, `volumes`: create, list, delete; `events`")
async def test_aiodocker_things(aio: aiodocker.Docker) -> None:
    secret = await aio.secrets.create(name="as", data="word")
    config = await aio.configs.create(name="ac", data="word")
    assert [found["Spec"]["Name"] for found in await aio.secrets.list(filters={"name": "as"})] == ["as"]
    assert (await aio.configs.inspect(config["ID"]))["Spec"]["Data"] == "d29yZA=="
    await aio.secrets.delete(secret["ID"])
    await aio.configs.delete(config["ID"])
    events = aio.events.subscribe()
    network = await aio.networks.create({"Name": "an", "Driver": "overlay"})
    assert (await network.show())["Scope"] == "swarm"
    assert "an" in [found["Name"] for found in await aio.networks.list()]
    assert await network.delete() is True
    while (event := await events.get()) is not None and event["Action"] != "remove":
        pass
    assert event is not None
    assert event["Actor"]["Attributes"]["name"] == "an"
    volume = await aio.volumes.create({"Name": "av"})
    assert (await volume.show())["Name"] == "av"
    await volume.delete()


# --- python-on-whales


@works(WHALES, "`swarm`, `node`: `list`, `inspect`, `update`, `ps`; `info`")
def test_whales_nodes(whales: DockerClient, lab: Lab, tmp_path: Path) -> None:
    assert whales.info().swarm.control_available is True
    assert whales.swarm.join_token("worker").startswith("SWMTKN-1-")
    assert sorted(node.description.hostname for node in whales.node.list()) == ["node-1", "node-2"]
    node = whales.node.inspect("node-2")
    node.update(labels_add={"zone": "b"})
    assert whales.node.inspect("node-2").spec.labels["zone"] == "b"
    worker = DockerClient(
        host=lab.docker_host("node-2"), config=tmp_path, client_call=[next(iter(docker_programs().values()))]
    )
    with pytest.raises(NotASwarmManager):
        worker.service.list()


@works(WHALES, "`service.create`, `list`, `inspect`, `ps`, `scale`, `update`, `logs`, `remove`")
def test_whales_services(whales: DockerClient, lab: Lab) -> None:
    talk = ["sh", "-c", "echo here; exec sleep 100000"]
    service = whales.service.create("box:1", talk, detach=True, labels={"a": "b"}, envs={"A": "b"})
    name = service.spec.name
    wait_running(lab, name, 1)
    assert whales.service.inspect(name).spec.labels == {"a": "b"}
    assert [found.spec.name for found in whales.service.list()] == [name]
    service.scale(2, detach=True)
    wait_running(lab, name, 2)
    before = {task.id for task in service.ps()}
    service.update(force=True, quiet=True, detach=True)
    wait_for(lambda: {task["ID"] for task in wait_running(lab, name, 2)}, lambda now: not now & before)
    assert "here" in wait_for(lambda: whales.service.logs(name))
    service.remove()
    assert whales.service.exists(name) is False
    wait_for(lab.tasks, lambda tasks: not tasks)


@works(WHALES, "`stack.deploy`, `list`, `services`, `ps`, `remove`; `secret`, `config`, `network`")
def test_whales_stacks(whales: DockerClient, lab: Lab, tmp_path: Path) -> None:
    file = tmp_path / "stack.yml"
    file.write_text(
        "version: '3.8'\nservices:\n  web:\n    image: box:1\n    command: sleep 100000\n"
        "    stop_grace_period: 100ms\n    deploy: {replicas: 2}\n    networks: [front]\n"
        "networks: {front: }\n"
    )
    stack = whales.stack.deploy("whales", file)
    wait_running(lab, "whales_web", 2)
    assert [found.name for found in whales.stack.list()] == ["whales"]
    assert [service.spec.name for service in stack.services()] == ["whales_web"]
    assert len(stack.ps()) == 2
    stack.remove()
    wait_for(lab.tasks, lambda tasks: not tasks)
    assert "whales_front" not in [network.name for network in whales.network.list()]
    source = tmp_path / "content"
    source.write_text("x")
    for noun in (whales.secret, whales.config):
        made = noun.create("w", source)
        assert made.spec.name == "w"
        made.remove()
    with pytest.raises(DockerException):
        whales.network.inspect("nope")
