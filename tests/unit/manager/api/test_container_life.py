"""Making, starting, stopping and removing containers by hand: docker's codes and sentences."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest
from api_http import Http, spec
from api_node import FIRST, FakeCluster
from msgspec.structs import replace

from manager.api import container_changes, container_plan, container_request
from manager.api.container_refs import find_container
from manager.store.draft import Draft
from swarmpy.errors import InvalidArgument, NotFound, SwarmError
from swarmpy.model.changes import Create, Group, Order, Report, Update
from swarmpy.model.cluster_specs import NetworkSpec
from swarmpy.model.container_ids import container_id, object_prefix
from swarmpy.model.ids import SECOND_NS, NetworkId, NodeId, ServiceId, TaskId, Timestamp
from swarmpy.model.objects import ContainerStatus, Kind, Network, Task, TaskStatus
from swarmpy.model.specs import ServiceSpec
from swarmpy.model.states import MountType, Owner, PublishMode, RestartCondition, TaskState

NODE = NodeId(FIRST)
SLEEP = {"Image": "host", "Cmd": ["sleep", "100"]}
DEADLINE_S = 10.0
NOW = Timestamp(1_700_000_500 * SECOND_NS)


async def make(http: Http, name: str = "box", **more: Any) -> str:
    answer = await http.post("/containers/create", {**SLEEP, **more}, name=name)
    assert answer.status == 201, answer.message
    id_: str = answer.json["Id"]
    return id_


def run_task(
    cluster: FakeCluster,
    id_: str,
    state: TaskState,
    *,
    err: str = "",
    code: int = 0,
    name: str = "t1",
    message: str = "",
) -> None:
    """The task of the container's last start, as leader and node bring it there."""
    service = cluster.store.service(ServiceId(object_prefix(id_) or ""))
    assert service is not None
    mode = service.spec.mode.standalone
    assert mode is not None
    task_id = TaskId(name)
    if cluster.store.task(task_id) is None:
        task = Task(
            id=task_id,
            service_id=service.id,
            slot=1,
            node_id=NODE,
            revision_id=service.template_id,
            job_iteration=mode.run,
            status=TaskStatus(state=TaskState.ASSIGNED, timestamp=NOW),
        )
        cluster.change(Create(object=task), owner=Owner.ORCHESTRATOR)
    container = ContainerStatus(container_id=name, pid=7, exit_code=code)
    status = TaskStatus(
        state=state, timestamp=NOW, err=err, message=message, report=9, container_status=container
    )
    cluster.change(Report(task_id=task_id, status=status), owner=Owner.AGENT)
    if state > TaskState.RUNNING:
        order = Order(task_id=task_id, desired_state=TaskState.SHUTDOWN)
        cluster.change(order, owner=Owner.ORCHESTRATOR)


async def started(http: Http, cluster: FakeCluster, id_: str, *, task: str = "t1") -> None:
    """Start it, and be the node that does."""
    asking = asyncio.create_task(http.post(f"/containers/{id_}/start"))
    await until_wanted(cluster, id_, True)
    run_task(cluster, id_, TaskState.RUNNING, name=task)
    assert (await asking).status == 204


async def until_wanted(cluster: FakeCluster, id_: str, is_wanted: bool) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while True:
            service = cluster.store.service(ServiceId(object_prefix(id_) or ""))
            mode = service.spec.mode.standalone if service is not None else None
            if mode is not None and mode.is_wanted is is_wanted:
                return
            await asyncio.sleep(0.001)


async def begin_wait(http: Http, condition: str) -> aiohttp.ClientResponse:
    """The head of the answer comes at once: from then on nothing is missed."""
    url = "http://swarmpy/containers/box/wait"
    return await http.session.post(url, params={"condition": condition})


# --- the API


async def test_a_name_is_given_once(http: Http, cluster: FakeCluster) -> None:
    id_ = await make(http, "/box")
    again = await http.post("/containers/create", SLEEP, name="box")
    assert (again.status, again.message) == (
        409,
        f'Conflict. The container name "/box" is already in use by container "{id_}". You have to remove (or '
        "rename) that container to be able to reuse that name.",
    )
    other = await make(http, "other")
    answer = await http.post(f"/containers/{other}/rename", name="box")
    assert answer.status == 409
    assert answer.message.startswith("Error when allocating new name: Conflict.")
    assert (await http.post("/containers/other/rename", name="third")).status == 204
    assert (await http.post("/containers/third/rename", name="third")).message == (
        "Renaming a container with the same name as its current name"
    )
    assert (await http.post("/containers/third/rename")).status == 400
    assert (await http.delete(f"/containers/{other[:6]}")).status == 204
    assert (await http.delete("/containers/third")).status == 404


