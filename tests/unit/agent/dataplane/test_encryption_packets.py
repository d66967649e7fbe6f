"""The user-space port on real packets: what is on the wire, and that whatever is missing means silence."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from encryption_rig import (
    NETWORK,
    PATTERN,
    SECURE_PORT,
    SecureHost,
    SecureRig,
    inner_address,
    node_id,
    ping,
    ring,
    secure_hosts,
)
from net_hosts import EchoServer, ask, send_frames, wait_until

from agent.dataplane.base import Endpoint, Leg
from agent.dataplane.linux.encryption import lock
from agent.dataplane.linux.encryption.userspace import port as port_module
from agent.dataplane.linux.encryption.ways import USERSPACE
from swarmpy.errors import TaskRejected
from swarmpy.model.ids import TaskId

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make namespaces"),
]

USERSPACE_PORT = 4792


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[SecureRig]:
    with secure_hosts(tmp_path, (USERSPACE,), (USERSPACE,)) as rig:
        yield rig


@pytest.fixture
def pair(rig: SecureRig) -> tuple[SecureHost, SecureHost]:
    one, two = rig.hosts
    return one, two


def assert_silent(rig: SecureRig) -> None:
    """Nothing arrives, and nothing of it is on the wire: not in the clear, nor on the secure port."""
    one, two = rig.hosts
    with rig.rig.capture() as capture:
        assert ping(one, two, count=1) == 0
        assert not capture.has(PATTERN)
        assert SECURE_PORT not in {port for frame in capture.frames() for port in frame.ports}


def assert_talking(rig: SecureRig) -> None:
    one, two = rig.hosts
    with rig.rig.capture() as capture:
        assert ping(one, two) == 3
        assert not capture.has(PATTERN)
        datagrams = {frame.ports for frame in capture.frames() if frame.protocol == socket.IPPROTO_UDP}
        assert datagrams == {(USERSPACE_PORT, USERSPACE_PORT)}


def port_of(host: SecureHost) -> port_module.UserspacePort:
    return port_module.UserspacePort(host.run_dir / "encryption")


def test_only_sealed_datagrams_are_on_the_wire(rig: SecureRig) -> None:
    assert_talking(rig)


def test_the_same_in_the_clear_is_seen(rig: SecureRig, pair: tuple[SecureHost, SecureHost]) -> None:
    """The control: without the lock and the routes the pattern is on the wire."""
    one, two = pair
    for each in pair:
        each.host.command("nft", "delete", "table", "inet", lock.TABLE)
        each.host.command("ip", "rule", "del", "pref", "5090")
    with rig.rig.capture() as capture:
        assert ping(one, two) == 3
        assert capture.has(PATTERN)


def test_the_lock_holds_without_the_routes(rig: SecureRig, pair: tuple[SecureHost, SecureHost]) -> None:
    one, _ = pair
    one.host.command("ip", "rule", "del", "pref", "5090")
    assert_silent(rig)
    one.mend()
    assert_talking(rig)


def test_the_routes_hold_without_the_lock(rig: SecureRig, pair: tuple[SecureHost, SecureHost]) -> None:
    one, _ = pair
    one.host.command("nft", "delete", "table", "inet", lock.TABLE)
    one.host.command("ip", "link", "set", lock.USERSPACE_LINK, "down")
    assert_silent(rig)
    one.mend()
    assert_talking(rig)


def test_whole_packets_of_many_segments_pass(rig: SecureRig, pair: tuple[SecureHost, SecureHost]) -> None:
    one, two = pair
    data = os.urandom(60_000)
    with EchoServer(two.host.path, inner_address(two.host), 80) as server:
        found = b""
        with socket_to(one, server) as client:
            for _ in range(10):
                client.sendall(data)
                found = b""
                while len(found) < len(data):
                    found += client.recv(1 << 16)
                assert found == data


def socket_to(source: SecureHost, server: EchoServer) -> socket.socket:
    client = source.host.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
    client.settimeout(10)
    client.connect((server.address, server.port))
    return client


def test_datagrams_of_every_size_pass(rig: SecureRig, pair: tuple[SecureHost, SecureHost]) -> None:
    one, two = pair
    room = 1500 - one.carry().overhead_bytes - 28
    with EchoServer(two.host.path, inner_address(two.host), 53, socket.SOCK_DGRAM):
        for size in (1, 700, room - 1, room, room + 1, 9_000):
            data = os.urandom(size)
            answer = ask(one.host.path, inner_address(two.host), 53, data=data, kind=socket.SOCK_DGRAM)
            assert answer.answer == data


def test_a_replayed_datagram_is_refused(rig: SecureRig, pair: tuple[SecureHost, SecureHost]) -> None:
    one, two = pair
    with rig.rig.capture(one.host) as capture:
        assert ping(one, two) == 3
        # the sum was left to the device: none at all is as good
        raws = [frame.raw for frame in capture.frames() if USERSPACE_PORT in frame.ports]
        frames = [raw[:40] + b"\0\0" + raw[42:] for raw in raws]
    before = counts(two)
    send_frames(one.host.path, "eth0", frames)

    wait_until(lambda: counts(two)["refused"] == before["refused"] + len(frames), "all were refused")
    assert counts(two)["taken"] == before["taken"]


def counts(host: SecureHost) -> dict[str, int]:
    status = port_of(host).ask()
    assert status is not None
    return status.counts


def test_clear_text_to_the_secure_port_is_dropped(
    rig: SecureRig, pair: tuple[SecureHost, SecureHost]
) -> None:
    one, two = pair
    for each in (one,):
        each.host.command("nft", "delete", "table", "inet", lock.TABLE)
        each.host.command("ip", "rule", "del", "pref", "5090")
    before = received(two)
    ping(one, two)
    assert received(two) == before

    two.host.command("nft", "delete", "table", "inet", lock.TABLE)
    ping(one, two)
    assert received(two) == before + 3


def received(host: SecureHost) -> int:
    """Packets that the network's device took."""
    return int(host.host.command("cat", "/proc/net/dev").split("vx:")[1].split()[1])


