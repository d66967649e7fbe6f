"""The user's terminal and standard streams, joined to a conversation with the daemon.

A terminal is raw as long as the conversation lasts, and as it was afterwards, whatever happens. Input is read
in a thread of its own, which ends with the program: a read of a terminal cannot be called off.
"""

from __future__ import annotations

import os
import signal
import sys
import termios
import threading
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from swarmpy.client import Conversation

DETACH: Final = b"\x10\x11"
"""ctrl-p ctrl-q"""
_CHUNK_BYTES: Final = 32_768
_HEADER_BYTES: Final = 8
_STDERR: Final = 2
_SYSTEM_ERROR: Final = 3


class Broken(Exception):
    """The daemon ended the conversation before its time; the text says why."""


class DetachKeys:
    """Watches what is typed. What may be the beginning of the keys is held back until more is known."""

    def __init__(self, keys: bytes = DETACH) -> None:
        self._keys = keys
        self._held = b""

    def take(self, typed: bytes) -> tuple[bytes, bool]:
        """What is to be sent, and whether the keys were typed: then nothing more is."""
        text = self._held + typed
        at = text.find(self._keys)
        if at >= 0:
            return text[:at], True
        held = next((n for n in range(len(self._keys) - 1, 0, -1) if text.endswith(self._keys[:n])), 0)
        self._held = text[len(text) - held :] if held else b""
        return text[: len(text) - held], False


@contextmanager
def raw_terminal() -> Iterator[None]:
    """Every key goes through, ctrl-c too."""
    descriptor = sys.stdin.fileno()
    former = termios.tcgetattr(descriptor)
    tty.setraw(descriptor)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, former)


@contextmanager
def following_size(resize: Callable[[int, int], None]) -> Iterator[None]:
    """Tell the size of the terminal (rows, columns) now and whenever it changes."""

    def tell() -> None:
        size = os.get_terminal_size(sys.stdout.fileno())
        resize(size.lines, size.columns)

    former = signal.signal(signal.SIGWINCH, lambda *_: tell())
    try:
        tell()
        yield
    finally:
        signal.signal(signal.SIGWINCH, former)


def send_input(conversation: Conversation, keys: DetachKeys | None = None) -> threading.Event:
    """Begin to pass standard input on. The event is set if the user has typed the keys to detach."""
    detached = threading.Event()
    threading.Thread(target=_pass_on, args=(conversation, keys, detached), daemon=True).start()
    return detached


def _pass_on(conversation: Conversation, keys: DetachKeys | None, detached: threading.Event) -> None:
    try:
        while data := os.read(sys.stdin.fileno(), _CHUNK_BYTES):
            is_over = False
            if keys is not None:
                data, is_over = keys.take(data)
            conversation.write(data)
            if is_over:
                detached.set()
                conversation.break_off()
                return
        conversation.finish()
    except OSError:
        return  # the conversation has ended, and whoever reads it knows


def show_output(conversation: Conversation, *, is_multiplexed: bool) -> None:
    """Until the daemon has nothing more to say. Raises Broken if it says what went wrong."""
    if not is_multiplexed:
        while chunk := _read(conversation):
            write_all(sys.stdout.fileno(), chunk)
        return
    while len(header := conversation.read_exactly(_HEADER_BYTES)) == _HEADER_BYTES:
        data = conversation.read_exactly(int.from_bytes(header[4:]))
        if header[0] == _SYSTEM_ERROR:
            raise Broken(data.decode(errors="replace"))
        write_all((sys.stderr if header[0] == _STDERR else sys.stdout).fileno(), data)


def _read(conversation: Conversation) -> bytes:
    try:
        return conversation.read(_CHUNK_BYTES)
    except ConnectionError:
        return b""


def write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
