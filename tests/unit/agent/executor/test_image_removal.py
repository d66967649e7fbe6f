"""What becomes of an image that is to be removed; and what imports make of a Dockerfile's instructions."""

from __future__ import annotations

from typing import Any

import pytest

from agent.executor.base import ImageConfig
from agent.executor.images.imports import changed
from agent.executor.images.records import ImageRecord, StoredImage, group
from agent.executor.images.removal import ImageUser, Removal, chain_ids, plan_removal
from swarmpy.errors import AlreadyExists, InvalidArgument
from swarmpy.model.ids import Timestamp

ID = "sha256:" + "12" * 32
DIGEST = "sha256:" + "d" * 64
RUNS, ENDED = ImageUser("running-task-1234567", True), ImageUser("stopped-task-1234567", False)


def image(*names: str) -> StoredImage:
    records = [ImageRecord(config=ImageConfig(reference=name, digest=ID)) for name in (*names, ID)]
    (found,) = group(records)
    return found


def test_records_of_one_image_are_one() -> None:
    found = image("b:1", "a:1", f"a@{DIGEST}")
    assert (found.tags, found.digests, found.tagged_at) == (("a:1", "b:1"), (f"a@{DIGEST}",), Timestamp(0))
    assert image().references == ()


@pytest.mark.parametrize(
    ("names", "asked", "users", "removal"),
    [
        (("a:1",), "a:1", (), Removal(("a:1",), True)),
        (("a:1", "a:2"), "a:1", (RUNS,), Removal(("a:1",), False)),
        (("a:1", f"a@{DIGEST}"), "a:1", (), Removal(("a:1", f"a@{DIGEST}"), True)),
        (("a:1", "b:1", f"a@{DIGEST}"), "a:1", (), Removal(("a:1", f"a@{DIGEST}"), False)),
        (("a:1", f"a@{DIGEST}"), f"a@{DIGEST}", (), Removal((f"a@{DIGEST}",), False)),
        (("a:1", f"a@{DIGEST}"), ID[:19], (), Removal(("a:1", f"a@{DIGEST}"), True)),
        ((), ID[7:19], (), Removal((), True)),
    ],
)
def test_without_force(
    names: tuple[str, ...], asked: str, users: tuple[ImageUser, ...], removal: Removal
) -> None:
    assert plan_removal(image(*names), asked, users) == removal


@pytest.mark.parametrize(
    ("names", "asked", "users", "removal"),
    [
        (("a:1",), "a:1", (RUNS,), Removal(("a:1",), False)),
        (("a:1",), "a:1", (ENDED,), Removal(("a:1",), True)),
        (("a:1", "b:1"), ID, (ENDED,), Removal(("a:1", "b:1"), True)),
    ],
)
def test_with_force(
    names: tuple[str, ...], asked: str, users: tuple[ImageUser, ...], removal: Removal
) -> None:
    assert plan_removal(image(*names), asked, users, is_forced=True) == removal


@pytest.mark.parametrize(
    ("names", "asked", "user", "is_forced", "text"),
    [
        (
            ("a:1",),
            "a",
            ENDED,
            False,
            'repository reference "a" (must force) - container stopped-task is using '
            "its referenced image 121212121212",
        ),
        (
            ("a:1",),
            ID,
            ENDED,
            False,
            "(must be forced) - image is being used by stopped container stopped-task",
        ),
        (
            ("a:1",),
            ID,
            RUNS,
            True,
            "(cannot be forced) - image is being used by running container running-task",
        ),
    ],
)
def test_conflicts(names: tuple[str, ...], asked: str, user: ImageUser, is_forced: bool, text: str) -> None:
    with pytest.raises(AlreadyExists) as caught:
        plan_removal(image(*names), asked, (user,), is_forced=is_forced)
    assert text in str(caught.value)


def test_chain_ids_are_dockers() -> None:
    first, second = "sha256:" + "a" * 64, "sha256:" + "b" * 64
    chain = chain_ids((first, second))
    assert chain == (first, "sha256:ccd722928bd92476ba1745586fed6e45a102504185ad88cd89e01ff116fd146c")


@pytest.mark.parametrize(
    ("changes", "config"),
    [
        ("# nothing\n\n", {}),
        ("cmd sleep 1", {"Cmd": ["/bin/sh", "-c", "sleep 1"]}),
        ('CMD ["a", 1]', {"Cmd": ["/bin/sh", "-c", '["a", 1]']}),
        ("ENV A b c\nENV B=1 A=2", {"Env": ["A=2", "B=1"]}),
        ("LABEL a=b \\\n c='d e'", {"Labels": {"a": "b", "c": "d e"}}),
        ("EXPOSE 80-82/udp", {"ExposedPorts": {"80/udp": {}, "81/udp": {}, "82/udp": {}}}),
        ('VOLUME ["/a b"]', {"Volumes": {"/a b": {}}}),
        ("WORKDIR /a\nWORKDIR b", {"WorkingDir": "/a/b"}),
        ("WORKDIR b", {"WorkingDir": "/b"}),
        ("ONBUILD RUN x", {"OnBuild": ["RUN x"]}),
        ("HEALTHCHECK NONE", {"Healthcheck": {"Test": ["NONE"]}}),
        (
            'HEALTHCHECK --interval=1m30s --retries=2 CMD ["x"]',
            {"Healthcheck": {"Test": ["CMD", "x"], "Interval": 90_000_000_000, "Retries": 2}},
        ),
    ],
)
def test_changes(changes: str, config: dict[str, Any]) -> None:
    assert changed([changes]) == config


@pytest.mark.parametrize(
    "change",
    [
        "RUN x",
        "CMD",
        "ENV A",
        "ENV A=1 B",
        "LABEL a='",
        "EXPOSE x",
        "EXPOSE 9-1",
        "EXPOSE 99999",
        "HEALTHCHECK CMD",
        "HEALTHCHECK x",
        "HEALTHCHECK --interval=x CMD y",
        "HEALTHCHECK --what=1 CMD y",
        "CMD " + "x" * 70_000,
    ],
)
def test_changes_that_are_none(change: str) -> None:
    with pytest.raises(InvalidArgument):
        changed([change])
