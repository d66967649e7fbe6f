"""Signals go to the very process that was started, whatever its number names by now."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time

from agent.executor.native.job import StartRecord
from agent.executor.native.process import can_be_ended_by, send_signal
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


def test_a_process_that_waits_for_a_signal_may_be_ended_by_it() -> None:
    """As the init programs of images do; while they wait, the kernel shows the signal as not even blocked."""
    script = "import signal\nprint(flush=True)\nsignal.sigtimedwait([signal.SIGTERM], 60)"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        deadline = time.monotonic() + 20
        while (
            not (can := can_be_ended_by(record(child.pid, 0), signal.SIGTERM)) and time.monotonic() < deadline
        ):
            time.sleep(0.005)
        child.kill()
    assert can
