"""Who answers: ``/_ping``, ``/version``, ``/info``, pages that are not there, versions that nobody speaks."""

from __future__ import annotations

from oracle import Both


def test_ping(both: Both) -> None:
    both("GET", "/_ping")
    both("HEAD", "/_ping")
    both("GET", "/_ping", api="")
