"""Versions of the Engine API: how they compare."""

from __future__ import annotations


def number(version: str) -> tuple[int, ...]:
    """``1.41`` as something that compares: part by part, an absent one as 0."""
    parts = [int(part or 0) for part in version.split(".")]
    while parts and not parts[-1]:
        parts.pop()
    return tuple(parts)
