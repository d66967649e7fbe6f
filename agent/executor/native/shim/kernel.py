"""System calls that the standard library of Python 3.11 does not offer, through ctypes.

Each raises ``OSError`` with the call and its target in the text. Nothing is decided here.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_SYNCHRONOUS = 16
MS_REMOUNT = 32
MS_MANDLOCK = 64
MS_DIRSYNC = 128
MS_NOATIME = 1024
MS_NODIRATIME = 2048
MS_BIND = 4096
MS_REC = 16384
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20
MS_RELATIME = 1 << 21
MS_PRIVATE = 1 << 18
MS_STRICTATIME = 1 << 24
MNT_DETACH = 2
MOUNT_ATTR_RDONLY = 1
MOUNT_ATTR_NOSUID = 2
MOUNT_ATTR_NODEV = 4
MOUNT_ATTR_NOEXEC = 8
_MOUNT_ATTR_IDMAP = 0x100000
MOUNT_FLAGS = {
    "ro": (True, MS_RDONLY),
    "rw": (False, MS_RDONLY),
    "nosuid": (True, MS_NOSUID),
    "suid": (False, MS_NOSUID),
    "nodev": (True, MS_NODEV),
    "dev": (False, MS_NODEV),
    "noexec": (True, MS_NOEXEC),
    "exec": (False, MS_NOEXEC),
    "sync": (True, MS_SYNCHRONOUS),
    "async": (False, MS_SYNCHRONOUS),
    "dirsync": (True, MS_DIRSYNC),
    "mand": (True, MS_MANDLOCK),
    "nomand": (False, MS_MANDLOCK),
    "noatime": (True, MS_NOATIME),
    "atime": (False, MS_NOATIME),
    "nodiratime": (True, MS_NODIRATIME),
    "diratime": (False, MS_NODIRATIME),
    "relatime": (True, MS_RELATIME),
    "norelatime": (False, MS_RELATIME),
    "strictatime": (True, MS_STRICTATIME),
    "nostrictatime": (False, MS_STRICTATIME),
    "bind": (True, MS_BIND),
    "rbind": (True, MS_BIND | MS_REC),
    "defaults": (True, 0),
}
"""Words of mount options that are flags to mount(2), and whether they set them or clear them."""

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_NAME = 15
_PR_SET_KEEPCAPS = 8
_PR_SET_SECCOMP = 22
_SECCOMP_MODE_FILTER = 2
_PR_CAPBSET_READ = 23
_PR_CAPBSET_DROP = 24
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_CAPABILITY_VERSION_3 = 0x20080522
_CAPABILITIES = struct.Struct("=6I")
"""Effective, permitted, inheritable: of the first 32, then of the others."""

_KEYCTL_JOIN_SESSION_KEYRING = 1
_SYS_KEYCTL = {"x86_64": 250, "aarch64": 219}
# all machines share these numbers
_SYS_OPEN_TREE = 428
_SYS_MOVE_MOUNT = 429
_SYS_OPENAT2 = 437
_SYS_MOUNT_SETATTR = 442
_NS_GET_USERNS = 0xB701
_OPEN_TREE_CLONE = 1
_AT_EMPTY_PATH = 0x1000
_AT_RECURSIVE = 0x8000
_MOVE_MOUNT_BOTH_EMPTY = 0x4 | 0x40
_RESOLVE_IN_ROOT = 0x10
_RESOLVE_NO_MAGICLINKS = 0x02
_OPEN_TRIES = 16

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = (
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_ulong,
    ctypes.c_char_p,
)
_libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)
_libc.prctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong)
_libc.sethostname.argtypes = (ctypes.c_char_p, ctypes.c_size_t)
_libc.pivot_root.argtypes = (ctypes.c_char_p, ctypes.c_char_p)
_libc.capget.argtypes = (ctypes.c_char_p, ctypes.c_char_p)
_libc.capset.argtypes = (ctypes.c_char_p, ctypes.c_char_p)
_libc.syscall.restype = ctypes.c_long


def _check(result: int, call: str) -> None:
    if result == -1:
        error = ctypes.get_errno()
        raise OSError(error, f"{call}: {os.strerror(error)}")


def unshare(flags: int) -> None:
    _check(_libc.unshare(flags), "unshare")


def setns(fd: int, kind: int) -> None:
    _check(_libc.setns(fd, kind), "setns")


def mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    result = _libc.mount(
        os.fsencode(source),
        os.fsencode(target),
        kind.encode() or None,
        flags,
        os.fsencode(options) or None,
    )
    _check(result, f"mount {kind or source} on {target}")


def unmount(target: str, flags: int = 0) -> None:
    _check(_libc.umount2(os.fsencode(target), flags), f"umount {target}")


def owner_of(namespace: int) -> int:
    """The user namespace that a namespace belongs to, opened. PermissionError if it is none below our own."""
    return fcntl.ioctl(namespace, _NS_GET_USERNS)


def pivot_root(new_root: str, put_old: str) -> None:
    _check(_libc.pivot_root(os.fsencode(new_root), os.fsencode(put_old)), f"pivot_root {new_root}")


def open_in_root(root: int, path: str) -> int:
    """``path`` as a process with that root would find it, whatever links lie on the way. O_PATH."""
    how = struct.pack("=QQQ", os.O_PATH | os.O_CLOEXEC, 0, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)
    for _ in range(_OPEN_TRIES):
        fd = _libc.syscall(_SYS_OPENAT2, root, os.fsencode(path), how, ctypes.c_size_t(len(how)))
        if fd >= 0 or ctypes.get_errno() != errno.EAGAIN:  # something was renamed on the way
            break
    _check(fd, f"openat2 {path}")
    return int(fd)


def clone_tree(path: str, *, is_recursive: bool = True) -> int:
    """What is mounted at ``path``, with or without what is below, as a tree that is not mounted yet."""
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC | (_AT_RECURSIVE if is_recursive else 0)
    fd = _libc.syscall(_SYS_OPEN_TREE, -100, os.fsencode(path), flags)
    _check(fd, f"open_tree {path}")
    return int(fd)


def attach_tree(tree: int, target: int) -> None:
    _check(_libc.syscall(_SYS_MOVE_MOUNT, tree, b"", target, b"", _MOVE_MOUNT_BOTH_EMPTY), "move_mount")


def set_mount(mount_fd: int, attributes: int, *, propagation: int = 0, is_recursive: bool = False) -> None:
    """Add attributes to what is mounted there. ENOSYS before Linux 5.12."""
    attr = struct.pack("=QQQQ", attributes, 0, propagation, 0)
    flags = _AT_EMPTY_PATH | (_AT_RECURSIVE if is_recursive else 0)
    size = ctypes.c_size_t(len(attr))
    _check(_libc.syscall(_SYS_MOUNT_SETATTR, mount_fd, b"", flags, attr, size), "mount_setattr")


def map_ids(tree: int, user_namespace: int) -> None:
    """Owners in a tree that is not mounted yet are those of the namespace. ENOSYS before Linux 5.12."""
    attr = struct.pack("=QQQQ", _MOUNT_ATTR_IDMAP, 0, 0, user_namespace)
    size = ctypes.c_size_t(len(attr))
    _check(_libc.syscall(_SYS_MOUNT_SETATTR, tree, b"", _AT_EMPTY_PATH, attr, size), "mount_setattr")


def set_hostname(name: str) -> None:
    raw = os.fsencode(name)
    _check(_libc.sethostname(raw, len(raw)), "sethostname")


def set_parent_death_signal(signal: int) -> None:
    _check(_libc.prctl(_PR_SET_PDEATHSIG, signal, 0, 0, 0), "prctl(PR_SET_PDEATHSIG)")


def set_process_name(name: str) -> None:
    buffer = ctypes.create_string_buffer(name.encode()[:15])
    _check(_libc.prctl(_PR_SET_NAME, ctypes.addressof(buffer), 0, 0, 0), "prctl(PR_SET_NAME)")


def set_command_line(text: str) -> None:
    """What is shown as this process's arguments, in the room that its first ones took."""
    with open("/proc/self/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    start, end = int(fields[45]), int(fields[46])
    if start:
        ctypes.memset(start, 0, end - start)
        ctypes.memmove(start, text.encode()[: end - start - 1], min(len(text.encode()), end - start - 1))


def forbid_looking_in() -> None:
    """Until the next program, nobody but a tracer by right sees this process's memory, files and program."""
    _check(_libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0), "prctl(PR_SET_DUMPABLE)")


