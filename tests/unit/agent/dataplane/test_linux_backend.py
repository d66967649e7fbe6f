"""The node-local network carries packets: out by NAT, in by published ports, and mends what a crash leaves.

Each test has a network of its own: a scratch namespace as the node, and in most a second one as the outside
world, joined to the node by a cable.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from ipaddress import IPv4Interface
from pathlib import Path

import pytest
from msgspec.structs import replace
from scratch_network import scratch_network

from agent.dataplane.base import Endpoint, HostPort, Leg, NetworkConfig, NetworkState, NodeState
from agent.dataplane.linux import gateway, namespaces, plan
from agent.dataplane.linux.backend import LinuxBackend
from agent.dataplane.linux.netlink import Message, Netlink, add_bridge, delete_link
from agent.dataplane.linux.nftables import Nftables
from agent.executor.base import Sandbox
from agent.executor.native.shim import kernel
from swarmpy.errors import TaskRejected, Unavailable
from swarmpy.model.ids import NetworkId, TaskId

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make namespaces"),
]

NODE, WORLD = "192.0.2.1", "192.0.2.2"


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture(autouse=True)
def node() -> Iterator[None]:
    with scratch_network():
        yield


@pytest.fixture
def world(tmp_path: Path) -> Iterator[str]:
    """A namespace beyond the node, as a path. It knows no way to the node's private subnet."""
    path = tmp_path / "world"
    with namespaces.make(path):
        ip("link", "add", "uplink", "type", "veth", "peer", "name", "eth0")
        with open(path, "rb") as netns:
            ip("link", "set", "eth0", "netns", f"/proc/{os.getpid()}/fd/{netns.fileno()}")
        ip("addr", "add", f"{NODE}/24", "dev", "uplink")
        ip("link", "set", "uplink", "up")

        def address_far_end() -> None:
            ip("addr", "add", f"{WORLD}/24", "dev", "eth0")
            ip("link", "set", "eth0", "up")

        in_netns(str(path), address_far_end)
    yield str(path)
    namespaces.remove(path)


@pytest.fixture
async def backend(tmp_path: Path) -> AsyncIterator[LinuxBackend]:
    backend = LinuxBackend(run_dir=tmp_path / "run")
    await backend.start_up()
    yield backend
    await backend.destroy()
    await backend.shut_down()


def in_netns(path: str, call: Callable[[], object]) -> None:
    """Run ``call`` in a thread of its own that has moved to the namespace at ``path``."""
    failures: list[BaseException] = []

    def work() -> None:
        try:
            with open(path, "rb") as netns:
                kernel.setns(netns.fileno(), kernel.CLONE_NEWNET)
            call()
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


def socket_in(path: str, kind: int = socket.SOCK_STREAM) -> socket.socket:
    """A socket that lives in the namespace at ``path``."""
    made: list[socket.socket] = []
    in_netns(path, lambda: made.append(socket.socket(socket.AF_INET, kind)))
    made[0].settimeout(5)
    return made[0]


def listen_in(path: str, port: int) -> socket.socket:
    listener = socket_in(path)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("0.0.0.0", port))
    listener.listen()
    return listener


def endpoint(name: str, *ports: HostPort) -> Endpoint:
    return Endpoint(task_id=TaskId(name), hostname=f"host-{name}", host_ports=ports)


def address(sandbox: Sandbox) -> str:
    return str(IPv4Interface(sandbox.addresses[0]).ip)


def tcp(published: int, target: int) -> HostPort:
    return HostPort(protocol="tcp", published_port=published, target_port=target)


def connect(client: socket.socket, host: str, port: int, listener: socket.socket) -> str:
    """Connect and exchange a word; who the server saw."""
    with closing(client):
        client.connect((host, port))
        served, peer = listener.accept()
        with closing(served):
            served.sendall(b"word")
            assert client.recv(4) == b"word"
        return str(peer[0])


