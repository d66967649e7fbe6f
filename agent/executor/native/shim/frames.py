"""Frames on the socket between the daemon and a shim: a byte for the kind, four for the length, the content.

Both directions of one socket, for a command in a task and for being attached to one. Nothing is decided here.
"""

from __future__ import annotations

import os

STDOUT = 1
STDERR = 2
INPUT = 3
END_OF_INPUT = 4
RESIZE = 5
"""``rows columns``, as text."""
STARTED = 6
"""Of a command its pid, as text. Of a task, as JSON, where its log stands: what comes next is not in it.
Shims of before say nothing."""
FAILED = 7
"""JSON: what kept the command from being run, and the exit code that docker gives it."""
EXITED = 8
"""The exit code, as text."""
ORDER = 9
"""JSON: what to do inside the task."""
HOLD = 10
"""Who is attached wants the task to wait for it. Sent only to a shim that has told its place in the log."""

HEAD_BYTES = 5
CONTENT_BYTES_MAX = 4 << 20
"""Of one frame: an order with a long command line and environment is the largest."""


class Garbled(Exception):
    """The other side does not speak this language."""


def frame(kind: int, content: bytes = b"") -> bytes:
    return bytes((kind,)) + len(content).to_bytes(4) + content


def parse_head(head: bytes) -> tuple[int, int]:
    """Kind and length of the content."""
    length = int.from_bytes(head[1:HEAD_BYTES])
    if not STDOUT <= head[0] <= HOLD or length > CONTENT_BYTES_MAX:
        raise Garbled(f"a frame of kind {head[0]} with {length} bytes")
    return head[0], length


def take_frames(buffer: bytearray) -> list[tuple[int, bytes]]:
    """The whole frames at the buffer's beginning, which leave it."""
    found = []
    while len(buffer) >= HEAD_BYTES:
        kind, length = parse_head(bytes(buffer[:HEAD_BYTES]))
        end = HEAD_BYTES + length
        if len(buffer) < end:
            break
        found.append((kind, bytes(buffer[HEAD_BYTES:end])))
        del buffer[:end]
    return found


def read_frame(fd: int) -> tuple[int, bytes]:
    """The next frame of a socket that blocks. EOFError if it has ended."""
    kind, length = parse_head(_read_exactly(fd, HEAD_BYTES))
    return kind, _read_exactly(fd, length)


def _read_exactly(fd: int, size: int) -> bytes:
    chunks = bytearray()
    while len(chunks) < size:
        chunk = os.read(fd, size - len(chunks))
        if not chunk:
            raise EOFError
        chunks += chunk
    return bytes(chunks)
