"""Numbers with units, and their bounds: what does not fit into 64 bits is refused, not a crash."""

from __future__ import annotations

import pytest

from swarmpy.errors import InvalidArgument
from swarmpy.model import quantities
from swarmpy.model.states import PortProtocol

NINES = "9" * 400


@pytest.mark.parametrize(
    ("text", "value"),
    [("1h0m0.5s", 3_600_500_000_000), ("-1s", -(10**9)), ("1.s", 10**9), (".5s", 5 * 10**8)],
)
def test_durations(text: str, value: int) -> None:
    assert quantities.duration_ns(text) == value


@pytest.mark.parametrize("text", [f"{NINES}s", "300000000h", "1", "", "s", "1d", "1s 2s", "٣s"])
def test_refused_durations(text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"^invalid duration"):
        quantities.duration_ns(text)


@pytest.mark.parametrize("text", [NINES, "9000000p", "-1", "1x", "", "٣"])
def test_refused_sizes(text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"^invalid size"):
        quantities.memory_bytes(text)


@pytest.mark.parametrize("text", [NINES, "nan", "-1", "1000000", ""])
def test_refused_cpus(text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"^invalid value for CPUs"):
        quantities.nano_cpus(text)


def test_ports() -> None:
    assert quantities.port_range("80") == (80,)
    assert quantities.port_pairs("8000-8002", "80-82", text="") == ((8000, 80), (8001, 81), (8002, 82))
    assert quantities.port_pairs("", "80-81", text="") == ((0, 80), (0, 81))
    assert quantities.protocol("UDP") is PortProtocol.UDP


@pytest.mark.parametrize("text", ["0", "65536", "2-1", "1-1001", "-", "1-", "-1", "٣", "99999999", ""])
def test_refused_ports(text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"^invalid"):
        quantities.port_range(text)


def test_ranges_must_be_of_one_length_and_protocols_known() -> None:
    with pytest.raises(InvalidArgument, match=r"^invalid ranges specified"):
        quantities.port_pairs("1-3", "1-2", text="1-3:1-2")
    for text in ("", "icmp"):
        with pytest.raises(InvalidArgument, match=r"^invalid protocol"):
            quantities.protocol(text)
