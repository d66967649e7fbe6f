"""``Service``: HNS as this package speaks to it, objects in and objects out, in whichever schema it has.

``Hns`` is what the system offers: one call for V1, six verbs on five kinds of objects for V2. With V2 the
balancers of whole virtual addresses are still made as V1's policy lists: V2 refuses a balancer without ports.
HNS keeps one set of objects behind both, so what was made by one is found by the other, under the same id.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any, Protocol

from msgspec.structs import replace

from agent.dataplane.windows import v1, v2
from agent.dataplane.windows.errors import failure, is_gone
from agent.dataplane.windows.features import Features, HnsVersion, features_of
from agent.dataplane.windows.objects import (
    NAMESPACE_MARK,
    FoundBalancer,
    FoundEndpoint,
    FoundNamespace,
    FoundNetwork,
    HnsBalancer,
    HnsEndpoint,
    HnsNetwork,
    NetworkKind,
    Observed,
    plain_id,
)
from swarmpy.errors import SwarmError, Unavailable


class Kind(StrEnum):
    """As in the names of HCN's functions."""

    NETWORK = "Network"
    ENDPOINT = "Endpoint"
    NAMESPACE = "Namespace"
    BALANCER = "LoadBalancer"


class Hns(Protocol):
    """The system's two interfaces. Texts are JSON; errors are those of ``errors.failure``."""

    def call(self, method: str, path: str, body: str) -> str:
        """HNSCall: the whole answer, with Success, Error and Output."""
        ...

    def enumerate(self, kind: Kind, query: str) -> str:
        """A list of ids."""
        ...

    def query(self, kind: Kind, id_: str, query: str) -> str: ...

    def create(self, kind: Kind, settings: str, *, id_: str = "", network_id: str = "") -> str:
        """What was made, as HNS sees it. ``id_`` empty: HNS chooses."""
        ...

    def modify(self, kind: Kind, id_: str, settings: str) -> None: ...

    def delete(self, kind: Kind, id_: str) -> None: ...


def read_version(hns: Hns) -> HnsVersion:
    """0.0 if HNS answers but does not know the question: it is older than 7.2."""
    answer = hns.call("GET", v1.VERSION, "")
    try:
        output = _output(answer, f"GET {v1.VERSION}")
    except SwarmError:
        return HnsVersion()
    version = output.get("Version") if isinstance(output, Mapping) else None
    if not isinstance(version, Mapping):
        return HnsVersion()
    return HnsVersion(major=int(version.get("Major", 0)), minor=int(version.get("Minor", 0)))