def test_the_port_outlives_the_daemon(rig: SecureRig, pair: tuple[SecureHost, SecureHost]) -> None:
    one, two = pair
    epoch, process = one.part.epoch, port_of(one).ask()
    with EchoServer(two.host.path, inner_address(two.host), 80) as server, socket_to(one, server) as client:
        one.stop()
        client.sendall(b"while it is away")
        assert client.recv(100) == b"while it is away"
        one.start()
        rig.meet()
        client.sendall(b"and after")
        assert client.recv(100) == b"and after"

    again = port_of(one).ask()
    assert process is not None
    assert again is not None
    assert (again.pid, one.part.epoch) == (process.pid, epoch)


def test_a_port_that_runs_other_code_is_replaced_and_counts_on(
    rig: SecureRig, pair: tuple[SecureHost, SecureHost], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = pair
    assert_talking(rig)
    epoch, process = one.part.epoch, port_of(one).ask()
    one.stop()
    monkeypatch.setattr(port_module, "program_digest", lambda: "another")
    one.start()
    rig.meet()

    again = port_of(one).ask()
    assert process is not None
    assert again is not None
    assert again.pid != process.pid
    assert again.program == "another"
    assert one.part.epoch == epoch
    assert all(again.sending[name] >= number for name, number in process.sending.items())
    assert_talking(rig)


def test_a_killed_port_is_started_with_other_keys(
    rig: SecureRig, pair: tuple[SecureHost, SecureHost]
) -> None:
    one, _ = pair
    epoch, process = one.part.epoch, port_of(one).ask()
    assert process is not None
    os.kill(process.pid, 9)
    wait_until(lambda: one.space.netlink.link(lock.USERSPACE_LINK) is None, "its device is gone")
    assert_silent(rig)
    one.mend()
    assert one.part.epoch != epoch
    rig.meet()

    again = port_of(one).ask()
    assert again is not None
    assert not set(again.sending) & set(process.sending)
    assert_talking(rig)


def test_a_peer_that_is_not_known_hears_nothing(rig: SecureRig, pair: tuple[SecureHost, SecureHost]) -> None:
    one, _ = pair
    one.apply([one.peer], ring())
    assert_silent(rig)
    rig.meet()
    assert_talking(rig)


def test_without_secrets_there_is_silence(rig: SecureRig) -> None:
    rig.meet(())
    assert_silent(rig)


def test_a_peer_that_encrypts_in_no_way_hears_nothing(
    rig: SecureRig, pair: tuple[SecureHost, SecureHost]
) -> None:
    one, two = pair
    mute = type(two.peer)(node_id=node_id(two.host), addr=two.addr, boot_id="e", number=2)
    one.apply([one.peer, mute], ring())
    assert_silent(rig)


def test_the_ring_turns_while_packets_flow(rig: SecureRig, pair: tuple[SecureHost, SecureHost]) -> None:
    one, two = pair
    with EchoServer(two.host.path, inner_address(two.host), 53, socket.SOCK_DGRAM) as server:
        client = one.host.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        client.settimeout(10)
        client.connect((server.address, server.port))
        number = 0
        for newest in (4, 5, 6):
            for each in pair:
                peers = [one.peer, two.peer]
                each.apply(peers, ring(newest))
                for _ in range(20):
                    number += 1
                    client.send(struct.pack("!I", number))
                    assert client.recv(100) == struct.pack("!I", number)
        client.close()
    assert one.part.epoch == one.peer.boot_id


def test_nothing_is_left_of_it(rig: SecureRig, pair: tuple[SecureHost, SecureHost]) -> None:
    one, _ = pair
    process = port_of(one).ask()
    assert process is not None
    one.destroy()

    assert not Path(f"/proc/{process.pid}").exists()
    assert one.space.netlink.link(lock.USERSPACE_LINK) is None
    assert "5090" not in one.host.command("ip", "rule")
    assert lock.TABLE not in one.host.command("nft", "list", "tables")
    one.start()
    rig.meet()
    assert_talking(rig)


def test_ipv6_between_the_nodes(tmp_path: Path) -> None:
    with secure_hosts(tmp_path, (USERSPACE,), (USERSPACE,), is_ipv6=True) as rig:
        assert_talking(rig)


def test_a_node_without_a_way_refuses_the_task(tmp_path: Path) -> None:
    with secure_hosts(tmp_path, (USERSPACE,)) as rig:
        host = rig.hosts[0]
        host.stop()
        host.only = ()
        host.start()
        leg = Leg(network=NETWORK, link="eth0", addresses=("10.1.0.9/24",))
        endpoint = Endpoint(task_id=TaskId("task"), legs=(leg,))

        with pytest.raises(
            TaskRejected, match='network "blue" is encrypted, and this node cannot encrypt: no'
        ):
            host.part.attach(endpoint, host.space)
        with pytest.raises(TaskRejected, match="cannot encrypt"):
            host.carry()
