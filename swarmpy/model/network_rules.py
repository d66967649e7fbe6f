"""What the spec of a network, and of a service's place on one, may say: checks that need only the spec.

As in ``validate.py``: nothing is returned, ``InvalidArgument`` has the engine's own sentence where it has
one. What needs the cluster (names and numbers taken, networks that exist) is the API's to check.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Sequence
from typing import Final

from swarmpy.errors import InvalidArgument
from swarmpy.limits import NETWORK_MTU_BYTES_MAX, NETWORK_MTU_BYTES_MIN
from swarmpy.model.cluster_specs import IPAMConfig, IPAMOptions, NetworkSpec
from swarmpy.model.defaults import SUBNET_SIZE
from swarmpy.model.specs import Driver, NetworkAttachmentConfig

MTU_OPTION: Final = "com.docker.network.driver.mtu"
VXLAN_IDS_OPTION: Final = "com.docker.network.driver.overlay.vxlanid_list"
DHCP_IPAM: Final = "dhcp"
"""The address driver of networks whose tasks ask the LAN's own DHCP server."""
LAN_DRIVERS: Final = frozenset({"macvlan", "transparent", "l2tunnel"})
"""Drivers of which a task has a MAC of its own on the LAN."""
PARENT_OPTION: Final = "parent"
MODE_OPTION: Final = "macvlan_mode"
_MODES: Final = ("bridge", "vepa", "private", "passthru")
VXLAN_ID_MIN: Final = 4096
VXLAN_ID_MAX: Final = (1 << 24) - 1
SUBNET_SIZE_MAX: Final = 29
SUBNET_SIZE_IPV6: Final = 64
DATA_PATH_PORT_MIN: Final = 1024
DATA_PATH_PORT_MAX: Final = 49_151

IPV4_OPTION: Final = "ipv4_address"
IPV6_OPTION: Final = "ipv6_address"
MAC_OPTION: Final = "mac_address"
"""Driver options of a service's place on a network: addresses that its task shall have."""

_MAC: Final = re.compile(r"[0-9a-fA-F]{2}(?::[0-9a-fA-F]{2}){5}\Z")
_LINK: Final = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9_.@-]{0,14}\Z")

Prefix = ipaddress.IPv4Network | ipaddress.IPv6Network


def check_driver(driver: Driver | None) -> None:
    """The driver's options that mean something to us."""
    options = {} if driver is None else driver.options
    mtu = options.get(MTU_OPTION)
    if mtu is not None and not (
        _is_number(mtu) and NETWORK_MTU_BYTES_MIN <= int(mtu) <= NETWORK_MTU_BYTES_MAX
    ):
        raise InvalidArgument(
            f'invalid value "{mtu}" for {MTU_OPTION}: give a number of bytes between '
            f"{NETWORK_MTU_BYTES_MIN} and {NETWORK_MTU_BYTES_MAX}"
        )
    parent = options.get(PARENT_OPTION)
    if parent is not None and not _LINK.match(parent):
        raise InvalidArgument(f'invalid value "{parent}" for {PARENT_OPTION}: give the name of an interface')
    mode = options.get(MODE_OPTION, "bridge")
    if mode not in _MODES:
        raise InvalidArgument(f'invalid value "{mode}" for {MODE_OPTION}: give one of {", ".join(_MODES)}')
    vxlan_id(driver)


def check_dhcp(spec: NetworkSpec) -> None:
    """Asking the LAN makes sense only for who is on it, and leaves nothing for the swarm to choose."""
    options = spec.ipam_options
    if options is None or options.driver.name != DHCP_IPAM or spec.config_only:
        return
    driver = spec.driver_configuration.name if spec.driver_configuration is not None else ""
    if driver not in LAN_DRIVERS:
        raise InvalidArgument(
            f'the address driver "{DHCP_IPAM}" is for networks of the drivers '
            f"{', '.join(sorted(LAN_DRIVERS))}"
        )
    if options.configs:
        raise InvalidArgument(f'the address driver "{DHCP_IPAM}" takes no subnets: the LAN has its own')


def vxlan_id(driver: Driver | None) -> int:
    """The VXLAN id that a driver's options ask for; 0: any. A network has one, however many subnets."""
    text = "" if driver is None else driver.options.get(VXLAN_IDS_OPTION, "")
    if not text:
        return 0
    if not _is_number(text) or not VXLAN_ID_MIN <= int(text) <= VXLAN_ID_MAX:
        raise InvalidArgument(
            f'invalid value "{text}" for {VXLAN_IDS_OPTION}: '
            f"give one number between {VXLAN_ID_MIN} and {VXLAN_ID_MAX}"
        )
    return int(text)


def check_network_flags(spec: NetworkSpec) -> None:
    if spec.ingress and spec.attachable:
        raise InvalidArgument("ingress network cannot be attachable")
    if spec.ingress and spec.ipv6_enabled and not _has_ipv4(spec.ipam_options):
        raise InvalidArgument("the ingress network needs an IPv4 subnet: name one, or leave the subnets out")


def _has_ipv4(options: IPAMOptions | None) -> bool:
    return options is None or not options.configs or any(":" not in c.subnet for c in options.configs)


# --- addresses


def check_ipam(options: IPAMOptions | None, *, has_ipv6: bool) -> None:
    """All that is wrong with the subnets, in one sentence each."""
    if options is None:
        return
    if options.driver.name not in ("", "default", DHCP_IPAM):
        raise InvalidArgument(f"error during lookup of plugin {options.driver.name}")
    problems = [problem for config in options.configs for problem in _ipam_problems(config, has_ipv6)]
    problems += _overlaps(options)
    if problems:
        shown = problems[0] if len(problems) == 1 else "\n".join(f"* {problem}" for problem in problems)
        raise InvalidArgument(f"invalid network config:\n{shown}")


