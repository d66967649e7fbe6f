"""How things look: tables as docker prints them, times and sizes in words. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Final

_GAP: Final = 3
_COLUMN_MIN: Final = 10
_ID_CHARS: Final = 12
_ERROR_CHARS: Final = 60

_UNITS: Final = (
    (60, 1, "second"),
    (3600, 60, "minute"),
    (48 * 3600, 3600, "hour"),
    (14 * 86400, 86400, "day"),
    (60 * 86400, 7 * 86400, "week"),
    (2 * 365 * 86400, 30 * 86400, "month"),
)


def table(rows: Iterable[Sequence[str]]) -> str:
    """Columns three spaces apart, ten wide at least, the last one open; one row a line."""
    lines = [[cell.replace("\n", " ") for cell in row] for row in rows]
    if not lines:
        return ""
    count = max(map(len, lines))
    widths = [
        max(_COLUMN_MIN, *(len(line[column]) + _GAP for line in lines if column < len(line)))
        for column in range(count)
    ]
    return "\n".join(
        "".join(cell.ljust(width) for cell, width in zip(line[:-1], widths, strict=False)) + line[-1]
        for line in lines
    )


def short_id(id_: str, *, is_whole: bool) -> str:
    return id_ if is_whole else id_[:_ID_CHARS]


def quoted_error(text: str, *, is_whole: bool) -> str:
    """An error in a table cell: in quotes, and cut unless it may be long."""
    if not text:
        return ""
    if not is_whole and len(text) > _ERROR_CHARS:
        text = text[: _ERROR_CHARS - 1] + "…"
    return f'"{text}"'


def parse_time(text: str) -> datetime | None:
    """The API's RFC 3339 with nanoseconds; None for Go's zero time."""
    if not text or text.startswith("0001-"):
        return None
    head, _, fraction = text.removesuffix("Z").partition(".")
    moment = datetime.fromisoformat(head[:19]).replace(tzinfo=UTC)
    digits = "".join(digit for digit in fraction if digit.isdigit())[:6].ljust(6, "0")
    return moment.replace(microsecond=int(digits))


def age(text: str, now: datetime) -> str:
    """``5 seconds ago``."""
    moment = parse_time(text)
    return "" if moment is None else f"{duration((now - moment).total_seconds())} ago"


def duration(seconds: float) -> str:
    """A length of time in words, as docker has them."""
    whole = int(seconds)
    if whole < 1:
        return "Less than a second"
    if whole == 1:
        return "1 second"
    for below, size, name in _UNITS:
        if whole < below:
            count = whole // size
            if count == 1:
                return {"minute": "About a minute", "hour": "About an hour"}.get(name, f"1 {name}")
            return f"{count} {name}s"
    return f"{whole // (365 * 86400)} years"


def size(count: int) -> str:
    """``12.3MB``: powers of ten and four digits, as docker has it."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            return f"{value:.4g}{unit}"
        value /= 1000
    raise AssertionError("the last unit takes all")


def binary_size(count: int) -> str:
    """``512MiB``: powers of two, for memory."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            return f"{value:.4g}{unit}"
        value /= 1024
    raise AssertionError("the last unit takes all")


def capital(word: str) -> str:
    return word[:1].upper() + word[1:]
