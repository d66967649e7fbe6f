"""The lock on the data port of encrypted networks: whatever the way, and whatever is missing of it.

What goes to that port must be about to be encrypted, and what comes to it must have been: by IPsec, or
through one of our devices that encrypt. All else is dropped. The lock comes before every device and every
key, and it outlives the daemon.
"""

from __future__ import annotations

from typing import Final

WIREGUARD_LINK: Final = "sw-wg"
USERSPACE_LINK: Final = "sw-sec"
TABLE: Final = "swarmpy_secure"


def ruleset(port: int, *, has_ipsec: bool) -> str:
    """``has_ipsec``: whether this kernel can tell what IPsec did; without, nothing has been."""
    links = f'{{ "{WIREGUARD_LINK}", "{USERSPACE_LINK}" }}'
    out, taken = ("rt ipsec missing ", "meta ipsec missing ") if has_ipsec else ("", "")
    return f"""
table inet {TABLE} {{
  chain output {{ type filter hook output priority filter - 5; }}
  chain input {{ type filter hook input priority filter - 5; }}
}}
flush chain inet {TABLE} output
flush chain inet {TABLE} input
add rule inet {TABLE} output udp dport {port} oifname != {links} {out}counter drop
add rule inet {TABLE} input udp dport {port} iifname != {links} {taken}counter drop
"""


def removal() -> str:
    return f"add table inet {TABLE}\ndelete table inet {TABLE}\n"