def _ipam_problems(config: IPAMConfig, has_ipv6: bool) -> Iterator[str]:
    subnet = _prefix(config.subnet)
    if subnet is None:
        yield f"invalid subnet {config.subnet}: invalid CIDR block notation"
        return
    if subnet.version == 6 and not has_ipv6:
        yield f"invalid subnet {config.subnet}: it is an IPv6 block, and IPv6 is not enabled on the network"
        return
    if str(subnet) != _normal(config.subnet):
        yield f"invalid subnet {config.subnet}: it should be {subnet}"
    if subnet.num_addresses < _SUBNET_ADDRESSES_MIN:
        yield f"invalid subnet {config.subnet}: it has no room for a gateway and a task"
    if config.ip_range:
        yield from _range_problems(config.ip_range, subnet)
    if config.gateway and (problem := _address_problem(config.gateway, subnet)):
        yield f"invalid gateway {config.gateway}: {problem}"
    for name, address in sorted(config.auxiliary_addresses.items()):
        if problem := _address_problem(address, subnet):
            yield f"invalid auxiliary address {name}: {problem}"


_SUBNET_ADDRESSES_MIN: Final = 4


def _range_problems(text: str, subnet: Prefix) -> Iterator[str]:
    inner = _prefix(text)
    if inner is None:
        yield f"invalid ip-range {text}: invalid CIDR block notation"
        return
    if inner.version != subnet.version:
        yield f"invalid ip-range {text}: parent subnet is an IPv{subnet.version} block"
        return
    if inner.prefixlen < subnet.prefixlen:
        yield f"invalid ip-range {text}: CIDR block is bigger than its parent subnet {subnet}"
    if str(inner) != _normal(text):
        yield f"invalid ip-range {text}: it should be {inner}"
    if not inner.overlaps(subnet):
        yield f"invalid ip-range {text}: parent subnet {subnet} doesn't contain ip-range"


def _address_problem(text: str, subnet: Prefix) -> str:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return "invalid address"
    if address.version != subnet.version:
        return f"parent subnet is an IPv{subnet.version} block"
    return "" if address in subnet else f"parent subnet {subnet} doesn't contain this address"


def _overlaps(options: IPAMOptions) -> list[str]:
    """Within one network; two networks may have the same subnets."""
    prefixes = [prefix for config in options.configs if (prefix := _prefix(config.subnet)) is not None]
    return [
        f"subnets {one} and {other} overlap"
        for number, one in enumerate(prefixes)
        for other in prefixes[number + 1 :]
        if one.overlaps(other)
    ]


def _prefix(text: str) -> Prefix | None:
    if "/" not in text:
        return None
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None


def _normal(text: str) -> str:
    """The same block in the one way of writing it, host bits kept."""
    return str(ipaddress.ip_interface(text))


# --- places on networks


def check_attachment(place: NetworkAttachmentConfig) -> None:
    for name, version in ((IPV4_OPTION, 4), (IPV6_OPTION, 6)):
        for text in listed(place.driver_opts.get(name, "")):
            if not is_address(text, version):
                raise InvalidArgument(
                    f"network {place.target}: invalid {name} {text}: give an IPv{version} address"
                )
    for mac in listed(place.driver_opts.get(MAC_OPTION, "")):
        if not is_unicast_mac(mac):
            raise InvalidArgument(
                f"network {place.target}: invalid {MAC_OPTION} {mac}: give the address of one interface, "
                "such as 02:42:ac:11:00:02"
            )


def listed(text: str) -> list[str]:
    """What a place asks for: several addresses, for several tasks, are separated by commas."""
    return [part.strip() for part in text.split(",")] if text else []


def is_unicast_mac(text: str) -> bool:
    return bool(_MAC.match(text)) and not int(text[:2], 16) & 1 and int(text.replace(":", ""), 16) != 0


def is_host_ip(text: str) -> bool:
    """An address, or what may be an interface's name."""
    return is_address(text, 4) or is_address(text, 6) or bool(_LINK.match(text))


def is_address(text: str, version: int) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return address.version == version and not address.is_unspecified and not address.is_multicast


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 9


# --- the cluster's pools


def check_pools(pools: Sequence[str], *, subnet_size: int) -> None:
    """``subnet_size`` 0: the default. A block of IPv6 is cut into subnets of 64 bits."""
    if subnet_size and not 0 < subnet_size <= SUBNET_SIZE_MAX:
        raise InvalidArgument(f"subnet size is out of range: {subnet_size}")
    size = subnet_size or SUBNET_SIZE
    blocks: list[Prefix] = []
    for text in pools:
        block = _prefix(text)
        if block is None:
            raise InvalidArgument(f"invalid base pool {text}: invalid CIDR address: {text}")
        if block.prefixlen > (size if block.version == 4 else SUBNET_SIZE_IPV6):
            shown = size if block.version == 4 else SUBNET_SIZE_IPV6
            raise InvalidArgument(f'invalid CIDR: "{text}". Subnet size is too small for pool: {shown}')
        for other in blocks:
            if block.overlaps(other):
                raise InvalidArgument(f"invalid base pool {text}: it overlaps {other}")
        blocks.append(block)


def check_data_path_port(port: int) -> None:
    """0: the default."""
    if port and not DATA_PATH_PORT_MIN <= port <= DATA_PATH_PORT_MAX:
        raise InvalidArgument(
            f"Datapath port number is not in valid range ({DATA_PATH_PORT_MIN}-{DATA_PATH_PORT_MAX}) : {port}"
        )
