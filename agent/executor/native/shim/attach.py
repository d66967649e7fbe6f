"""``Audience``: who is attached to a task, at a socket in its folder that its shim listens on.

What the task prints goes to all who are attached; what they send goes to its input, if it has one, and one of
them may close it. The task comes first: a client that is too far behind is let go, unless it has asked the
task to wait for it, and nobody is waited for but for a moment at the end. Who is let go finds all that it
missed in the log, since each was told where the log stood when it came.

A task whose socket cannot be made runs all the same.
"""

from __future__ import annotations

import _socket
import os
import select
import sys
import time

from agent.executor.native.shim import frames, relay

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

SOCKET = "attach"
ATTACHED_MAX = 8
BACKLOG_BYTES_MAX = 1 << 20
HELD_BYTES = 1 << 18
"""So far behind may be who is waited for before the task waits."""
LAST_WORDS_S = 0.5
_READ_BYTES = 32_768
_WAITING_MAX = 8


class _Client:
    __slots__ = ("is_waited_for", "received", "sent", "sock")

    def __init__(self, sock: _socket.socket, place: bytes) -> None:
        self.sock = sock
        self.sent = bytearray(frames.frame(frames.STARTED, place))
        self.received = bytearray()
        self.is_waited_for = False


class Audience:
    """``feed``: where the task's input goes, -1 if nowhere; ``terminal``: its terminal, -1 if none. ``place``
    says where the log stands."""

    def __init__(
        self, folder: str, poll: select.poll, *, feed: int, terminal: int, place: Callable[[], bytes] = bytes
    ) -> None:
        self._poll = poll
        self._feed = feed
        self._terminal = terminal
        self._place = place
        self._fed = bytearray()
        self._is_feed_watched = False
        self._is_feed_ending = False
        self._clients: dict[int, _Client] = {}
        self._door = _open_door(folder)
        if feed >= 0:
            os.set_blocking(feed, False)
        if self._door is not None:
            poll.register(self._door.fileno(), select.POLLIN)

    @property
    def is_behind(self) -> bool:
        """Whether somebody who is waited for has enough to read."""
        return any(each.is_waited_for and len(each.sent) > HELD_BYTES for each in self._clients.values())

    def serve(self, fd: int, event: int) -> bool:
        """What poll(2) said of a descriptor; False if it is none of ours."""
        if self._door is not None and fd == self._door.fileno():
            self._admit(self._door)
            return True
        if fd == self._feed:
            self._feed_task()
            return True
        client = self._clients.get(fd)
        if client is None:
            return False
        if event & select.POLLOUT:
            self._flush(fd, client)
        if fd in self._clients and event & (select.POLLIN | select.POLLHUP | select.POLLERR):
            self._receive(fd, client)
        return True

    def tell(self, stream: int, data: bytes) -> None:
        for fd, client in list(self._clients.items()):
            client.sent += frames.frame(stream, data)
            self._flush(fd, client)
            if fd in self._clients and len(client.sent) > BACKLOG_BYTES_MAX and not client.is_waited_for:
                self._let_go(fd)

    def finish(self, code: int) -> None:
        """The task has ended."""
        if self._door is not None:
            self._door.close()
        for client in self._clients.values():
            client.sent += frames.frame(frames.EXITED, str(code).encode())
        deadline = time.monotonic() + LAST_WORDS_S
        for fd in list(self._clients):
            self._flush(fd, self._clients[fd])
        while any(client.sent for client in self._clients.values()) and time.monotonic() < deadline:
            poll = select.poll()
            for fd, client in self._clients.items():
                if client.sent:
                    poll.register(fd, select.POLLOUT)
            for fd, _ in poll.poll(LAST_WORDS_S * 1000):
                self._flush(fd, self._clients[fd])
        for fd in list(self._clients):
            self._let_go(fd)

    def _admit(self, door: _socket.socket) -> None:
        try:
            fd, _ = door._accept()  # type: ignore[attr-defined]
        except OSError:
            return
        sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, fd)
        if len(self._clients) >= ATTACHED_MAX:
            sock.close()
            return
        sock.setblocking(False)
        self._clients[fd] = _Client(sock, self._place())
        self._poll.register(fd, select.POLLIN)
        self._flush(fd, self._clients[fd])

    def _flush(self, fd: int, client: _Client) -> None:
        try:
            while client.sent:
                del client.sent[: client.sock.send(client.sent)]
        except BlockingIOError:
            pass
        except OSError:
            self._let_go(fd)
            return
        self._watch(fd, client)

    def _watch(self, fd: int, client: _Client) -> None:
        wanted = select.POLLOUT if client.sent else 0
        if len(self._fed) < BACKLOG_BYTES_MAX:
            wanted |= select.POLLIN
        self._poll.modify(fd, wanted)

    def _receive(self, fd: int, client: _Client) -> None:
        try:
            data = client.sock.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        client.received += data
        try:
            for kind, content in frames.take_frames(client.received):
                if kind == frames.INPUT and self._feed >= 0 and not self._is_feed_ending:
                    self._fed += content
                    self._feed_task()
                elif kind == frames.END_OF_INPUT and self._feed >= 0 and self._terminal < 0:
                    self._is_feed_ending = True
                    self._feed_task()
                elif kind == frames.HOLD:
                    client.is_waited_for = True
                elif kind == frames.RESIZE and self._terminal >= 0:
                    relay.resize(self._terminal, content)
        except frames.Garbled:
            data = b""
        if not data:
            self._let_go(fd)
        else:
            self._watch(fd, client)

    def _feed_task(self) -> None:
        """Give the task what waits for it; while it takes no more, its clients are not listened to."""
        if self._feed < 0:
            return
        was_watched = self._is_feed_watched
        try:
            while self._fed:
                del self._fed[: os.write(self._feed, self._fed)]
        except BlockingIOError:
            pass
        except OSError:
            self._fed.clear()  # it has closed its input
        if bool(self._fed) != self._is_feed_watched:
            self._is_feed_watched = bool(self._fed)
            if self._is_feed_watched:
                self._poll.register(self._feed, select.POLLOUT)
            else:
                self._poll.unregister(self._feed)
        if self._is_feed_ending and not self._fed:
            os.close(self._feed)
            self._feed = -1
        if was_watched:
            for fd, client in self._clients.items():
                self._watch(fd, client)

    def _let_go(self, fd: int) -> None:
        self._poll.unregister(fd)
        self._clients.pop(fd).sock.close()


def _open_door(folder: str) -> _socket.socket | None:
    try:
        fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # by way of /proc, since a socket's path may have 107 bytes only
            path = f"/proc/self/fd/{fd}/{SOCKET}"
            if os.path.lexists(path):
                os.unlink(path)
            door = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0)
            former = os.umask(0o177)
            try:
                door.bind(path)
            finally:
                os.umask(former)
        finally:
            os.close(fd)
        door.listen(_WAITING_MAX)
        door.setblocking(False)
    except OSError as error:
        sys.stderr.write(f"swarmpy-shim {folder}: nobody can be attached: {error!r}\n")
        return None
    return door
