"""The image store: what it takes in, under which names, and all that it refuses."""

from __future__ import annotations

import errno
import fcntl
import gzip
import io
import os
import stat
import tarfile
import threading
from pathlib import Path

import pytest
from image_files import digest, pack, tar_of, write_docker_save, write_layout

from agent import trees
from agent.executor.images import store as images_store
from agent.executor.images.removal import ImageUser
from agent.executor.images.store import ImageStore
from agent.executor.images.unpack import Unpacker
from swarmpy.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from swarmpy.model.ids import Duration
from swarmpy.model.image_names import parse
from swarmpy.model.specs import Healthcheck

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="unpacking sets owners")]

BASE = tar_of(("etc", None), ("etc/a", b"a"), ("etc/b", b"b"), ("dir", None), ("dir/old", b"old"))
OF_ANOTHER_MACHINE = b'{"manifests": [{"platform": {"os": "linux", "architecture": "of-old"}}]}'
TOP = tar_of(("etc/.wh.a", b""), ("dir/.wh..wh..opq", b""), ("dir/new", b"new"))


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    store = ImageStore(tmp_path / "images")
    store.prepare()
    return store


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("alpine", "alpine:latest"),
        ("docker.io/library/alpine", "alpine:latest"),
        ("library/alpine:3", "alpine:3"),
        ("index.docker.io/team/web:1", "team/web:1"),
        ("registry.example:5000/team/web", "registry.example:5000/team/web:latest"),
        ("localhost/web:x", "localhost/web:x"),
        (f"web:1@sha256:{'0' * 64}", "web:1"),
    ],
)
def test_names(text: str, name: str) -> None:
    assert str(parse(text)) == name


