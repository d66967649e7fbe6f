"""Named volumes of a node: what is kept of them, what a crash leaves, when they go."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from agent import volume_calls
from agent.volumes import DATA, Volumes
from swarmpy.errors import AlreadyExists, InvalidArgument, NotFound
from swarmpy.limits import VOLUME_RECORD_BYTES_MAX, VOLUMES_REPORTED_MAX
from swarmpy.model.ids import Timestamp
from swarmpy.model.objects import NodeVolume
from swarmpy.model.volumes import ANONYMOUS_LABEL, VolumeAnswer, VolumeQuery, VolumeRequest


class Users(dict[str, tuple[str, ...]]):
    def __call__(self) -> Users:
        return self


@pytest.fixture
def users() -> Users:
    return Users()


@pytest.fixture
def volumes(tmp_path: Path, users: Users) -> Volumes:
    volumes = Volumes(tmp_path / "volumes", users, lambda: Timestamp(7))
    volumes.prepare()
    return volumes


def names(volumes: Volumes) -> list[str]:
    return [volume.name for volume in volumes.list()]


def test_a_volume_keeps_what_its_creator_said(volumes: Volumes, tmp_path: Path) -> None:
    options = {"type": "nfs", "device": ":/srv", "o": "addr=10.0.0.9"}
    made = volumes.create(VolumeRequest(name="data", driver_opts=options, labels={"tier": "db"}))
    assert made.mountpoint == str(tmp_path / "volumes/data" / DATA)
    assert Path(made.mountpoint).is_dir()
    assert (made.driver, made.created_at) == ("local", 7)
    again = Volumes(tmp_path / "volumes", dict, lambda: Timestamp(9))
    assert again.inspect("data") == made
    assert again.create(VolumeRequest(name="data", labels={"other": "1"})) == made, "the first word stands"


def test_one_without_a_name_gets_one(volumes: Volumes) -> None:
    made = volumes.create(VolumeRequest())
    assert len(made.name) == 64
    assert made.labels == {ANONYMOUS_LABEL: ""}


def test_a_crash_leaves_a_volume_whole_or_none(volumes: Volumes, tmp_path: Path) -> None:
    (tmp_path / "volumes/.0123456789abcdef" / DATA).mkdir(parents=True)
    assert volumes.list() == ()
    volumes.prepare()
    assert not (tmp_path / "volumes/.0123456789abcdef").exists()
    (tmp_path / "volumes/older" / DATA).mkdir(parents=True)  # made by a daemon that kept no records
    assert volumes.inspect("older").mountpoint.endswith(f"older/{DATA}")
    torn = volumes.create(VolumeRequest(name="torn", labels={"a": "b"}))
    (tmp_path / "volumes/torn/volume.json").write_text("{")
    assert volumes.inspect("torn").mountpoint == torn.mountpoint


@pytest.mark.parametrize(
    ("request_", "error", "text"),
    [
        (VolumeRequest(name="a"), InvalidArgument, "too short"),
        (VolumeRequest(name="../x"), InvalidArgument, "includes invalid characters for a local volume name"),
        (VolumeRequest(name=".x"), InvalidArgument, "invalid characters"),
        (VolumeRequest(name="x" * 256), InvalidArgument, "invalid characters"),
        (
            VolumeRequest(name="ok", driver="nfs"),
            NotFound,
            'error looking up volume plugin nfs: plugin "nfs" not found',
        ),
        (VolumeRequest(name="ok", driver_opts={"odd": "1"}), InvalidArgument, 'invalid option: "odd"'),
        (VolumeRequest(name="ok", driver_opts={"type": "nfs"}), InvalidArgument, 'required option: "device"'),
        (VolumeRequest(name="ok", driver_opts={"o": "ro"}), InvalidArgument, 'required option: "device"'),
        (VolumeRequest(name="ok", labels={"a": "x" * VOLUME_RECORD_BYTES_MAX}), InvalidArgument, "at most"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_requests(volumes: Volumes, request_: VolumeRequest, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        volumes.create(request_)
    assert volumes.list() == ()


def test_removing(volumes: Volumes, users: Users) -> None:
    volumes.create(VolumeRequest(name="data"))
    users["data"] = ("t1", "t2")
    for is_forced in (False, True):
        with pytest.raises(AlreadyExists, match=r"^remove data: volume is in use - \[t1, t2\]$"):
            volumes.remove("data", is_forced=is_forced)
    users.clear()
    volumes.remove("data")
    with pytest.raises(NotFound, match=r"^get data: no such volume$"):
        volumes.remove("data")
    volumes.remove("data", is_forced=True)


def test_pruning_takes_the_nameless_unless_all_are_meant(volumes: Volumes, users: Users) -> None:
    nameless, busy = volumes.create(VolumeRequest()), volumes.create(VolumeRequest())
    for name in ("kept", "used"):
        volumes.create(VolumeRequest(name=name, labels={"keep": name}))
    users |= {busy.name: ("t",), "used": ("t",)}
    (Path(nameless.mountpoint) / "file").write_bytes(bytes(100))
    assert volumes.prune() == ((nameless.name,), 100)
    assert volumes.prune(is_all=True, is_wanted=lambda volume: "keep" not in volume.labels).names == ()
    assert volumes.prune(is_all=True).names == ("kept",)
    assert names(volumes) == sorted([busy.name, "used"])


def test_none_is_removed_while_a_task_is_made_that_wants_it(volumes: Volumes, users: Users) -> None:
    removing = threading.Thread(target=lambda: outcome.append(removed(volumes)))
    outcome: list[str] = []
    with volumes.held((VolumeRequest(name="data"),)) as held:
        removing.start()
        assert Path(held["data"].mountpoint).is_dir()
        users["data"] = ("t",)  # as the task's folder says from now on
        assert not outcome
    removing.join(10)
    assert outcome == ["remove data: volume is in use - [t]"]


def removed(volumes: Volumes) -> str:
    try:
        volumes.remove("data")
    except AlreadyExists as error:
        return str(error)
    return ""


def test_what_a_node_tells_of_them_follows_changes_and_is_bounded(volumes: Volumes) -> None:
    assert volumes.snapshot() == ()
    volumes.create(VolumeRequest(name="one"))
    assert [volume.name for volume in volumes.snapshot()] == ["one"]
    assert volumes.snapshot() is volumes.snapshot()
    for number in range(30):
        volumes.create(VolumeRequest(name=f"big{number:02}", labels={"a": "x" * 12_000}))
    told = volumes.snapshot()
    assert 15 < len(told) < 25 <= VOLUMES_REPORTED_MAX
    volumes.remove("one")
    volumes.prune(is_all=True)
    assert volumes.snapshot() == ()


def test_only_what_is_new_is_read_for_what_a_node_tells(
    volumes: Volumes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node may have a thousand volumes, and it is the event loop that asks."""
    for number in range(5):
        volumes.create(VolumeRequest(name=f"v{number}"))
    volumes.snapshot()
    read: list[str] = []
    monkeypatch.setattr(Volumes, "_read", spy_on(Volumes._read, read))
    volumes.create(VolumeRequest(name="new"))
    read.clear()
    assert len(volumes.snapshot()) == 6
    assert read == ["new"]


