"""``/services`` and ``/tasks`` over HTTP, against the real store."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from api_http import Http, spec
from api_node import FIRST, FakeCluster

from swarmpy.limits import REPLICAS_MAX
from swarmpy.model.changes import Create
from swarmpy.model.ids import RevisionId, ServiceId
from swarmpy.model.objects import Endpoint, Revision, Service
from swarmpy.model.specs import PortConfig, ServiceSpec
from swarmpy.model.states import TaskState


async def created(http: Http, body: dict[str, Any]) -> str:
    answer = await http.post("/services/create", body)
    assert answer.status == 201, answer.body
    id_: str = answer.json["ID"]
    return id_


async def inspect(http: Http, name: str) -> dict[str, Any]:
    answer = await http.get(f"/services/{name}")
    assert answer.status == 200, answer.body
    found: dict[str, Any] = answer.json
    return found


async def update(http: Http, service: dict[str, Any], **query: Any) -> Any:
    version = query.pop("version", service["Version"]["Index"])
    return await http.post(f"/services/{service['ID']}/update", service["Spec"], version=version, **query)


async def test_what_is_written_is_read_back(http: Http, cluster: FakeCluster) -> None:
    body = spec(
        container={"Env": ["A=b"], "StopGracePeriod": 3_000_000_000, "Mounts": [], "Init": False},
        Labels={"tier": "front"},
    )
    id_ = await created(http, body)
    assert len(id_) == 25
    found = await inspect(http, "web")
    assert found["ID"] == id_
    assert found["Spec"]["Name"] == "web"
    assert found["Spec"]["Labels"] == {"tier": "front"}
    assert found["Spec"]["Mode"] == {"Replicated": {"Replicas": 3}}
    assert found["Spec"]["TaskTemplate"]["ContainerSpec"] == {
        "Image": "host",
        "Args": ["sleep", "100"],
        "Env": ["A=b"],
        "Init": False,
        "StopGracePeriod": 3_000_000_000,
        "Isolation": "default",
    }
    assert found["CreatedAt"].endswith("Z")
    assert "PreviousSpec" not in found


async def test_create_stores_service_and_revision_together(http: Http, cluster: FakeCluster) -> None:
    id_ = ServiceId(await created(http, spec()))
    service = cluster.store.service(id_)
    assert service is not None
    (revision,) = cluster.store.revisions_of(id_)
    assert revision.number == 1
    assert revision.spec == service.spec
    assert service.revision_id == service.template_id == revision.id
    assert service.previous_id == ""


async def test_insert_defaults_shows_what_holds(http: Http, cluster: FakeCluster) -> None:
    await created(http, {"Name": "web", "TaskTemplate": {"ContainerSpec": {"Image": "host"}}})
    plain = await inspect(http, "web")
    assert "RestartPolicy" not in plain["Spec"]["TaskTemplate"]
    full = (await http.get("/services/web", insertDefaults="true")).json["Spec"]
    assert full["TaskTemplate"]["RestartPolicy"]["Condition"] == "any"
    assert full["UpdateConfig"]["Order"] == "stop-first"
    assert full["Mode"] == {"Replicated": {"Replicas": 1}}
    assert "EndpointSpec" not in full
    assert "ProgressDeadline" not in full["UpdateConfig"]


async def test_a_service_without_name_gets_one(http: Http, cluster: FakeCluster) -> None:
    body = spec()
    del body["Name"]
    await created(http, body)
    await created(http, body)
    names = {service.spec.name for service in cluster.store.services()}
    assert len(names) == 2
    assert all(name.count("-") == 2 for name in names)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (spec(replicas=-1), 400, "cannot unmarshal number -1 into Go struct field ReplicatedService"),
        (
            spec(replicas=10**9),
            400,
            f"Number of replicas must be at most {REPLICAS_MAX}; 1000000000 were asked",
        ),
        (spec(name="a" * 64), 400, "name must be 63 characters or fewer"),
        (spec(name="no spaces"), 400, "name must be valid as a DNS name component"),
        (spec(image=""), 400, "ContainerSpec: image reference must be provided"),
        (spec(image="Web"), 400, 'ContainerSpec: "Web" is not a valid repository/tag'),
        (
            spec(template={"Placement": {"Constraints": ["node ~ a"]}}),
            400,
            "constraint expected one operator from",
        ),
        (spec(template={"Placement": {"Constraints": ["==x"]}}), 400, "key '' is invalid"),
        (
            spec(template={"Resources": {"Limits": {"MemoryBytes": 1}}}),
            400,
            "invalid memory value 1: Must be at",
        ),
        (spec(template={"Resources": {"Reservations": {"NanoCPUs": 5}}}), 400, "Must be at least 0.001"),
        (spec(template={"RestartPolicy": {"Delay": -1}}), 400, "TaskSpec: restart-delay cannot be negative"),
        (spec(UpdateConfig={"MaxFailureRatio": 2.0}), 400, "update-maxfailureratio cannot be less than 0"),
        (
            spec(Mode={"Replicated": {}, "Global": {}}),
            400,
            "must specify only one service mode",
        ),
        (
            spec(
                container={"Mounts": [{"Type": "tmpfs", "Target": "/a"}, {"Type": "tmpfs", "Target": "/a"}]}
            ),
            400,
            "ContainerSpec: duplicate mount point: /a",
        ),
        (spec(EndpointSpec={"Ports": [{"TargetPort": 70000}]}), 400, "target port 70000 is not between"),
        (
            spec(
                EndpointSpec={
                    "Ports": [{"TargetPort": 80, "PublishedPort": 1}, {"TargetPort": 81, "PublishedPort": 1}]
                }
            ),
            400,
            "EndpointSpec: duplicate published ports provided",
        ),
        (
            spec(EndpointSpec={"Mode": "dnsrr", "Ports": [{"TargetPort": 80}]}),
            400,
            "port published with ingress mode can't be used with dnsrr mode",
        ),
        (spec(template={"Runtime": "plugin"}), 501, "unimplemented runtime in service spec"),
        (spec(Networks=[{"Target": "nowhere"}]), 404, "network nowhere not found"),
        (
            spec(container={"Secrets": [{"SecretID": "x", "SecretName": "s", "File": {"Name": "s"}}]}),
            400,
            "secret not found: s",
        ),
    ],
)
async def test_bad_specs_are_refused_with_a_sentence(
    http: Http, cluster: FakeCluster, body: dict[str, Any], status: int, words: str
) -> None:
    answer = await http.post("/services/create", body)
    assert answer.status == status, answer.body
    assert words in answer.message
    assert not cluster.store.services()


async def test_a_name_is_taken_once(http: Http, cluster: FakeCluster) -> None:
    await created(http, spec())
    answer = await http.post("/services/create", spec())
    assert answer.status == 409
    assert answer.message == (
        "rpc error: code = AlreadyExists desc = name conflicts with an existing object: "
        "service web already exists"
    )


async def test_parallel_creates_of_one_name_end_in_one(http: Http, cluster: FakeCluster) -> None:
    answers = await asyncio.gather(*(http.post("/services/create", spec()) for _ in range(8)))
    assert sorted(answer.status for answer in answers) == [201] + [409] * 7
    assert len(cluster.store.services()) == 1


async def test_published_ports_do_not_clash(http: Http, cluster: FakeCluster) -> None:
    ports = {"Ports": [{"TargetPort": 80, "PublishedPort": 8080}]}
    id_ = await created(http, spec(EndpointSpec=ports))
    answer = await http.post("/services/create", spec("other", EndpointSpec=ports))
    assert answer.status == 400
    assert f"port '8080' is already in use by service 'web' ({id_})" in answer.message
    # the other protocol is another port, and so are two ports of host mode
    udp = {"Ports": [{"TargetPort": 80, "PublishedPort": 8080, "Protocol": "udp", "PublishMode": "host"}]}
    await created(http, spec("dns1", EndpointSpec=udp))
    await created(http, spec("dns2", EndpointSpec=udp))


async def test_of_parallel_services_on_one_port_one_gets_it(http: Http, cluster: FakeCluster) -> None:
    ports = {"Ports": [{"TargetPort": 80, "PublishedPort": 8080}]}
    wishes = [spec(f"web{number}", EndpointSpec=ports) for number in range(8)]
    answers = await asyncio.gather(*(http.post("/services/create", each) for each in wishes))
    assert sorted(answer.status for answer in answers) == [201] + [400] * 7
    (winner,) = cluster.store.services()
    expected = (
        "rpc error: code = InvalidArgument desc = "
        f"port '8080' is already in use by service '{winner.spec.name}' ({winner.id}) as an ingress port"
    )
    assert {answer.message for answer in answers if answer.status == 400} == {expected}


async def test_a_port_that_another_manager_gave_away_meanwhile(http: Http, cluster: FakeCluster) -> None:
    """Nothing is known of it here when the plan is made: the store's refusal is docker's sentence."""
    ports = {"Ports": [{"TargetPort": 80, "PublishedPort": 8080}]}
    fixed = PortConfig(target_port=80, published_port=8080)
    revision = Revision(id=RevisionId("r1"), service_id=ServiceId("s1"), spec=ServiceSpec(name="first"))
    rival = Service(id=ServiceId("s1"), spec=revision.spec, endpoint=Endpoint(ports=(fixed,)))
    cluster.before_propose = lambda: cluster.change(Create(object=rival), Create(object=revision))
    answer = await http.post("/services/create", spec(EndpointSpec=ports))
    assert (answer.status, answer.message) == (
        400,
        "rpc error: code = InvalidArgument desc = port '8080' is already in use by service 'first' (s1) "
        "as an ingress port",
    )
    assert [service.spec.name for service in cluster.store.services()] == ["first"]


async def test_update_makes_a_revision_and_keeps_the_former(http: Http, cluster: FakeCluster) -> None:
    id_ = ServiceId(await created(http, spec()))
    before = cluster.store.service(id_)
    found = await inspect(http, "web")
    found["Spec"]["TaskTemplate"]["ContainerSpec"]["Env"] = ["X=1"]
    assert (await update(http, found)).status == 200
    after = cluster.store.service(id_)
    assert before is not None
    assert after is not None
    assert after.revision_id != before.revision_id
    assert after.template_id == after.revision_id
    assert after.previous_id == before.revision_id
    assert [r.number for r in cluster.store.revisions_of(id_)] == [1, 2]
    shown = await inspect(http, "web")
    assert "Env" not in shown["PreviousSpec"]["TaskTemplate"]["ContainerSpec"]


async def test_scaling_restarts_no_task(http: Http, cluster: FakeCluster) -> None:
    id_ = ServiceId(await created(http, spec()))
    before = cluster.store.service(id_)
    found = await inspect(http, "web")
    found["Spec"]["Mode"]["Replicated"]["Replicas"] = 10
    found["Spec"]["Labels"] = {"new": "label"}
    assert (await update(http, found)).status == 200
    after = cluster.store.service(id_)
    assert before is not None
    assert after is not None
    assert after.revision_id != before.revision_id
    assert after.template_id == before.template_id


@pytest.mark.parametrize(
    "change",
    [
        {"TaskTemplate": {"ContainerSpec": {"Image": "host", "Args": ["sleep", "100"]}, "ForceUpdate": 1}},
        {"EndpointSpec": {"Ports": [{"TargetPort": 80}]}},
    ],
)
async def test_forced_updates_and_ports_restart_tasks(
    http: Http, cluster: FakeCluster, change: dict[str, Any]
) -> None:
    id_ = ServiceId(await created(http, spec()))
    found = await inspect(http, "web")
    found["Spec"] |= change
    assert (await update(http, found)).status == 200
    after = cluster.store.service(id_)
    assert after is not None
    assert after.template_id == after.revision_id != after.previous_id


async def test_an_unchanged_spec_changes_nothing(http: Http, cluster: FakeCluster) -> None:
    await created(http, spec())
    found = await inspect(http, "web")
    version = cluster.store.version
    assert (await update(http, found)).status == 200
    assert cluster.store.version == version


async def test_a_stale_version_is_out_of_sequence(http: Http, cluster: FakeCluster) -> None:
    await created(http, spec())
    found = await inspect(http, "web")
    found["Spec"]["Labels"] = {"a": "1"}
    assert (await update(http, found)).status == 200
    found["Spec"]["Labels"] = {"a": "2"}
    answer = await update(http, found)
    assert answer.status == 500
    assert answer.message == "rpc error: code = Unknown desc = update out of sequence"
    assert (await inspect(http, "web"))["Spec"]["Labels"] == {"a": "1"}


async def test_of_two_writers_one_wins(http: Http, cluster: FakeCluster) -> None:
    await created(http, spec())
    for round_ in range(20):
        found = await inspect(http, "web")
        wishes = []
        for writer in ("a", "b"):
            found["Spec"]["Labels"] = {"round": str(round_), "writer": writer}
            wishes.append(await_update(http, {**found, "Spec": dict(found["Spec"])}))
        statuses = sorted(answer.status for answer in await asyncio.gather(*wishes))
        assert statuses == [200, 500]


async def await_update(http: Http, service: dict[str, Any]) -> Any:
    return await update(http, service)


@pytest.mark.parametrize("version", ["", "x", "-1", "1e3", "9" * 40])
async def test_an_update_needs_a_version(http: Http, cluster: FakeCluster, version: str) -> None:
    await created(http, spec())
    answer = await update(http, await inspect(http, "web"), version=version)
    assert answer.status == 400
    assert "invalid service version" in answer.message


async def test_rename_and_mode_change_are_refused(http: Http, cluster: FakeCluster) -> None:
    await created(http, spec())
    found = await inspect(http, "web")
    renamed = {**found, "Spec": {**found["Spec"], "Name": "other"}}
    answer = await update(http, renamed)
    assert answer.status == 501
    assert "renaming services is not supported" in answer.message
    answer = await update(http, {**found, "Spec": {**found["Spec"], "Mode": {"Global": {}}}})
    assert answer.status == 501
    assert "service mode change is not allowed" in answer.message


async def test_rollback_returns_to_the_former_revision(http: Http, cluster: FakeCluster) -> None:
    id_ = ServiceId(await created(http, spec()))
    found = await inspect(http, "web")
    answer = await update(http, found, rollback="previous")
    assert answer.status == 400
    assert "does not have a previous spec" in answer.message
    found["Spec"]["TaskTemplate"]["ContainerSpec"]["Image"] = "other:2"
    await update(http, found)
    first = next(r for r in cluster.store.revisions_of(id_) if r.number == 1)
    answer = await update(http, await inspect(http, "web"), rollback="previous")
    assert answer.status == 200
    service = cluster.store.service(id_)
    assert service is not None
    assert service.revision_id == service.template_id == first.id
    assert service.spec == first.spec
    shown = await inspect(http, "web")
    assert shown["UpdateStatus"]["State"] == "rollback_started"
    assert shown["PreviousSpec"]["TaskTemplate"]["ContainerSpec"]["Image"] == "other:2"
    assert (await update(http, shown, rollback="sideways")).status == 400


async def test_names_ids_and_prefixes_find_a_service(http: Http, cluster: FakeCluster) -> None:
    id_ = await created(http, spec("web"))
    other = await created(http, spec(id_[:3]))
    assert (await inspect(http, id_))["ID"] == id_
    assert (await inspect(http, id_[:12]))["ID"] == id_
    assert (await inspect(http, id_[:3]))["ID"] == other, "an exact name comes before a prefix"
    answer = await http.get("/services/nope")
    assert (answer.status, answer.message) == (404, "service nope not found")


async def test_an_ambiguous_prefix_is_refused(http: Http, cluster: FakeCluster) -> None:
    ids = [await created(http, spec(f"s{n}")) for n in range(40)]
    letter = next(a for a in "0123456789abcdefghijklmnopqrstuvwxyz" if sum(i.startswith(a) for i in ids) > 1)
    count = sum(id_.startswith(letter) for id_ in ids)
    for method, path in (("GET", f"/services/{letter}"), ("DELETE", f"/services/{letter}")):
        answer = await http.call(method, path)
        assert answer.status == 400
        assert answer.message == f"service {letter} is ambiguous ({count} matches found)"
    assert len(cluster.store.services()) == 40


async def test_list_filters(http: Http, cluster: FakeCluster) -> None:
    await created(http, spec("web", Labels={"tier": "front"}))
    await created(http, spec("worker", Mode={"Global": {}}))

    async def names(**filters: list[str]) -> list[str]:
        answer = await http.get("/services", filters=filters)
        return sorted(item["Spec"]["Name"] for item in answer.json)

    assert await names() == ["web", "worker"]
    assert await names(name=["w"]) == ["web", "worker"]
    assert await names(name=["we", "nope"]) == ["web"]
    assert await names(label=["tier"]) == ["web"]
    assert await names(label=["tier=back"]) == []
    assert await names(mode=["global"]) == ["worker"]
    # docker's CLI writes maps, docker-py lists
    answer = await http.get("/services", filters={"mode": {"replicated": True}})
    assert [item["Spec"]["Name"] for item in answer.json] == ["web"]


async def test_status_counts_tasks(http: Http, cluster: FakeCluster) -> None:
    id_ = await created(http, spec())
    cluster.add_task("t1", id_)
    cluster.add_task("t2", id_, state=TaskState.FAILED, slot=2)
    (item,) = (await http.get("/services", status="true")).json
    assert item["ServiceStatus"] == {"RunningTasks": 1, "DesiredTasks": 3, "CompletedTasks": 0}
    assert "ServiceStatus" not in (await http.get("/services")).json[0]


async def test_remove(http: Http, cluster: FakeCluster) -> None:
    await created(http, spec())
    assert (await http.delete("/services/web")).status == 200
    assert not cluster.store.services()
    assert (await http.delete("/services/web")).status == 404


# --- tasks


async def test_a_task_is_joined_with_its_revision(http: Http, cluster: FakeCluster) -> None:
    id_ = await created(http, spec())
    cluster.add_task("t1", id_, state=TaskState.FAILED, err="task: non-zero exit (1)")
    (task,) = (await http.get("/tasks")).json
    assert task["ID"] == "t1"
    assert task["ServiceID"] == id_
    assert task["NodeID"] == FIRST
    assert task["Slot"] == 1
    assert task["Spec"]["ContainerSpec"]["Image"] == "host"
    assert task["Status"]["State"] == "failed"
    assert task["Status"]["Err"] == "task: non-zero exit (1)"
    assert task["Status"]["Timestamp"] == "2023-11-14T22:13:20.123456789Z"
    assert task["Status"]["Addresses"] == ["172.30.0.2"]
    assert task["DesiredState"] == "running"
    assert (await http.get("/tasks/t1")).json == task
    answer = await http.get("/tasks/nope")
    assert (answer.status, answer.message) == (404, "task nope not found")


async def test_task_filters(http: Http, cluster: FakeCluster) -> None:
    web = await created(http, spec("web", Labels={"a": "b"}))
    other = await created(http, spec("other"))
    cluster.add_task("t1", web)
    cluster.add_task("t2", other)
    cluster.order("t2", TaskState.SHUTDOWN)

    async def ids(**filters: list[str]) -> list[str]:
        answer = await http.get("/tasks", filters=filters)
        assert answer.status == 200, answer.body
        return [task["ID"] for task in answer.json]

    assert await ids() == ["t1", "t2"]
    assert await ids(service=["web"]) == ["t1"]
    assert await ids(service=[other[:10]]) == ["t2"]
    assert await ids(service=["g" * 25]) == []
    assert (await http.get("/tasks", filters={"service": ["gone"]})).status == 404
    assert await ids(node=["self"]) == ["t1", "t2"]
    assert await ids(node=["node-1"]) == ["t1", "t2"]
    assert (await http.get("/tasks", filters={"node": ["node-9"]})).status == 404
    assert await ids(id=["t2"]) == ["t2"]
    assert await ids(label=["a=b"]) == ["t1"]
    assert await ids(name=["web.1"]) == ["t1"]
    assert await ids(**{"desired-state": ["shutdown"]}) == ["t2"]
    assert await ids(**{"desired-state": ["running", "shutdown"]}) == ["t1", "t2"]
    answer = await http.get("/tasks", filters={"desired-state": ["asleep"]})
    assert answer.status == 400


async def test_up_to_date_follows_the_template(http: Http, cluster: FakeCluster) -> None:
    id_ = await created(http, spec())
    cluster.add_task("t1", id_)

    async def current() -> list[str]:
        answer = await http.get("/tasks", filters={"service": [id_], "_up-to-date": ["true"]})
        return [task["ID"] for task in answer.json]

    assert await current() == ["t1"]
    found = await inspect(http, "web")
    found["Spec"]["Mode"]["Replicated"]["Replicas"] = 5
    await update(http, found)
    assert await current() == ["t1"], "scaling leaves tasks as they are"
    found = await inspect(http, "web")
    found["Spec"]["TaskTemplate"]["ContainerSpec"]["Image"] = "other:2"
    await update(http, found)
    assert await current() == []


async def test_after_a_change_of_placement_a_task_is_current_where_it_may_stay(
    http: Http, cluster: FakeCluster
) -> None:
    """As the orchestrator sees it, which keeps such a task; a display that waits for it must not hang."""
    id_ = await created(http, spec())
    cluster.add_task("t1", id_)
    for constraint, expected in ((f"node.id=={FIRST}", ["t1"]), (f"node.id!={FIRST}", [])):
        found = await inspect(http, "web")
        found["Spec"]["TaskTemplate"]["Placement"] = {"Constraints": [constraint]}
        assert (await update(http, found)).status == 200
        answer = await http.get("/tasks", filters={"service": [id_], "_up-to-date": ["true"]})
        assert [task["ID"] for task in answer.json] == expected


async def test_tasks_of_a_removed_service_are_listed(http: Http, cluster: FakeCluster) -> None:
    id_ = await created(http, spec())
    cluster.add_task("t1", id_)
    await http.delete("/services/web")
    answer = await http.get("/tasks", filters={"service": [id_]})
    assert [task["ID"] for task in answer.json] == ["t1"]