async def test_what_is_missing_is_said_as_docker_does(http: Http, cluster: FakeCluster) -> None:
    answer = await http.post("/containers/create", {"Image": "nope"})
    assert (answer.status, answer.message) == (404, "No such image: nope:latest")
    answer = await http.post("/containers/create", {"Cmd": ["true"]})
    assert answer.message == "Config cannot be empty in order to create a container"
    for path in ("start", "stop", "restart", "wait", "pause"):
        assert (await http.post(f"/containers/nope/{path}")).message == "No such container: nope"
    answer = await http.post("/containers/nope/kill")
    assert (answer.status, answer.message) == (404, "Cannot kill container: nope: No such container: nope")
    assert (await http.post("/containers/nope/kill", signal="FOO")).message == "Invalid signal: FOO"


async def test_no_manager_that_would_misread_it_may_be_there(http: Http, cluster: FakeCluster) -> None:
    before = cluster.store.cluster()
    assert before is not None
    cluster.change(Update(object=replace(before, store_format=1)))
    answer = await http.post("/containers/create", SLEEP)
    assert answer.status == 400
    assert "every manager of the swarm has this version" in answer.message


async def test_starting_and_stopping(http: Http, cluster: FakeCluster) -> None:
    id_ = await make(http)
    assert (await http.post("/containers/box/stop")).status == 304
    assert (await http.post("/containers/box/wait")).json == {"Error": None, "StatusCode": 0}
    not_running = f"Cannot kill container: box: Container {id_} is not running"
    assert (await http.post("/containers/box/kill")).message == not_running
    await started(http, cluster, id_)
    assert (await http.post("/containers/box/start")).status == 304
    answer = await http.delete("/containers/box")
    assert (answer.status, answer.message) == (
        409,
        f"You cannot remove a running container {id_}. Stop the container before attempting removal or force "
        "remove",
    )
    assert (await http.post("/containers/box/pause")).status == 501
    waiting = await begin_wait(http, "next-exit")
    stopping = asyncio.create_task(http.post("/containers/box/stop", t=1, signal="INT"))
    await until_wanted(cluster, id_, False)
    assert not stopping.done(), "it returns once the container has ended"
    run_task(cluster, id_, TaskState.SHUTDOWN, code=143)
    assert (await stopping).status == 204
    assert await waiting.json() == {"Error": None, "StatusCode": 143}
    assert (await http.post("/containers/box/stop")).status == 304
    assert (await http.delete("/containers/box")).status == 204


async def test_a_start_that_fails_says_why(http: Http, cluster: FakeCluster) -> None:
    id_ = await make(http)
    asking = asyncio.create_task(http.post("/containers/box/start"))
    await until_wanted(cluster, id_, True)
    text = 'starting container failed: exec: "nope": executable file not found in $PATH'
    run_task(cluster, id_, TaskState.FAILED, err=text, code=127)
    answer = await asking
    assert (answer.status, answer.message) == (400, text)
    assert (await http.post("/containers/box/wait")).json == {"Error": {"Message": text}, "StatusCode": 127}


async def test_a_start_that_its_node_cannot_make_is_an_error_too(http: Http, cluster: FakeCluster) -> None:
    id_ = await make(http)
    asking = asyncio.create_task(http.post("/containers/box/start"))
    await until_wanted(cluster, id_, True)
    text = 'mount target "/data" does not exist on this node'
    run_task(cluster, id_, TaskState.FAILED, err=text, message="starting")
    answer = await asking
    assert (answer.status, answer.message) == (500, text)


async def test_an_update_is_seen_in_its_inspection(http: Http, cluster: FakeCluster) -> None:
    await make(http, HostConfig={"Memory": 64 << 20})
    policy = {"Name": "on-failure", "MaximumRetryCount": 3}
    await http.post("/containers/box/update", {"RestartPolicy": policy, "PidsLimit": 9})
    shown = (await http.get("/containers/box/json")).json["HostConfig"]
    assert (shown["RestartPolicy"], shown["Memory"], shown["PidsLimit"]) == (policy, 64 << 20, 9)


async def test_who_waits_for_its_removal_gets_its_code(http: Http, cluster: FakeCluster) -> None:
    id_ = await make(http)
    await started(http, cluster, id_)
    waiting = await begin_wait(http, "removed")
    run_task(cluster, id_, TaskState.FAILED, code=3)
    assert (await http.delete("/containers/box")).status == 204
    assert await waiting.json() == {"Error": None, "StatusCode": 3}


