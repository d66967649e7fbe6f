"""Images over HTTP, in a real store of the test's own; no registry is asked but where a test says so."""

from __future__ import annotations

import base64
import io
import json
import os
import tarfile
from pathlib import Path
from urllib.parse import quote

import pytest
from api_http import Http
from api_node import FakeNode
from image_files import digest, tar_of, write_docker_save

from agent.executor.images.store import ImageStore

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="unpacking sets owners")]

BASE, TOP = tar_of(("a", b"a" * 5_000)), tar_of(("b", b"b" * 700))


async def load(
    http: Http, tmp_path: Path, *names: str, layers: tuple[bytes, ...] = (BASE,), **config: object
) -> str:
    path = write_docker_save(tmp_path / "image.tar", list(layers), names=list(names), **config)
    answer = await http.call("POST", "/images/load", data=path.read_bytes())
    assert answer.status == 200, answer.body
    assert answer.headers["Transfer-Encoding"] == "chunked", "or docker-py reads one JSON value only"
    said = [json.loads(line)["stream"] for line in answer.body.splitlines()]
    assert said == [f"Loaded image: {name}\n" for name in names]
    return str((await http.get(f"/images/{names[0]}/json")).json["Id"])


def filters(**wanted: list[str]) -> str:
    return f"?filters={quote(json.dumps(wanted))}"


async def tags(http: Http, query: str = "") -> list[list[str]]:
    answer = await http.get(f"/images/json{query}")
    assert answer.status == 200, answer.body
    return [image["RepoTags"] for image in answer.json]


async def test_load_list_remove(http: Http, tmp_path: Path) -> None:
    id_ = await load(http, tmp_path, "registry:5000/app:1")
    assert await tags(http) == [["registry:5000/app:1"]]
    answer = await http.delete("/images/registry:5000/app:1")
    assert answer.json == [{"Untagged": "registry:5000/app:1"}, {"Deleted": id_}, {"Deleted": digest(BASE)}]
    answer = await http.delete("/images/registry:5000/app:1")
    assert (answer.status, answer.message) == (404, "No such image: registry:5000/app:1")
    assert (await http.call("POST", "/images/load", data=b"junk")).status == 400


async def test_a_large_image_is_no_large_body(http: Http, tmp_path: Path) -> None:
    await load(http, tmp_path, "large:1", layers=(tar_of(("x", b"x" * (8 << 20))),))


async def test_no_registry_is_asked(http: Http) -> None:
    answer = await http.get("/distribution/library/host:latest/json")
    assert answer.status == 500
    assert "asks no registries" in answer.message
    answer = await http.post("/images/create?fromImage=app&tag=1", None)
    assert (answer.status, "asks no registries" in answer.message) == (500, True)


async def test_lookup_by_id_and_its_beginning(http: Http, tmp_path: Path) -> None:
    id_ = await load(http, tmp_path, "app:1", "other/app:latest")
    for name in (id_, id_[7:], id_[7:19], id_[7:8], "app:1", "other/app", "docker.io/library/app:1"):
        assert (await http.get(f"/images/{name}/json")).json["Id"] == id_, name
    for name, status, text in (
        ("app", 404, "No such image: app:latest"),
        ("sha256:" + "0" * 64, 404, "No such image: sha256:" + "0" * 64),
        ("0" * 64, 404, "No such image: sha256:" + "0" * 64),
        (f"app@sha256:{'0' * 64}", 404, f"No such image: app@sha256:{'0' * 64}"),
        ("App", 400, "invalid reference format: repository name must be lowercase"),
    ):
        answer = await http.get(f"/images/{name}/json")
        assert (answer.status, answer.message) == (status, text)


async def test_versions_have_their_shapes(http: Http, tmp_path: Path) -> None:
    await load(http, tmp_path, "app:1")
    await http.call("POST", "/images/create?fromSrc=-", data=TOP)
    old, new = (await http.get("/v1.42/images/json")).json, (await http.get("/v1.44/images/json")).json
    assert {tuple(image["RepoTags"]) for image in old} == {("app:1",), ("<none>:<none>",)}
    assert {tuple(image["RepoTags"]) for image in new} == {("app:1",), ()}
    assert all("VirtualSize" in image for image in old)
    assert not any("VirtualSize" in image for image in new)
    assert "ContainerConfig" in (await http.get("/v1.44/images/app:1/json")).json
    assert "ContainerConfig" not in (await http.get("/v1.45/images/app:1/json")).json


