"""The lab's own mechanics, on a stand-in daemon: what is isolated, what a fault does, what is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from swarmpy.cli.dev import app
from swarmpy.errors import AlreadyExists, FailedPrecondition, NotFound, Unavailable
from swarmpy.lab import layout, process
from swarmpy.lab.cluster import Daemon, Lab
from swarmpy.lab.engine_http import Refused
from swarmpy.lab.network import Way

DEADLINE_S = 10.0


def machine() -> tuple[str, str, str, list[str]]:
    """What a lab must not change: links, routes, mounts and the folders of /run."""
    links = subprocess.check_output(["ip", "-brief", "link"], text=True)
    routes = subprocess.check_output(["ip", "route"], text=True)
    mounts = Path("/proc/self/mounts").read_text()
    return links, routes, mounts, sorted(set(os.listdir("/run")) - {"swarmpy-lab"})


def traces(name: str) -> list[str]:
    """What is left of a lab."""
    found = [f"process {one.pid}" for one in process.inits(name)]
    found += [str(root / name) for root in (layout.STATE_ROOT, layout.DATA_ROOT) if (root / name).exists()]
    found += [str(path) for path in Path("/sys/fs/cgroup").glob(f"**/swarmpy-lab/{name}")]
    return found


def can_reach(lab: Lab, source: str, target: str) -> bool:
    return lab.exec(source, ["ping", "-c1", "-W1", target]).returncode == 0


def commands(lab: Lab, node: str) -> str:
    return lab.exec(node, ["ps", "-eo", "stat,args"]).stdout


def spawn(lab: Lab, node: str) -> None:
    lab.call(node, "POST", "/stub/spawn")
    assert process.wait_until(lambda: "sleep 1000\n" in commands(lab, node), timeout_s=DEADLINE_S)


def whole(lab: Lab) -> None:
    """Bring everything back, whatever a failed test left."""
    for row in lab.status():
        if row.cut:
            lab.heal(row.name)
        if row.daemon is Daemon.PAUSED:
            lab.resume(row.name)
        if row.daemon in (Daemon.DEAD, Daemon.OFF):
            lab.start(row.name)


def test_hosts_are_apart_and_form_a_swarm(stub_lab: Lab) -> None:
    rows = stub_lab.status()

    assert [(row.name, row.address, row.role) for row in rows] == [
        ("node-1", "10.200.0.11", "manager"),
        ("node-2", "10.200.0.12", "manager"),
        ("node-3", "10.200.0.13", "worker"),
    ]
    assert all(row.daemon is Daemon.RUNNING and row.state == "ready" and row.cut is None for row in rows)
    assert stub_lab.leader() == "node-1"
    assert stub_lab.exec("node-2", ["hostname"]).stdout == "node-2\n"
    assert can_reach(stub_lab, "node-3", "node-1")
    assert "lab_stub.py" in commands(stub_lab, "node-3")
    assert commands(stub_lab, "node-3").count("lab_stub.py") == 1
    assert stub_lab.exec("node-2", ["ls", "/run"]).stdout.split() == ["lock", "netns", "swarmpy"]


def test_the_socket_is_reachable_from_the_machine_and_in_its_usual_place_on_the_host(stub_lab: Lab) -> None:
    assert stub_lab.docker_host("node-2") == f"unix://{stub_lab.host('node-2').socket}"
    assert stub_lab.host("node-2").socket.is_socket()
    assert stub_lab.exec("node-2", ["test", "-S", "/run/swarmpy/swarmpy.sock"]).returncode == 0
    assert stub_lab.exec("node-3", ["ip", "-brief", "link"]).stdout.count("eth0") == 1


def test_the_machine_sees_no_link_route_or_mount_of_a_lab(
    lab_name: str, stub_command: tuple[str, ...]
) -> None:
    before = machine()
    with Lab.up(managers=1, workers=1, name=lab_name, daemon_command=stub_command) as lab:
        during = machine()
        spawn(lab, "node-2")
        assert traces(lab_name)
    assert during == before
    assert machine() == before
    assert traces(lab_name) == []


def test_kill_ends_the_daemon_alone_and_start_brings_it_back_with_its_data(stub_lab: Lab) -> None:
    spawn(stub_lab, "node-3")

    stub_lab.kill("node-3")

    assert stub_lab.status()[2].daemon is Daemon.DEAD
    assert "lab_stub.py" not in commands(stub_lab, "node-3")
    assert "sleep 1000\n" in commands(stub_lab, "node-3")
    with pytest.raises(Unavailable, match="was not answered"):
        stub_lab.call("node-3", "GET", "/_ping")
    with pytest.raises(FailedPrecondition, match="No daemon is running on node-3"):
        stub_lab.kill("node-3")
    stub_lab.start("node-3")
    assert stub_lab.status()[2].daemon is Daemon.RUNNING
    assert (stub_lab.host("node-3").data_dir / "starts.json").read_text().count(",") >= 1
    with pytest.raises(FailedPrecondition, match="is running already"):
        stub_lab.start("node-3")
    whole(stub_lab)


def test_a_power_failure_ends_all_processes_and_the_link(stub_lab: Lab) -> None:
    spawn(stub_lab, "node-3")
    before = process.inits(stub_lab.layout.name, "node-3")

    stub_lab.kill("node-3", host=True)

    assert stub_lab.status()[2].daemon is Daemon.OFF
    assert all(process.state_letter(one) is None for one in before)
    assert not can_reach(stub_lab, "node-1", "node-3")
    assert not list(Path("/sys/fs/cgroup").glob(f"**/swarmpy-lab/{stub_lab.layout.name}/node-3"))
    with pytest.raises(FailedPrecondition, match="node-3 is off"):
        stub_lab.exec("node-3", ["true"])
    stub_lab.start("node-3")
    assert can_reach(stub_lab, "node-1", "node-3")
    assert "sleep 1000\n" not in commands(stub_lab, "node-3")
    whole(stub_lab)


def test_a_paused_daemon_does_not_answer_until_it_is_resumed(stub_lab: Lab) -> None:
    stub_lab.pause("node-1")

    assert stub_lab.status()[0].daemon is Daemon.PAUSED
    with pytest.raises(Unavailable):
        stub_lab.request("node-1", "GET", "/_ping", timeout_s=0.2)
    stub_lab.resume("node-1")
    assert stub_lab.request("node-1", "GET", "/_ping").is_ok
    assert stub_lab.status()[0].daemon is Daemon.RUNNING


def test_restart_stops_in_good_order(stub_lab: Lab) -> None:
    before = stub_lab.status()[2].pid

    stub_lab.restart("node-3")

    after = stub_lab.status()[2].pid
    assert after is not None
    assert after != before


def test_a_cut_holds_over_a_power_cycle_and_heals(stub_lab: Lab) -> None:
    stub_lab.cut("node-3")
    assert stub_lab.status()[2].cut is Way.BOTH
    assert "NO-CARRIER" in stub_lab.exec("node-3", ["ip", "link", "show", "eth0"]).stdout
    assert not can_reach(stub_lab, "node-1", "node-3")

    stub_lab.kill("node-3", host=True)
    stub_lab.start("node-3")
    assert not can_reach(stub_lab, "node-1", "node-3")

    stub_lab.heal("node-3")
    stub_lab.heal("node-3")
    assert process.wait_until(lambda: can_reach(stub_lab, "node-1", "node-3"), timeout_s=DEADLINE_S)
    assert stub_lab.status()[2].cut is None


LISTEN = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("", 7000)); s.settimeout(1.0)
print("listening", flush=True)
try: print(s.recv(9).decode())
except TimeoutError: print("nothing")
"""
SEND = """
import socket, sys
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"hello", (sys.argv[1], 7000))
"""


