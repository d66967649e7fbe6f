"""``/networks``: made, listed, inspected, joined, removed; every option and every mistake."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from oracle import Both

OVERLAY = {"Name": "net", "Driver": "overlay"}


@pytest.fixture(autouse=True)
def _tidy(both: Both) -> Iterator[None]:
    yield
    for name in ("net", "net2", "other", "plain", "source"):
        both.send("DELETE", f"/networks/{name}")


def test_made_and_read(both: Both) -> None:
    made = both("POST", "/networks/create", {**OVERLAY, "Labels": {"a": "b"}, "Attachable": True})
    both.name("net", made, "Id")
    both.wait("/networks/net", lambda found: bool(found["Options"] and found["IPAM"]["Config"]))
    both("GET", "/networks/$net")
    both("GET", "/networks/net")
    both("GET", "/networks/net", scope="swarm")
    both("GET", "/networks/net", scope="local")
    both("GET", "/networks/net", scope="global")
    both("GET", "/networks/net", verbose="true")
    both("GET", "/networks/net", verbose="perhaps")
    for filters in (
        {"name": ["net"]}, {"id": ["$net"]}, {"label": ["a"]}, {"label": ["a=b"]}, {"label": ["a=c"]},
        {"driver": ["overlay"], "name": ["net"]}, {"scope": ["swarm"], "name": ["net"]},
        {"type": ["custom"], "name": ["net"]}, {"dangling": ["true"], "name": ["net"]}, {"name": ["^net$"]},
        {"name": ["n.t"]}, {"name": {"net": True}},
    ):  # fmt: skip
        both("GET", "/networks", filters=filters)
    both("DELETE", "/networks/$net")
    both("GET", "/networks/net")
    both("DELETE", "/networks/net")


@pytest.mark.parametrize(
    "filters",
    [
        {"bogus": ["x"]}, {"type": ["bogus"]}, {"dangling": ["perhaps"]}, {"dangling": ["true", "false"]},
        {"scope": ["bogus"]}, {"driver": ["bogus"]}, {"name": ["bogus"]},
    ],
)  # fmt: skip
def test_filters_that_find_nothing_or_are_wrong(both: Both, filters: dict[str, list[str]]) -> None:
    both("GET", "/networks", filters=filters)


def test_filters_that_are_no_filters(both: Both) -> None:
    for text in ("x", "{", "[]", '{"name": 1}', '{"name": {"a": "b"}}'):
        both("GET", "/networks", filters=text)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"Name": ""},
        {"Name": "host"},
        {"Name": "bridge", "Driver": "overlay"},
        {"Name": "none", "Driver": "overlay"},
        {"Name": "default", "Driver": "overlay"},
        {"Name": "ingress", "Driver": "overlay"},
        {"Name": "net", "Driver": "host"},
        {"Name": "net", "Driver": "null"},
        {"Name": "a b", "Driver": "overlay"},
        {"Name": "-x", "Driver": "overlay"},
        {"Name": "x" * 300, "Driver": "overlay"},
        {**OVERLAY, "Scope": "local"},
        {**OVERLAY, "Scope": "bogus"},
        {**OVERLAY, "Ingress": True},
        {**OVERLAY, "Ingress": True, "Attachable": True},
        {**OVERLAY, "IPAM": {"Config": [{"Subnet": "bogus"}]}},
        {**OVERLAY, "IPAM": {"Config": [{"Subnet": "10.9.0.0/33"}]}},
        {**OVERLAY, "IPAM": {"Config": [{"Subnet": "10.9.0.0/16", "Gateway": "10.10.0.1"}]}},
        {**OVERLAY, "IPAM": {"Config": [{"Subnet": "10.9.0.0/16", "Gateway": "bogus"}]}},
        {**OVERLAY, "IPAM": {"Config": [{"Subnet": "10.9.0.0/16", "IPRange": "10.10.0.0/24"}]}},
        {**OVERLAY, "IPAM": {"Config": [{"Gateway": "10.9.0.1"}]}},
        {**OVERLAY, "ConfigFrom": {"Network": "bogus"}},
        {**OVERLAY, "ConfigOnly": True, "Internal": True},
        {"Name": "net", "ConfigOnly": True, "ConfigFrom": {"Network": "x"}},
        {"Name": 1},
        {"Name": "net", "Driver": 1},
        {**OVERLAY, "Labels": ["a"]},
        {**OVERLAY, "Options": {"a": 1}},
        {**OVERLAY, "Internal": "x"},
    ],
)
def test_what_cannot_be_made(both: Both, body: dict[str, object]) -> None:
    both("POST", "/networks/create", body)


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"null", b'"x"', b"{}{}", b'{"name":"host"}'])
def test_bodies_that_are_none(both: Both, raw: bytes) -> None:
    both("POST", "/networks/create", raw=raw)
    both("POST", "/networks/bogus/connect", raw=raw)


def test_a_name_that_is_taken(both: Both) -> None:
    both("POST", "/networks/create", OVERLAY)
    both("POST", "/networks/create", OVERLAY)
    both("POST", "/networks/create", {**OVERLAY, "CheckDuplicate": True})


@pytest.mark.parametrize(
    "more",
    [
        {"Internal": True},
        {"Options": {"encrypted": ""}},
        {"Options": {"com.docker.network.driver.mtu": "1400"}},
        {"IPAM": {"Driver": "default", "Config": [{"Subnet": "10.77.0.0/16"}]}},
        {"IPAM": {"Config": [{"Subnet": "10.77.0.0/16", "IPRange": "10.77.1.0/24", "Gateway": "10.77.0.9"}]}},
        {"IPAM": {"Options": {"a": "b"}}},
        {"IPAM": {}},
        {"IPAM": None, "Labels": None, "Options": None},
        {"Labels": {}},
        {"Scope": "swarm"},
        {"ConfigOnly": True, "Driver": ""},
    ],
)
def test_options_are_read_back(both: Both, more: dict[str, object]) -> None:
    both("POST", "/networks/create", {**OVERLAY, **more})
    if "ConfigOnly" not in more:  # the swarm gives it what it needs a moment later
        both.wait("/networks/net", lambda found: bool(found["Options"] and found["IPAM"]["Config"]))
    both("GET", "/networks/net")
    both("GET", "/networks", filters={"name": ["net"]})


def test_one_of_a_configuration(both: Both) -> None:
    config = {"Subnet": "10.78.0.0/16"}
    both("POST", "/networks/create", {"Name": "source", "ConfigOnly": True, "IPAM": {"Config": [config]}})
    both("POST", "/networks/create", {**OVERLAY, "ConfigFrom": {"Network": "source"}, "Options": {"a": "b"}})
    both("DELETE", "/networks/source")


def test_predefined_ones(both: Both) -> None:
    for name in ("bridge", "host", "none", "ingress"):
        both("GET", f"/networks/{name}")
        both("DELETE", f"/networks/{name}") if name != "ingress" else None
    for name in ("bridge", "host", "none"):
        both("GET", f"/networks/{name}", scope="swarm")
    both("GET", "/networks", filters={"type": ["builtin"]})


def test_lookup(both: Both) -> None:
    both.name("first", both("POST", "/networks/create", OVERLAY), "Id")
    both("GET", "/networks/bogus")
    both("GET", "/networks/%20")
    both("GET", "/networks/net/bogus")
    pair = both.send("GET", "/networks/")
    assert pair.docker.status == pair.swarmpy.status == 200
    both("DELETE", "/networks/bogus")


def test_in_use(both: Both) -> None:
    both("POST", "/networks/create", OVERLAY)
    body = {
        "Name": "user",
        "TaskTemplate": {"ContainerSpec": {"Image": "box"}, "Networks": [{"Target": "net"}]},
        "Mode": {"Replicated": {"Replicas": 0}},
    }
    both.name("user", both.send("POST", "/services/create", body))
    both("DELETE", "/networks/net")
    both("POST", "/networks/prune", filters={"label": ["nobody"]})
    both("GET", "/networks", filters={"dangling": ["true"], "name": ["net"]})
    both("GET", "/networks", filters={"dangling": ["false"], "name": ["net"]})
    both.send("DELETE", "/services/user")


def test_joined_by_nobody(both: Both) -> None:
    both("POST", "/networks/create", OVERLAY)
    for action in ("connect", "disconnect"):
        both("POST", f"/networks/net/{action}", {"Container": "bogus"})
        both("POST", f"/networks/net/{action}", {"Container": ""})
        both("POST", f"/networks/bogus/{action}", {"Container": "bogus"})
        both("POST", f"/networks/net/{action}", {})


def test_prune(both: Both) -> None:
    both("POST", "/networks/prune", filters={"label": ["nobody"]})
    both("POST", "/networks/prune", filters={"bogus": ["x"]})
    both("POST", "/networks/prune", filters={"until": ["bogus"]})
    both("POST", "/networks/prune", filters={"until": ["1h", "2h"]})
    both("POST", "/networks/create", {**OVERLAY, "Labels": {"gone": "soon"}})
    both("POST", "/networks/prune", filters={"label!": ["gone"], "until": ["240h"]})
    both("POST", "/networks/prune", filters={"label": ["gone=soon"]})
