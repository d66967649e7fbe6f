"""Hosts and the switch come and go: namespaces, cables, cuts, the daemon, and what they leave behind.

Each function carries out one step on the machine and may be repeated. Nothing here knows the swarm.

Invariant: whatever a lab makes on the machine is a marked process, or lies in one of two folders, or is a
cgroup below one name. ``remove`` clears these three, from any half-made state.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import msgspec

from swarmpy.errors import FailedPrecondition, Unavailable
from swarmpy.lab import engines, network, process
from swarmpy.lab.layout import DATA_ROOT, MARK, STATE_ROOT, Host, Layout
from swarmpy.lab.limits import LAB_DAEMON_STOP_TIMEOUT_S, LAB_KILL_TIMEOUT_S, LAB_PARALLEL_MAX
from swarmpy.lab.network import Way
from swarmpy.lab.process import Running


def start_switch(layout: Layout) -> None:
    switch = layout.switch
    switch.folder.mkdir()
    pid = process.start_init(switch)
    process.run(process.enter_network_argv(pid, ["ip", "-batch", "-"]), text=network.SWITCH_LINKS)
    process.run(process.enter_network_argv(pid, ["nft", "-f", "-"]), text=network.SWITCH_FILTER)


def clear_data(layout: Layout) -> None:
    """A new lab starts with empty disks, also after a reboot took only the folder under /run."""
    shutil.rmtree(layout.data_folder, ignore_errors=True)


def prepare(layout: Layout, host: Host) -> None:
    """The host's disk: what survives a power failure."""
    host.folder.mkdir()
    host.data_dir.mkdir(parents=True, mode=0o700)
    (host.folder / "hosts").write_text(network.hosts_file(layout.hosts))


def power_on(layout: Layout, hosts: Sequence[Host]) -> None:
    """Boot hosts that are off, and plug them into the switch. They have no daemon yet."""

    def boot(host: Host) -> tuple[Host, int]:
        shutil.rmtree(host.run_dir, ignore_errors=True)
        return host, process.start_init(host)

    with ThreadPoolExecutor(LAB_PARALLEL_MAX) as pool:
        pids = list(pool.map(boot, hosts))
    _at_switch(layout, "ip", network.plug(pids))
    for host, pid in pids:
        process.run(process.enter_network_argv(pid, ["ip", "-batch", "-"]), text=network.address(host))
        way = cut_way(host)
        if way is not None:
            cut(layout, host, way)


def power_off(layout: Layout, host: Host) -> None:
    """As if its plug were pulled: all its processes and its link are gone at once."""
    if host.name in _ports(layout):
        _at_switch(layout, "ip", network.unplug(host))
    process.end_inits(host.lab, host.name)
    _remove_cgroups(Path(host.cgroup_parent.lstrip("/")))


def cut(layout: Layout, host: Host, way: Way) -> None:
    _record_cut(host, way)
    _at_switch(layout, "nft", network.one_way(host, way))
    _at_switch(layout, "ip", network.carrier(host, is_up=way is not Way.BOTH))


def heal(layout: Layout, host: Host) -> None:
    _record_cut(host, None)
    _at_switch(layout, "nft", network.one_way(host, None))
    if host.name in _ports(layout):
        _at_switch(layout, "ip", network.carrier(host, is_up=True))


def cut_way(host: Host) -> Way | None:
    """How the host is cut off, by the record that outlives its power cycles."""
    path = host.folder / "cut"
    return Way(path.read_text()) if path.exists() else None


def init(host: Host) -> int:
    """The pid of a host that is on."""
    pid = process.init_pid(host)
    if pid is None:
        raise FailedPrecondition(f'{host.name} is off; switch it on with "swarmpy dev start {host.name}".')
    return pid


def start_daemon(layout: Layout, host: Host) -> Running:
    """Start the daemon of a host that is on; it outlives this process."""
    pid = init(host)
    if daemon(host) is not None:
        raise FailedPrecondition(f"The daemon of {host.name} is running already.")
    host.socket.unlink(missing_ok=True)
    engines.start(host, pid)
    argv = [*engines.environment(host), *host.daemon_argv(layout.daemon_command)]
    running = process.launch(pid, argv, log=host.log)
    _daemon_record(host).write_bytes(msgspec.json.encode(running))
    return running