def arrives(lab: Lab, source: str, target: str) -> bool:
    """Whether a datagram from one host is received on the other."""
    argv = lab.exec_argv(target, [sys.executable, "-c", LISTEN])
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as listener:
        assert listener.stdout is not None
        assert listener.stdout.readline() == "listening\n"
        lab.exec(source, [sys.executable, "-c", SEND, lab.host(target).address])
        return listener.stdout.readline() == "hello\n"


@pytest.mark.parametrize(("way", "sends", "receives"), [(Way.IN, True, False), (Way.OUT, False, True)])
def test_one_direction_is_cut(stub_lab: Lab, way: Way, sends: bool, receives: bool) -> None:
    assert arrives(stub_lab, "node-1", "node-3")  # and both know each other's MAC
    assert arrives(stub_lab, "node-3", "node-1")

    stub_lab.cut("node-3", way)

    assert arrives(stub_lab, "node-3", "node-1") is sends
    assert arrives(stub_lab, "node-1", "node-3") is receives
    assert arrives(stub_lab, "node-1", "node-2")
    stub_lab.heal("node-3")
    assert process.wait_until(lambda: can_reach(stub_lab, "node-1", "node-3"), timeout_s=DEADLINE_S)


def test_orphans_on_a_host_are_reaped(stub_lab: Lab) -> None:
    stub_lab.exec("node-2", ["sh", "-c", "for i in 1 2 3 4 5; do (sh -c 'exit 3' & exec sleep 0.05) & done"])

    def is_clean() -> bool:
        listed = commands(stub_lab, "node-2")
        return "defunct" not in listed and "sleep 0.05" not in listed

    assert process.wait_until(is_clean, timeout_s=DEADLINE_S)


