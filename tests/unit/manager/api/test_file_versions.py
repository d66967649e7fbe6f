"""Newer data of secrets and configs: services that pin the former roll, those that reload do not."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import pytest
from api_http import Answer, Http, spec
from api_node import FakeCluster

from swarmpy.errors import NotFound
from swarmpy.limits import FILE_VERSIONS_BYTES_MAX


def encoded(data: bytes) -> str:
    return b64encode(data).decode()


async def make_file(http: Http, kind: str, name: str, data: bytes = b"one") -> dict[str, Any]:
    answer = await http.post(f"/{kind}s/create", {"Name": name, "Data": encoded(data)})
    assert answer.status == 201, answer.body
    found: dict[str, Any] = (await http.get(f"/{kind}s/{name}")).json
    return found


async def put_data(http: Http, kind: str, name: str, data: bytes, *, version: int | None = None) -> Answer:
    if version is None:
        version = (await http.get(f"/{kind}s/{name}")).json["Version"]["Index"]
    return await http.post(f"/swarmpy/{kind}s/{name}/versions", {"Data": encoded(data)}, version=version)


def reference(kind: str, item: dict[str, Any], **more: Any) -> dict[str, Any]:
    noun = kind.capitalize()
    target = {"Name": item["Spec"]["Name"], "UID": "0", "GID": "0", "Mode": 0o444}
    return {f"{noun}ID": item["ID"], f"{noun}Name": item["Spec"]["Name"], "File": target, **more}


async def make_service(http: Http, name: str, kind: str, item: dict[str, Any], **more: Any) -> Answer:
    container = {f"{kind.capitalize()}s": [reference(kind, item, **more)]}
    return await http.post("/services/create", spec(name, container=container))


async def pin(http: Http, name: str, kind: str = "secret") -> int:
    container = (await http.get(f"/services/{name}")).json["Spec"]["TaskTemplate"]["ContainerSpec"]
    version: int = container[f"{kind.capitalize()}s"][0].get("Version", 0)
    return version


@pytest.mark.parametrize("kind", ["secret", "config"])
async def test_newer_data_move_the_services_that_pin_the_former(
    http: Http, cluster: FakeCluster, kind: str
) -> None:
    item = await make_file(http, kind, "key")
    assert (await make_service(http, "web", kind, item)).status == 201
    assert (await make_service(http, "live", kind, item, ReloadSignal="HUP")).status == 201
    assert (await pin(http, "web", kind), await pin(http, "live", kind)) == (1, 0)

    answer = await put_data(http, kind, "key", b"two")
    assert answer.json == {"Number": 2, "Services": ["web"], "Reloaded": ["live"]}
    assert (await pin(http, "web", kind), await pin(http, "live", kind)) == (2, 0)
    history = (await http.get(f"/swarmpy/{kind}s/key/versions")).json
    assert [(each["Number"], each["Size"], each["Services"]) for each in history] == [
        (2, 3, ["live", "web"]),
        (1, 3, []),
    ]
    shown = (await http.get(f"/{kind}s/key")).json
    assert shown["DataVersion"] == 2
    assert "one" not in str(shown)
    assert encoded(b"one") not in str(shown), "former data are shown to nobody"


async def test_a_rollback_brings_the_former_data_back(http: Http, cluster: FakeCluster) -> None:
    item = await make_file(http, "secret", "key")
    await make_service(http, "web", "secret", item)
    await put_data(http, "secret", "key", b"two")
    service = (await http.get("/services/web")).json
    query = {"version": service["Version"]["Index"], "rollback": "previous"}
    assert (await http.post(f"/services/{service['ID']}/update", service["Spec"], **query)).status == 200
    assert await pin(http, "web") == 1

    # a client that knows no versions changes something else: the service stays where it is
    service = (await http.get("/services/web")).json
    service["Spec"]["Labels"] = {"a": "b"}
    del service["Spec"]["TaskTemplate"]["ContainerSpec"]["Secrets"][0]["Version"]
    query = {"version": service["Version"]["Index"]}
    assert (await http.post(f"/services/{service['ID']}/update", service["Spec"], **query)).status == 200
    assert await pin(http, "web") == 1

    assert (await put_data(http, "secret", "key", b"three")).json["Services"] == ["web"]
    assert await pin(http, "web") == 3


async def test_a_service_that_goes_meanwhile_is_no_obstacle(http: Http, cluster: FakeCluster) -> None:
    item = await make_file(http, "secret", "key")
    await make_service(http, "web", "secret", item)
    cluster.fail_next.append(NotFound("service gone not found"))
    assert (await put_data(http, "secret", "key", b"two")).json["Services"] == ["web"]


async def test_no_two_files_are_in_one_place(http: Http, cluster: FakeCluster) -> None:
    item = await make_file(http, "secret", "key")
    page = await make_file(http, "config", "page")
    secrets = [reference("secret", item)]
    configs = [reference("config", page, File={"Name": "/run/secrets/./key", "UID": "0", "GID": "0"})]
    answer = await http.post(
        "/services/create", spec("web", container={"Secrets": secrets, "Configs": configs})
    )
    assert answer.status == 400
    assert "secret key and config page cannot both be in the task" in answer.message


async def test_newer_data_run_no_job(http: Http, cluster: FakeCluster) -> None:
    item = await make_file(http, "secret", "key")
    body = spec("job", container={"Secrets": [reference("secret", item)]})
    body["Mode"] = {"ReplicatedJob": {"MaxConcurrent": 1, "TotalCompletions": 1}}
    assert (await http.post("/services/create", body)).status == 201
    before = (await http.get("/services/job")).json["JobStatus"]
    assert (await put_data(http, "secret", "key", b"two")).json["Services"] == ["job"]
    assert (await http.get("/services/job")).json["JobStatus"] == before
    assert await pin(http, "job") == 2


async def test_the_same_data_are_no_newer_ones(http: Http, cluster: FakeCluster) -> None:
    item = await make_file(http, "secret", "key")
    await make_service(http, "web", "secret", item)
    before = cluster.store.version
    assert (await put_data(http, "secret", "key", b"one")).json["Number"] == 1
    assert cluster.store.version == before


async def test_data_that_nothing_pins_are_not_kept(http: Http, cluster: FakeCluster) -> None:
    await make_file(http, "secret", "key")
    await put_data(http, "secret", "key", b"two")
    assert [each["Number"] for each in (await http.get("/swarmpy/secrets/key/versions")).json] == [2]


async def test_what_is_refused(http: Http, cluster: FakeCluster) -> None:
    item = await make_file(http, "config", "page", b"x" * 700_000)
    stale = await put_data(http, "config", "page", b"two", version=item["Version"]["Index"] - 1)
    assert "update out of sequence" in stale.message
    for data in (b"", b"x" * 1_024_000):
        answer = await put_data(http, "config", "page", data)
        assert (answer.status, "less than 1024000 bytes" in answer.message) == (400, True)
    assert (await put_data(http, "config", "gone", b"x", version=1)).status == 404

    for wrong, sentence in (
        ({"Version": 7}, "config page has no version 7: there is 1"),
        ({"Version": 1, "ReloadSignal": "HUP"}, "cannot both stay at version 1 and be reloaded"),
        ({"ReloadSignal": "SIGNOTHING"}, "invalid reload signal SIGNOTHING of config page"),
        ({"Version": -1}, "cannot be negative"),
        ({"File": {"Name": "x", "UID": "root"}}, "invalid uid 'root' of config page: give a number"),
        ({"File": {"Name": "x", "GID": "4294967295"}}, "give a number up to 4294967294"),
        ({"File": {"Name": "x\0"}}, "cannot hold the NUL character"),
        ({"File": {"Name": "../../x"}}, "leaves its folder"),
    ):
        answer = await make_service(http, "web", "config", item, **wrong)
        assert (answer.status, sentence in answer.message) == (400, True), answer.message

    await make_service(http, "web", "config", item)
    answer = await put_data(http, "config", "page", b"y" * 700_000)
    assert answer.status == 400
    assert f"and {FILE_VERSIONS_BYTES_MAX} bytes are kept; create another config" in answer.message
    assert await pin(http, "web", "config") == 1, "all or nothing"


async def test_drivers_and_templates_that_are_not_there(http: Http, cluster: FakeCluster) -> None:
    body: dict[str, Any] = {"Name": "s", "Data": "eA==", "Driver": {"Name": "vault"}}
    answer = await http.post("/secrets/create", body)
    assert (answer.status, "secret drivers are not supported" in answer.message) == (501, True)
    for kind in ("secrets", "configs"):
        body = {"Name": "t", "Data": "eA==", "Templating": {"Name": "jinja"}}
        answer = await http.post(f"/{kind}/create", body)
        assert (answer.status, "only 'golang'" in answer.message) == (400, True)
        body["Templating"] = {"Name": "golang"}
        assert (await http.post(f"/{kind}/create", body)).status == 201
