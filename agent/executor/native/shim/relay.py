"""``Relay``: what a process prints and what it is fed, between its file descriptors and one socket of frames.

Runs in a shim, with poll(2) and bounded buffers: while the socket takes no more the process's output is not
read, and while the process reads no more the socket is not, so each side slows the other down.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
import struct
import termios

from agent.executor.native.shim import frames

READ_BYTES = 32_768
BUFFER_BYTES_MAX = 262_144


class Gone(Exception):
    """Nobody is at the other end of the socket any more."""


class Relay:
    """``outputs``: file descriptor to kind of frame; ``feed``: the process's input, -1 if it has none."""

    def __init__(self, sock: int, outputs: dict[int, int], feed: int, *, terminal: int = -1) -> None:
        self._sock = sock
        self._outputs = dict(outputs)
        self._feed = feed
        self._terminal = terminal
        self._sent = bytearray()
        self._received = bytearray()
        self._fed = bytearray()
        self._is_feed_ending = False
        for fd in {sock, *outputs, *([feed] if feed >= 0 else [])}:
            os.set_blocking(fd, False)

    def send(self, kind: int, content: bytes = b"") -> None:
        self._sent += frames.frame(kind, content)

    def run(self, child: int) -> None:
        """Until the process with this pidfd has ended and all that it printed was sent. Raises Gone."""
        while self._step(child, is_alive=True):
            pass
        self._drain()
        while self._outputs or self._sent:
            self._step(child, is_alive=False)
            self._drain()

    def finish(self, kind: int, content: bytes) -> None:
        """Send the last frame, and wait until the socket has it all. Raises Gone."""
        self.send(kind, content)
        while self._sent:
            self._step(-1, is_alive=False)

    def _step(self, child: int, *, is_alive: bool) -> bool:
        """Wait for something to do, and do it. False once the process has ended."""
        poll = select.poll()
        poll.register(self._sock, self._wanted_of_socket())
        if is_alive:
            poll.register(child, select.POLLIN)
        if len(self._sent) < BUFFER_BYTES_MAX:
            for fd in self._outputs:
                poll.register(fd, select.POLLIN)
        if self._fed and self._feed not in self._outputs:
            poll.register(self._feed, select.POLLOUT)
        elif self._fed:
            poll.register(self._feed, select.POLLIN | select.POLLOUT)
        for fd, event in poll.poll():
            if fd == child and is_alive:
                return False
            if fd == self._sock:
                self._serve_socket(event)
            else:
                self._serve_process(fd, event)
        return True

    def _wanted_of_socket(self) -> int:
        takes_more = len(self._fed) < BUFFER_BYTES_MAX
        return (select.POLLIN if takes_more else 0) | (select.POLLOUT if self._sent else 0)

    def _serve_process(self, fd: int, event: int) -> None:
        is_readable = event & (select.POLLIN | select.POLLHUP | select.POLLERR)
        if fd in self._outputs and is_readable and not self._copy(fd):
            self._outputs.pop(fd)
        if fd == self._feed and event & (select.POLLOUT | select.POLLERR | select.POLLHUP):
            self._feed_process()

    def _copy(self, fd: int) -> bool:
        """One read's worth; False at the end. A terminal whose other end is closed reports EIO."""
        try:
            data = os.read(fd, READ_BYTES)
        except BlockingIOError:
            return True
        except OSError as error:
            if error.errno == errno.EIO:
                return False
            raise
        if data:
            self.send(self._outputs[fd], data)
        return bool(data)

    def _drain(self) -> None:
        """The process has ended: what it left behind is all there will be, whoever else holds its pipes."""
        for fd in list(self._outputs):
            while len(self._sent) < BUFFER_BYTES_MAX:
                before = len(self._sent)
                if not self._copy(fd) or len(self._sent) == before:
                    self._outputs.pop(fd)
                    break

    def _serve_socket(self, event: int) -> None:
        if event & select.POLLOUT:
            try:
                del self._sent[: os.write(self._sock, self._sent)]
            except BlockingIOError:
                pass
            except OSError:
                raise Gone from None
        if event & (select.POLLIN | select.POLLHUP | select.POLLERR):
            self._receive()

    def _receive(self) -> None:
        try:
            data = os.read(self._sock, READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            raise Gone from None
        if not data:
            raise Gone
        self._received += data
        for kind, content in frames.take_frames(self._received):
            if kind == frames.INPUT and self._feed >= 0 and not self._is_feed_ending:
                self._fed += content
                self._feed_process()
            elif kind == frames.END_OF_INPUT:
                self._is_feed_ending = True
                self._feed_process()
            elif kind == frames.RESIZE and self._terminal >= 0:
                resize(self._terminal, content)

    def _feed_process(self) -> None:
        try:
            while self._fed:
                del self._fed[: os.write(self._feed, self._fed)]
        except BlockingIOError:
            return
        except OSError:
            self._fed.clear()  # it has closed its input, or ended
            self._is_feed_ending = True
        if self._is_feed_ending and self._feed >= 0 and self._feed != self._terminal:
            os.close(self._feed)
            self._feed = -1


def resize(terminal: int, content: bytes) -> None:
    """Set a terminal's size from the text of a frame; what makes no sense is left out."""
    rows, _, columns = content.partition(b" ")
    if rows.isdigit() and columns.isdigit():
        size = struct.pack("HHHH", min(int(rows), 0xFFFF), min(int(columns), 0xFFFF), 0, 0)
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, size)


def kill_session(leader: int, cgroups: list[str]) -> None:
    """Kill a command and all that it started and did not send into a session of its own."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        pass
    for folder in cgroups[:1]:
        try:
            with open(f"{folder}/cgroup.procs", encoding="ascii") as file:
                pids = [int(line) for line in file]
        except OSError:
            continue  # the task has ended, and the command with it
        for pid in pids:
            if pid and _session_of(pid) == leader:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue


def _session_of(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[3])
    except (OSError, IndexError):
        return 0
