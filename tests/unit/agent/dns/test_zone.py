"""Answers from the names of a task's networks."""

from __future__ import annotations

import pytest
from dns_messages import AAAA, ANY, MX, PTR, TXT, A, Reply, ask, read
from msgspec.structs import replace

from agent.dataplane.base import Endpoint, Leg, Names, NetworkConfig
from agent.dns import wire, zone
from agent.dns.limits import DNS_ANSWERS_KEPT, DNS_TTL_S, DNS_UDP_BYTES_MAX
from agent.dns.wire import Query
from agent.dns.zone import Zone
from swarmpy.model.ids import NetworkId, TaskId

MANY = tuple(f"10.1.{number // 250}.{number % 250 + 1}" for number in range(300))
FRONT = Names(
    addresses={
        "web": ("10.0.0.2",),
        "tasks.web": ("10.0.0.3", "10.0.0.4", "10.0.0.5"),
        "dual": ("10.0.0.6", "fd00::6"),
        "shared": ("10.0.0.7",),
        "many": MANY,
        "empty": (),
    },
    pointers={"10.0.0.3": "web.1.abc.front", "fd00::6": "dual.1.def.front"},
)
BACK = Names(
    addresses={"db": ("10.9.0.2",), "shared": ("10.9.0.7",)},
    pointers={"10.9.0.2": "db.back", "10.0.0.3": "hidden.back"},
)


def made(*networks: Names) -> Zone:
    return Zone(networks or (FRONT, BACK), lambda below: below - 1)


def answered(zone: Zone, packet: bytes) -> Reply:
    message = zone.respond(packet)
    assert isinstance(message, bytes)
    return read(message)


def test_a_service_has_its_address() -> None:
    reply = answered(made(), ask("web", ident=99))
    assert (reply.id, reply.rcode, reply.question) == (99, wire.NOERROR, ("web", A))
    assert reply.data == ("10.0.0.2",)
    assert reply.records[0].name == "web"
    assert reply.records[0].ttl_s == DNS_TTL_S
    assert reply.flags & 0x0580 == 0x0580  # authoritative, recursion asked for and had


def test_case_does_not_matter_and_is_echoed() -> None:
    reply = answered(made(), ask("TASKS.wEb"))
    assert sorted(reply.data) == ["10.0.0.3", "10.0.0.4", "10.0.0.5"]
    assert reply.question == ("TASKS.wEb", A)


def test_the_first_network_that_has_the_name_wins() -> None:
    assert answered(made(FRONT, BACK), ask("shared")).data == ("10.0.0.7",)
    assert answered(made(BACK, FRONT), ask("shared")).data == ("10.9.0.7",)
    assert answered(made(FRONT, BACK), ask("db")).data == ("10.9.0.2",)


def test_addresses_are_of_the_family_that_was_asked_for() -> None:
    assert answered(made(), ask("dual", A)).data == ("10.0.0.6",)
    assert answered(made(), ask("dual", AAAA)).data == ("fd00::6",)


@pytest.mark.parametrize(
    ("name", "kind"), [("web", AAAA), ("web", MX), ("web", TXT), ("web", PTR), ("empty", A)]
)
def test_a_known_name_without_such_a_record_is_an_empty_answer(name: str, kind: int) -> None:
    reply = answered(made(), ask(name, kind))
    assert (reply.rcode, reply.records) == (wire.NOERROR, ())


def test_any_gives_addresses() -> None:
    assert answered(made(), ask("dual", ANY)).data == ("10.0.0.6",)


@pytest.mark.parametrize("name", ["example.org", "unknown", "web.example.org", "", "tasks"])
def test_unknown_names_are_passed_on(name: str) -> None:
    query = made().respond(ask(name))
    assert isinstance(query, Query)
    assert query.name == name


