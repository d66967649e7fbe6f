"""Executor and network together: a task in the namespace that the backend made for it."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Iterator
from ipaddress import IPv4Interface
from pathlib import Path

import pytest
from msgspec.structs import replace
from native_rig import NativeRig
from scratch_network import scratch_network

from agent.dataplane.base import Endpoint, HostPort
from agent.dataplane.linux.backend import LinuxBackend
from agent.executor.base import Sandbox
from agent.executor.native.executor import NativeExecutor
from swarmpy.model.ids import TaskId

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make namespaces"),
]


@pytest.fixture(autouse=True)
def node() -> Iterator[None]:
    with scratch_network():
        yield


@pytest.fixture
async def backend(tmp_path: Path) -> AsyncIterator[LinuxBackend]:
    backend = LinuxBackend(run_dir=tmp_path / "run")
    await backend.start_up()
    yield backend
    await backend.destroy()
    await backend.shut_down()


@pytest.fixture
async def rig(tmp_path: Path, backend: LinuxBackend) -> AsyncIterator[NativeRig]:
    rig = NativeRig(tmp_path)
    rig.executor = NativeExecutor(rig.data_dir, cgroup_parent=rig.parent, hidden=(backend.netns_dir,))
    await rig.open()
    yield rig
    await rig.close()


async def run(rig: NativeRig, sandbox: Sandbox, name: str, script: str) -> TaskId:
    launch = replace(await rig.launch(name, "/bin/sh", "-c", script), sandbox=sandbox)
    await rig.executor.create(launch)
    await rig.executor.start(launch.task_id)
    return launch.task_id


async def test_a_task_sees_its_leg_and_its_files(rig: NativeRig, backend: LinuxBackend) -> None:
    sandbox = await backend.attach(Endpoint(task_id=TaskId("one"), hostname="web", dns=("192.0.2.53",)))
    script = "ls /sys/class/net; ip -4 -o addr show eth0; ip route; cat /etc/resolv.conf; tail -1 /etc/hosts"
    output = await rig.output(await run(rig, sandbox, "one", script))
    address = IPv4Interface(sandbox.addresses[0])
    assert output.startswith("eth0\nlo\n")
    assert f"inet {address}" in output
    assert f"default via {address.network[1]} dev eth0" in output
    assert "nameserver 127.0.0.11\n" in output
    assert output.endswith(f"{address.ip}\tweb\n")


async def test_a_service_on_a_published_port(rig: NativeRig, backend: LinuxBackend) -> None:
    port = HostPort(protocol="tcp", published_port=8080, target_port=80)
    sandbox = await backend.attach(Endpoint(task_id=TaskId("web"), host_ports=(port,)))
    program = (
        "import socket; s = socket.create_server(('', 80)); print('up', flush=True)\n"
        "while True: c, peer = s.accept(); c.sendall(b'hello'); c.close()"
    )
    launch = replace(await rig.launch("web", "/usr/bin/python3", "-u", "-c", program), sandbox=sandbox)
    await rig.executor.create(launch)
    await rig.executor.start(launch.task_id)
    while not await rig.log(launch.task_id):
        pass
    with socket.create_connection(("127.0.0.1", 8080), timeout=5) as client:
        assert client.recv(5) == b"hello"


async def test_a_running_task_keeps_no_other_tasks_namespace(
    rig: NativeRig, backend: LinuxBackend, tmp_path: Path
) -> None:
    """Mounts are copied into each task's view; a namespace mounted there would live as long as the task."""
    await backend.attach(Endpoint(task_id=TaskId("other")))
    sandbox = await backend.attach(Endpoint(task_id=TaskId("one")))
    task_id = await run(rig, sandbox, "one", "exec sleep 1000")
    (found,) = await rig.executor.list()
    seen = Path(f"/proc/{found.pid}/mountinfo").read_text()
    assert str(tmp_path / "run/netns") not in seen
    await rig.executor.remove(task_id)


async def test_order_of_taking_down_does_not_matter(rig: NativeRig, backend: LinuxBackend) -> None:
    sandbox = await backend.attach(Endpoint(task_id=TaskId("one")))
    task_id = await run(rig, sandbox, "one", "exec sleep 1000")
    await backend.detach(TaskId("one"))
    assert await backend.list() == ()
    await rig.executor.remove(task_id)
    assert await rig.executor.list() == ()