async def test_no_service_and_no_task_is_shown_of_it(http: Http, cluster: FakeCluster) -> None:
    id_ = await make(http)
    await started(http, cluster, id_)
    for path in ("/services", "/tasks"):
        assert (await http.get(path)).json == []
    for path in (f"/services/{id_}", f"/services/{id_[:8]}", "/tasks/t1"):
        assert (await http.get(path)).status == 404
    assert (await http.delete(f"/services/{id_}")).status == 404
    assert [each["Id"] for each in (await http.get("/containers/json")).json] == [id_]
    removing = asyncio.create_task(http.delete("/containers/box", force=1))
    async with asyncio.timeout(DEADLINE_S):
        while cluster.store.service(ServiceId(object_prefix(id_) or "")) is not None:
            await asyncio.sleep(0.001)
    assert (await http.get("/tasks")).json == [], "not while its last task is being taken down either"
    assert (await http.get("/containers/json", all=1)).json == []
    cluster.report("t1", TaskState.SHUTDOWN)
    assert (await removing).status == 204


async def test_prune_takes_what_does_not_run(http: Http, cluster: FakeCluster) -> None:
    running = await make(http, "running")
    idle = await make(http, "idle", Labels={"keep": "no"})
    kept = await make(http, "kept", Labels={"keep": "yes"})
    await started(http, cluster, running)
    answer = await http.post("/containers/prune", filters={"label!": ["keep=yes"]})
    assert answer.json == {"ContainersDeleted": [idle], "SpaceReclaimed": 0}
    assert (await http.post("/containers/prune", filters={"foo": ["x"]})).status == 400
    assert (await http.post("/containers/prune")).json["ContainersDeleted"] == [kept]
    assert (await http.post("/containers/prune")).json == {"ContainersDeleted": None, "SpaceReclaimed": 0}


async def test_a_services_task_is_its_services(http: Http, cluster: FakeCluster) -> None:
    service_id = (await http.post("/services/create", spec("web"))).json["ID"]
    cluster.add_task("t1", service_id, state=TaskState.FAILED)
    cluster.add_task("t2", service_id)
    assert (await http.post("/containers/web.1/start")).status == 304
    assert "change its service" in (await http.post("/containers/web.1/rename", name="mine")).message
    running = f"You cannot remove a running container {container_id('t2')}"
    assert running in (await http.delete("/containers/t2")).message
    assert (await http.delete("/containers/t1")).status == 204
    cluster.report("t2", TaskState.FAILED)
    answer = await http.delete("/containers/t2")
    assert answer.status == 409
    assert "the last of its service's in its place" in answer.message


# --- decisions


def body(**more: Any) -> container_request.ContainerCreate:
    return container_request.read(json.dumps({**SLEEP, **more}).encode())


def planned(cluster: FakeCluster, **more: Any) -> ServiceSpec:
    return container_plan.spec_of(cluster.store, body(**more), name="box", node_id=NODE, request=b"{}")


def host(**fields: Any) -> dict[str, Any]:
    return {"HostConfig": fields}


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (host(RestartPolicy={"Name": "foo"}), "invalid restart policy 'foo'"),
        (
            host(RestartPolicy={"Name": "always", "MaximumRetryCount": 3}),
            "maximum retry count cannot be used with restart policy 'always'",
        ),
        (
            host(RestartPolicy={"Name": "always"}, AutoRemove=True),
            "can't create 'AutoRemove' container with restart policy",
        ),
        (host(Memory=100), "Minimum memory limit allowed is 6MB"),
        (host(NetworkMode="nope"), "network nope not found"),
        (host(NetworkMode="closed"), "network closed not manually attachable"),
        (host(NetworkMode="container:x"), "put both on one attachable network"),
        (host(PortBindings={"80/tcp": [{"HostPort": "x"}]}), 'invalid port specification: "x"'),
        (host(Binds=["/a:/b:zz"]), "invalid mode: zz"),
        (host(Binds=["/a:/b", "/c:/b"]), "Duplicate mount point: /b"),
        (host(CpuShares=512), "HostConfig.CpuShares is not supported"),
        (host(UsernsMode="private"), 'invalid userns mode "private"'),
        (host(PidMode="host"), "HostConfig.PidMode is not supported"),
        (host(LogConfig={"Type": "syslog"}), 'plugin "syslog" not found'),
        (host(SecurityOpt=["foo"]), 'invalid --security-opt 2: "foo"'),
        ({"StopSignal": "FOO"}, "Invalid signal: FOO"),
        ({"Frobnicate": True}, "Config.Frobnicate is not supported"),
    ],
)
def test_what_cannot_be_done_is_refused(cluster: FakeCluster, more: dict[str, Any], text: str) -> None:
    cluster.change(Create(object=Network(id=NetworkId("n1"), spec=NetworkSpec(name="closed"))))
    with pytest.raises(SwarmError) as refused:
        planned(cluster, **more)
    assert text in str(refused.value)


