"""Daemons of two versions in one swarm: upgraded one by one, while tasks run on and nothing new is lost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import other_version
import pytest
from lab_cli import wait_for
from lab_services import SleepService, lab_of
from msgspec.structs import replace

from swarmpy.lab import hosts
from swarmpy.lab.cluster import Lab
from swarmpy.version import STORE_FORMAT, VERSION


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with lab_of(managers=3, workers=1) as lab:
        yield lab


@pytest.fixture(scope="module")
def later(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """It knows the next format of the store, too."""
    folder = tmp_path_factory.mktemp("later") / "code"
    return other_version.make(folder, store_format=STORE_FORMAT + 1)


def upgrade(lab: Lab, name: str, command: tuple[str, ...]) -> None:
    """Stop the daemon and start that of another version in its place; the host's tasks run on."""
    lab.stop(name)
    hosts.start_daemon(replace(lab.layout, daemon_command=command), lab.host(name))
    lab.wait_ready()


def versions(lab: Lab) -> dict[str, str]:
    return {
        node["Description"]["Hostname"]: node["Description"]["Engine"]["EngineVersion"]
        for node in lab.nodes()
    }


def mood(lab: Lab, at: str, name: str) -> str:
    spec: dict[str, Any] = lab.call(at, "GET", f"/services/{name}")["Spec"]
    found: str = spec["TaskTemplate"]["ContainerSpec"].get(other_version.NEW_FIELD, "")
    return found


def test_a_swarm_is_upgraded_node_by_node_while_its_tasks_run(lab: Lab, later: tuple[str, ...]) -> None:
    web = SleepService(lab, "web")
    web.create(4)
    before = sorted(web.processes())

    upgrade(lab, "node-4", later)
    upgrade(lab, "node-3", later)
    assert versions(lab) == {
        "node-1": VERSION, "node-2": VERSION,
        "node-3": other_version.NEW_VERSION, "node-4": other_version.NEW_VERSION,
    }  # fmt: skip

    # what only the later version knows, written through its manager; the others keep and copy it
    spec = SleepService(lab, "api").spec(2)
    spec["TaskTemplate"]["ContainerSpec"][other_version.NEW_FIELD] = "calm"
    lab.call("node-3", "POST", "/services/create", spec)
    assert mood(lab, "node-3", "api") == "calm"
    assert mood(lab, "node-1", "api") == "", "an older manager does not show what it does not know"

    leaders = [lab.leader()]
    for name in ("node-1", "node-2"):
        upgrade(lab, name, later)
        leaders.append(lab.leader())
    assert len(set(leaders)) > 1 or leaders[0] == "node-3", "the lead went over a version's border"
    assert set(versions(lab).values()) == {other_version.NEW_VERSION}
    for name in ("node-1", "node-2", "node-3"):
        assert mood(lab, name, "api") == "calm"
    assert sorted(web.processes()) == before, "no task was restarted"


def test_a_manager_that_cannot_read_the_store_any_more_stops_and_says_why(
    lab: Lab, later: tuple[str, ...]
) -> None:
    """All managers went over to the next format with the last upgrade; one is put back to the older one."""
    victim = next(name for name in ("node-1", "node-2") if name != lab.leader())
    lab.stop(victim)
    hosts.start_daemon(lab.layout, lab.host(victim))
    log = wait_for(
        lambda: lab.log(victim).read_text(),
        lambda text: "too old to be a manager" in text,
        what="the older version says that it is too old",
    )
    assert f"format {STORE_FORMAT + 1}" in log
    assert wait_for(lambda: hosts.daemon(lab.host(victim)) is None), "and ends"
    hosts.start_daemon(replace(lab.layout, daemon_command=later), lab.host(victim))
    lab.wait_ready()
