"""The machine's description is plausible and follows its arguments."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from agent.dataplane.base import BackendCapabilities
from agent.describe import describe, with_network


def test_describe() -> None:
    told = describe()
    assert told.hostname == socket.gethostname()
    assert told.platform.os == "linux"
    assert told.resources.nano_cpus == len(os.sched_getaffinity(0)) * 10**9
    assert told.resources.memory_bytes > 2**26
    assert told == describe()
    boot, _, stack = told.boot_id.partition(".")
    assert boot == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert int(stack, 16) > 0
    renamed = describe(hostname="other", labels={"a": "b"})
    assert renamed.hostname == "other"
    assert renamed.engine.labels == {"a": "b"}


def test_the_executor_is_told() -> None:
    told = describe(executor="podman")
    assert told.engine.executor == "podman"
    network = BackendCapabilities(name="test", is_usable=True, drivers=("bridge",))
    assert with_network(told, network, epoch="").engine.executor == "podman"
    assert describe().engine.executor == "native", "as of a daemon that does not say"


def test_what_the_network_can_do_is_told() -> None:
    bare = describe()
    network = BackendCapabilities(
        name="test",
        is_usable=True,
        drivers=("bridge", "none", "overlay"),
        encryption=("esp",),
        wireguard_key=b"key",
    )
    told = with_network(bare, network, epoch="again")
    assert [each.name for each in told.engine.plugins if each.type == "Network"] == [
        "bridge",
        "null",
        "overlay",
    ]
    assert [each for each in told.engine.plugins if each.type != "Network"] == [
        each for each in bare.engine.plugins if each.type != "Network"
    ]
    assert (told.encryption, told.wireguard_key, told.boot_id) == (("esp",), b"key", "again")


def test_a_network_that_tells_nothing_changes_nothing() -> None:
    bare = describe()
    assert with_network(bare, BackendCapabilities(name="test", is_usable=True), epoch="") == bare
