"""Digests of services' images: who asks for them, when, how they are written, who need not wait."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from api_http import Http, spec
from api_node import FakeNode
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from manager.api import image_pins
from manager.api.image_pins import Policy
from swarmpy.errors import NotFound, SwarmError
from swarmpy.model.images import Credentials, Image, ManifestFacts
from swarmpy.model.specs import ContainerSpec, ServiceSpec, TaskSpec

OLD, NEW = "sha256:" + "a" * 64, "sha256:" + "b" * 64
OWN_CLIENT = {"User-Agent": "Docker-Client/20.10.24 (linux)"}


class FakeImages:
    """A node with the images that it is said to have, and a registry with one digest for every name."""

    def __init__(self) -> None:
        self.digest = OLD
        self.asked: list[tuple[str, str]] = []
        self.looked_up: list[str] = []
        self.stored: dict[str, tuple[str, ...]] = {}
        self.error: SwarmError | None = None
        self.silence_s = 0.0

    async def find(self, name: str) -> Image:
        self.looked_up.append(name)
        if name not in self.stored:
            raise NotFound(f"No such image: {name}")
        return Image(id=NEW, tags=(name,), digests=self.stored[name])

    async def look(self, name: str, credentials: Credentials) -> ManifestFacts:
        self.asked.append((name, credentials.username))
        await asyncio.sleep(self.silence_s)
        if self.error is not None:
            raise self.error
        return ManifestFacts(media_type="", digest=self.digest, size=1, platforms=())


@pytest.fixture
def images(node: FakeNode, monkeypatch: pytest.MonkeyPatch) -> FakeImages:
    images = FakeImages()
    monkeypatch.setattr(FakeNode, "image_store", images)
    node.become_manager()
    return images


async def created(http: Http, image: str, *, path: str = "", **more: Any) -> tuple[str, list[str] | None]:
    """The image as it is kept, and the warnings."""
    headers = more.pop("headers", None)
    answer = await http.call(
        "POST", f"{path}/services/create", body=spec(image=image), headers=headers, **more
    )
    assert answer.status == 201, answer.body
    return await kept(http), answer.json["Warnings"]


async def service(http: Http) -> dict[str, Any]:
    found: dict[str, Any] = (await http.get("/services/web")).json
    return found


async def kept(http: Http) -> str:
    image: str = (await service(http))["Spec"]["TaskTemplate"]["ContainerSpec"]["Image"]
    return image


async def updated(http: Http, image: str, *, force: int = 0, path: str = "", **more: Any) -> str:
    headers = more.pop("headers", None)
    body = spec(image=image, template={"ForceUpdate": force}, **more.pop("fields", {}))
    query = {"version": (await service(http))["Version"]["Index"], **more}
    answer = await http.call("POST", f"{path}/services/web/update", body=body, headers=headers, **query)
    assert answer.status == 200, answer.body
    return await kept(http)


async def test_a_service_gets_the_digest_once(http: Http, images: FakeImages) -> None:
    assert await created(http, "127.0.0.1:5/app:1") == (f"127.0.0.1:5/app:1@{OLD}", None)
    assert images.asked == [("127.0.0.1:5/app:1", "")]
    images.digest = NEW
    # a name that stays keeps what it stands for, whoever writes it and whatever else changes
    pinned = f"127.0.0.1:5/app:1@{OLD}"
    assert await updated(http, "127.0.0.1:5/app:1", fields={"Labels": {"a": "b"}}) == pinned
    assert await updated(http, pinned, fields={"Labels": {"a": "c"}}) == pinned
    assert len(images.asked) == 1
    before = await service(http)
    assert await updated(http, "127.0.0.1:5/app:1", fields={"Labels": {"a": "c"}}) == pinned
    assert await service(http) == before
    # a forced update asks anew, another name, too
    assert await updated(http, "127.0.0.1:5/app:1", force=1) == f"127.0.0.1:5/app:1@{NEW}"
    assert await updated(http, "127.0.0.1:5/app:2", force=1) == f"127.0.0.1:5/app:2@{NEW}"
    assert [name[-1] for name, _ in images.asked] == ["1", "1", "2"]


async def test_the_name_is_kept_as_it_was_written(http: Http, images: FakeImages) -> None:
    assert await created(http, "box") == (f"box@{OLD}", None)
    assert await updated(http, "box:latest") == f"box@{OLD}"
    assert images.asked == [("box:latest", "")]


@pytest.mark.parametrize("image", ["host", f"box@{OLD}", f"box:1@{OLD}", "a" * 64])
async def test_what_says_all_is_left_alone(http: Http, images: FakeImages, image: str) -> None:
    assert await created(http, image) == (image, None)
    assert images.asked == []


async def test_who_wants_no_digest_gets_none(http: Http, images: FakeImages) -> None:
    assert await created(http, "box:1", headers=OWN_CLIENT) == ("box:1", None)
    assert await updated(http, "box:2", resolveImage="never") == "box:2"
    assert images.asked == []
    # nor does a later update of something else restart its tasks
    assert await updated(http, "box:2", fields={"Labels": {"a": "b"}}) == "box:2"
    assert images.asked == []
    assert await updated(http, f"box:3@{NEW}", headers=OWN_CLIENT) == f"box:3@{NEW}"
    assert await updated(http, "box:3", headers=OWN_CLIENT) == "box:3"
    answer = await http.post("/services/create", spec("other"), resolveImage="some")
    assert (answer.status, answer.message) == (400, "unsupported resolveImage value: give always or never")


async def test_who_asks_anew_gets_what_the_tag_is_now(http: Http, images: FakeImages) -> None:
    assert (await created(http, "box:1", resolveImage="always"))[0] == f"box:1@{OLD}"
    before = await service(http)
    assert await updated(http, "box:1", resolveImage="always") == f"box:1@{OLD}"
    assert await service(http) == before, "a tag that has not moved is no change"
    images.digest = NEW
    assert await updated(http, "box:1") == f"box:1@{OLD}"
    assert await updated(http, "box:1", resolveImage="always") == f"box:1@{NEW}"
    images.error = NotFound("no such manifest")
    assert await updated(http, "box:1", resolveImage="always") == f"box:1@{NEW}", "nobody knows better"


async def test_credentials_are_the_services(http: Http, images: FakeImages) -> None:
    who = {"X-Registry-Auth": "eyJ1c2VybmFtZSI6ImpvZSIsInBhc3N3b3JkIjoicyJ9"}
    await created(http, "box:1", headers=who)
    await updated(http, "box:2")
    assert images.asked == [("box:1", "joe"), ("box:2", "joe")]


async def test_clients_of_old_are_asked_for_each_time(http: Http, images: FakeImages) -> None:
    old = "/v1.29"
    assert await created(http, "docker.io/library/box", headers=OWN_CLIENT, path=old) == (
        f"box:latest@{OLD}",
        None,
    )
    images.digest = NEW
    assert await updated(http, "box", path=old) == f"box:latest@{NEW}"
    assert await updated(http, f"docker.io/library/box:1@{OLD}", path=old) == f"box:1@{OLD}"
    images.stored = {"own:1": ()}
    images.asked.clear()
    query = {"version": (await service(http))["Version"]["Index"]}
    answer = await http.post("/v1.29/services/web/update", spec(image="own:1"), **query)
    assert (answer.json["Warnings"], images.asked) == ([image_pins.warning("own:1")], [])


async def test_an_image_that_was_loaded_here_is_asked_for_nowhere(http: Http, images: FakeImages) -> None:
    images.stored = {"own:latest": (), "pulled:1": (f"pulled@{OLD}",)}
    images.error = NotFound("it must not be asked for")
    assert await created(http, "own") == ("own", None)
    assert (await http.post("/services/create", spec("other", image="own:latest"))).status == 201
    assert (images.asked, images.looked_up) == ([], ["own:latest"])
    images.error, images.digest = None, NEW
    assert await updated(http, "pulled:1") == f"pulled:1@{NEW}"


async def test_an_image_that_no_registry_has(http: Http, images: FakeImages) -> None:
    images.error = NotFound("manifest unknown")
    image, warnings = await created(http, "reg.test/gone:1")
    assert image == "reg.test/gone:1"
    assert warnings == [
        "image reg.test/gone:1 could not be accessed on a registry to record\nits digest. Each node will "
        "access reg.test/gone:1 independently,\npossibly leading to different nodes running different\n"
        "versions of the image.\n"
    ]
    assert await updated(http, "reg.test/gone:2") == "reg.test/gone:2"
    assert len(images.asked) == 2  # who answers is asked again


async def test_a_registry_that_says_nothing_is_waited_for_once(
    http: Http, images: FakeImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_pins, "IMAGE_PIN_TIMEOUT_S", 0.05)
    monkeypatch.setattr(image_pins, "IMAGE_PIN_SLOW_S", 0.02)
    images.silence_s = 60.0
    image, warnings = await created(http, "reg.test/app:1")
    assert (image, warnings) == ("reg.test/app:1", [image_pins.warning("reg.test/app:1")])
    images.silence_s = 0.0
    assert await updated(http, "reg.test/app:2") == "reg.test/app:2"
    assert len(images.asked) == 1
    assert await updated(http, "box:2") == f"box:2@{OLD}"  # another registry is none of its business


async def test_of_an_update_that_comes_too_late_nobody_is_asked(http: Http, images: FakeImages) -> None:
    await created(http, "box:1")
    answer = await http.post("/services/web/update", spec(image="box:2"), version=1)
    assert (answer.status, answer.message) == (500, "rpc error: code = Unknown desc = update out of sequence")
    assert len(images.asked) == 1


def of(image: str, force: int = 0) -> ServiceSpec:
    return ServiceSpec(
        name="web", task_template=TaskSpec(container_spec=ContainerSpec(image=image), force_update=force)
    )


NAMES = st.sampled_from(["box", "box:1", "docker.io/library/box", "host", "a" * 64, "No:", "", f"box@{OLD}"])
SPECS = st.builds(of, NAMES, st.integers(0, 1))


@given(SPECS, st.none() | SPECS, st.sampled_from(list(Policy)))
def test_what_is_decided_is_settled(spec: ServiceSpec, present: ServiceSpec | None, policy: Policy) -> None:
    name = image_pins.undecided(spec, policy, of=present)
    if name is None:
        result = image_pins.settled(spec, policy, of=present)
    else:
        result = image_pins.pinned(spec, policy, name, NEW)
        assert image_pins.undecided(result, Policy.MANAGER, of=present) is None
    container = spec.task_template.container_spec
    assert container is not None
    if name is None and (policy is Policy.CLIENT or present is None or "@" in container.image):
        assert result == spec
    # the answer stands: the same request again changes nothing
    if policy is Policy.MANAGER:
        assert image_pins.undecided(spec, policy, of=result) is None or "@" in container.image
        assert image_pins.settled(spec, policy, of=result) == result
    # nothing but the image is touched
    found = result.task_template.container_spec
    assert found is not None
    template = replace(result.task_template, container_spec=container)
    assert replace(result, task_template=template) == spec