def test_labs_run_side_by_side_with_the_same_addresses(
    stub_lab: Lab, lab_name: str, stub_command: tuple[str, ...]
) -> None:
    with Lab.up(managers=1, workers=0, name=lab_name, daemon_command=stub_command) as other:
        assert other.status()[0].address == stub_lab.status()[0].address
        assert {stub_lab.layout.name, lab_name} <= set(Lab.names())
        with pytest.raises(AlreadyExists, match="choose another --name"):
            Lab.up(name=lab_name, daemon_command=stub_command)
        assert other.status()[0].daemon is Daemon.RUNNING
    assert stub_lab.status()[0].daemon is Daemon.RUNNING
    with pytest.raises(NotFound, match="There is no lab"):
        Lab.open(lab_name)
    assert Lab.remove(lab_name) is False


def test_a_daemon_that_ends_at_once_is_reported_with_its_log_and_leaves_nothing(lab_name: str) -> None:
    command = (sys.executable, "-c", "import sys; sys.exit('no such disk')")

    with pytest.raises(Unavailable, match="no such disk"):
        Lab.up(managers=1, workers=1, name=lab_name, daemon_command=command)

    assert traces(lab_name) == []


def test_a_join_that_is_refused_gives_the_daemons_words(lab_name: str, stub_command: tuple[str, ...]) -> None:
    with Lab.up(managers=2, workers=0, name=lab_name, daemon_command=stub_command, has_swarm=False) as lab:
        lab.make_swarm()
        with pytest.raises(Refused, match="already part of a swarm") as caught:
            lab.make_swarm()
        assert caught.value.reply.status == 503


UP = """
import sys
from swarmpy.lab.cluster import Lab
Lab.up(managers=2, workers=2, name=sys.argv[1], daemon_command=sys.argv[2:])
print("up", flush=True)
"""


@pytest.mark.parametrize("processes", [0, 1, 2, 4, 7, 10])
def test_nothing_is_left_when_up_itself_is_killed(
    lab_name: str, stub_command: tuple[str, ...], processes: int
) -> None:
    """Kill it as soon as it has made so many processes (ten when all hosts are there)."""
    before = machine()
    with subprocess.Popen([sys.executable, "-c", UP, lab_name, *stub_command]) as child:
        has_begun = process.wait_until(
            lambda: (layout.STATE_ROOT / lab_name).exists() and len(process.inits(lab_name)) >= processes,
            timeout_s=DEADLINE_S,
        )
        child.send_signal(signal.SIGKILL)
    assert has_begun

    assert Lab.remove(lab_name) is True

    for _ in range(5):  # what was on the way into being would show now
        assert traces(lab_name) == []
        assert machine() == before
        time.sleep(0.02)
    assert Lab.remove(lab_name) is False


def test_the_command_line_says_what_it_did(stub_lab: Lab) -> None:
    name = ["--name", stub_lab.layout.name]
    runner = CliRunner()

    listed = runner.invoke(app, ["status", *name])
    assert listed.exit_code == 0
    assert listed.stdout.split()[:4] == ["NODE", "ADDRESS", "DAEMON", "PID"]
    assert "manager (leader)" in listed.stdout

    killed = runner.invoke(app, ["kill", "node-2", *name])
    assert (killed.exit_code, killed.stdout) == (0, "The daemon of node-2 is dead; its tasks go on.\n")
    assert runner.invoke(app, ["start", "node-2", *name]).exit_code == 0

    printed = runner.invoke(app, ["env", "node-1", *name])
    assert printed.stdout == f"export DOCKER_HOST={stub_lab.docker_host('node-1')}\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["kill", "node-9"], 'has no node "node-9"; its nodes are node-1 … node-3.'),
        (["cut", "node-1", "--one-way", "up"], "'up' is not one of"),
        (["resume"], "Missing argument"),
    ],
)
def test_bad_arguments_are_answered_with_a_sentence(stub_lab: Lab, arguments: list[str], says: str) -> None:
    result = CliRunner().invoke(app, [*arguments, "--name", stub_lab.layout.name])

    assert result.exit_code != 0
    assert says in result.output


def test_exec_passes_output_and_exit_code_on(stub_lab: Lab) -> None:
    argv = [
        sys.executable,
        "-c",
        "from swarmpy.cli.dev import app; app()",
        "exec",
        "--name",
        stub_lab.layout.name,
    ]

    done = subprocess.run(
        [*argv, "node-2", "--", "sh", "-c", "hostname; exit 7"], capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stdout) == (7, "node-2\n")