@pytest.mark.parametrize(
    "text", ["", "Web", "a b", "a:", "a:b:c", "../a", "a//b", "a@", "a@md5:00", "a" * 300, ":x"]
)
def test_names_that_are_none(text: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid reference format"):
        parse(text)


def test_host_is_always_there(store: ImageStore) -> None:
    assert store.config("host").reference == "host"
    assert store.config("host").layers == ()
    assert store.records() == ()


def test_a_health_check_of_an_image(store: ImageStore, tmp_path: Path) -> None:
    check = {"Test": ["CMD-SHELL", "curl -f http://localhost/"], "Interval": 5_000_000_000, "Retries": 2}
    store.load(write_layout(tmp_path / "web", [BASE], name="web:1", Healthcheck=check))
    assert store.config("web:1").healthcheck == Healthcheck(
        test=("CMD-SHELL", "curl -f http://localhost/"), interval=Duration(5_000_000_000), retries=2
    )


@pytest.mark.parametrize("check", ["CMD", {"Test": "CMD"}, {"Test": ["CMD", "a"], "Retries": -1}])
def test_a_health_check_that_is_none(store: ImageStore, tmp_path: Path, check: object) -> None:
    path = write_layout(tmp_path / "web", [BASE], name="web:1", Healthcheck=check)
    with pytest.raises(InvalidArgument, match=r"Healthcheck|Test"):
        store.load(path)


@pytest.mark.parametrize("is_gzipped", [True, False])
def test_a_layout_folder(store: ImageStore, tmp_path: Path, is_gzipped: bool) -> None:
    path = write_layout(
        tmp_path / "web",
        [BASE, TOP],
        name="team/web:1",
        is_gzipped=is_gzipped,
        Entrypoint=["/bin/e"],
        Cmd=["c"],
        Env=["A=1"],
        User="u",
        WorkingDir="/w",
        StopSignal="SIGINT",
    )
    assert store.load(path) == ["team/web:1"]
    config = store.config("team/web:1")
    assert (config.entrypoint, config.command, config.env) == (("/bin/e",), ("c",), ("A=1",))
    assert (config.user, config.workdir, config.stop_signal) == ("u", "/w", "SIGINT")
    assert config.healthcheck is None
    assert len(config.layers) == 2
    assert (store.layers_dir / config.layers[0] / "etc/a").read_bytes() == b"a"
    assert store.inspect(config.digest[:19]).config == config
    assert store.inspect("team/web:1").size_bytes > 0


def test_whiteouts_become_overlays(store: ImageStore, tmp_path: Path) -> None:
    store.load(write_layout(tmp_path / "web", [BASE, TOP]))
    top = store.layers_dir / store.config("web").layers[1]
    hidden = (top / "etc/a").lstat()
    assert stat.S_ISCHR(hidden.st_mode)
    assert hidden.st_rdev == 0
    assert os.getxattr(top / "dir", "trusted.overlay.opaque") == b"y"
    assert not list(top.rglob(".wh.*"))


@pytest.mark.parametrize(
    "members",
    [
        ((".wh.dir", b""), ("dir", None), ("dir/new", b"new")),
        ((".wh.dir", b""), ("dir/new", b"new")),
        (("dir", None), ("dir/new", b"new"), (".wh.dir", b"")),
    ],
)
def test_a_folder_that_comes_back_in_the_layer_that_hides_it(
    store: ImageStore, tmp_path: Path, members: tuple[tuple[str, bytes | None], ...]
) -> None:
    """Whatever the order in which the layer says it: what was there below is gone, what is new is there."""
    store.load(write_layout(tmp_path / "web", [BASE, tar_of(*members)]))
    top = store.layers_dir / store.config("web").layers[1]
    assert (top / "dir/new").read_bytes() == b"new"
    assert os.getxattr(top / "dir", "trusted.overlay.opaque") == b"y"


def test_what_a_record_speaks_of_is_on_the_disk_first(
    store: ImageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that no power failure leaves an image whose layers are empty."""
    there: list[tuple[int, int, int]] = []

    def look(place: Path) -> None:
        records = list((place / "records").iterdir())
        there.append(
            (len(list(store.layers_dir.iterdir())), len(list(store.blobs_dir.iterdir())), len(records))
        )
        trees.sync_all_beside(place)

    monkeypatch.setattr(images_store, "sync_all_beside", look)
    store.load(write_layout(tmp_path / "web", [BASE, TOP], name="web:1"))
    assert there == [(2, 4, 0)]
    store.tag("web:1", "web:2")  # it is nothing new
    assert len(there) == 1

    def fail(_: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(images_store, "sync_all_beside", fail)
    with pytest.raises(FailedPrecondition, match=r"cannot store the image .*Input/output error"):
        store.load(write_layout(tmp_path / "api", [tar_of(("a", b"a"))], name="api:1"))
    assert len(list(store.layers_dir.iterdir())) == 2
    assert [image.tags for image in store.images()] == [("web:1", "web:2")]


def test_a_bare_tag_takes_the_archives_name(store: ImageStore, tmp_path: Path) -> None:
    assert store.load(write_layout(tmp_path / "My App", [BASE], name="v2")) == ["my-app:v2"]
    assert store.load(write_layout(tmp_path / "other", [BASE], name="v2"), name="given:3") == ["given:3"]


def test_a_layout_as_compressed_tar(store: ImageStore, tmp_path: Path) -> None:
    write_layout(tmp_path / "web", [BASE], name="web:1")
    assert store.load(pack(tmp_path / "web", tmp_path / "web.tar.gz")) == ["web:1"]


def test_docker_save(store: ImageStore, tmp_path: Path) -> None:
    path = write_docker_save(tmp_path / "s.tar", [BASE, TOP], names=["web:1", "web:2"], Cmd=["run"])
    assert store.load(path) == ["web:1", "web:2"]
    assert store.config("web:1").layers == store.config("web:2").layers
    assert store.config("web:2").command == ("run",)


@pytest.mark.parametrize("is_gzipped", [True, False])
def test_a_root_file_system(store: ImageStore, tmp_path: Path, is_gzipped: bool) -> None:
    data = tar_of(("./", None), ("./bin", None), ("./bin/.wh.kept", b"x"))
    path = tmp_path / ("Mini_Root.tar.gz" if is_gzipped else "Mini_Root.tar")
    path.write_bytes(gzip.compress(data) if is_gzipped else data)
    assert store.load(path) == ["mini_root:latest"]
    (layer,) = store.config("mini_root").layers
    assert (store.layers_dir / layer / "bin/.wh.kept").read_bytes() == b"x"  # no whiteouts here
    assert store.load(path, name="named") == ["named:latest"]


def test_layers_are_shared_and_go_with_the_last_image(store: ImageStore, tmp_path: Path) -> None:
    store.load(write_layout(tmp_path / "one", [BASE]))
    store.load(write_layout(tmp_path / "two", [BASE, TOP]))
    assert len(list(store.layers_dir.iterdir())) == 2
    store.remove("two")
    assert [path.name for path in store.layers_dir.iterdir()] == list(store.config("one").layers)
    store.remove("one")
    assert list(store.layers_dir.iterdir()) == []
    with pytest.raises(NotFound, match="No such image: one:latest"):
        store.remove("one")


def test_what_is_in_use_stays(store: ImageStore, tmp_path: Path) -> None:
    store.load(write_layout(tmp_path / "one", [BASE]))
    config = store.config("one")
    with pytest.raises(AlreadyExists, match=r'reference "one" \(must force\) - container t1 is using'):
        store.remove("one", users={config.digest: [ImageUser("t1", False)]})
    # what the task was made from is not known, yet it still stands on the layers
    store.remove("one", layers_in_use=config.layers)
    assert len(list(store.layers_dir.iterdir())) == 1


def test_a_crash_leaves_only_rubbish_that_is_cleared(store: ImageStore, tmp_path: Path) -> None:
    (tmp_path / "images" / "work" / "half" / "layer").mkdir(parents=True)
    (tmp_path / "images/records/x.1.tmp").write_text("half")
    store.prepare()
    assert list((tmp_path / "images" / "work").iterdir()) == []
    assert store.records() == ()


@pytest.mark.parametrize("left", [b"", b'{"config": {"ref', bytes(9)])
def test_a_record_that_a_power_cut_has_torn_hides_no_other(
    store: ImageStore, tmp_path: Path, left: bytes
) -> None:
    store.load(write_layout(tmp_path / "web", [BASE]))
    store.load(write_layout(tmp_path / "top", [TOP]))
    torn = store._records._path("top:latest")
    torn.write_bytes(left)
    store.prepare()
    assert [record.key for record in store.records()] == ["web:latest"]
    assert not torn.exists()
    store.load(tmp_path / "top")
    assert store.find("top").tags == ("top:latest",)


def test_a_second_store_clears_nothing_of_a_load_under_way(store: ImageStore, tmp_path: Path) -> None:
    """The daemon has more than one view of the folder, and may start one at any time."""
    unfinished = tmp_path / "images" / "work" / "under-way"
    with store._holding(fcntl.LOCK_SH):
        unfinished.mkdir()
        ImageStore(tmp_path / "images").prepare()
        assert unfinished.exists()
    ImageStore(tmp_path / "images").prepare()
    assert not unfinished.exists()


def test_many_loads_at_once(store: ImageStore, tmp_path: Path) -> None:
    paths = [write_layout(tmp_path / f"image{number}", [BASE, TOP]) for number in range(6)]
    failures: list[BaseException] = []

    def load(path: Path) -> None:
        try:
            store.load(path)
        except BaseException as error:  # noqa: BLE001 - shown by the assertion below
            failures.append(error)

    threads = [threading.Thread(target=load, args=(path,)) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(store.records()) == 6
    assert len(list(store.layers_dir.iterdir())) == 2


# --- refused


def refuse(store: ImageStore, path: Path, text: str) -> None:
    with pytest.raises(InvalidArgument, match=text):
        store.load(path)
    assert store.records() == ()
    assert list(store.layers_dir.iterdir()) == []
    assert list((store.layers_dir.parent / "work").iterdir()) == []


SYM, HARD, CHAR = tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        (tar_of(("../evil", b"x")), "leads out of the image"),
        (tar_of(("a/../../evil", b"x")), "leads out of the image"),
        (tar_of(links=(("hard", "/../etc/passwd", HARD),)), "leads out of the image"),
        (tar_of(links=(("hard", "nothing", HARD),)), "cannot be made"),
        (tar_of(("a", b"x"), ("a/b", b"y")), "no folder"),
        (tar_of(links=(("device", "", CHAR),)), "would be a whiteout"),
        (tar_of(("x/.wh.", b"")), "names nothing"),
        (b"no tar at all" * 100, "no readable tar"),
    ],
)
def test_layers_that_try_tricks(store: ImageStore, tmp_path: Path, layer: bytes, text: str) -> None:
    refuse(store, write_layout(tmp_path / "bad", [layer]), text)


@pytest.mark.parametrize("target", ["/etc", "../../../../etc", "/"])
def test_a_link_does_not_lead_out(tmp_path: Path, target: str) -> None:
    """First a link, then a file through it: the classic."""
    root = tmp_path / "root"
    root.mkdir()
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        link = tarfile.TarInfo("out")
        link.type, link.linkname = SYM, target
        archive.addfile(link)
        file = tarfile.TarInfo("out/evil-of-a-test")
        archive.addfile(file)
    data.seek(0)
    with pytest.raises(InvalidArgument, match=r"goes through the link|leads out"):
        Unpacker(root).unpack(data)
    assert not Path("/etc/evil-of-a-test").exists()


def test_a_link_inside_is_followed(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        folder = tarfile.TarInfo("usr/lib")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        link = tarfile.TarInfo("lib")
        link.type, link.linkname = SYM, "usr/lib"
        archive.addfile(link)
        archive.addfile(tarfile.TarInfo("lib/inside"))
    data.seek(0)
    Unpacker(root).unpack(data)
    assert (root / "usr/lib/inside").exists()


def test_absolute_names_stay_inside(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    Unpacker(root).unpack(io.BytesIO(tar_of(("/etc/inside-of-a-test", b"x"))))
    assert (root / "etc/inside-of-a-test").exists()


def test_sizes_have_a_limit(store: ImageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.executor.images.unpack.IMAGE_BYTES_MAX", 1000)
    refuse(store, write_layout(tmp_path / "large", [tar_of(("f", b"x" * 2000))]), "GiB")


def test_members_have_a_limit(store: ImageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.executor.images.unpack.IMAGE_MEMBERS_MAX", 2)
    refuse(store, write_layout(tmp_path / "many", [BASE]), "more than 2 members")


def test_layers_have_a_limit(store: ImageStore, tmp_path: Path) -> None:
    refuse(store, write_layout(tmp_path / "deep", [tar_of((str(n), b"")) for n in range(129)]), "129 layers")


@pytest.mark.parametrize("kind", ["layer", "config", "manifest"])
def test_digests_are_checked(store: ImageStore, tmp_path: Path, kind: str) -> None:
    path = write_layout(tmp_path / "web", [BASE], Cmd=["x"])
    blobs = sorted((path / "blobs/sha256").iterdir(), key=lambda blob: blob.read_bytes()[:2] != b"\x1f\x8b")
    mark = {"layer": b"\x1f\x8b", "config": b"rootfs", "manifest": b"schemaVersion"}[kind]
    blob = next(blob for blob in blobs if mark in blob.read_bytes())
    blob.write_bytes(blob.read_bytes() + b" ")
    refuse(store, path, "does not have the digest")


def test_a_layer_must_unpack_to_what_the_configuration_says(store: ImageStore, tmp_path: Path) -> None:
    path = write_docker_save(tmp_path / "s.tar", [BASE], names=["web"])
    data = path.read_bytes().replace(b"old", b"odd", 1)
    path.write_bytes(data)
    refuse(store, path, "does not (unpack|have)|no readable")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "no readable image archive|holds no files|no readable tar"),
        (b"garbage", "no readable"),
        (gzip.compress(b"garbage", mtime=0), "no readable"),
        (b"\x28\xb5\x2f\xfd" + b"x" * 100, "what is compressed here cannot be read"),
        (tar_of(("manifest.json", b"{}")), "no list of images"),
        (tar_of(("manifest.json", b'[{"Config": "../../etc/passwd", "Layers": []}]')), "outside of itself"),
        (tar_of(("manifest.json", b"[{}]")), "lacks Config or Layers"),
        (tar_of(("index.json", b"[]")), "no list of manifests"),
        (tar_of(("index.json", b'{"manifests": [{"digest": "sha256:../../x"}]}')), "no sha256 digest"),
        (tar_of(("index.json", b"{")), "no JSON"),
        (tar_of(("index.json", b'{"manifests": []}')), "holds no image for linux/"),
        (tar_of(("index.json", OF_ANOTHER_MACHINE)), "holds no image for linux/"),
        (tar_of(("manifest.json", b"[]")), "holds no image for linux/"),
    ],
)
def test_archives_that_are_none(store: ImageStore, tmp_path: Path, content: bytes, text: str) -> None:
    path = tmp_path / "archive.tar"
    path.write_bytes(content)
    refuse(store, path, text)


def test_a_load_that_fails_leaves_no_layer(store: ImageStore, tmp_path: Path) -> None:
    """Not even those that were unpacked before the one that is wrong, or of an image before that one."""
    good = write_docker_save(tmp_path / "good.tar", [BASE, TOP], names=["web"])
    store.load(good)
    kept = {path.name for path in (*store.layers_dir.iterdir(), *store.blobs_dir.iterdir())}
    layers = [BASE, tar_of(("x", b"x")), tar_of(("../out", b""))]
    with pytest.raises(InvalidArgument, match="leads out"):
        store.load(write_docker_save(tmp_path / "bad.tar", layers, names=["bad"]))
    assert {path.name for path in (*store.layers_dir.iterdir(), *store.blobs_dir.iterdir())} == kept
    assert len(store.records()) == 1


def test_truncated_archives(store: ImageStore, tmp_path: Path) -> None:
    whole = pack(write_layout(tmp_path / "web", [BASE, TOP]), tmp_path / "web.tar.gz").read_bytes()
    for size in range(20, len(whole), max(1, len(whole) // 12)):
        (tmp_path / "cut.tar.gz").write_bytes(whole[:size])
        refuse(store, tmp_path / "cut.tar.gz", ".")


def test_a_missing_file_and_an_empty_folder(store: ImageStore, tmp_path: Path) -> None:
    refuse(store, tmp_path / "nothing.tar", "No such file")
    (tmp_path / "empty").mkdir()
    refuse(store, tmp_path / "empty", "no OCI layout")


def test_the_name_host_is_taken(store: ImageStore, tmp_path: Path) -> None:
    refuse(store, write_layout(tmp_path / "x", [BASE], name="host:latest"), "is taken")


def test_a_digest_in_the_name_must_be_the_images(store: ImageStore, tmp_path: Path) -> None:
    store.load(write_layout(tmp_path / "web", [BASE]))
    right = store.config("web").digest
    assert store.config(f"web@{right}").layers
    with pytest.raises(NotFound):
        store.config(f"web@{digest(b'another')}")