class Service:
    """Blocking; not for two threads at once."""

    def __init__(self, hns: Hns) -> None:
        self._hns = hns
        self._features: Features | None = None

    @property
    def features(self) -> Features:
        if self._features is None:
            self._features = features_of(read_version(self._hns))
        return self._features

    # --- looking

    def observe(self) -> Observed:
        """All there is, whoever made it; of namespaces ours only."""
        networks = tuple(
            each for each in map(self._read_network, self._all(Kind.NETWORK)) if each is not None
        )
        by_id = {each.id: each.value.name for each in networks}
        read = v2.read_endpoint if self.features.has_v2 else v1.read_endpoint
        endpoints = tuple(read(each, by_id) for each in self._all(Kind.ENDPOINT))
        return Observed(
            networks=networks,
            endpoints=endpoints,
            balancers=self._balancers(endpoints),
            namespaces=self._namespaces(),
        )

    def _read_network(self, answer: Mapping[str, Any]) -> FoundNetwork | None:
        return v2.read_network(answer) if self.features.has_v2 else v1.read_network(answer)

    def _balancers(self, endpoints: Iterable[FoundEndpoint]) -> tuple[FoundBalancer, ...]:
        if not self.features.has_balancers:
            return ()
        names = {each.id: each.value.name for each in endpoints}
        networks = {each.id: each.value.network for each in endpoints}
        found: dict[str, FoundBalancer] = {}
        for answer in self._v1_all(v1.LISTS):
            balancer = v1.read_balancer(answer, names, networks)
            if balancer is not None:
                found[balancer.id] = balancer
        if self.features.has_v2:
            for answer in self._all(Kind.BALANCER):
                balancer = v2.read_balancer(answer, names, networks)
                found[balancer.id] = balancer
        return tuple(each for _, each in sorted(found.items()))

    def _namespaces(self) -> tuple[FoundNamespace, ...]:
        if not self.features.has_v2:
            return ()
        found = map(v2.read_namespace, self._all(Kind.NAMESPACE))
        return tuple(each for each in found if each.id.startswith(NAMESPACE_MARK))

    def _all(self, kind: Kind) -> list[Mapping[str, Any]]:
        if not self.features.has_v2:
            return self._v1_all({Kind.NETWORK: v1.NETWORKS, Kind.ENDPOINT: v1.ENDPOINTS}[kind])
        found = []
        for id_ in json.loads(self._hns.enumerate(kind, json.dumps(v2.QUERY)) or "[]"):
            with _unless_gone():  # between the list and the question
                found.append(json.loads(self._hns.query(kind, plain_id(str(id_)), json.dumps(v2.QUERY))))
        return found

    def _v1_all(self, path: str) -> list[Mapping[str, Any]]:
        output = self._v1("GET", path)
        return [each for each in output if isinstance(each, Mapping)] if isinstance(output, list) else []

    # --- changing

    def create_network(self, network: HnsNetwork) -> FoundNetwork:
        if self.features.has_v2:
            settings = json.dumps(v2.network_document(network))
            found = v2.read_network(json.loads(self._hns.create(Kind.NETWORK, settings)))
        else:
            found = v1.read_network(self._v1("POST", v1.NETWORKS, v1.network_document(network)))
        if found is None:
            raise Unavailable(f"HNS made something else of the network {network.name}: remove it by hand")
        return found

    def refresh_network(self, found: FoundNetwork) -> FoundNetwork:
        """HNS may learn late where a network's tunnels end."""
        if self.features.has_v2:
            answer = json.loads(self._hns.query(Kind.NETWORK, found.id, json.dumps(v2.QUERY)))
        else:
            answer = self._v1("GET", f"{v1.NETWORKS}{found.id}")
        return self._read_network(answer) or found

    def delete_network(self, id_: str) -> None:
        self._delete(Kind.NETWORK, v1.NETWORKS, id_)

    def create_endpoint(self, endpoint: HnsEndpoint, network: FoundNetwork) -> FoundEndpoint:
        """A local one on an overlay needs to be told where this node's tunnels end."""
        if network.value.kind is NetworkKind.OVERLAY and not endpoint.is_remote:
            endpoint = replace(endpoint, provider_address=network.provider_address)
        by_id = {network.id: network.value.name}
        if self.features.has_v2:
            settings = json.dumps(v2.endpoint_document(endpoint, network.id))
            answer = self._hns.create(Kind.ENDPOINT, settings, network_id=network.id)
            return v2.read_endpoint(json.loads(answer), by_id)
        return v1.read_endpoint(
            self._v1("POST", v1.ENDPOINTS, v1.endpoint_document(endpoint, network.id)), by_id
        )

    def modify_endpoint(self, found: FoundEndpoint, endpoint: HnsEndpoint) -> None:
        """Access list and cap. V2: what is new comes before what is old goes; V1 takes the whole at once."""
        wanted = replace(found.value, acls=endpoint.acls, rate_out_bytes=endpoint.rate_out_bytes)
        if not self.features.has_v2:
            document = {**v1.endpoint_document(wanted, found.network_id), "ID": found.id}
            self._v1("POST", f"{v1.ENDPOINTS}{found.id}", document)
            return
        old, new = v2.changeable_policies(found.value), v2.changeable_policies(wanted)
        changes = (
            ("Add", [each for each in new if each not in old]),
            ("Remove", [each for each in old if each not in new]),
        )
        for request, policies in changes:
            if policies:
                settings = json.dumps(v2.policy_request(request, policies))
                self._hns.modify(Kind.ENDPOINT, found.id, settings)

    def delete_endpoint(self, id_: str) -> None:
        self._delete(Kind.ENDPOINT, v1.ENDPOINTS, id_)

    def create_balancer(self, balancer: HnsBalancer, backend_ids: Sequence[str]) -> str:
        if self.features.has_v2 and not balancer.is_all_ports:
            settings = json.dumps(v2.balancer_document(balancer, backend_ids))
            answer = json.loads(self._hns.create(Kind.BALANCER, settings))
        else:
            answer = self._v1("POST", v1.LISTS, v1.balancer_document(balancer, backend_ids))
        return plain_id(str(answer["ID"]))

    def update_balancer(self, id_: str, balancer: HnsBalancer, backend_ids: Sequence[str]) -> None:
        """The whole document anew; HNS 15.4 and newer."""
        self._hns.modify(Kind.BALANCER, id_, json.dumps(v2.balancer_document(balancer, backend_ids)))

    def delete_balancer(self, id_: str) -> None:
        self._delete(Kind.BALANCER, v1.LISTS, id_)

    def create_namespace(self, id_: str, *, is_guest: bool = False) -> None:
        is_ready = self.features.has_ready_namespaces
        document = v2.namespace_document(id_, is_guest=is_guest, is_ready=is_ready)
        answer = json.loads(self._hns.create(Kind.NAMESPACE, json.dumps(document), id_=id_))
        given = plain_id(str(answer["ID"]))
        if given != id_:
            self._hns.delete(Kind.NAMESPACE, given)
            raise Unavailable(
                f"HNS gave a task's namespace the id {given} instead of {id_}: please report it"
            )

    def change_namespace(self, id_: str, request: str, endpoint_id: str) -> None:
        """``request``: Add or Remove."""
        with contextlib.nullcontext() if request == "Add" else _unless_gone():
            self._hns.modify(Kind.NAMESPACE, id_, json.dumps(v2.membership_request(request, endpoint_id)))

    def delete_namespace(self, id_: str) -> None:
        with _unless_gone():
            self._hns.delete(Kind.NAMESPACE, id_)

    def _delete(self, kind: Kind, path: str, id_: str) -> None:
        with _unless_gone():
            if self.features.has_v2:
                self._hns.delete(kind, id_)
            else:
                self._v1("DELETE", f"{path}{id_}")

    def _v1(self, method: str, path: str, document: Mapping[str, Any] | None = None) -> Any:
        body = json.dumps(document) if document is not None else ""
        return _output(self._hns.call(method, path, body), f"{method} {path}")


def _output(answer: str, doing: str) -> Any:
    """What an answer of V1 carries; its error raised."""
    said = json.loads(answer) if answer else {}
    if not isinstance(said, Mapping) or not said.get("Success"):
        record = said if isinstance(said, Mapping) else {}
        raise failure(int(record.get("ErrorCode") or 0), str(record.get("Error") or answer), doing=doing)
    return said.get("Output")


@contextlib.contextmanager
def _unless_gone() -> Iterator[None]:
    try:
        yield
    except SwarmError as error:
        if not is_gone(error):
            raise
