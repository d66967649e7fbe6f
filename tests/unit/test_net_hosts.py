"""Hosts of a test reach each other, and what they send is seen on the switch."""

from __future__ import annotations

import os
import socket

import pytest
from net_hosts import EchoServer, ask, is_reachable, net_hosts

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make namespaces"),
]


@pytest.mark.parametrize("is_routed", [False, True])
def test_hosts_talk_and_are_overheard(is_routed: bool) -> None:
    with net_hosts(3, mtu=1400, is_routed=is_routed) as rig:
        one, two, three = rig.hosts
        for source, target in ((one.address, two.address), (one.address6, two.address6)):
            with (
                rig.capture() as capture,
                rig.capture(three) as elsewhere,
                EchoServer(two.path, target, 80, greeting=b"two: ") as tcp,
                EchoServer(two.path, target, 81, socket.SOCK_DGRAM) as udp,
            ):
                assert ask(one.path, target, 80, data=b"a word").answer == b"two: a word"
                assert ask(one.path, target, 81, kind=socket.SOCK_DGRAM).local == udp.seen[0]
                assert tcp.seen[0][0] == source
                frame = capture.wait_for(lambda frame: frame.ports[1] == 81)
                assert (frame.host, frame.addresses) == (one.name, (source, target))
                assert frame.payload == b"hello"
                assert capture.has(b"a word")
                assert not elsewhere.has(b"a word")
            assert not is_reachable(one.path, target, 80)


def test_a_cable_that_is_pulled() -> None:
    with net_hosts(2) as rig:
        one, two = rig.hosts
        with EchoServer(two.path, two.address, 80):
            two.set_wire(is_up=False)
            assert not is_reachable(one.path, two.address, 80)
            two.set_wire(is_up=True)
            assert ask(one.path, two.address, 80, timeout_s=10).answer == b"hello"
