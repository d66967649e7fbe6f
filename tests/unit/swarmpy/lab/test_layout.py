"""Names, numbers and addresses of a lab, and its record."""

from __future__ import annotations

from pathlib import Path

import pytest

from swarmpy.errors import InvalidArgument, NotFound
from swarmpy.lab import layout
from swarmpy.lab.layout import plan_lab
from swarmpy.lab.limits import LAB_HOSTS_MAX, LAB_NAME_CHARS_MAX

UNIX_PATH_BYTES_MAX = 107


def test_managers_come_first_and_addresses_follow_the_number() -> None:
    plan = plan_lab(name="lab", managers=2, workers=1)

    assert [(host.name, host.address, host.is_manager) for host in plan.hosts] == [
        ("node-1", "10.200.0.11", True),
        ("node-2", "10.200.0.12", True),
        ("node-3", "10.200.0.13", False),
    ]
    assert plan.managers == plan.hosts[:2]
    assert plan.workers == plan.hosts[2:]


def test_the_largest_lab_has_distinct_addresses_and_paths_that_fit_a_socket() -> None:
    plan = plan_lab(name="x" * LAB_NAME_CHARS_MAX, managers=7, workers=LAB_HOSTS_MAX - 7)

    assert len({host.address for host in plan.hosts}) == LAB_HOSTS_MAX
    assert len({host.mac for host in plan.hosts}) == LAB_HOSTS_MAX
    assert max(len(str(host.socket)) for host in plan.hosts) <= UNIX_PATH_BYTES_MAX


@pytest.mark.parametrize("name", ["", "A", "a b", "../x", "-a", "a" * (LAB_NAME_CHARS_MAX + 1), "a/b", "a\n"])
def test_names_that_no_lab_can_have_are_refused(name: str) -> None:
    with pytest.raises(InvalidArgument, match="is no name for a lab"):
        plan_lab(name=name, managers=1, workers=0)


@pytest.mark.parametrize(("managers", "workers"), [(0, 1), (1, -1), (LAB_HOSTS_MAX, 1)])
def test_counts_that_no_lab_can_have_are_refused(managers: int, workers: int) -> None:
    with pytest.raises(InvalidArgument, match="A lab"):
        plan_lab(name="lab", managers=managers, workers=workers)


def test_an_unknown_node_is_answered_with_the_known_ones() -> None:
    plan = plan_lab(name="lab", managers=1, workers=2)

    assert plan.host("node-3").number == 3
    with pytest.raises(NotFound, match='no node "node-4"; its nodes are node-1 … node-3'):
        plan.host("node-4")


def test_the_command_line_is_filled_in_and_unknown_braces_stay() -> None:
    host = plan_lab(name="lab", managers=1, workers=0).hosts[0]

    argv = host.daemon_argv(("d", "--listen={listen}", "{hostname}", "{data_dir}", '{"a": 1}', "{other}"))

    assert argv == [
        "d", "--listen=10.200.0.11:2377", "node-1", "/var/lib/swarmpy-lab/lab/node-1", '{"a": 1}', "{other}",
    ]  # fmt: skip


def test_the_record_comes_back_as_it_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "STATE_ROOT", tmp_path)
    monkeypatch.setattr(layout, "DATA_ROOT", tmp_path / "none")
    plan = plan_lab(name="lab", managers=1, workers=1, daemon_command=("d", "{socket}"))
    plan.folder.mkdir()

    layout.save(plan)

    assert layout.load("lab") == plan
    assert layout.names() == ["lab"]


def test_a_missing_and_a_damaged_record_say_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "STATE_ROOT", tmp_path)
    with pytest.raises(NotFound, match="swarmpy dev up --name lab"):
        layout.load("lab")

    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "lab.json").write_text('{"name": ')
    with pytest.raises(InvalidArgument, match="swarmpy dev down --name lab"):
        layout.load("lab")
