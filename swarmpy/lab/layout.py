"""What a lab consists of: names, addresses, folders, the daemon's command line. Values only.

A lab is a *switch* and up to ``LAB_HOSTS_MAX`` *hosts*. Every path and address follows from the lab's name
and the host's number, so two labs never share a file, and ``lab.json`` records choices, not state: whether
a host lives or is cut off is always asked of the kernel.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from swarmpy.errors import InvalidArgument, NotFound
from swarmpy.lab.limits import LAB_HOSTS_MAX, LAB_NAME_CHARS_MAX

STATE_ROOT: Final = Path("/run/swarmpy-lab")
DATA_ROOT: Final = Path("/var/lib/swarmpy-lab")
"""On disk and not under /run, so that syncing a Raft log costs what it costs on a real host."""
MARK: Final = "swarmpy-lab"
SWITCH: Final = "switch"
SWITCH_ADDRESS: Final = "10.200.0.1"
PREFIX_BITS: Final = 24
SWARM_PORT: Final = 2377
SOCKET_IN_HOST: Final = "/run/swarmpy/swarmpy.sock"
HOST_SCRIPT: Final = Path(__file__).with_name("host.sh")

DAEMON_COMMAND: Final = (
    sys.executable, "-m", "swarmpy", "daemon",
    "--data-dir", "{data_dir}", "--socket", "{socket}", "--hostname", "{hostname}",
    "--listen-addr", "{listen}", "--advertise-addr", "{address}", "--cgroup-parent", "{cgroup_parent}",
)  # fmt: skip
"""What runs on each host; the words in braces are filled in by ``Host.daemon_argv``."""


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """One host of a lab. ``is_manager`` is the role it was made with; the swarm may have changed it since."""

    lab: str
    name: str
    number: int
    is_manager: bool = False
    executor: str = ""
    """What runs its tasks; empty: what its daemon finds first."""

    @property
    def address(self) -> str:
        return f"10.200.0.{10 + self.number}"

    @property
    def mac(self) -> str:
        """Fixed, as of a real network card: peers' neighbour tables stay right over a power cycle."""
        return f"02:5a:00:c8:00:{10 + self.number:02x}"

    @property
    def folder(self) -> Path:
        return STATE_ROOT / self.lab / self.name

    @property
    def data_dir(self) -> Path:
        return DATA_ROOT / self.lab / self.name

    @property
    def run_dir(self) -> Path:
        """The host's /run/swarmpy, as the machine sees it."""
        return self.folder / "run"

    @property
    def socket(self) -> Path:
        return self.run_dir / "swarmpy.sock"

    @property
    def log(self) -> Path:
        return self.folder / "daemon.log"

    @property
    def cgroup_parent(self) -> str:
        return f"/{MARK}/{self.lab}/{self.name}"

    @property
    def listen(self) -> str:
        return f"{self.address}:{SWARM_PORT}"

    def daemon_argv(self, template: tuple[str, ...]) -> list[str]:
        """Fill ``{data_dir}``, ``{socket}``, … in the words of the daemon's command line."""
        values = {
            "data_dir": str(self.data_dir),
            "socket": SOCKET_IN_HOST,
            "hostname": self.name,
            "listen": self.listen,
            "address": self.address,
            "cgroup_parent": self.cgroup_parent,
        }
        words = [re.sub(r"\{(\w+)\}", lambda m: values.get(m[1], m[0]), word) for word in template]
        return [*words, "--executor", self.executor] if self.executor else words


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """A whole lab, as recorded in ``lab.json``."""

    name: str
    hosts: tuple[Host, ...]
    daemon_command: tuple[str, ...] = DAEMON_COMMAND

    @property
    def folder(self) -> Path:
        return STATE_ROOT / self.name

    @property
    def data_folder(self) -> Path:
        return DATA_ROOT / self.name

    @property
    def switch(self) -> Host:
        return Host(lab=self.name, name=SWITCH, number=0)

    @property
    def managers(self) -> tuple[Host, ...]:
        return tuple(host for host in self.hosts if host.is_manager)

    @property
    def workers(self) -> tuple[Host, ...]:
        return tuple(host for host in self.hosts if not host.is_manager)

    def host(self, name: str) -> Host:
        for host in self.hosts:
            if host.name == name:
                return host
        names = f"{self.hosts[0].name} … {self.hosts[-1].name}" if len(self.hosts) > 1 else self.hosts[0].name
        raise NotFound(f'The lab "{self.name}" has no node "{name}"; its nodes are {names}.')


def plan_lab(
    *,
    name: str,
    managers: int,
    workers: int,
    daemon_command: tuple[str, ...] = DAEMON_COMMAND,
    executors: Mapping[str, str] | None = None,
) -> Layout:
    """Number the hosts, managers first. Refuses names and counts that a lab cannot have.

    ``executors``: by the host's name; "" is for the others.
    """
    check_name(name)
    if managers < 1 or workers < 0:
        raise InvalidArgument(
            "A lab needs at least one manager, and its number of workers cannot be negative."
        )
    if managers + workers > LAB_HOSTS_MAX:
        raise InvalidArgument(
            f"A lab has at most {LAB_HOSTS_MAX} nodes; {managers + workers} were asked for."
        )
    wanted = dict(executors or {})
    rest = wanted.pop("", "")
    hosts = tuple(
        Host(
            lab=name,
            name=f"node-{number}",
            number=number,
            is_manager=number <= managers,
            executor=wanted.pop(f"node-{number}", rest),
        )
        for number in range(1, managers + workers + 1)
    )
    if wanted:
        raise InvalidArgument(f'An executor is named for "{min(wanted)}", and the lab has no such node.')
    return Layout(name=name, hosts=hosts, daemon_command=daemon_command)


def check_name(name: str) -> None:
    """A lab's name becomes part of paths, of cgroup names and of a socket path of 107 bytes at most."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name) or len(name) > LAB_NAME_CHARS_MAX:
        raise InvalidArgument(
            f'"{name}" is no name for a lab: use up to {LAB_NAME_CHARS_MAX} lower-case letters, digits and '
            "dashes, beginning with a letter or digit."
        )


def save(layout: Layout) -> None:
    """Write ``lab.json`` whole: a reader finds the old one, the new one or none."""
    target = layout.folder / "lab.json"
    temporary = target.with_suffix(".tmp")
    temporary.write_bytes(msgspec.json.format(msgspec.json.encode(layout)))
    temporary.replace(target)


def load(name: str) -> Layout:
    check_name(name)
    try:
        data = (STATE_ROOT / name / "lab.json").read_bytes()
    except FileNotFoundError:
        raise NotFound(
            f'There is no lab "{name}" here; start one with "swarmpy dev up --name {name}".'
        ) from None
    try:
        return msgspec.json.decode(data, type=Layout)
    except msgspec.DecodeError as error:
        raise InvalidArgument(
            f'The record of the lab "{name}" does not read ({error}); '
            f'remove the lab with "swarmpy dev down --name {name}".'
        ) from None


def names() -> list[str]:
    """Every lab that left a folder here, whole or not."""
    found = {path.name for root in (STATE_ROOT, DATA_ROOT) if root.is_dir() for path in root.iterdir()}
    return sorted(found)
