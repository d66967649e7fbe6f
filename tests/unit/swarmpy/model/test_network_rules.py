"""What networks and places on them may be asked for, in the engine's words."""

from __future__ import annotations

from contextlib import suppress
from ipaddress import ip_interface, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmpy.errors import InvalidArgument
from swarmpy.model import network_rules as rules
from swarmpy.model.cluster_specs import IPAMConfig, IPAMOptions, NetworkSpec
from swarmpy.model.specs import Driver, NetworkAttachmentConfig
from swarmpy.model.validate import check_network

PREFIX = "invalid network config:\n"


def refusal(*configs: IPAMConfig, has_ipv6: bool = False, driver: str = "") -> str:
    options = IPAMOptions(driver=Driver(name=driver), configs=configs)
    with pytest.raises(InvalidArgument) as found:
        rules.check_ipam(options, has_ipv6=has_ipv6)
    return str(found.value).removeprefix(PREFIX)


@pytest.mark.parametrize(
    ("config", "text"),
    [
        (IPAMConfig(subnet="nonsense"), "invalid subnet nonsense: invalid CIDR block notation"),
        (IPAMConfig(gateway="10.0.0.1"), "invalid subnet : invalid CIDR block notation"),
        (IPAMConfig(subnet="10.1.0.5/24"), "invalid subnet 10.1.0.5/24: it should be 10.1.0.0/24"),
        (
            IPAMConfig(subnet="10.1.0.0/31"),
            "invalid subnet 10.1.0.0/31: it has no room for a gateway and a task",
        ),
        (IPAMConfig(subnet="10.1.0.0/24", gateway="bad"), "invalid gateway bad: invalid address"),
        (
            IPAMConfig(subnet="10.1.0.0/24", gateway="10.2.0.1"),
            "invalid gateway 10.2.0.1: parent subnet 10.1.0.0/24 doesn't contain this address",
        ),
        (
            IPAMConfig(subnet="10.1.0.0/24", gateway="fd00::1"),
            "invalid gateway fd00::1: parent subnet is an IPv4 block",
        ),
        (
            IPAMConfig(subnet="10.1.0.0/24", ip_range="10.2.0.0/25"),
            "invalid ip-range 10.2.0.0/25: parent subnet 10.1.0.0/24 doesn't contain ip-range",
        ),
        (
            IPAMConfig(subnet="10.1.0.0/24", ip_range="10.1.0.0/16"),
            "* invalid ip-range 10.1.0.0/16: CIDR block is bigger than its parent subnet 10.1.0.0/24\n"
            "* invalid ip-range 10.1.0.0/16: it should be 10.1.0.0/16",
        ),
        (
            IPAMConfig(subnet="10.1.0.0/24", ip_range="10.1.0.3/26"),
            "invalid ip-range 10.1.0.3/26: it should be 10.1.0.0/26",
        ),
        (
            IPAMConfig(subnet="10.1.0.0/24", auxiliary_addresses={"printer": "10.9.0.1"}),
            "invalid auxiliary address printer: parent subnet 10.1.0.0/24 doesn't contain this address",
        ),
        (
            IPAMConfig(subnet="fd00::/64"),
            "invalid subnet fd00::/64: it is an IPv6 block, and IPv6 is not enabled on the network",
        ),
    ],
)
def test_what_is_wrong_with_a_subnet_is_told(config: IPAMConfig, text: str) -> None:
    found = refusal(config)
    if text.startswith("* "):
        assert found.splitlines()[0] == text.splitlines()[0].removeprefix("* ")
    else:
        assert found == text


def test_all_that_is_wrong_is_told_at_once() -> None:
    found = refusal(IPAMConfig(subnet="x"), IPAMConfig(subnet="10.1.0.0/24", gateway="y"))
    assert found.splitlines() == [
        "* invalid subnet x: invalid CIDR block notation",
        "* invalid gateway y: invalid address",
    ]


def test_subnets_of_one_network_are_apart() -> None:
    found = refusal(IPAMConfig(subnet="10.1.0.0/16"), IPAMConfig(subnet="10.1.2.0/24"))
    assert found == "subnets 10.1.0.0/16 and 10.1.2.0/24 overlap"


def test_another_ipam_driver_is_not_found() -> None:
    assert refusal(driver="infoblox") == "error during lookup of plugin infoblox"


def test_good_subnets_pass() -> None:
    v4 = IPAMConfig(
        subnet="10.1.0.0/24",
        gateway="10.1.0.1",
        ip_range="10.1.0.128/25",
        auxiliary_addresses={"a": "10.1.0.9"},
    )
    v6 = IPAMConfig(subnet="fd00:0::/64", gateway="fd00::1")
    rules.check_ipam(IPAMOptions(driver=Driver(name="default"), configs=(v4, v6)), has_ipv6=True)
    rules.check_ipam(None, has_ipv6=False)