async def test_filters(http: Http, tmp_path: Path) -> None:
    await load(http, tmp_path, "team/web:1", "team/web:2", "db:1", Labels={"a": "b"})
    await http.call("POST", "/images/create?fromSrc=-&repo=new", data=TOP)
    assert await tags(http, filters(reference=["team/*"])) == [["team/web:1", "team/web:2"]]
    assert await tags(http, filters(reference=["*"])) == [["new:latest"], ["db:1"]]
    assert await tags(http, filters(reference=["team/web:2", "d?"])) == [["db:1", "team/web:2"]]
    assert await tags(http, filters(label=["a=b"])) == [["db:1", "team/web:1", "team/web:2"]]
    assert await tags(http, filters(before=["new"])) == [["db:1", "team/web:1", "team/web:2"]]
    assert await tags(http, filters(since=["db:1"])) == [["new:latest"]]
    assert await tags(http, filters(until=["24h"])) == [["db:1", "team/web:1", "team/web:2"]]
    assert await tags(http, filters(dangling=["true"])) == []
    for wanted, status, text in (
        ({"dangling": ["x"]}, 400, "Invalid filter 'dangling=[x]'"),
        ({"before": ["nope"]}, 404, "No such image: nope:latest"),
        ({"until": ["x"]}, 500, 'failed to parse value as time or duration: "x"'),
    ):
        answer = await http.get(f"/images/json{filters(**wanted)}")
        assert (answer.status, answer.message) == (status, text)


@pytest.mark.parametrize(
    ("query", "status", "text"),
    [
        ("repo=a/b&tag=1", 201, ""),
        ("repo=a/b:3&tag=4", 201, ""),
        ("repo=A/b", 400, "invalid reference format: repository name must be lowercase"),
        ("", 400, "invalid reference format"),
        ("repo=a&tag=!", 400, "invalid tag format"),
        ("repo=sha256&tag=x", 400, "refusing to create an ambiguous tag using digest algorithm as name"),
        ("repo=a@sha256:" + "0" * 64, 400, "refusing to create a tag with a digest reference"),
    ],
)
async def test_tag(http: Http, tmp_path: Path, query: str, status: int, text: str) -> None:
    await load(http, tmp_path, "app:1")
    answer = await http.post(f"/images/app:1/tag?{query}", None)
    assert answer.status == status
    if text:
        assert answer.message == text


async def test_a_tag_moves_and_its_image_stays_without_one(http: Http, tmp_path: Path) -> None:
    first = await load(http, tmp_path, "app:1")
    second = await load(http, tmp_path, "app:1", layers=(BASE, TOP))
    images = {image["Id"]: image["RepoTags"] for image in (await http.get("/images/json")).json}
    assert images == {first: [], second: ["app:1"]}
    pruned = (await http.post("/images/prune", None)).json
    assert pruned == {"ImagesDeleted": [{"Deleted": first}], "SpaceReclaimed": 0}
    pruned = (await http.post(f"/images/prune{filters(dangling=['false'])}", None)).json
    assert pruned["ImagesDeleted"][:2] == [{"Untagged": "app:1"}, {"Deleted": second}]
    assert pruned["SpaceReclaimed"] == 5_700


async def test_what_has_a_digest_alone_is_dangling(http: Http, node: FakeNode, tmp_path: Path) -> None:
    """As after its tag has moved with a newer pull: docker prunes it, and shows it either way."""
    id_ = await load(http, tmp_path, "app:1")
    ImageStore(node.folder / "images").note_digest("app:1", f"app@{id_}")
    second = await load(http, tmp_path, "app:1", layers=(BASE, TOP))
    for dangling, ids in (("true", {id_}), ("false", {id_, second})):
        found = (await http.get(f"/images/json{filters(dangling=[dangling])}")).json
        assert {image["Id"] for image in found} == ids
    pruned = (await http.post("/images/prune", None)).json
    assert pruned["ImagesDeleted"] == [{"Untagged": f"app@{id_}"}, {"Deleted": id_}]


async def test_removal_by_id_of_an_image_with_two_names(http: Http, tmp_path: Path) -> None:
    id_ = await load(http, tmp_path, "app:1", "web:1")
    answer = await http.delete(f"/images/{id_[7:19]}")
    assert (answer.status, answer.message) == (
        409,
        f"conflict: unable to delete {id_[7:19]} (must be forced) - "
        "image is referenced in multiple repositories",
    )
    answer = await http.delete(f"/images/{id_[7:19]}?force=1")
    assert answer.json[:3] == [{"Untagged": "app:1"}, {"Untagged": "web:1"}, {"Deleted": id_}]


