"""The folder of blobs that are on their way to a node: what stays in it, for how long, and what counts."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from agent.received import ReceivedBlobs
from swarmpy.image_push_limits import IMAGE_LEFTOVERS_KEPT_S
from swarmpy.model.ids import SECOND_NS, Timestamp
from swarmpy.runtime import SystemClock

NOW_S = SystemClock().now() / SECOND_NS
NOW = Timestamp(int(NOW_S * SECOND_NS))
DATA = b"content of a layer"
DIGEST = "sha256:" + hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def blobs(tmp_path: Path) -> ReceivedBlobs:
    blobs = ReceivedBlobs(tmp_path / "received")
    blobs.prepare(NOW)
    return blobs


def names(blobs: ReceivedBlobs) -> list[str]:
    return sorted(path.name for path in blobs.folder.rglob("*") if path.is_file())


def aged(blobs: ReceivedBlobs, seconds: float) -> None:
    for path in blobs.folder.rglob("*"):
        os.utime(path, (NOW_S - seconds, NOW_S - seconds))


def test_a_blob_is_whole_once_its_digest_is_right(blobs: ReceivedBlobs) -> None:
    blobs.write(DIGEST, 0, DATA[:5])
    assert blobs.resume({DIGEST: len(DATA)}) == {DIGEST: 5}
    blobs.write(DIGEST, 5, DATA[5:])
    assert blobs.keep(DIGEST)
    assert blobs.resume({DIGEST: len(DATA)}) == {DIGEST: len(DATA)}
    assert names(blobs) == [DIGEST.removeprefix("sha256:")]
    blobs.forget([DIGEST, "sha256:" + "0" * 64])
    assert names(blobs) == []


def test_a_wrong_one_goes(blobs: ReceivedBlobs) -> None:
    blobs.write(DIGEST, 0, DATA[:-1] + b"!")
    assert not blobs.keep(DIGEST)
    assert names(blobs) == []
    assert blobs.resume({DIGEST: len(DATA)}) == {}


@pytest.mark.parametrize(
    ("data", "found"), [(DATA, {DIGEST: len(DATA)}), (DATA[::-1], {}), (DATA + b"+", {})]
)
def test_a_crash_before_the_look_at_the_digest(
    blobs: ReceivedBlobs, data: bytes, found: dict[str, int]
) -> None:
    blobs.write(DIGEST, 0, data)
    again = ReceivedBlobs(blobs.folder)
    again.prepare(NOW)
    assert again.resume({DIGEST: len(DATA)}) == found


def test_a_write_takes_the_place_of_what_stands_there(blobs: ReceivedBlobs) -> None:
    blobs.write(DIGEST, 0, b"x" * 50)
    blobs.write(DIGEST, 0, DATA)
    assert blobs.keep(DIGEST)


def test_what_nobody_comes_back_for_goes_in_the_end(blobs: ReceivedBlobs) -> None:
    blobs.write(DIGEST, 0, DATA[:3])
    aged(blobs, IMAGE_LEFTOVERS_KEPT_S - 1)
    blobs.sweep((), NOW)
    assert names(blobs)
    aged(blobs, IMAGE_LEFTOVERS_KEPT_S + 1)
    blobs.sweep([DIGEST], NOW)
    assert names(blobs), "it is asked for right now"
    blobs.sweep((), NOW)
    assert names(blobs) == []
    ReceivedBlobs(blobs.folder / "not-there").sweep((), NOW)


def test_who_comes_back_for_it_makes_it_young(blobs: ReceivedBlobs) -> None:
    blobs.write(DIGEST, 0, DATA[:3])
    aged(blobs, IMAGE_LEFTOVERS_KEPT_S + 1)
    before = [path.stat().st_mtime for path in blobs.folder.rglob("*.part")]
    blobs.resume({DIGEST: len(DATA)})
    assert [path.stat().st_mtime for path in blobs.folder.rglob("*.part")] > before


def test_only_root_reads_what_lies_there(blobs: ReceivedBlobs) -> None:
    blobs.write(DIGEST, 0, DATA)
    for path in (blobs.folder, *blobs.folder.rglob("*.part")):
        assert path.stat().st_mode & 0o077 == 0
