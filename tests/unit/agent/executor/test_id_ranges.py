"""``--userns-remap``: whose ids tasks get. Docker's refusals are those of dockerd 20.10, to the letter."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.executor.native import id_ranges, node_ids
from agent.executor.native.id_ranges import IdRange, NodeIds, Subordinate, TaskIds
from swarmpy.errors import InvalidArgument
from swarmpy.model.specs import ContainerSpec


def lines(*entries: tuple[str, int, int]) -> tuple[Subordinate, ...]:
    return tuple(Subordinate(owner, IdRange(first, size)) for owner, first, size in entries)


NODE = NodeIds(
    users={
        "root": 0,
        "ann": 4001,
        "bob": 4003,
        "eve": 4005,
        "low": 4007,
        "two": 4009,
        "dockremap": 104,
        "LAB+sue": 4011,
    },
    groups={"root": 0, "staff": 50, "many": 200_010},
    sub_users=lines(
        ("ann", 300_000, 65_536),
        ("bob", 400_000, 65_536),
        ("4003", 600_000, 70_000),
        ("low", 100, 65_536),
        ("two", 900_000, 10),
        ("two", 1_000_000, 65_536),
        ("dockremap", 100_000, 65_536),
        ("LAB+sue", 500_000, 65_536),
    ),
    sub_groups=lines(
        ("ann", 310_000, 65_536),
        ("bob", 600_000, 65_536),
        ("low", 3_000_000, 65_536),
        ("two", 1_000_000, 65_536),
        ("dockremap", 100_000, 1000),
        ("LAB+sue", 500_000, 65_536),
    ),
)
ANN = TaskIds(IdRange(300_000, 65_536), IdRange(310_000, 65_536))
DEFAULT = IdRange(700_000_000, 65_536)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        ("root", None),
        ("0", None),
        ("root:staff", None),
        ("default", TaskIds(DEFAULT, DEFAULT)),
        ("ann", ANN),
        ("ann:staff", ANN),
        ("4001", ANN),
        ("LAB+sue", TaskIds(IdRange(500_000, 65_536), IdRange(500_000, 65_536))),
        ("4001:50", ANN),
        ("ann:50", ANN),
        (
            "bob",
            TaskIds(IdRange(600_000, 70_000), IdRange(600_000, 65_536)),
        ),  # the line with the number counts
        ("two", TaskIds(IdRange(1_000_000, 65_536), IdRange(1_000_000, 65_536))),
        ("299990+10", TaskIds(IdRange(299_990, 10), IdRange(299_990, 10))),  # up to ann's
        ("2000000+1000", TaskIds(IdRange(2_000_000, 1000), IdRange(2_000_000, 1000))),
    ],
)
def test_what_is_understood(text: str, expected: TaskIds | None) -> None:
    assert id_ranges.parse(text, NODE) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1:2:3", 'Invalid user/group specification in --userns-remap: "1:2:3"'),
        ("77777", "Uid 77777 has no entry in /etc/passwd"),
        ("200000:65536", "Gid 65536 has no entry in /etc/group.*FIRST.SIZE"),
        ("200000:50", "Uid 200000 has no entry in /etc/passwd.*FIRST.SIZE"),
        ("4001:4002", "Gid 4002 has no entry in /etc/group"),
        ("nosuch", 'Error during uid lookup for "nosuch"'),
        ("nosuch:staff", 'Error during uid lookup for "nosuch"'),
        (":staff", 'Error during uid lookup for ""'),
        ("ann:nosuch", 'Error during groupname lookup for "nosuch"'),
        ("ann:", 'Error during groupname lookup for ""'),
        (
            "eve",
            'Can\'t create ID mappings: no subuid ranges found for user "eve": add a line to /etc/subuid',
        ),
        (
            "dockremap",
            'the range of user "dockremap" in /etc/subgid cannot be used: it has 1000 ids of 65536',
        ),
        ("low", 'range 100-65635 of --userns-remap overlaps ids of this node: uid 104 is "dockremap"'),
        ("200000+65536", 'overlaps ids of this node: gid 200010 is "many"'),
        ("365535+10", 'overlaps that of "ann" in /etc/subuid \\(300000-365535\\)'),
        ("0+10", "must not begin at 0"),
        ("5+0", "be empty"),
        ("4294967290+100", "end beyond 4294967294"),
        ("-1+5", "is no range of ids"),
        ("x+y", "is no range of ids"),
        ("LAB+joe:staff", "is no range of ids"),
        ("1+2+3", "is no range of ids"),
    ],
)
def test_what_is_refused(text: str, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        id_ranges.parse(text, NODE)


def test_the_default_is_refused_where_it_is_somebodys() -> None:
    """As with Incus, which gives root a range that large."""
    node = NodeIds(users={"root": 0}, sub_users=lines(("root", 1_000_000, 1_000_000_000)))
    with pytest.raises(InvalidArgument, match='overlaps that of "root" in /etc/subuid'):
        id_ranges.parse("default", node)


@given(st.integers(1, 2**33), st.integers(1, 2**33))
def test_a_range_is_taken_whole_or_refused(first: int, count: int) -> None:
    try:
        found = id_ranges.parse(f"{first}+{count}", NodeIds())
    except InvalidArgument:
        assert first + count > 2**32 - 1
    else:
        assert found == ((first, count), (first, count))
        assert first + count <= 2**32 - 1


@given(st.integers(1, 400_000), st.integers(1, 400_000))
def test_no_id_of_another_is_ever_given(first: int, count: int) -> None:
    try:
        found = id_ranges.parse(f"{first}+{count}", NODE)
    except InvalidArgument:
        return
    assert found is not None
    ids = range(first, first + count)
    assert not set(NODE.users.values()) & set(ids)
    assert not any(each.ids.first in ids or first in range(*_ends(each)) for each in NODE.sub_users)


def _ends(each: Subordinate) -> tuple[int, int]:
    return each.ids.first, each.ids.first + each.ids.size


def test_whose_ids_they_are_is_read(tmp_path: Path) -> None:
    (tmp_path / "subuid").write_text(
        "# of users\nann:300000:65536\n\nbroken:1\nlone\n4003:600000:1000\nx:1:z\nnone:5:0\n"
    )
    node = node_ids.read("0:0", etc=tmp_path)
    assert node.sub_users == lines(("ann", 300_000, 65_536), ("4003", 600_000, 1000))
    assert node.sub_groups == ()
    assert node.users["root"] == node.groups["root"] == 0
    assert node_ids.read(f"{2**40}:nosuch", etc=tmp_path).users.keys() >= {"root"}


def test_this_nodes_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert node_ids.task_ids("") is None
    assert node_ids.task_ids("root") is None
    with pytest.raises(InvalidArgument, match="has no entry in /etc/passwd"):
        node_ids.task_ids("3999999999")
    if os.geteuid():
        with pytest.raises(InvalidArgument, match="overlaps ids of this node"):
            node_ids.task_ids(f"{os.geteuid()}+1")


def test_a_container_may_keep_the_nodes_ids() -> None:
    ids = TaskIds(DEFAULT, DEFAULT)
    assert id_ranges.of_task(ids, ContainerSpec(image="x")) == ids
    assert id_ranges.of_task(ids, ContainerSpec(image="x", userns_mode="host")) is None
    assert id_ranges.of_task(None, ContainerSpec(image="x", userns_mode="host")) is None
