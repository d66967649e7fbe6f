"""``/plugins``: there are none, and no drivers of theirs."""

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


def test_drivers_that_nobody_gives(both: Both) -> None:
    """dockerd waits 15 s for a plugin to come, so all are asked for at once."""
    both.at_once(
        ("POST", "/networks/create", {"Name": "net", "Driver": "bogus"}),
        ("POST", "/networks/create", {"Name": "net", "Driver": "overlay", "IPAM": {"Driver": "bogus"}}),
        ("POST", "/volumes/create", {"Name": "vol", "Driver": "bogus"}),
    )