def adopt_orphans() -> None:
    """Become the parent of what a child of this process leaves behind."""
    _check(_libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl(PR_SET_CHILD_SUBREAPER)")


def leave_session_keys() -> None:
    """Begin with keys of one's own. Where the kernel has none, or lets nobody ask, there are none."""
    number = _SYS_KEYCTL.get(os.uname().machine)
    if number is None or _libc.syscall(number, _KEYCTL_JOIN_SESSION_KEYRING, None) >= 0:
        return
    if ctypes.get_errno() not in (errno.ENOSYS, errno.EPERM):
        _check(-1, "keyctl")


def set_no_new_privileges() -> None:
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl(PR_SET_NO_NEW_PRIVS)")


def keep_capabilities() -> None:
    """Keep them over a change of account, up to the next program."""
    _check(_libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0), "prctl(PR_SET_KEEPCAPS)")


def set_filter(program: bytes) -> None:
    """Have every system call from now on go by this filter."""
    code = ctypes.create_string_buffer(program, len(program))
    head = struct.pack("@HP", len(program) // 8, ctypes.addressof(code))
    buffer = ctypes.create_string_buffer(head, len(head))
    result = _libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(buffer), 0, 0)
    _check(result, "prctl(PR_SET_SECCOMP)")


def drop_bounding(keep: set[int]) -> None:
    """Take every capability that is not in ``keep`` out of the bounding set, and all ambient ones."""
    for capability in range(64):
        if capability in keep:
            continue
        dropped = _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
        if dropped == -1:
            error = ctypes.get_errno()
            held = _libc.prctl(_PR_CAPBSET_READ, capability, 0, 0, 0)
            if held == -1:  # past the last one that this kernel knows
                break
            if held:
                raise OSError(error, f"prctl(PR_CAPBSET_DROP): {os.strerror(error)}")
    # kernels before 4.3 have no ambient set, hence nothing to clear
    _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)


def set_capabilities(keep: set[int]) -> None:
    """Make ``keep`` all that this process holds and may pass on; as much of it as it holds now."""
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    held = ctypes.create_string_buffer(_CAPABILITIES.size)
    _check(_libc.capget(header, held), "capget")
    _, low, _, _, high, _ = _CAPABILITIES.unpack(held.raw)
    mask = (high << 32 | low) & sum(1 << capability for capability in keep)
    low, high = mask & 0xFFFFFFFF, mask >> 32
    _check(_libc.capset(header, _CAPABILITIES.pack(low, low, 0, high, high, 0)), "capset")