async def test_the_node_reaches_its_tasks(backend: LinuxBackend) -> None:
    sandbox = await backend.attach(endpoint("one"))
    with closing(listen_in(sandbox.netns, 80)) as listener:
        client = socket.create_connection((address(sandbox), 80), timeout=5)
        seen = listener.accept()[1][0]
        client.close()
    assert seen == str(plan.gateway_of(IPv4Interface(sandbox.addresses[0]).network).ip)


async def test_a_task_reaches_the_world_as_the_node(backend: LinuxBackend, world: str) -> None:
    sandbox = await backend.attach(endpoint("one"))
    ip("route", "replace", "default", "via", WORLD)
    with closing(listen_in(world, 80)) as listener:
        assert connect(socket_in(sandbox.netns), WORLD, 80, listener) == NODE


async def test_tasks_do_not_reach_each_other_over_the_bridge(backend: LinuxBackend) -> None:
    one, two = await backend.attach(endpoint("one")), await backend.attach(endpoint("two"))
    with closing(listen_in(two.netns, 80)), closing(socket_in(one.netns)) as client:
        client.settimeout(0.5)
        with pytest.raises(OSError):
            client.connect((address(two), 80))


async def test_published_ports(backend: LinuxBackend, world: str) -> None:
    """From outside with the client's own address; from the node, by any of its names; from a neighbour."""
    server = await backend.attach(endpoint("server", tcp(8080, 80)))
    neighbour = await backend.attach(endpoint("neighbour"))
    with closing(listen_in(server.netns, 80)) as listener:
        assert connect(socket_in(world), NODE, 8080, listener) == WORLD
        for host in (NODE, "127.0.0.1"):
            connect(socket.socket(), host, 8080, listener)
        connect(socket_in(neighbour.netns), NODE, 8080, listener)
        connect(socket_in(server.netns), NODE, 8080, listener)  # its own published port
    await backend.detach(TaskId("server"))
    with closing(socket_in(world)) as client, pytest.raises(ConnectionRefusedError):
        client.connect((NODE, 8080))


async def test_published_udp(backend: LinuxBackend, world: str) -> None:
    port = HostPort(protocol="udp", published_port=5353, target_port=53)
    sandbox = await backend.attach(endpoint("server", port))
    with (
        closing(socket_in(sandbox.netns, socket.SOCK_DGRAM)) as server,
        closing(socket_in(world, socket.SOCK_DGRAM)) as client,
    ):
        server.bind(("0.0.0.0", 53))
        client.sendto(b"question", (NODE, 5353))
        data, peer = server.recvfrom(100)
        assert (data, peer[0]) == (b"question", WORLD)
        server.sendto(b"answer", peer)
        assert client.recvfrom(100) == (b"answer", (NODE, 5353))


async def test_data_ports_are_guarded(backend: LinuxBackend, world: str) -> None:
    """A task must not send what looks like a node's encapsulated frames."""
    sandbox = await backend.attach(endpoint("one"))
    with (
        closing(socket_in(world, socket.SOCK_DGRAM)) as outside,
        closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as inside,
        closing(socket_in(sandbox.netns, socket.SOCK_DGRAM)) as task,
    ):
        outside.bind(("0.0.0.0", 4789))
        inside.bind(("0.0.0.0", 4789))
        task.sendto(b"frame", (WORLD, 4789))
        task.sendto(b"frame", (NODE, 4789))
        task.sendto(b"other", (WORLD, 4788))
        for guarded in (outside, inside):
            guarded.settimeout(0.3)
            with pytest.raises(TimeoutError):
                guarded.recv(100)


async def test_a_port_taken_by_a_program_of_the_node(backend: LinuxBackend) -> None:
    with closing(socket.create_server(("0.0.0.0", 9090))):
        with pytest.raises(Unavailable, match="port is already allocated"):
            await backend.attach(endpoint("one", tcp(9090, 80)))
        assert await backend.list() == ()
    await backend.attach(endpoint("one", tcp(9090, 80)))
    with pytest.raises(OSError) as caught:
        socket.create_server(("0.0.0.0", 9090))
    assert caught.value.errno == errno.EADDRINUSE


