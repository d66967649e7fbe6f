"""Signals go to the very process that was started, whatever its number names by now."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

from agent.executor.native.job import StartRecord
from agent.executor.native.process import send_signal
from agent.executor.native.shim.supervise import process_start


def record(pid: int, start: int) -> StartRecord:
    return StartRecord(pid=pid, pid_start=start, shim=0, at=0)


def test_a_number_that_names_a_thread_now_is_not_the_process() -> None:
    """After a reboot numbers begin anew; the kernel then says ENOENT, before 6.16 EINVAL."""
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        assert thread.native_id is not None
        send_signal(record(thread.native_id, process_start(thread.native_id)), signal.SIGKILL)
        send_signal(record(thread.native_id, 1), signal.SIGKILL)
        assert thread.is_alive()
    finally:
        done.set()
        thread.join()


def test_a_number_that_names_another_process_now_is_not_the_process() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        send_signal(record(other.pid, process_start(other.pid) + 1), signal.SIGKILL)
        other.communicate(b"\n")
        assert other.returncode == 0
        send_signal(record(other.pid, 1), signal.SIGKILL)  # nobody's number


def test_the_process_itself_is_signalled() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        send_signal(record(child.pid, process_start(child.pid)), signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
