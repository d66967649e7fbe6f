"""MACs that users ask for: what they may be."""

from __future__ import annotations

import re
from typing import Final

_MAC: Final = re.compile(r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}")
_GROUP_BIT: Final = 1


def normal_mac(text: str) -> str:
    """In lower case, with colons."""
    return text.strip().lower().replace("-", ":")


def mac_error(mac: str) -> str:
    """What is wrong with a MAC in its normal form; empty if nothing is."""
    if not _MAC.fullmatch(mac):
        return "it should be written like 02:42:0a:00:00:05"
    if int(mac[:2], 16) & _GROUP_BIT:
        return "it stands for a group of machines; its first byte has to be even"
    if mac == "00:00:00:00:00:00":
        return "it stands for no machine"
    return ""
