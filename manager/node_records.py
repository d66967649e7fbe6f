"""Which records of networks one node holds, and what to send it so that it does.

A node holds all endpoints and services of the networks that it is on; of the ingress network always, since
it answers on published ports. It knows the nodes that those endpoints are on, and itself; and all nodes, if a
task of it takes traffic of any of them: published ports lead to it, or its network is encrypted. Keys go to
nodes with an encrypted network only.

A record is sent when it differs from what was sent last. Pure; ``NodeAssignments`` says which networks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from msgspec.structs import replace

from manager.discovery import (
    SETTINGS,
    SETTINGS_WITH_KEYS,
    RecordBook,
    RecordKey,
    is_lost,
    network_keys,
    peer_key,
)
from manager.store.view import View
from swarmpy.model.discovery import (
    DiscoveryRecord,
    EndpointState,
    NetworkEndpoint,
    NetworkService,
    RecordKind,
)
from swarmpy.model.ids import NetworkId, NodeId
from swarmpy.model.value import Value


class RecordRemoved(Value, frozen=True, kw_only=True):
    """The node should no longer hold this record."""

    kind: RecordKind
    id: str


RecordItem = DiscoveryRecord | RecordRemoved


class NodeRecords:
    """What one session's agent holds of records."""

    def __init__(self, node_id: NodeId, book: RecordBook) -> None:
        self.node_id = node_id
        self._book = book
        self._sent: dict[RecordKey, DiscoveryRecord] = {}
        self._networks: dict[NetworkId, dict[RecordKey, None]] = {}
        """The networks that are held, and which of their records were sent."""
        self._neighbours: dict[NodeId, int] = {}
        """Endpoints that were sent, by node."""
        self._has_keys = False
        self._knows_all = False

    @property
    def networks(self) -> Iterable[NetworkId]:
        return self._networks.keys()

    def start(self, view: View) -> Iterator[RecordItem]:
        """What every node is told."""
        yield from self._send(view, SETTINGS)
        yield from self._send(view, peer_key(self.node_id))

    def hold(self, view: View, network_id: NetworkId) -> Iterator[RecordItem]:
        """The node is on the network from now on."""
        assert network_id not in self._networks
        self._networks[network_id] = {}
        for key in network_keys(view, network_id):
            yield from self._send(view, key)

    def release(self, view: View, network_id: NetworkId) -> Iterator[RecordItem]:
        """The node is on the network no more."""
        for key in list(self._networks[network_id]):
            yield from self._drop(view, key)
        del self._networks[network_id]

    def widen(self, view: View, *, has_keys: bool, knows_all: bool) -> Iterator[RecordItem]:
        """Whether the node is to have keys, and whether it is to know all nodes."""
        if has_keys != self._has_keys:
            self._has_keys = has_keys
            yield from self._send(view, SETTINGS)
        if knows_all != self._knows_all:
            self._knows_all = knows_all
            nodes = {node.id for node in view.nodes()}
            for node_id in sorted(nodes | self._neighbours.keys() | self._sent_peers()):
                yield from self.refresh(view, peer_key(node_id))

    def refresh(self, view: View, key: RecordKey) -> Iterator[RecordItem]:
        """What to send now that this record may have changed."""
        if self._is_held(key):
            yield from self._send(view, key)
        elif key in self._sent:
            yield from self._drop(view, key)

    def _sent_peers(self) -> set[NodeId]:
        return {NodeId(key.id) for key in self._sent if key.kind is RecordKind.PEER}

    def _is_held(self, key: RecordKey) -> bool:
        match key.kind:
            case RecordKind.SETTINGS:
                return True
            case RecordKind.PEER:
                return self._knows_all or key.id in self._neighbours or key.id == self.node_id
            case _:
                return key.scope in self._networks

    def _send(self, view: View, key: RecordKey) -> Iterator[RecordItem]:
        wanted = SETTINGS_WITH_KEYS if key == SETTINGS and self._has_keys else key
        record = self._book.record(view, wanted)
        before = self._sent.get(key)
        if record is None:
            if before is not None:
                yield from _lost(view, before)
                yield from self._drop(view, key)
            return
        if record is before or record == before:
            return
        self._sent[key] = record
        if isinstance(record, NetworkEndpoint):
            former = before.node_id if isinstance(before, NetworkEndpoint) else None
            self._networks[record.network_id][key] = None
            if former != record.node_id:
                yield from self._meet(view, record.node_id)
                yield record
                yield from self._part(view, former)
                return
        elif isinstance(record, NetworkService):
            self._networks[record.network_id][key] = None
        yield record

    def _drop(self, view: View, key: RecordKey) -> Iterator[RecordItem]:
        record = self._sent.pop(key)
        yield RecordRemoved(kind=key.kind, id=record.record_id)
        if key.kind in (RecordKind.SERVICE, RecordKind.ENDPOINT):
            del self._networks[NetworkId(key.scope)][key]
        if isinstance(record, NetworkEndpoint):
            yield from self._part(view, record.node_id)

    def _meet(self, view: View, node_id: NodeId) -> Iterator[RecordItem]:
        """An endpoint on that node is about to be sent: how to reach it comes before."""
        self._neighbours[node_id] = self._neighbours.get(node_id, 0) + 1
        if self._neighbours[node_id] == 1:
            yield from self._send(view, peer_key(node_id))

    def _part(self, view: View, node_id: NodeId | None) -> Iterator[RecordItem]:
        if node_id is None:
            return
        self._neighbours[node_id] -= 1
        if not self._neighbours[node_id]:
            del self._neighbours[node_id]
            yield from self.refresh(view, peer_key(node_id))


def _lost(view: View, before: DiscoveryRecord) -> Iterator[NetworkEndpoint]:
    """A task that ended with its node: nobody has closed its connections, so its endpoint is LOST before it
    is removed, also if both came to pass since this session was told of anything."""
    if (
        isinstance(before, NetworkEndpoint)
        and before.state is not EndpointState.LOST
        and is_lost(view.node(before.node_id))
    ):
        yield replace(before, state=EndpointState.LOST)
