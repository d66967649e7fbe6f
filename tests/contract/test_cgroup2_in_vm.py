"""Native and oci on a node whose control groups are all of version 2: Debian's kernel in a virtual machine.

The machine runs once, for all tests; ``cgroup2_job`` is what it does.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from kernel_vm import DISKS, run_job

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to read all of the machine's files"),
    pytest.mark.timeout(900),
]

_JOB_S = 800
_JOB = Path(__file__).resolve().parents[1] / "support" / "cgroup2_job.py"

MEMORY = str(32 << 20)
LIMITS = [MEMORY, MEMORY, "150000 100000", "12", "1"]
SEALED = ["cannot make", "cannot write"]
OWN_GROUP = "0::/"

each_executor = pytest.mark.parametrize("name", ["native", "crun"])


@pytest.fixture(scope="module")
def told() -> Mapping[str, Any]:
    return run_job(_JOB, timeout_s=_JOB_S, modules=DISKS)


def facts(told: Mapping[str, Any], case: str) -> Mapping[str, Any]:
    assert case in told, f"the case did not come about: {told}"
    found: Mapping[str, Any] = told[case]
    assert "failed" not in found, found["failed"]
    return found


@each_executor
def test_nothing_is_missing_and_no_group_is_left(told: Mapping[str, Any], name: str) -> None:
    found = facts(told, name)

    assert found["version"] == [2, []]
    assert found["left"] == []


@each_executor
def test_a_task_sees_its_limits_and_cannot_change_them(told: Mapping[str, Any], name: str) -> None:
    assert facts(told, name)["saw"][:8] == [OWN_GROUP, *LIMITS, *SEALED]


@each_executor
def test_a_device_opens_as_far_as_it_was_given(told: Mapping[str, Any], name: str) -> None:
    """By the task, and by a command inside after the daemon was started anew."""
    found = facts(told, name)

    assert found["saw"][8:] == ["read", "not permitted", "used up"]
    assert found["inside"][:3] == [OWN_GROUP, "read", "not permitted"]


@each_executor
def test_what_a_task_uses(told: Mapping[str, Any], name: str) -> None:
    """The same, read as that of an engine's container is."""
    found = facts(told, name)

    assert found["used"] == {
        "pids": 1,
        "pids_limit": 12,
        "memory": True,
        "shared": 8 << 20,
        "read": True,
        "parts": True,
    }
    assert found["time_is_true"]
    assert found["as_engine"]


@each_executor
def test_it_is_adopted_when_the_daemon_has_died(told: Mapping[str, Any], name: str) -> None:
    assert facts(told, name)["adopted"] == [True]


@each_executor
def test_memory_that_ran_out_is_told_while_the_task_runs(told: Mapping[str, Any], name: str) -> None:
    """A command inside was killed for it."""
    found = facts(told, name)

    assert found["inside"][3:] == ["137"]
    assert found["out_of_memory"]


@each_executor
def test_no_more_processes_than_allowed_and_all_are_killed(told: Mapping[str, Any], name: str) -> None:
    found = facts(told, name)

    assert any("can't fork" in line for line in found["forks"])
    assert found["most"] == 12
    assert found["end"] == [137, True]
    assert found["left_running"] == []


def test_a_privileged_task_has_the_groups_below_its_own(told: Mapping[str, Any]) -> None:
    """The node's processes are none of its; commands inside join it where it has gone."""
    found = facts(told, "privileged")

    assert found["saw"] == ["memory", "ready"]
    assert found["inside"] == ["open", "0::/inner"]
    assert not found["is_left"]


def test_a_task_with_ids_of_its_own(told: Mapping[str, Any]) -> None:
    found = facts(told, "user_ids")

    limits = [*LIMITS[:4], "0"]
    assert found["said"] == ["0", "0 700000000 65536", OWN_GROUP, *limits, *SEALED]
    assert found["code"] == 7


@pytest.mark.parametrize(
    ("place", "group"),
    [
        ("below_the_root", "swarmpy"),
        ("below_its_own", "system.slice/swarmpy.service/tasks"),
        ("asked_again", "system.slice/swarmpy.service/tasks"),
        ("started_again", "system.slice/swarmpy.service/tasks"),
        ("in_a_container", "swarmpy"),
    ],
)
def test_limits_can_be_set_wherever_the_daemon_is(told: Mapping[str, Any], place: str, group: str) -> None:
    """A service of systemd's, to which nothing is shared out yet; a container, whose root has processes."""
    found = facts(told, "places")[place]

    assert found == {"group": [f"/sys/fs/cgroup/{group}/tried"], "missing": []}


def test_a_processor_that_the_groups_above_do_not_have_is_refused(told: Mapping[str, Any]) -> None:
    refused = facts(told, "places")["refused"]

    assert refused == "Requested CPUs are not available - requested 1, available: 0"


def test_the_daemon_moves_only_if_it_is_in_the_way(told: Mapping[str, Any]) -> None:
    found = facts(told, "places")

    assert found["stayed"] == "0::/system.slice/swarmpy.service"
    assert found["moved"] == "0::/system.slice/swarmpy.service/swarmpy-daemon"
