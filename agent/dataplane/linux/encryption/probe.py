"""In which ways this node can encrypt: each is tried in a scratch namespace; why not, is said in words."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from agent.dataplane.linux import namespaces
from agent.dataplane.linux.encryption import esp, lock, wireguard
from agent.dataplane.linux.encryption.keys import KEY_BYTES, SALT_BYTES
from agent.dataplane.linux.encryption.links import add_wireguard
from agent.dataplane.linux.encryption.userspace.tunnel import Tunnel
from agent.dataplane.linux.encryption.ways import ESP, USERSPACE, USERSPACE_LARGE, WIREGUARD
from agent.dataplane.linux.encryption.xfrm import State, Xfrm, add_state, set_policy
from agent.dataplane.linux.netlink import Netlink
from agent.dataplane.linux.nftables import Nftables, NftError
from swarmpy.model.value import Value

_PORT: Final = 4790
_SPI: Final = 0x5A5A5A5A
_MTU: Final = 1420
_LINK: Final = "probe"
_IPV6: Final = Path("/proc/sys/net/ipv6")


class Found(Value, frozen=True, kw_only=True):
    """``ways``: the best first. ``told``: what the others are told. ``lacking``: why ``ways`` is empty."""

    ways: tuple[str, ...] = ()
    told: tuple[str, ...] = ()
    lacking: str = ""
    has_ipsec_match: bool = False


def has_ipv6() -> bool:
    return _IPV6.is_dir()


def find_ways() -> Found:
    """Call it in a thread that may change its namespace."""
    if os.geteuid() != 0:
        return Found(lacking="the daemon must run as root to encrypt networks")
    try:
        with namespaces.scratch():
            has_match = _takes_rules(has_ipsec=True)
            if not has_match and not _takes_rules(has_ipsec=False):
                return Found(lacking="nftables does not take the rules that keep clear text in")
            return _try_all(has_match)
    except OSError as error:
        return Found(lacking=f"the kernel lets the daemon make no network namespace ({error.strerror})")


def _try_all(has_match: bool) -> Found:
    reasons = {
        ESP: _try_esp() if has_match else "no IPsec that nftables can tell; load the module xfrm_user",
        WIREGUARD: _try_wireguard(),
        USERSPACE: _try_userspace(),
    }
    ways = tuple(way for way, reason in reasons.items() if not reason)
    told = (*ways, USERSPACE_LARGE) if USERSPACE in ways and _is_large_possible() else ways
    lacking = "" if ways else f"the kernel has {'; '.join(reasons.values())}"
    return Found(ways=ways, told=told, lacking=lacking, has_ipsec_match=has_match)


def _takes_rules(*, has_ipsec: bool) -> bool:
    try:
        rules = Nftables()
    except (OSError, NftError):
        return False
    try:
        rules.run(lock.ruleset(_PORT, has_ipsec=has_ipsec))
    except NftError:
        return False
    finally:
        rules.close()
    return True


def _try_esp() -> str:
    key = bytes(KEY_BYTES + SALT_BYTES)
    try:
        with Xfrm() as xfrm:
            xfrm.do(*(set_policy(policy) for policy in esp.base_policies(_PORT, esp.families(has_ipv6()))))
            xfrm.do(add_state(State("192.0.2.1", "192.0.2.2", _SPI, 1, key)))
            if has_ipv6():
                xfrm.do(add_state(State("2001:db8::1", "2001:db8::2", _SPI, 1, key)))
    except OSError as error:
        reason = error.strerror or str(error)
        return f"no ESP with AES-GCM ({reason}); load the modules esp4, esp6, xfrm_user and gcm"
    return ""


def _try_wireguard() -> str:
    try:
        with Netlink() as links:
            links.do(add_wireguard(_LINK, mtu=_MTU))
        wireguard.Wireguard().close()
    except OSError as error:
        return f"no WireGuard ({error.strerror}); load the module wireguard"
    return ""


def _try_userspace() -> str:
    try:
        Tunnel(_LINK + "0").close()
    except OSError as error:
        return f"no TUN devices ({error.strerror}); load the module tun and see to /dev/net/tun"
    return ""


def _is_large_possible() -> bool:
    tunnel = Tunnel(_LINK + "1")
    try:
        tunnel.set_large(True)
    except OSError:
        return False
    finally:
        tunnel.close()
    return True
