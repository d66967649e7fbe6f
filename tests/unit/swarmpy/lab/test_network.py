"""The text that the lab gives to ip and nft."""

from __future__ import annotations

import pytest

from swarmpy.lab import network
from swarmpy.lab.layout import plan_lab
from swarmpy.lab.network import Way

PLAN = plan_lab(name="lab", managers=1, workers=1)
HOST = PLAN.hosts[0]


def test_every_host_gets_a_cable_named_after_it() -> None:
    text = network.plug([(PLAN.hosts[0], 71), (PLAN.hosts[1], 72)])

    assert text.splitlines() == [
        "link add name node-1 type veth peer name eth0 address 02:5a:00:c8:00:0b netns 71",
        "link set node-1 master lab0",
        "link set node-1 up",
        "link add name node-2 type veth peer name eth0 address 02:5a:00:c8:00:0c netns 72",
        "link set node-2 master lab0",
        "link set node-2 up",
    ]


@pytest.mark.parametrize(
    ("way", "kept"), [(None, set()), (Way.BOTH, set()), (Way.IN, {"cut_in"}), (Way.OUT, {"cut_out"})]
)
def test_of_the_two_directions_exactly_the_one_that_is_cut_is_left_in_the_filter(
    way: Way | None, kept: set[str]
) -> None:
    left: set[str] = set()
    for line in network.one_way(HOST, way).splitlines():
        verb, _, _, _, name, *element = line.split()
        assert element == ["{", "node-1", "}"]
        if verb == "add":
            left.add(name)
        else:
            assert verb == "delete"
            left.remove(name)  # nft refuses to delete what is not there
    assert left == kept


def test_hosts_know_each_other_by_name() -> None:
    assert "10.200.0.12 node-2" in network.hosts_file(PLAN.hosts).splitlines()
