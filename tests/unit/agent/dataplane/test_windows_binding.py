"""The binding against a library of our own with the same functions: what crosses the border arrives whole,
and everything that was handed out is given back, also where something fails."""

from __future__ import annotations

import ctypes
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

from agent.dataplane.windows import binding, errors
from agent.dataplane.windows.binding import NativeHns
from agent.dataplane.windows.errors import HnsRejected, HnsUnavailable
from agent.dataplane.windows.service import Kind
from swarmpy.errors import Unavailable

SOURCE = Path(__file__).resolve().parents[3] / "support/hns_shim.c"
ID = "01020304-0506-4708-890a-0b0c0d0e0f10"
GONE = "eeeeeeee-eeee-4eee-8eee-eeeeeeeeeeee"
"""The library does not know it: its first byte on the wire is 0xee."""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    path = tmp_path_factory.mktemp("shim") / "hns_shim.so"
    command = ["gcc", "-Wall", "-Werror", "-shared", "-fPIC", "-O1", "-o", str(path), str(SOURCE)]
    subprocess.run(command, check=True, timeout=60)
    return ctypes.CDLL(str(path))


@pytest.fixture
def hns(library: ctypes.CDLL) -> Iterator[NativeHns]:
    """Whatever a test does, the library gets back all that it gave."""
    yield NativeHns(v1=library, v2=library, memory=library)
    assert (library.shim_strings(), library.shim_handles()) == (0, 0)


def last(library: ctypes.CDLL) -> str:
    library.shim_last.restype = ctypes.c_void_p
    place = library.shim_last()
    units = ctypes.cast(place, ctypes.POINTER(ctypes.c_uint16))
    length = next(number for number in range(65536) if not units[number])
    return ctypes.string_at(place, length * 2).decode("utf-16-le")


def last_id(library: ctypes.CDLL) -> str:
    library.shim_last_id.restype = ctypes.c_void_p
    return str(UUID(bytes_le=ctypes.string_at(library.shim_last_id(), 16)))


def test_text_crosses_whole(hns: NativeHns) -> None:
    text = json.dumps({"Name": "größer 网络 \U0001f40b", "empty": ""}, ensure_ascii=False)
    assert hns.call("POST", "/networks/", text) == text
    assert hns.call("POST", "/networks/", "") == ""


def test_a_long_text_crosses_whole(hns: NativeHns) -> None:
    text = json.dumps(["x" * 30_000])
    assert hns.call("POST", "/networks/", text) == text


def test_v1_failures_of_the_call_and_in_the_answer(hns: NativeHns) -> None:
    with pytest.raises(HnsUnavailable, match="0x800706ba"):
        hns.call("GET", "/broken/", "")
    answer = json.loads(hns.call("GET", "/fail/", ""))
    assert answer["ErrorCode"] == errors.RESERVED_ADDRESS


@pytest.mark.parametrize("kind", list(Kind))
def test_every_verb_of_every_kind(hns: NativeHns, library: ctypes.CDLL, kind: Kind) -> None:
    settings = json.dumps({"Name": kind.value})
    assert json.loads(hns.enumerate(kind, "{}")) == ["00000001-0002-4003-8004-000000000005"]
    assert hns.create(kind, settings, network_id=ID) == settings
    assert last(library) == settings
    assert last_id(library) == str(UUID(int=0))
    hns.create(kind, settings, id_=ID, network_id=GONE.replace("e", "a"))
    assert last_id(library) == ID
    assert json.loads(hns.query(kind, ID, "{}")) == {}
    hns.modify(kind, f"{{{ID.upper()}}}", '{"change": 1}')
    assert (last(library), last_id(library)) == ('{"change": 1}', ID)
    hns.delete(kind, ID)
    assert last_id(library) == ID


@pytest.mark.parametrize("kind", list(Kind))
def test_what_fails_leaks_nothing(hns: NativeHns, kind: Kind) -> None:
    with pytest.raises(HnsRejected, match=r"0x803b000d.*no such policy") as refused:
        hns.create(kind, '{"fail": 1}', network_id=ID)
    assert refused.value.code == errors.BAD_POLICY
    with pytest.raises(HnsUnavailable, match="half done"):
        hns.create(kind, '{"record": 1}', network_id=ID)
    with pytest.raises(HnsUnavailable):
        hns.create(kind, '{"blind": 1}', network_id=ID)
    with pytest.raises(HnsUnavailable) as unknown:
        hns.query(kind, GONE, "{}")
    assert errors.is_gone(unknown.value)
    with pytest.raises(HnsRejected):
        hns.enumerate(kind, '"fail"')
    with pytest.raises(HnsUnavailable, match="half done"):
        hns.modify(kind, ID, '"record"')


def test_an_endpoint_on_an_unknown_network(hns: NativeHns) -> None:
    with pytest.raises(HnsUnavailable) as unknown:
        hns.create(Kind.ENDPOINT, "{}", network_id=GONE)
    assert unknown.value.code == errors.ENDPOINT_NOT_FOUND


def test_before_1809_there_is_no_v2(library: ctypes.CDLL) -> None:
    old = NativeHns(v1=library, v2=None, memory=library)
    with pytest.raises(Unavailable, match="1809"):
        old.enumerate(Kind.NETWORK, "{}")


def test_here_is_no_windows() -> None:
    with pytest.raises(Unavailable, match="part of Windows"):
        binding.load()
