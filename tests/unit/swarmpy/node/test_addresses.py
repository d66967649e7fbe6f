"""Which address a node listens on, and which one it tells the others."""

from __future__ import annotations

import pytest

from swarmpy.errors import FailedPrecondition, InvalidArgument
from swarmpy.node import addresses
from swarmpy.node.addresses import resolve_advertise, resolve_data_path, resolve_listen, with_port


@pytest.mark.parametrize(
    ("given", "full"),
    [
        ("10.0.0.1", "10.0.0.1:2377"),
        ("10.0.0.1:4000", "10.0.0.1:4000"),
        ("fd00::1", "[fd00::1]:2377"),
        ("[fd00::1]", "[fd00::1]:2377"),
        ("[fd00::1]:4000", "[fd00::1]:4000"),
        ("host.example", "host.example:2377"),
    ],
)
def test_a_port_is_added_where_none_is_named(given: str, full: str) -> None:
    assert with_port(given) == full


@pytest.mark.parametrize(
    "given", ["10.0.0.1:", "10.0.0.1:0", "10.0.0.1:65536", "10.0.0.1:http", "10.0.0.1:-1"]
)
def test_what_is_no_port_is_refused(given: str) -> None:
    with pytest.raises(InvalidArgument, match="is not a port"):
        with_port(given)


def test_the_data_path_is_an_address_or_an_interface_without_a_port() -> None:
    assert resolve_data_path("") == ""
    assert resolve_data_path("10.0.0.1") == "10.0.0.1"
    assert resolve_data_path("fd00::1") == "fd00::1"
    assert resolve_data_path("lo") == "127.0.0.1"


@pytest.mark.parametrize("given", ["nowhere0", "0.0.0.0", "::", "10.0.0.1:99", "-"])
def test_what_is_no_data_path_is_refused_in_dockers_words(given: str) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        resolve_data_path(given)
    assert str(refusal.value) == (
        "data path address must be a non-zero IP address or network interface (without a port number)"
    )


def test_an_interfaces_name_stands_for_its_address() -> None:
    assert resolve_listen("lo:4000") == "127.0.0.1:4000"
    assert resolve_advertise("lo", "0.0.0.0:4000") == "127.0.0.1:4000"
    with pytest.raises(InvalidArgument, match="neither an IP address nor an interface"):
        resolve_listen("nowhere0")


def test_the_listen_address_is_advertised_unless_it_means_all(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_advertise("", "10.1.2.3:2377") == "10.1.2.3:2377"
    monkeypatch.setattr(
        addresses, "interface_addresses", lambda: {"eth0": ["10.9.9.9"], "docker0": ["172.17.0.1"]}
    )
    assert resolve_advertise("", "0.0.0.0:4000") == "10.9.9.9:4000"


def test_of_several_addresses_the_user_has_to_name_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        addresses, "interface_addresses", lambda: {"eth0": ["10.9.9.9"], "eth1": ["10.8.8.8"]}
    )
    with pytest.raises(FailedPrecondition, match=r"10\.9\.9\.9, 10\.8\.8\.8.*--advertise-addr"):
        resolve_advertise("", "0.0.0.0:2377")
    monkeypatch.setattr(addresses, "interface_addresses", lambda: {"lo": ["127.0.0.1"]})
    with pytest.raises(FailedPrecondition, match="no IP address"):
        resolve_advertise("", "0.0.0.0:2377")
