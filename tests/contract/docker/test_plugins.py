"""``/plugins``: there are none."""

from __future__ import annotations

from oracle import Both


def test_there_are_none(both: Both) -> None:
    both("GET", "/plugins")
    both("GET", "/plugins", filters={"enabled": ["true"]})
    both("GET", "/plugins", filters={"bogus": ["true"]})
    both("GET", "/plugins/bogus/json")
    both("GET", "/plugins/vendor/bogus:latest/json")
    for action in ("enable", "disable", "push", "set", "upgrade"):
        both("POST", f"/plugins/bogus/{action}", [] if action in ("set", "upgrade") else None)
    both("DELETE", "/plugins/bogus")
    both("POST", "/plugins/create")