def daemon(host: Host) -> Running | None:
    """The host's daemon, if it lives (a stopped one does)."""
    try:
        running = msgspec.json.decode(_daemon_record(host).read_bytes(), type=Running)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    return running if process.state_letter(running) is not None else None


def signal_daemon(host: Host, number: signal.Signals) -> Running:
    running = daemon(host)
    if running is None or not process.send(running, number):
        raise FailedPrecondition(
            f'No daemon is running on {host.name}; start it with "swarmpy dev start {host.name}".'
        )
    return running


def kill_daemon(host: Host) -> None:
    """kill -9 of the daemon alone; its tasks go on."""
    running = signal_daemon(host, signal.SIGKILL)
    if not process.wait_gone(running, timeout_s=LAB_KILL_TIMEOUT_S):
        raise Unavailable(
            f"The daemon of {host.name} (pid {running.pid}) does not end although it was killed."
        )


def stop_daemon(host: Host) -> bool:
    """End the daemon in good order. False if it had to be killed because it did not end in time."""
    running = signal_daemon(host, signal.SIGTERM)
    process.send(running, signal.SIGCONT)
    if process.wait_gone(running, timeout_s=LAB_DAEMON_STOP_TIMEOUT_S):
        return True
    kill_daemon(host)
    return False


def remove(lab: str) -> bool:
    """Take away everything of a lab, whatever state it is in. False if there was nothing."""
    killed = process.end_inits(lab)
    found = killed > 0
    engine_groups = [group for data in (DATA_ROOT / lab).glob("*") for group in engines.podman_groups(data)]
    for folder in (STATE_ROOT / lab, DATA_ROOT / lab):
        if folder.exists():
            found = True
            shutil.rmtree(folder)
        with contextlib.suppress(OSError):  # another lab's folder stands beside ours
            folder.parent.rmdir()
    for group in engine_groups:
        _remove_cgroups(group)
    return _remove_cgroups(Path(MARK, lab)) or found


def _daemon_record(host: Host) -> Path:
    return host.folder / "daemon.json"


def _record_cut(host: Host, way: Way | None) -> None:
    path = host.folder / "cut"
    if way is None:
        path.unlink(missing_ok=True)
    else:
        path.write_text(way)


def _at_switch(layout: Layout, tool: str, text: str) -> None:
    argv = ["ip", "-batch", "-"] if tool == "ip" else ["nft", "-f", "-"]
    process.run(process.enter_network_argv(_switch_pid(layout), argv), text=text)


def _ports(layout: Layout) -> set[str]:
    """The names of the switch's links."""
    argv = process.enter_network_argv(_switch_pid(layout), ["ip", "-brief", "link"])
    return {line.split()[0].partition("@")[0] for line in process.run(argv).splitlines()}


def _switch_pid(layout: Layout) -> int:
    pid = process.init_pid(layout.switch)
    if pid is None:
        raise FailedPrecondition(
            f'The switch of the lab "{layout.name}" is gone; '
            f'remove the lab with "swarmpy dev down --name {layout.name}".'
        )
    return pid


def _remove_cgroups(path: Path) -> bool:
    """Remove the cgroups below ``path`` in every hierarchy. Their processes have been killed before."""
    found = False
    for root in _cgroup_roots():
        top = root / path
        found = found or top.is_dir()
        for folder, _, _ in os.walk(top, topdown=False):
            if not process.wait_until(partial(_rmdir, folder), timeout_s=LAB_KILL_TIMEOUT_S):
                raise Unavailable(f"The cgroup {folder} cannot be removed: processes are still in it.")
        with contextlib.suppress(OSError):  # another lab's cgroup stands beside ours
            top.parent.rmdir()
    return found


def _rmdir(folder: str) -> bool:
    try:
        os.rmdir(folder)
    except FileNotFoundError:
        return True
    except OSError:  # EBUSY until the kernel has let go of the last process
        return False
    return True


def _cgroup_roots() -> list[Path]:
    """Where cgroup hierarchies are mounted, v1 and v2."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    return sorted({Path(words[1]) for words in map(str.split, lines) if words[2] in ("cgroup", "cgroup2")})