def test_what_is_asked_for_is_planned(cluster: FakeCluster) -> None:
    cluster.change(
        Create(object=Network(id=NetworkId("n1"), spec=NetworkSpec(name="office", attachable=True)))
    )
    made = planned(
        cluster,
        Entrypoint=[""],
        Env=["A=1"],
        StopTimeout=3,
        Volumes={"/anonymous": {}, "/b": {}},
        HostConfig={
            "Binds": ["/a:/b:ro", "data:/d"],
            "Tmpfs": {"/t": "size=64m,mode=1777"},
            "NetworkMode": "office",
            "PortBindings": {
                "80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}, {"HostIp": "::", "HostPort": "8080"}]
            },
            "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 4},
            "CpuQuota": 50_000,
            "Memory": 8 << 20,
            "MemorySwap": 16 << 20,
            "MemorySwappiness": -1,
            "PidsLimit": -1,
            "UsernsMode": "host",
            "ConsoleSize": [0, 0],
            "Annotations": {"a": "b"},
        },
        NetworkingConfig={"EndpointsConfig": {"office": {"Aliases": ["desk"]}}},
    )
    template = made.task_template
    container, resources, policy = template.container_spec, template.resources, template.restart_policy
    assert container is not None
    assert resources is not None
    assert policy is not None
    assert (container.command, container.args) == (("sleep", "100"), ())
    assert container.userns_mode == "host"
    assert container.stop_grace_period == 3 * SECOND_NS
    assert [(mount.type, mount.source, mount.target, mount.read_only) for mount in container.mounts] == [
        (MountType.BIND, "/a", "/b", True),
        (MountType.VOLUME, "data", "/d", False),
        (MountType.TMPFS, "", "/t", False),
        (MountType.VOLUME, "", "/anonymous", False),
    ]
    assert [(place.target, place.aliases) for place in template.networks] == [("n1", ("desk",))]
    assert made.endpoint_spec is not None
    (port,) = made.endpoint_spec.ports
    assert (port.published_port, port.publish_mode, port.host_ip) == (8080, PublishMode.HOST, "")
    assert (policy.condition, policy.max_attempts) == (RestartCondition.ON_FAILURE, 4)
    assert resources.limits is not None
    assert (resources.limits.nano_cpus, resources.limits.pids) == (SECOND_NS // 2, 0)
    assert resources.swap_bytes == 8 << 20
    assert made.mode.standalone is not None
    assert made.mode.standalone.run == 0


def test_a_new_policy_wakes_no_container_that_has_ended(cluster: FakeCluster) -> None:
    draft = Draft(cluster.store, at=NOW)
    changes = container_plan.create(draft, planned(cluster), service_id="c1", revision_id="r1")
    assert draft.apply(Group(owner=Owner.API, changes=changes)) is None
    service = draft.service(ServiceId("c1"))
    assert service is not None
    assert draft.apply(Group(owner=Owner.API, changes=container_changes.start(draft, service, NOW))) is None
    task = Task(
        id=TaskId("t1"),
        service_id=service.id,
        slot=1,
        job_iteration=1,
        node_id=NODE,
        revision_id=service.template_id,
        desired_state=TaskState.SHUTDOWN,
        status=TaskStatus(state=TaskState.FAILED),
    )
    draft.put(Kind.TASK, task)
    wish = container_request.read_update(b'{"RestartPolicy": {"Name": "always"}}')
    service = draft.service(ServiceId("c1"))
    assert service is not None
    updated = container_changes.update(draft, service, wish, revision_id="r2", now=NOW)
    assert draft.apply(Group(owner=Owner.API, changes=updated)) is None
    service = draft.service(ServiceId("c1"))
    assert service is not None
    assert not container_changes.is_started(draft, service, NOW)


@pytest.mark.parametrize("data", [b'{"Image": "box"}{}', b' {"Image": "box"} what follows'])
def test_what_follows_a_body_is_not_looked_at(data: bytes) -> None:
    assert container_request.read(data).image == "box"
    assert container_request.read_update(b"{}" + data) == container_request.read_update(b"{}")


def test_no_value_is_an_empty_body() -> None:
    assert container_request.read_update(b"null") == container_request.read_update(b"{}")
    assert container_request.read(b"null") == container_request.read(b"{}")


def test_names_are_of_their_node(cluster: FakeCluster) -> None:
    other = NodeId("n2aaaaaaaaaaaaaaaaaaaaaaa")
    cluster.add_node(other, "node-2")
    for number, node_id in enumerate((NODE, other)):
        made = container_plan.spec_of(cluster.store, body(), name="box", node_id=node_id, request=b"{}")
        changes = container_plan.create(
            cluster.store, made, service_id=f"c{number}", revision_id=f"r{number}"
        )
        cluster.change(*changes)
    assert find_container(cluster.store, "box", here=NODE).id == container_id("c0")
    assert find_container(cluster.store, "/box", here=other).id == container_id("c1")
    with pytest.raises(InvalidArgument, match="2 containers on other nodes"):
        find_container(cluster.store, "box", here=NodeId("n3"))
    with pytest.raises(NotFound):
        find_container(cluster.store, "Box", here=NODE)