@pytest.mark.parametrize(
    "port",
    [tcp(0, 80), tcp(70_000, 80), tcp(80, 0), HostPort(protocol="gre", published_port=1, target_port=1)],
)
async def test_ports_that_cannot_be(backend: LinuxBackend, port: HostPort) -> None:
    with pytest.raises(TaskRejected):
        await backend.attach(endpoint("one", port))
    assert await backend.list() == ()


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".x"])
async def test_task_ids_do_not_become_paths(backend: LinuxBackend, name: str) -> None:
    with pytest.raises(TaskRejected):
        await backend.attach(Endpoint(task_id=TaskId(name)))


async def test_the_files(backend: LinuxBackend) -> None:
    wish = replace(
        endpoint("one"), dns=("192.0.2.53",), dns_search=("example.org",), extra_hosts=("192.0.2.7 friend",)
    )
    sandbox = await backend.attach(wish)
    assert Path(sandbox.resolv_conf).read_text() == (
        "nameserver 127.0.0.11\nsearch example.org\noptions ndots:0\n"
    )
    hosts = Path(sandbox.hosts).read_text()
    assert f"{address(sandbox)}\thost-one\n" in hosts
    assert "192.0.2.7\tfriend\n" in hosts


# --- leftovers


def at_bridge(tmp_path: Path) -> Netlink:
    """Where the host's ends of the tasks' legs are."""
    return namespaces.enter(tmp_path / "run/netns" / plan.GATEWAY_NETNS)


def legs(tmp_path: Path) -> set[str]:
    with at_bridge(tmp_path) as netlink:
        return {link.name for link in netlink.links() if link.name.startswith(plan.PORT_PREFIX)}


def own_links() -> set[str]:
    """The node's own, without the ones that every new namespace has on some kernels."""
    with Netlink() as netlink:
        return {link.name for link in netlink.links() if link.name in ("sw-gw",) or link.kind}


async def test_the_gateway_is_made_anew_under_running_tasks(backend: LinuxBackend, tmp_path: Path) -> None:
    before = await backend.attach(endpoint("one"))
    with Netlink() as netlink:
        netlink.do(delete_link(plan.GATEWAY_LINK))
    successor = LinuxBackend(run_dir=tmp_path / "run")
    await successor.start_up()
    await successor.apply(NodeState(endpoints={TaskId("one"): endpoint("one")}))
    assert await successor.attach(endpoint("one")) == before
    with closing(listen_in(before.netns, 80)) as listener:
        connect(socket.socket(), address(before), 80, listener)
    await successor.shut_down()
    await backend.start_up()


async def test_what_broke_is_mended_by_apply(backend: LinuxBackend, tmp_path: Path) -> None:
    """Also while a task runs in it: the namespace stays the same one."""
    wish = endpoint("one", tcp(8080, 80))
    before = await backend.attach(wish)
    inode = os.stat(before.netns).st_ino
    with at_bridge(tmp_path) as netlink:
        netlink.do(delete_link(plan.port_name(TaskId("one"))))
    await backend.apply(NodeState(endpoints={wish.task_id: wish}))
    after = await backend.attach(wish)
    assert after == before
    assert os.stat(after.netns).st_ino == inode
    with closing(listen_in(after.netns, 80)) as listener:
        connect(socket.socket(), "127.0.0.1", 8080, listener)


async def test_trouble_with_one_network_is_not_that_of_other_tasks(backend: LinuxBackend) -> None:
    """A network that has to wait, here for the node's own address, keeps only its own tasks waiting."""
    waiting = NetworkConfig(id=NetworkId("blue-network-id"), name="blue", vni=4096)
    leg = Leg(network=waiting, link="eth0", addresses=("10.1.0.2/24",))
    on_it, apart = replace(endpoint("on-it"), legs=(leg,)), endpoint("apart", tcp(8080, 80))
    state = NodeState(
        networks={waiting.id: NetworkState(config=waiting)},
        endpoints={each.task_id: each for each in (on_it, apart)},
    )
    with pytest.raises(Unavailable, match="network blue has to wait"):
        await backend.apply(state)
    assert await backend.list() == (TaskId("apart"),)
    with pytest.raises(Unavailable, match="network blue has to wait"):
        await backend.attach(on_it)
    with closing(listen_in((await backend.attach(apart)).netns, 80)) as listener:
        connect(socket.socket(), "127.0.0.1", 8080, listener)


