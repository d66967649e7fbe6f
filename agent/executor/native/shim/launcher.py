"""The launcher: a small process beside the daemon that forks a shim for every order.

Why: a daemon with threads and gRPC must never fork, and an interpreter per task costs some 15 ms of CPU and
4 MB. This one has a single thread, has loaded what a shim needs, and forks in well under a millisecond;
the shims share its memory.

Protocol, on the packet socket at file descriptor 0: one packet per order, a byte for what to do and the path
of the task's folder, with one file descriptor attached: to start the task (``START``) the write end of the
report pipe, to work inside it (``ENTER``) the socket on which the daemon says what. Nothing is answered here.
End of file: the daemon is gone, and so the launcher goes; shims stay.
"""

from __future__ import annotations

import _socket
import array
import gc
import os
import signal
import sys

from agent.executor.native.shim import inside, kernel, supervise

START = b"s"
ENTER = b"e"
PACKET_BYTES_MAX = 4096
_FD_BYTES = 4


def main() -> None:
    kernel.set_process_name("swarmpy-launch")
    os.setsid()
    os.umask(0o022)  # what tasks find is made with modes that must not depend on the daemon's
    orders = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, os.dup(0))
    os.set_inheritable(orders.fileno(), False)
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for shims: they outlive us
    gc.collect()
    gc.disable()
    gc.freeze()  # so that shims write to as few shared pages as may be
    while True:
        packet, ancillary, _, _ = orders.recvmsg(PACKET_BYTES_MAX, _socket.CMSG_SPACE(_FD_BYTES))
        if not packet:
            return
        fd = _received_fd(ancillary)
        if not os.fork():  # noqa: TID251 - this process exists so that the daemon need not fork
            orders.close()
            _run_shim(packet[:1], os.fsdecode(packet[1:]), fd)
        os.close(fd)


def _received_fd(ancillary: list[tuple[int, int, bytes]]) -> int:
    fds = array.array("i")
    for _, _, data in ancillary:
        fds.frombytes(data[:_FD_BYTES])
    os.set_inheritable(fds[0], False)
    return fds[0]


def _run_shim(verb: bytes, folder: str, fd: int) -> None:
    code = 1
    try:
        if verb == START:
            supervise.run(folder, fd)
        else:
            inside.run(folder, fd)
        code = 0
    except Exception as error:  # noqa: BLE001 - the top of a process; its last words go to the daemon's log
        sys.stderr.write(f"swarmpy-shim {folder}: {error!r}\n")
        sys.stderr.flush()
    finally:
        os._exit(code)
