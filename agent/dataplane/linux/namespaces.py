"""Network namespaces kept by a bind mount, made and entered without a fork.

Only the calling thread changes its namespace, and every function returns it to the one that it came from;
if that ever fails the process must not go on, since all that the thread did afterwards would hit a task.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from agent.dataplane.linux.netlink import Netlink
from agent.executor.native.shim import kernel

_OWN = "/proc/thread-self/ns/net"
_SETTINGS = (
    ("ipv6/conf/default/disable_ipv6", b"1"),
    ("bridge/bridge-nf-call-iptables", b"0"),
    ("bridge/bridge-nf-call-ip6tables", b"0"),
    ("bridge/bridge-nf-call-arptables", b"0"),
)


@contextmanager
def _returning() -> Iterator[None]:
    home = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield
    finally:
        try:
            kernel.setns(home, kernel.CLONE_NEWNET)
        except OSError as error:
            raise AssertionError(f"the thread cannot return to the node's namespace: {error}") from None
        finally:
            os.close(home)


def make(path: Path, *, has_bridge: bool = True) -> Netlink:
    """A new namespace at ``path``, and a socket in it. IPv6 is off on all but loopback, as in Docker.

    ``has_bridge``: a bridge will be in it, which the packet filter is to leave alone.
    """
    path.touch(mode=0o444)
    with _returning():
        kernel.unshare(kernel.CLONE_NEWNET)
        _settle(_SETTINGS if has_bridge else _SETTINGS[:1])
        netlink = Netlink()
        try:
            kernel.mount(_OWN, str(path), flags=kernel.MS_BIND)
        except OSError:
            netlink.close()
            raise
    return netlink


def settle(path: Path) -> None:
    """The settings of one without a bridge, for a namespace that others have made."""
    with inside(path):
        _settle(_SETTINGS[:1])


@contextmanager
def inside(path: Path) -> Iterator[None]:
    """Be in the namespace at ``path`` until the block ends."""
    with open(path, "rb") as netns, _returning():
        kernel.setns(netns.fileno(), kernel.CLONE_NEWNET)
        yield


def enter(path: Path) -> Netlink:
    """A socket in the namespace at ``path``."""
    with inside(path):
        return Netlink()


@contextmanager
def scratch() -> Iterator[None]:
    """Be in a fresh namespace that ends with the block."""
    with _returning():
        kernel.unshare(kernel.CLONE_NEWNET)
        yield


def is_live(path: Path) -> bool:
    """Whether a namespace is mounted there, not just the file that it was mounted on."""
    try:
        return os.stat(path).st_dev == os.stat(_OWN).st_dev
    except FileNotFoundError:
        return False


def remove(path: Path) -> None:
    """Let the namespace go. It ends when the last process and socket in it have."""
    if is_live(path):
        kernel.unmount(str(path), kernel.MNT_DETACH)
    path.unlink(missing_ok=True)


def prepare_folder(folder: Path) -> None:
    """Make ``folder`` a mount of its own, private: so its mounts can be hidden from tasks in one stroke."""
    folder.mkdir(mode=0o711, parents=True, exist_ok=True)
    if not _is_mount_point(folder):
        kernel.mount(str(folder), str(folder), flags=kernel.MS_BIND)
        kernel.mount("", str(folder), flags=kernel.MS_PRIVATE)


def remove_folder(folder: Path) -> None:
    if _is_mount_point(folder):
        kernel.unmount(str(folder), kernel.MNT_DETACH)
    if folder.is_dir():
        folder.rmdir()


def _is_mount_point(folder: Path) -> bool:
    wanted = str(folder.resolve())
    lines = Path("/proc/thread-self/mountinfo").read_text().splitlines()
    return any(line.split(" ", 5)[4] == wanted for line in lines)


def _settle(settings: Sequence[tuple[str, bytes]]) -> None:
    """/proc/sys/net is the calling thread's."""
    for name, value in settings:
        try:
            fd = os.open(f"/proc/sys/net/{name}", os.O_WRONLY | os.O_CLOEXEC)
        except OSError:
            continue  # a kernel without IPv6, or without the filter on bridges
        os.write(fd, value)
        os.close(fd)