@given(st.text(), st.text(), st.text(), st.text(), st.booleans())
def test_whatever_is_written_is_judged_and_nothing_else_happens(
    subnet: str, ip_range: str, gateway: str, aux: str, has_ipv6: bool
) -> None:
    config = IPAMConfig(subnet=subnet, ip_range=ip_range, gateway=gateway, auxiliary_addresses={"a": aux})
    options = IPAMOptions(configs=(config,))
    with suppress(InvalidArgument):
        rules.check_ipam(options, has_ipv6=has_ipv6)
        assert ip_interface(subnet).network == ip_network(subnet)


# --- drivers


@pytest.mark.parametrize("mtu", ["x", "", "575", "65001", "-1", "1e3", "١٥٠٠"])
def test_an_mtu_that_is_none_is_refused(mtu: str) -> None:
    with pytest.raises(InvalidArgument, match="give a number of bytes between 576 and 65000"):
        rules.check_driver(Driver(name="overlay", options={rules.MTU_OPTION: mtu}))


@pytest.mark.parametrize("number", ["x", "0", "4095", "16777216", "5000,5001"])
def test_a_vxlan_id_that_is_none_is_refused(number: str) -> None:
    with pytest.raises(InvalidArgument, match="give one number between 4096 and 16777215"):
        rules.check_driver(Driver(name="overlay", options={rules.VXLAN_IDS_OPTION: number}))


def test_options_of_which_nothing_is_known_pass() -> None:
    options = {rules.MTU_OPTION: "1400", rules.VXLAN_IDS_OPTION: "5000", "encrypted": "", "else": "x"}
    rules.check_driver(Driver(name="overlay", options=options))
    assert rules.vxlan_id(Driver(options=options)) == 5000
    assert rules.vxlan_id(None) == 0


def test_the_ingress_network_is_nobodys_to_attach_to() -> None:
    with pytest.raises(InvalidArgument, match="ingress network cannot be attachable"):
        check_network(NetworkSpec(name="mesh", ingress=True, attachable=True))


# --- places


@pytest.mark.parametrize(
    "options",
    [
        {"ipv4_address": "10.0.0.300"},
        {"ipv4_address": "fd00::1"},
        {"ipv4_address": "0.0.0.0"},
        {"ipv6_address": "10.0.0.1"},
        {"ipv6_address": "ff02::1"},
        {"mac_address": "02:42:ac:11:00"},
        {"mac_address": "03:42:ac:11:00:02"},
        {"mac_address": "00:00:00:00:00:00"},
    ],
)
def test_addresses_that_a_task_cannot_have_are_refused(options: dict[str, str]) -> None:
    place = NetworkAttachmentConfig(target="net", driver_opts=options)
    with pytest.raises(InvalidArgument, match=f"network net: invalid {next(iter(options))} "):
        rules.check_attachment(place)


def test_addresses_that_a_task_can_have_pass() -> None:
    options = {"ipv4_address": "10.0.0.9", "ipv6_address": "fd00::9", "mac_address": "02:42:AC:11:00:02"}
    rules.check_attachment(NetworkAttachmentConfig(target="net", driver_opts=options))


def test_several_addresses_are_for_several_tasks() -> None:
    options = {"ipv4_address": "10.0.0.9, 10.0.0.10", "mac_address": "02:42:AC:11:00:02,02:42:AC:11:00:03"}
    rules.check_attachment(NetworkAttachmentConfig(target="net", driver_opts=options))
    for bad in ("10.0.0.9,", "10.0.0.9,fd00::9", "10.0.0.9 10.0.0.10"):
        with pytest.raises(InvalidArgument, match="give an IPv4 address"):
            rules.check_attachment(NetworkAttachmentConfig(target="net", driver_opts={"ipv4_address": bad}))


# --- pools


@pytest.mark.parametrize(
    ("pools", "size", "text"),
    [
        (("nonsense",), 0, "invalid base pool nonsense: invalid CIDR address: nonsense"),
        (("10.1.0.0/16",), 8, 'invalid CIDR: "10.1.0.0/16". Subnet size is too small for pool: 8'),
        (("10.1.0.0/16",), 30, "subnet size is out of range: 30"),
        (("10.1.0.0/16",), -1, "subnet size is out of range: -1"),
        (("10.1.0.0/16", "10.1.2.0/24"), 24, "invalid base pool 10.1.2.0/24: it overlaps 10.1.0.0/16"),
        (("fd00::/80",), 0, 'invalid CIDR: "fd00::/80". Subnet size is too small for pool: 64'),
    ],
)
def test_pools_that_give_no_subnets_are_refused(pools: tuple[str, ...], size: int, text: str) -> None:
    with pytest.raises(InvalidArgument) as found:
        rules.check_pools(pools, subnet_size=size)
    assert str(found.value) == text


def test_pools_of_both_families_pass() -> None:
    rules.check_pools(("10.1.0.0/16", "10.2.0.0/16", "fd00::/48"), subnet_size=26)


@pytest.mark.parametrize("port", [80, 1023, 49_152, -1])
def test_a_data_path_port_out_of_range_is_refused(port: int) -> None:
    with pytest.raises(InvalidArgument) as found:
        rules.check_data_path_port(port)
    assert str(found.value) == f"Datapath port number is not in valid range (1024-49151) : {port}"
    rules.check_data_path_port(0)
