"""``swarmpy image push`` to nodes: a swarm without a registry, one manager and two workers."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import box_image
import pytest
from image_files import tar_of, write_docker_save
from lab_cli import DEADLINE_S, Cli, Said, tasks_of, wait_node, wait_running
from lab_services import lab_of

from swarmpy.lab.cluster import Lab

NODES = ("node-1", "node-2", "node-3")
LARGE_LAYERS, LARGE_LAYER_BYTES = 4, 8 << 20


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with lab_of(managers=1, workers=2) as lab:
        yield lab


@pytest.fixture(scope="module")
def base() -> bytes:
    return box_image.layer()


def archive(folder: Path, name: str, *layers: bytes) -> Path:
    path = folder / f"{name.replace(':', '-')}.tar"
    return write_docker_save(path, list(layers), names=[name], Cmd=["/bin/sleep", "1000"])


def lines(said: Said, code: int = 0) -> list[str]:
    """What was said of each node, in the order of nodes."""
    assert said.code == code, said
    return sorted(said.out.splitlines())


def images(cli: Cli, node: str) -> set[str]:
    return set(
        cli.good(
            "image", "ls", "--no-trunc", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}", at=node
        ).splitlines()
    )


def test_a_service_runs_everywhere_without_a_registry(cli: Cli, base: bytes, tmp_path: Path) -> None:
    said = lines(cli("image", "push", "--all", str(archive(tmp_path, "box:1", base))))
    assert [line.split(": ")[0] for line in said] == list(NODES)
    assert all("box:1 (1 layer sent, " in line for line in said)
    assert len({frozenset(images(cli, node)) for node in NODES}) == 1, "one id everywhere"
    cli.create("everywhere", "--replicas", "3", "--replicas-max-per-node", "1", "box:1")
    wait_running(cli.lab, "everywhere", 3, on=NODES)
    assert {task["Status"].get("Err", "") for task in tasks_of(cli.lab, "everywhere")} == {""}

    again = lines(cli("image", "push", "--all", "--image", "box:1"))
    assert again == [f"{node}: box:1 (no layer sent, 1 there already)" for node in NODES]
    top = tar_of(("srv/top", b"t" * 100_000))
    second = lines(cli("image", "push", "node-2", "node-3", str(archive(tmp_path, "box:2", base, top))))
    assert second == [
        f"{node}: box:2 (1 layer sent, {len(top) / 1000:.4g}kB, 1 there already)" for node in NODES[1:]
    ]


def test_a_broken_archive_changes_nothing(cli: Cli, base: bytes, tmp_path: Path) -> None:
    before = [images(cli, node) for node in NODES]
    whole = archive(tmp_path, "broken:1", base)
    whole.write_bytes(whole.read_bytes()[: -len(base) // 2])
    assert "is no readable image archive" in cli.bad("image", "push", "--all", str(whole))
    assert [images(cli, node) for node in NODES] == before


def test_a_node_that_is_down_fails_alone(cli: Cli, base: bytes, tmp_path: Path) -> None:
    path = str(archive(tmp_path, "down:1", base, tar_of(("srv/down", b"d"))))
    cli.lab.kill("node-3")
    try:
        wait_node(cli.lab, "node-3", "down")
        said = cli("image", "push", "--all", path)
        assert [line.split(": ")[0] for line in lines(said, code=1)] == ["node-1", "node-2"]
        assert said.err == "Error: node-3: the node is down; push to it again once it is back\n"
    finally:
        cli.lab.start("node-3")
    wait_node(cli.lab, "node-3", "ready")
    assert "down:1 (" in lines(cli("image", "push", "node-3", path))[0]


def test_a_node_that_dies_in_the_middle_is_sent_the_rest_by_the_next_push(
    cli: Cli, base: bytes, tmp_path: Path
) -> None:
    layers = [tar_of((f"srv/{number}", os.urandom(LARGE_LAYER_BYTES))) for number in range(LARGE_LAYERS)]
    path = str(archive(tmp_path, "large:1", base, *layers))
    before = images(cli, "node-2")
    blobs = cli.lab.host("node-2").data_dir / "images" / "received" / "blobs" / "sha256"
    said: list[Said] = []
    pushing = threading.Thread(target=lambda: said.append(cli("image", "push", "node-1", "node-2", path)))
    pushing.start()
    try:
        deadline = time.monotonic() + DEADLINE_S
        while not any(whole(file) for file in os.scandir(blobs)):
            assert time.monotonic() < deadline, "no layer came"
            time.sleep(0.002)
        cli.lab.kill("node-2")
    finally:
        pushing.join()
        cli.lab.start("node-2")
    assert [line.split(": ")[0] for line in lines(said[0], code=1)] == ["node-1"]
    assert "Error: node-2: the stream has ended: the connection to node node-2 is lost" in said[0].err
    wait_node(cli.lab, "node-2", "ready")
    assert images(cli, "node-2") == before
    (line,) = lines(cli("image", "push", "node-2", path))
    sent = int(line.partition("large:1 (")[2].split()[0])
    assert 1 <= sent < LARGE_LAYERS, line
    assert images(cli, "node-2") - before == images(cli, "node-1") & images(cli, "node-2") - before != set()
    assert list(os.scandir(blobs)) == []


def whole(file: os.DirEntry[str]) -> bool:
    """A large layer, checked. It may go meanwhile."""
    try:
        return not file.name.endswith(".part") and file.stat().st_size > LARGE_LAYER_BYTES
    except FileNotFoundError:
        return False