async def test_what_apply_has_made_is_not_made_twice(
    backend: LinuxBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state that a new task is in is applied before the task is attached."""
    wish = endpoint("one")
    await backend.apply(NodeState(endpoints={wish.task_id: wish}))
    prepared: list[TaskId] = []
    prepare = backend._prepare

    def noting(endpoint: Endpoint) -> None:
        prepared.append(endpoint.task_id)
        prepare(endpoint)

    monkeypatch.setattr(backend, "_prepare", noting)
    first = await backend.attach(wish)
    assert prepared == []
    assert await backend.attach(wish) == first
    assert prepared == ["one"], "whoever asks again has a reason"


async def test_mending_goes_on_after_it_broke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = LinuxBackend(run_dir=tmp_path / "run")
    rounds: list[int] = []

    def broken() -> None:
        rounds.append(len(rounds))
        raise OSError(errno.ENOBUFS, "no buffer space") if len(rounds) % 2 else ValueError("a bug")

    monkeypatch.setattr("agent.dataplane.linux.backend.NETWORK_RECHECK_S", 0.01)
    monkeypatch.setattr(backend._parts.overlays, "mend", broken)
    await backend.start_up()
    await backend.apply(NodeState())
    async with asyncio.timeout(20.0):
        while len(rounds) < 4:
            await asyncio.sleep(0.01)
    await backend.destroy()
    await backend.shut_down()


async def test_an_address_is_free_again_after_a_record_that_could_not_be_written(tmp_path: Path) -> None:
    backend = LinuxBackend(run_dir=tmp_path / "run", subnet="10.200.0.0/30")  # room for one task
    await backend.start_up()
    (tmp_path / "run/network").rename(tmp_path / "elsewhere")
    with pytest.raises(Unavailable, match="cannot make the network of task one"):
        await backend.attach(endpoint("one"))
    (tmp_path / "elsewhere").rename(tmp_path / "run/network")
    assert address(await backend.attach(endpoint("two"))) == "10.200.0.2"
    await backend.destroy()
    await backend.shut_down()


async def test_a_bridge_that_is_full_says_so(backend: LinuxBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "LEGS_MAX", 2)
    for name in ("one", "two"):
        await backend.attach(endpoint(name))
    with pytest.raises(Unavailable, match="a Linux bridge takes 1023 ports"):
        await backend.attach(endpoint("three"))
    await backend.attach(endpoint("two"))
    await backend.detach(TaskId("one"))
    await backend.attach(endpoint("three"))


async def test_leftovers_of_a_crash_are_collected(backend: LinuxBackend, tmp_path: Path) -> None:
    """Namespaces, links and folders with our names that nothing is on record of."""
    kept = await backend.attach(endpoint("kept"))
    await backend.attach(endpoint("lost"))
    (tmp_path / "run/network/lost/endpoint.json").write_text('{"endpoint"')  # cut off while being written
    (tmp_path / "run/network/half").mkdir()
    namespaces.make(tmp_path / "run/netns/stray").close()
    with at_bridge(tmp_path) as netlink:
        netlink.do(add_bridge(plan.PORT_PREFIX + "stray"))
    successor = LinuxBackend(run_dir=tmp_path / "run")
    await successor.start_up()
    assert await successor.list() == (TaskId("kept"),)
    assert sorted(os.listdir(tmp_path / "run/netns")) == [plan.GATEWAY_NETNS, "kept"]
    assert [path.name for path in (tmp_path / "run/network").iterdir()] == ["kept"]
    assert legs(tmp_path) == {plan.port_name(TaskId("kept"))}
    assert await successor.attach(endpoint("kept")) == kept
    await successor.shut_down()


async def test_ports_survive_a_restart(backend: LinuxBackend, tmp_path: Path) -> None:
    sandbox = await backend.attach(endpoint("one", tcp(8080, 80)))
    successor = LinuxBackend(run_dir=tmp_path / "run")
    await successor.start_up()
    with closing(listen_in(sandbox.netns, 80)) as listener:
        connect(socket.socket(), "127.0.0.1", 8080, listener)
    with pytest.raises(Unavailable):
        await successor.attach(endpoint("two", tcp(8080, 80)))
    await successor.shut_down()


async def test_an_attach_that_fails_leaves_nothing(
    backend: LinuxBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOMEM, "no memory")

    with monkeypatch.context() as patched:
        patched.setattr("agent.dataplane.linux.netlink.add_default_route", fail)
        with pytest.raises(Unavailable, match="no memory"):
            await backend.attach(endpoint("one", tcp(8080, 80)))
    assert legs(tmp_path) == set()
    assert os.listdir(tmp_path / "run/netns") == [plan.GATEWAY_NETNS]
    assert list((tmp_path / "run/network").iterdir()) == []
    await backend.attach(endpoint("one", tcp(8080, 80)))


async def test_destroy_takes_everything(backend: LinuxBackend, tmp_path: Path) -> None:
    before = Path("/proc/self/mountinfo").read_text().count(str(tmp_path))
    assert before
    await asyncio.gather(
        *(backend.attach(endpoint(f"task{number}", tcp(8000 + number, 80))) for number in range(5))
    )
    await backend.destroy()
    assert own_links() == set()
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
    rules = Nftables()
    assert "swarmpy" not in rules.run("list ruleset")
    rules.close()


async def test_a_subnet_that_is_in_use_is_not_taken(tmp_path: Path) -> None:
    ip("link", "add", "lan", "type", "bridge")
    ip("link", "set", "lan", "up")
    ip("addr", "add", "172.31.44.1/20", "dev", "lan")
    ip("route", "add", "172.30.0.0/24", "dev", "lan")
    backend = LinuxBackend(run_dir=tmp_path / "run")
    await backend.start_up()
    sandbox = await backend.attach(endpoint("one"))
    assert IPv4Interface(sandbox.addresses[0]).network == plan.SUBNETS[2]
    await backend.destroy()
    await backend.shut_down()


async def test_a_subnet_by_configuration(tmp_path: Path) -> None:
    backend = LinuxBackend(run_dir=tmp_path / "run", subnet="198.51.100.0/29")
    await backend.start_up()
    given = [address(await backend.attach(endpoint(f"task{number}"))) for number in range(5)]
    assert given == [f"198.51.100.{number}" for number in range(2, 7)]
    with pytest.raises(Unavailable, match="no address is free"):
        await backend.attach(endpoint("task5"))
    await backend.detach(TaskId("task1"))
    assert address(await backend.attach(endpoint("task5"))) == "198.51.100.3"
    await backend.destroy()
    await backend.shut_down()


async def test_probe_says_what_is_missing(backend: LinuxBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.dataplane.linux.nftables._LIBRARY", "libnftables-is-not-here.so")
    found = await backend.probe()
    assert not found.is_usable
    assert "apt-get install nftables" in found.missing[0]


async def test_the_machines_own_namespace_is_not_touched(backend: LinuxBackend) -> None:
    """The calling thread stays where it is, whatever the backend's thread does."""
    before = os.readlink("/proc/thread-self/ns/net")
    await backend.attach(endpoint("one"))
    assert os.readlink("/proc/thread-self/ns/net") == before


async def test_probe_says_which_networks_there_can_be(
    backend: LinuxBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "overlay" in (await backend.probe()).drivers

    def refuse(*_: object, **__: object) -> Message:
        return Message(4000, 0, bytes(16))  # a kind that no kernel knows

    monkeypatch.setattr("agent.dataplane.linux.netlink_links.add_vxlan", refuse)
    found = await backend.probe()
    assert found.is_usable
    assert "overlay" not in found.drivers
    assert "load the module vxlan" in found.lacking[0]
