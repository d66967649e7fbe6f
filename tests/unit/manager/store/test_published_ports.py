"""The store's rule of published ports: whoever proposes, no number has two holders that can't share it."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from store_values import accept, batch, group, picture, refusal_of, revision, service, store_with

from manager.store.draft import Draft
from manager.store.refusals import error_of
from manager.store.store import Store
from swarmpy.errors import InvalidArgument
from swarmpy.model.changes import Create, Delete, Group, Refusal, Update
from swarmpy.model.ids import ServiceId
from swarmpy.model.objects import Endpoint, Kind, Service
from swarmpy.model.specs import PortConfig
from swarmpy.model.states import Owner, PortProtocol, PublishMode

INGRESS, HOST = PublishMode.INGRESS, PublishMode.HOST


def port(
    number: int = 8080, mode: PublishMode = INGRESS, protocol: PortProtocol = PortProtocol.TCP
) -> PortConfig:
    return PortConfig(target_port=80, published_port=number, publish_mode=mode, protocol=protocol)


def publishing(id_: str, *ports: PortConfig) -> Service:
    return replace(service(id_), endpoint=Endpoint(ports=ports))


def created(id_: str, *ports: PortConfig) -> Group:
    return group(*(Create(object=each) for each in (publishing(id_, *ports), revision(f"{id_}-r", id_))))


def stored(store: Store, id_: str) -> Service:
    found = store.service(ServiceId(id_))
    assert found is not None
    return found


def changed(store: Store, id_: str, *ports: PortConfig) -> Update:
    return Update(object=replace(stored(store, id_), endpoint=Endpoint(ports=ports)))


def store_publishing(*ports: PortConfig) -> Store:
    return store_with(publishing("s1", *ports), revision("s1-r", "s1"))


CLASH = "port '8080' is already in use by service 's1' (s1) as an ingress port"
HOST_CLASH = "port '8080' is already in use by service 's1' (s1) as a host-published port"


@pytest.mark.parametrize(
    ("held", "wanted"),
    [
        (port(), port()),
        (port(), port(mode=HOST)),
        (port(mode=HOST), port()),
        (port(mode=PublishMode.UNSPECIFIED, protocol=PortProtocol.UNSPECIFIED), port()),
        (port(), port(mode=PublishMode.UNSPECIFIED, protocol=PortProtocol.UNSPECIFIED)),
    ],
    ids=["ingress-ingress", "ingress-host", "host-ingress", "defaults-held", "defaults-wanted"],
)
def test_a_number_that_another_service_holds_is_refused(held: PortConfig, wanted: PortConfig) -> None:
    store = store_publishing(held)
    clash = HOST_CLASH if held.publish_mode is HOST else CLASH
    assert refusal_of(store, created("s2", wanted)) == clash
    accept(store, created("s2"))
    assert refusal_of(store, group(changed(store, "s2", port(9090), wanted))) == clash


@pytest.mark.parametrize(
    ("held", "wanted"),
    [
        (port(mode=HOST), port(mode=HOST)),
        (port(), port(protocol=PortProtocol.UDP)),
        (port(), port(8081)),
        (port(0), port(0)),
    ],
    ids=["host-host", "protocols", "numbers", "open"],
)
def test_what_can_be_shared_is_accepted(held: PortConfig, wanted: PortConfig) -> None:
    accept(store_publishing(held), created("s2", wanted))


def test_a_service_keeps_its_own_ports_and_gives_them_up() -> None:
    store = store_publishing(port())
    accept(store, group(changed(store, "s1", port(9090), port())))
    accept(store, group(changed(store, "s1", port(9090))))
    accept(store, created("s2", port()))
    accept(store, group(Delete(kind=Kind.SERVICE, id="s1")))
    accept(store, created("s3", port(9090)))


def test_only_what_stands_at_the_end_of_a_group_counts() -> None:
    store = store_publishing(port())
    accept(store, created("s2"))
    accept(store, group(changed(store, "s2", port()), changed(store, "s1")))
    assert [each.id for each in store.services_publishing(PortProtocol.TCP, 8080, INGRESS)] == ["s2"]


def test_of_two_groups_in_one_batch_the_first_gets_the_port() -> None:
    store = Store()
    applied = store.apply_batch(batch(created("s1", port()), created("s2", port())))
    assert [(each.index, each.reason) for each in applied.refused] == [(1, CLASH)]
    assert store.service(ServiceId("s2")) is None


def test_the_refusal_is_dockers_error_for_clients_and_a_reason_to_decide_again() -> None:
    store = store_publishing(port())
    (refusal,) = store.apply_batch(batch(created("s2", port()))).refused
    assert refusal.is_stale
    error = error_of(refusal)
    assert type(error) is InvalidArgument
    assert str(error) == f"rpc error: code = InvalidArgument desc = {CLASH}"


def test_of_several_holders_the_one_that_is_named_does_not_depend_on_the_order() -> None:
    reasons = []
    for ids in (("s1", "s3"), ("s3", "s1")):
        store = Store()
        for id_ in ids:
            accept(store, created(id_, port(mode=HOST)))
        reasons.append(refusal_of(store, created("s2", port())))
    assert reasons == [HOST_CLASH, HOST_CLASH]


def test_a_draft_knows_of_ports_that_are_only_planned() -> None:
    store = store_publishing(port())
    draft = Draft(store)
    assert draft.apply(group(changed(store, "s1"))) is None
    assert draft.apply(created("s2", port())) is None
    outcome = draft.apply(created("s3", port(mode=HOST)))
    assert isinstance(outcome, Refusal)
    assert outcome.reason == "port '8080' is already in use by service 's2' (s2) as an ingress port"
    assert [each.id for each in store.services_publishing(PortProtocol.TCP, 8080, INGRESS)] == ["s1"]


def test_a_restored_store_refuses_the_same() -> None:
    store = store_publishing(port())
    restored = Store()
    restored.restore(store.encode(store.freeze()))
    before = picture(restored)
    for each in (store, restored):
        assert refusal_of(each, created("s2", port())) == CLASH
    assert picture(restored) == before


def test_the_owner_makes_no_difference() -> None:
    store = store_publishing(port())
    for owner in (Owner.API, Owner.ORCHESTRATOR):
        wanted = replace(created("s2", port()), owner=owner)
        assert refusal_of(store, wanted) == CLASH
