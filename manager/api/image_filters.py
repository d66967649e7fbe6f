"""Which images a client's filters mean. Pure: docker's rules, its globs among them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import datetime

from msgspec.structs import replace

from manager.api.requests import Filters, matches_labels
from swarmpy.errors import InvalidArgument, SwarmError
from swarmpy.model.ids import SECOND_NS, Timestamp
from swarmpy.model.images import Image, labels_in

LIST = frozenset({"reference", "dangling", "label", "before", "since", "until"})
PRUNE = frozenset({"dangling", "label", "label!", "until"})
_TRUE, _FALSE = ("1", "true"), ("0", "false")
_DURATION = re.compile(r"(\d+(?:\.\d*)?)(ns|us|µs|ms|s|m|h)")
_UNITS_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


class UnreadableTime(SwarmError):
    """Docker answers 500 with this, not 400."""


def chosen(
    images: Sequence[Image], wanted: Filters, now: Timestamp, find: Callable[[str], Image]
) -> list[Image]:
    """Newest first. ``find``: the image of a name, or NotFound. Names that are not wanted are not shown."""
    dangling = is_dangling_wanted(wanted)
    until = [moment_of(text, now) for text in wanted.get("until", ())]
    before = [find(name).created_at for name in wanted.get("before", ())]
    since = [find(name).created_at for name in wanted.get("since", ())]
    found = []
    for image in images:
        if dangling is True and image.tags:
            continue
        if dangling is False and not image.tags and not image.digests:
            continue  # one that has a digest alone, as after its tag has moved, is meant by both
        if any(image.created_at >= limit for limit in (*before, *until)):
            continue
        if any(image.created_at <= limit for limit in since):
            continue
        if not matches_labels(wanted, "label", labels_of(image) or {}):
            continue
        if patterns := wanted.get("reference", ()):
            named = _named(image, patterns)
            if not named.tags and not named.digests:
                continue
            image = named
        found.append(image)
    return sorted(found, key=lambda image: (-image.created_at, image.id))


def is_dangling_wanted(wanted: Filters) -> bool | None:
    """None: it does not matter."""
    values = wanted.get("dangling", ())
    if not values:
        return None
    value = values[0].lower()
    if len(values) != 1 or value not in (*_TRUE, *_FALSE):
        raise InvalidArgument(f"Invalid filter 'dangling=[{' '.join(values)}]'")
    return value in _TRUE


def moment_of(text: str, now: Timestamp) -> Timestamp:
    """A Unix time, RFC 3339 or parts of it, or how long ago."""
    parts = _DURATION.findall(text)
    if parts and "".join(number + unit for number, unit in parts) == text:
        ago_s = sum(float(number) * _UNITS_S[unit] for number, unit in parts)
        return Timestamp(max(now - int(ago_s * SECOND_NS), 0))
    try:
        if re.fullmatch(r"\d{1,18}(\.\d{1,9})?", text):
            return Timestamp(int(float(text) * SECOND_NS))
        return Timestamp(int(datetime.fromisoformat(text).timestamp() * SECOND_NS))
    except (ValueError, OverflowError):
        raise UnreadableTime(f'failed to parse value as time or duration: "{text}"') from None


def labels_of(image: Image) -> dict[str, str] | None:
    return labels_in(image.config)


def _named(image: Image, patterns: Sequence[str]) -> Image:
    """With the names only that one of the patterns is for."""
    tests = [_glob(pattern) for pattern in patterns]

    def is_meant(name: str) -> bool:
        repository = name.partition("@")[0] if "@" in name else name.rpartition(":")[0]
        return any(test.fullmatch(name) or test.fullmatch(repository) for test in tests)

    return replace(
        image,
        tags=tuple(name for name in image.tags if is_meant(name)),
        digests=tuple(name for name in image.digests if is_meant(name)),
    )


def _glob(pattern: str) -> re.Pattern[str]:
    """``*`` and ``?`` stop at a slash; ``[a-z]`` and ``\\`` as in a shell.

    What follows a ``*`` is looked for once, at the first place where it stands: that is enough, and no
    pattern takes long.
    """
    chunks = [""]
    rest = pattern.removeprefix("docker.io/library/").removeprefix("docker.io/")
    while rest:
        sign, rest = rest[0], rest[1:]
        if sign == "*":
            chunks.append("")
        elif sign == "?":
            chunks[-1] += "[^/]"
        elif sign == "\\" and rest:
            chunks[-1] += re.escape(rest[0])
            rest = rest[1:]
        elif sign == "[" and "]" in rest[1:]:
            inner, _, rest = rest.partition("]")
            negation = "^" if inner.startswith("^") else ""
            safe = re.sub(r"([\\\[\]&~|])", r"\\\1", inner.removeprefix("^"))
            chunks[-1] += f"[{negation}{safe}]"
        else:
            chunks[-1] += re.escape(sign)
    first, *middle = chunks
    text = first
    if middle:
        *middle, last = middle
        text += "".join(f"(?>[^/]*?{chunk})" for chunk in middle if chunk) + f"[^/]*{last}"
    try:
        return re.compile(text)
    except re.error:
        raise InvalidArgument("syntax error in pattern") from None


def lacks_labels(image: Image, unwanted: Sequence[str]) -> bool:
    """None of these, each ``name`` or ``name=value``."""
    labels = labels_of(image) or {}
    return not any(matches_labels({"label": (entry,)}, "label", labels) for entry in unwanted)