async def test_save_and_load_again(http: Http, node: FakeNode, tmp_path: Path) -> None:
    id_ = await load(http, tmp_path, "app:1", "app:2", "web:1", layers=(BASE, TOP), Cmd=["x"])
    for path, kept in (("/images/app/get", ["app:1", "app:2"]), (f"/images/{id_}/get", None)):
        with tarfile.open(fileobj=io.BytesIO((await http.get(path)).body)) as archive:
            (entry,) = json.load(archive.extractfile("manifest.json"))  # type: ignore[arg-type]
            layers = [archive.extractfile(name).read() for name in entry["Layers"]]  # type: ignore[union-attr]
        assert entry["RepoTags"] == kept
        assert layers == [BASE, TOP]
    data = (await http.get("/images/get?names=app:2&names=web:1")).body
    await http.delete(f"/images/{id_}?force=1")
    answer = await http.call("POST", "/images/load", data=data)
    assert [json.loads(line)["stream"] for line in answer.body.splitlines()] == [
        "Loaded image: app:2\n",
        "Loaded image: web:1\n",
    ]
    assert (await http.get("/images/web:1/json")).json["Id"] == id_
    answer = await http.get("/images/nope/get")
    assert (answer.status, answer.message) == (404, "No such image: nope")


async def test_import_with_changes(http: Http) -> None:
    changes = [
        'CMD ["a","b"]',
        "ENV A=b C='d e'",
        "EXPOSE 80 90/udp",
        "VOLUME /v",
        "ENTRYPOINT run it",
        "LABEL x=y",
    ]
    query = "&".join(f"changes={quote(change)}" for change in changes)
    answer = await http.call("POST", f"/images/create?fromSrc=-&repo=imp&tag=1&message=hi&{query}", data=BASE)
    image = (await http.get("/images/imp:1/json")).json
    assert answer.json == {"status": image["Id"]}
    config = {name: value for name, value in image["Config"].items() if value}
    assert config == {
        "Cmd": ["a", "b"],
        "Env": ["A=b", "C=d e"],
        "ExposedPorts": {"80/tcp": {}, "90/udp": {}},
        "Volumes": {"/v": {}},
        "Entrypoint": ["/bin/sh", "-c", "run it"],
        "Labels": {"x": "y"},
    }
    assert (image["Comment"], image["RootFS"]["Layers"]) == ("hi", [digest(BASE)])
    (row,) = (await http.get("/images/imp:1/history")).json
    assert (row["Id"], row["Size"], row["Tags"]) == (image["Id"], 5_000, ["imp:1"])
    answer = await http.call("POST", "/images/create?fromSrc=-&changes=RUN+x", data=BASE)
    assert (answer.status, answer.message) == (400, "run is not a valid change command")


async def test_what_is_not_done_here_says_what_to_do(http: Http) -> None:
    for method, path in (("POST", "/build"), ("POST", "/commit"), ("GET", "/images/search?term=x")):
        answer = await http.call(method, path)
        assert answer.status == 501
        assert "pull" in answer.message or "build" in answer.message
    assert (await http.post("/build/prune", None)).json == {"CachesDeleted": None, "SpaceReclaimed": 0}


async def test_disk_usage(http: Http, tmp_path: Path) -> None:
    await load(http, tmp_path, "app:1")
    await load(http, tmp_path, "web:1", layers=(BASE, TOP))
    await http.post("/volumes/create", {"Name": "data"})
    usage = (await http.get("/system/df")).json
    assert usage["LayersSize"] == 5_700
    assert {tuple(image["RepoTags"]): image["SharedSize"] for image in usage["Images"]} == {
        ("app:1",): 5_000,
        ("web:1",): 5_000,
    }
    assert [(volume["Name"], volume["UsageData"]) for volume in usage["Volumes"]] == [
        ("data", {"RefCount": 0, "Size": 0})
    ]
    assert (usage["Containers"], usage["BuildCache"]) == ([], None)
    assert set((await http.get("/system/df?type=image")).json) == {"LayersSize", "Images"}
    assert (await http.get("/system/df?type=x")).status == 400


async def test_who_pushes_must_say_who_he_is(http: Http, tmp_path: Path) -> None:
    await load(http, tmp_path, "app:1")
    answer = await http.post("/images/app/push?tag=1", None)
    assert (answer.status, answer.message) == (400, "Bad parameters and missing X-Registry-Auth: EOF")
    auth = base64.urlsafe_b64encode(b"{}").decode()
    answer = await http.call("POST", "/images/app/push?tag=9", headers={"X-Registry-Auth": auth})
    assert [json.loads(line) for line in answer.body.splitlines()] == [
        {"status": "The push refers to repository [docker.io/library/app]"},
        {"errorDetail": {"message": "tag does not exist: app:9"}, "error": "tag does not exist: app:9"},
    ]