def spy_on(
    call: Callable[[Volumes, str], NodeVolume], names: list[str]
) -> Callable[[Volumes, str], NodeVolume]:
    def read(volumes: Volumes, name: str) -> NodeVolume:
        names.append(name)
        return call(volumes, name)

    return read


def test_changes_that_look_alike_from_outside_are_told(volumes: Volumes, tmp_path: Path) -> None:
    """As many folders as before, changed at the same moment by the file system's coarse clock."""
    folder = tmp_path / "volumes"
    volumes.create(VolumeRequest(name="first"))
    moment = folder.stat().st_mtime_ns
    volumes.snapshot()
    volumes.remove("first")
    volumes.create(VolumeRequest(name="second"))
    os.utime(folder, ns=(moment, moment))
    assert [volume.name for volume in volumes.snapshot()] == ["second"]


def test_what_cannot_be_deleted_keeps_no_node_from_starting(
    volumes: Volumes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volumes.create(VolumeRequest(name="data"))
    (tmp_path / "volumes/data").rename(tmp_path / "volumes/.half")

    def refuse(path: str) -> None:
        raise PermissionError(1, "Operation not permitted", path)

    monkeypatch.setattr(shutil, "rmtree", refuse)
    volumes.prepare()
    assert names(volumes) == []


def test_calls_by_name(volumes: Volumes, users: Users) -> None:
    def call(name: str, body: object) -> VolumeAnswer:
        reply = volume_calls.answer(volumes, name, msgspec.json.encode(body))
        return msgspec.json.decode(reply, type=VolumeAnswer)

    made = call("volume.create", VolumeRequest(name="data", labels={"a": "1"})).volumes[0]
    users["data"] = ("t",)
    assert call("volume.list", {}) == VolumeAnswer(volumes=(made,), used=("data",), counts={"data": 1})
    assert call("volume.inspect", VolumeQuery(name="data")).volumes == (made,)
    users.clear()
    assert call("volume.prune", VolumeQuery(is_all=True, no_labels=("a=1",))).removed == ()
    assert call("volume.prune", VolumeQuery(is_all=True, labels=("a=2",))).removed == ()
    assert call("volume.remove", VolumeQuery(name="data")).removed == ("data",)
    with pytest.raises(NotFound, match="no call"):
        call("volume.sing", {})
    with pytest.raises(InvalidArgument, match="invalid JSON"):
        call("volume.remove", [])