def test_as_many_queries_as_there_are_addresses_meet_every_one_first() -> None:
    shown = made()
    replies = [answered(shown, ask("tasks.web", ident=number)) for number in range(6)]
    assert {reply.data[0] for reply in replies[:3]} == {"10.0.0.3", "10.0.0.4", "10.0.0.5"}
    assert replies[0].data == ("10.0.0.5", "10.0.0.3", "10.0.0.4")  # from where chance said
    assert replies[3].data == replies[0].data
    assert [reply.id for reply in replies] == list(range(6))


def test_an_answer_that_is_too_large_is_cut() -> None:
    shown = made()
    small, large = answered(shown, ask("many")), answered(shown, ask("many", size=1232))
    assert small.is_truncated
    assert large.is_truncated
    assert len(small.records) == (512 - 12 - 10) // 16
    assert len(large.records) == (1232 - 12 - 10 - 11) // 16
    assert len({answered(shown, ask("many")).data[0] for _ in MANY}) == len(MANY)
    whole = shown.respond_stream(ask("many"))
    assert isinstance(whole, bytes)
    assert not read(whole).is_truncated
    assert sorted(read(whole).data) == sorted(MANY)


def test_edns_is_answered_with_edns() -> None:
    assert answered(made(), ask("web", size=1400)).edns_size == DNS_UDP_BYTES_MAX
    assert answered(made(), ask("web")).edns_size == 0
    future = answered(made(), ask("web", size=1400, version=1))
    assert (future.rcode, future.records) == (wire.BADVERS, ())


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("3.0.0.10.in-addr.arpa", "web.1.abc.front"),
        ("2.0.9.10.IN-ADDR.arpa", "db.back"),
        ("6.0.0.0." + "0." * 24 + "0.0.d.f.ip6.arpa", "dual.1.def.front"),
    ],
)
def test_addresses_have_names(name: str, target: str) -> None:
    reply = answered(made(), ask(name, PTR))
    assert reply.data == (target,)
    assert answered(made(), ask(name, A)).records == ()


@pytest.mark.parametrize(
    "name",
    [
        *("9.0.0.10.in-addr.arpa", "0.0.10.in-addr.arpa", "x.0.0.10.in-addr.arpa", "in-addr.arpa"),
        *("ip6.arpa", "6.ip6.arpa", "zz." + "0." * 31 + "ip6.arpa", "z." + "0." * 31 + "ip6.arpa"),
    ],
)
def test_other_addresses_are_passed_on(name: str) -> None:
    assert isinstance(made().respond(ask(name, PTR)), Query)


def test_answers_are_kept_within_a_bound() -> None:
    shown = made()
    for number in range(DNS_ANSWERS_KEPT + 5):  # each of a size of its own
        answered(shown, ask("web", size=600 + number))
    assert 0 < len(shown.answers) <= DNS_ANSWERS_KEPT


def test_what_is_passed_on_is_not_kept() -> None:
    shown = made()
    shown.respond(ask("example.org"))
    shown.respond(b"\0\1damaged")
    assert shown.answers == {}


def leg(name: str, *, is_internal: bool = False, is_ingress: bool = False) -> Leg:
    config = NetworkConfig(id=NetworkId(name), is_internal=is_internal, is_ingress=is_ingress)
    return Leg(network=config, link="eth0")


def test_the_ingress_network_has_no_names() -> None:
    endpoint = Endpoint(task_id=TaskId("t"), legs=(leg("b"), leg("a"), leg("i", is_ingress=True)))
    assert zone.network_ids(endpoint) == ("b", "a")


def test_only_internal_networks_mean_no_way_out() -> None:
    bare = Endpoint(task_id=TaskId("t"))
    assert zone.has_way_out(bare)
    assert not zone.has_way_out(replace(bare, legs=(leg("a", is_internal=True),)))
    assert zone.has_way_out(replace(bare, legs=(leg("a", is_internal=True), leg("b"))))


def test_a_task_in_the_nodes_network_asks_as_the_node_does() -> None:
    assert [zone.has_resolver(Endpoint(task_id=TaskId("t"), mode=mode)) for mode in ("", "host", "none")] == [
        True,
        False,
        False,
    ]
