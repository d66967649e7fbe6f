"""Which executor each node of a lab gets, and what its daemon is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from swarmpy.errors import InvalidArgument
from swarmpy.lab import engines
from swarmpy.lab.layout import plan_lab


def test_executors_of_a_command_line() -> None:
    assert engines.parse([]) == {}
    assert engines.parse(["oci"]) == {"": "oci"}
    assert engines.parse(["oci", "node-4=podman, node-5=docker"]) == {
        "": "oci",
        "node-4": "podman",
        "node-5": "docker",
    }
    with pytest.raises(InvalidArgument, match='There is no executor "rkt": choose from native, oci, podman'):
        engines.parse(["node-1=rkt"])


def test_each_node_has_its_own() -> None:
    plan = plan_lab(name="lab", managers=1, workers=2, executors={"": "oci", "node-3": "docker"})
    assert [host.executor for host in plan.hosts] == ["oci", "oci", "docker"]
    assert plan.hosts[2].daemon_argv(("d",)) == ["d", "--executor", "docker"]
    bare = plan_lab(name="lab", managers=1, workers=0).hosts[0]
    assert bare.daemon_argv(("d",)) == ["d"], "the daemon finds one"
    with pytest.raises(InvalidArgument, match='named for "node-4", and the lab has no such node'):
        plan_lab(name="lab", managers=1, workers=2, executors={"node-4": "oci"})


def test_groups_of_podman_containers(tmp_path: Path) -> None:
    assert engines.podman_groups(tmp_path) == []
    listed = tmp_path / "podman" / "overlay-containers" / "containers.json"
    listed.parent.mkdir(parents=True)
    listed.write_text("[{")
    assert engines.podman_groups(tmp_path) == []
    listed.write_text(json.dumps([{"id": "ab"}, {"id": "cd"}]))
    assert [str(path) for path in engines.podman_groups(tmp_path)] == [
        "libpod_parent/libpod-ab",
        "libpod_parent/libpod-conmon-ab",
        "libpod_parent/libpod-cd",
        "libpod_parent/libpod-conmon-cd",
    ]
