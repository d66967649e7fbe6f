"""The task's log on disk: records of time, stream and line, in numbered files of bounded size.

One record per line: ``<nanoseconds> <stream><mark> <data>\\n``, where the mark is ``F`` for a line that had
its end and ``P`` for a piece without one (a line longer than the bound, or the last words of a process).
``data`` never holds a line end, so records split on them and the format is safe for any bytes.

Files are ``00000001.log``, ``00000002.log``, …; a record never straddles two, no file exceeds its bound,
and the oldest goes when there are too many. Numbers only grow: a reader that follows is never confused by
a renaming. A full disk loses lines, never the task.
"""

from __future__ import annotations

import os

SUFFIX = ".log"


def file_name(number: int) -> str:
    return f"{number:08d}{SUFFIX}"


def file_numbers(folder: str) -> list[int]:
    """The numbers of the log files that stand, oldest first."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    return sorted(int(name[:8]) for name in names if name.endswith(SUFFIX) and name[:8].isdecimal())


class LogWriter:
    def __init__(self, folder: str, *, file_bytes_max: int, files_max: int, line_bytes_max: int) -> None:
        self._folder = folder
        self._file_bytes_max = file_bytes_max
        self._files_max = files_max
        self._line_bytes_max = line_bytes_max
        self._rests = {1: b"", 2: b""}
        os.makedirs(folder, mode=0o700, exist_ok=True)
        numbers = file_numbers(folder)
        # never append to a former life's file: it may end in a torn record
        self._number = numbers[-1] + 1 if numbers else 1
        self._fd = self._open()
        self._size = 0

    def place(self) -> dict[str, object]:
        """How far the log goes: file, bytes of it, and what each stream said that has no line end yet."""
        rests = {str(stream): rest.decode("latin-1") for stream, rest in self._rests.items()}
        return {"number": self._number, "offset": self._size, "rests": rests}

    def feed(self, stream: int, data: bytes, now: int) -> None:
        """Take in what one stream said at ``now``; what has no line end yet waits for it."""
        bound = self._line_bytes_max
        *lines, rest = (self._rests[stream] + data).split(b"\n")
        whole = b"%d %dF " % (now, stream)
        piece = b"%d %dP " % (now, stream)
        records = []
        for line in lines:
            while len(line) > bound:
                records.append(piece + line[:bound] + b"\n")
                line = line[bound:]
            records.append(whole + line + b"\n")
        while len(rest) > bound:
            records.append(piece + rest[:bound] + b"\n")
            rest = rest[bound:]
        self._rests[stream] = rest
        self._write(records)

    def finish(self, now: int) -> None:
        """Write the last words that had no line end."""
        for stream, rest in self._rests.items():
            if rest:
                self._rests[stream] = b""
                self._write([b"%d %dP " % (now, stream) + rest + b"\n"])

    def close(self) -> None:
        os.close(self._fd)

    def _write(self, records: list[bytes]) -> None:
        total = sum(map(len, records))
        if self._size + total <= self._file_bytes_max:
            self._append(b"".join(records), total)
            return
        batch: list[bytes] = []
        pending = 0
        for record in records:
            if self._size + pending and self._size + pending + len(record) > self._file_bytes_max:
                self._append(b"".join(batch), pending)
                batch, pending = [], 0
                self._rotate()
            batch.append(record)
            pending += len(record)
        self._append(b"".join(batch), pending)

    def _append(self, data: bytes, size: int) -> None:
        try:
            written = os.write(self._fd, data) if data else 0
            if written < size:  # the disk filled up in the middle: take the torn piece back
                os.ftruncate(self._fd, self._size)
                return
        except OSError:
            return
        self._size += size

    def _rotate(self) -> None:
        self._number += 1
        try:
            fresh = self._open()
        except OSError:
            # no room for another file: begin this one again rather than outgrow it
            self._number -= 1
            os.ftruncate(self._fd, 0)
            self._size = 0
            return
        os.close(self._fd)
        self._fd = fresh
        self._size = 0
        for number in file_numbers(self._folder)[: -self._files_max]:
            os.unlink(os.path.join(self._folder, file_name(number)))

    def _open(self) -> int:
        path = os.path.join(self._folder, file_name(self._number))
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
