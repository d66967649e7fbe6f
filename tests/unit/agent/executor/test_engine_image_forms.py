"""Images as engines tell of them, as this node tells of them; the archive that an engine is given."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from agent.executor.engine.client import Refused
from agent.executor.engine.image_forms import full_name, inspected, listed, progress, shown
from agent.executor.engine.image_intake import BLOBS, archive
from agent.executor.engine.image_lines import parse_line
from swarmpy.model.image_offers import BlobOffer, ImageOffer

HEX = "ab" * 32


@pytest.mark.parametrize(
    ("short", "full"),
    [
        ("box:1", "docker.io/library/box:1"),
        ("box", "docker.io/library/box:latest"),
        ("team/box:1", "docker.io/team/box:1"),
        ("127.0.0.1:5000/box:1", "127.0.0.1:5000/box:1"),
        ("localhost/box:1", "localhost/box:1"),
    ],
)
def test_names_in_full_and_as_shown(short: str, full: str) -> None:
    assert full_name(short) == full_name(full) == full
    assert shown(full) == (short if ":1" in short else f"{short}:latest")


def test_ids_are_shown_as_dockers() -> None:
    assert shown(HEX) == shown(f"sha256:{HEX}") == f"sha256:{HEX}"


def test_a_row_of_the_list() -> None:
    row = {
        "Id": HEX,
        "RepoTags": ["<none>:<none>", "docker.io/library/box:1", "box:1"],
        "RepoDigests": None,
        "Created": 1,
        "Size": 9,
        "SharedSize": -1,
        "Labels": {"a": "b"},
    }
    image = listed(row, users=("t1",))
    assert (image.id, image.tags, image.digests) == (f"sha256:{HEX}", ("box:1",), ())
    assert (image.created_at, image.shared_bytes, image.users) == (1_000_000_000, 0, ("t1",))
    assert image.config["config"]["Labels"] == {"a": "b"}


def test_an_image_in_full() -> None:
    said = {
        "Id": f"sha256:{HEX}",
        "Created": "1970-01-01T00:00:02.5Z",
        "RootFS": {"Layers": ["sha256:l"]},
        "GraphDriver": {"Data": {"UpperDir": "/u", "LowerDir": "/b:/a"}},
        "Config": {"Cmd": ["x"]},
    }
    history = [
        {"CreatedBy": "CMD x", "Size": 0, "Created": 2},
        {"CreatedBy": "ADD y", "Size": 7, "Created": 1},
    ]
    image = inspected(said, history)
    assert image.created_at == 2_500_000_000
    assert image.layer_dirs == ("/a", "/b", "/u")
    assert image.layer_sizes == (7,)
    steps = image.config["history"]
    assert [step["created_by"] for step in steps] == ["ADD y", "CMD x"]
    assert [step.get("empty_layer", False) for step in steps] == [False, True]


def test_the_story_of_a_pull() -> None:
    assert parse_line(b" \r") is None
    assert parse_line(b"rubbish") is None
    with pytest.raises(Refused, match="no such thing"):
        parse_line(b'{"errorDetail": {"message": "no such thing"}, "error": "no such thing"}')
    step = progress({"status": "Downloading", "id": "l", "progressDetail": {"current": 1, "total": 2}})
    assert step is not None
    assert (step.status, step.id, step.current, step.total, step.is_measured) == (
        "Downloading",
        "l",
        1,
        2,
        True,
    )
    assert progress({}) is None


def test_the_archive_has_plain_layers_each_once(tmp_path: Path) -> None:
    plain = b"a layer's tar, in truth" * 99
    packed = gzip.compress(plain, mtime=0)
    diff_id = f"sha256:{hashlib.sha256(plain).hexdigest()}"
    folder = tmp_path / BLOBS
    folder.mkdir(parents=True)
    (folder / HEX).write_bytes(b"{}")
    (folder / "cd").write_bytes(packed)
    layer = BlobOffer(digest="sha256:cd", size=len(packed), diff_id=diff_id)
    image = ImageOffer(
        id=f"sha256:{HEX}",
        names=("box:1",),
        config=BlobOffer(digest=f"sha256:{HEX}", size=2),
        layers=(layer, layer),
    )
    data = b"".join(archive([image], tmp_path, tmp_path))
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert len(tar.getnames()) == len(set(tar.getnames())) == 3
        [listed_image] = json.load(tar.extractfile("manifest.json") or io.BytesIO())
        assert listed_image["RepoTags"] == ["docker.io/library/box:1"]
        for name in listed_image["Layers"]:
            found = tar.extractfile(name)
            assert found is not None
            assert found.read() == plain
