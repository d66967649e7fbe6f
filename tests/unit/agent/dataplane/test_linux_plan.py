"""The pure part of the node-local network: addresses, names, files."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest

from agent.dataplane.base import Endpoint
from agent.dataplane.linux import plan
from agent.dataplane.linux.backend import LinuxBackend
from swarmpy.errors import InvalidArgument, Unavailable
from swarmpy.model.ids import TaskId

IP = IPv4Address("172.31.0.9")
ENDPOINT = Endpoint(task_id=TaskId("t"), hostname="web")


def test_link_names_fit_and_differ() -> None:
    names = {plan.port_name(TaskId(f"{number:025}")) for number in range(2000)}
    assert len(names) == 2000
    assert all(len(name) == 15 for name in names)


def test_addresses_are_given_in_turn_and_rest_after_use() -> None:
    pool = plan.AddressPool(IPv4Network("192.0.2.0/29"))
    given = [pool.take() for _ in range(3)]
    assert list(map(str, given)) == ["192.0.2.2", "192.0.2.3", "192.0.2.4"]
    pool.release(given[0])
    assert [str(pool.take()) for _ in range(3)] == ["192.0.2.5", "192.0.2.6", "192.0.2.2"]
    with pytest.raises(Unavailable):
        pool.take()
    pool.release(given[2])
    assert pool.take() == given[2]


def test_a_claimed_address_is_not_given() -> None:
    pool = plan.AddressPool(IPv4Network("192.0.2.0/29"))
    pool.claim(IPv4Address("192.0.2.2"))
    assert str(pool.take()) == "192.0.2.3"


def test_no_subnet_is_free() -> None:
    with pytest.raises(Unavailable, match="no private subnet"):
        plan.choose_subnet("", [IPv4Network("172.16.0.0/12"), IPv4Network("192.168.0.0/16")])


def test_a_subnet_that_is_none() -> None:
    for text in ("10.0.0.1/8", "x", "fd00::/64"):
        with pytest.raises(InvalidArgument, match="no subnet"):
            LinuxBackend(subnet=text)


def test_hosts() -> None:
    wish = Endpoint(
        task_id=TaskId("t"), hostname="web", extra_hosts=("192.0.2.1 a b", "c:192.0.2.2", "v6:::1")
    )
    lines = plan.hosts_file(wish, [str(IP)]).splitlines()
    assert lines[0] == "127.0.0.1\tlocalhost"
    assert lines[-4:] == ["192.0.2.1\ta b", "192.0.2.2\tc", "::1\tv6", "172.31.0.9\tweb"]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (
            ["nameserver 192.0.2.1\nsearch a b\noptions edns0 ndots:2\n"],
            "search a b\noptions edns0 ndots:0\n",
        ),
        (["# x\nnameserver 127.0.0.53\n", "search y\n"], "options ndots:0\n"),
        (["nameserver 127.0.0.1\ndomain d\n"], "search d\noptions ndots:0\n"),
        (["nameserver 192.0.2.1\nsearch .\n"], "options ndots:0\n"),
        ([], "options ndots:0\n"),
    ],
)
def test_a_task_asks_its_own_resolver(files: list[str], expected: str) -> None:
    assert plan.resolv_conf(ENDPOINT, files) == f"nameserver 127.0.0.11\n{expected}"


NODE_FILE = "nameserver 127.0.0.53\nnameserver fe80::1%eth0\nsearch a\noptions ndots:2\n"


@pytest.mark.parametrize(
    ("options", "expected"), [(("rotate",), "rotate ndots:0"), (("ndots:1", "rotate"), "rotate ndots:1")]
)
def test_resolver_settings_of_the_task_go_first(options: tuple[str, ...], expected: str) -> None:
    wish = Endpoint(task_id=TaskId("t"), dns=("192.0.2.9",), dns_search=("x",), dns_options=options)
    assert plan.resolv_conf(wish, [NODE_FILE]) == f"nameserver 127.0.0.11\nsearch x\noptions {expected}\n"


def test_a_task_in_the_nodes_network_asks_as_the_node_does() -> None:
    bare = Endpoint(task_id=TaskId("t"), mode=plan.HOST_MODE)
    assert plan.resolv_conf(bare, [NODE_FILE]) == NODE_FILE
    wish = Endpoint(task_id=TaskId("t"), mode=plan.HOST_MODE, dns=("192.0.2.9",), dns_options=("rotate",))
    assert plan.resolv_conf(wish, [NODE_FILE]) == "nameserver 192.0.2.9\nsearch a\noptions rotate\n"
