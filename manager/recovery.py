"""A cluster of one: from a survivor's log, or from a backup. Offline: no manager runs on these files.

What the new cluster's log says first, besides who its only member is (``manager/raft/recover.py``):

* every other node that is or was to be a manager is removed, and its certificate refused from now on;
* this node is a manager, and is recorded as the new member;
* nodes that were there when the cluster was lost are ``unknown`` for a while, so that their agents can find
  it again before their tasks are replaced.

Services, secrets, configs, networks, workers, the root and the tokens stay as they are. ``claims`` decides;
the rest reads and writes files, and may run in a thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from msgspec.structs import replace

from manager import backup
from manager.manager import ManagerConfig, new_raft_id
from manager.raft import recover, snapshot
from manager.raft.proposer import Member
from manager.raft.records import Kind as RecordKind
from manager.raft.recover import Survivor
from manager.raft.sealing import AesGcmSealer
from manager.raft.snapshot import SnapshotHead
from manager.removed import refusing
from manager.store.store import Store
from manager.store.view import View
from swarmpy import codec
from swarmpy.errors import Corrupt, FailedPrecondition, InvalidArgument
from swarmpy.limits import BACKUP_BYTES_MAX, BATCH_GROUPS_MAX, RECOVERY_GRACE_S
from swarmpy.model.changes import Batch, Change, Create, Delete, Group, NodeReport, Update
from swarmpy.model.cluster_specs import NodeSpec
from swarmpy.model.ids import SECOND_NS, NodeId, RaftId, Timestamp
from swarmpy.model.objects import Cluster, Kind, ManagerStatus, Node, NodeDescription, NodeStatus
from swarmpy.model.states import NodeAvailability, NodeRole, NodeState, Owner
from swarmpy.pb import store_pb2 as pb
from swarmpy.runtime import AppendFile, Env

FOUND_AGAIN_MESSAGE: Final = "the cluster was recovered: the node has not come back to it yet"
_GRACE_NS: Final = int(RECOVERY_GRACE_S * SECOND_NS)
_INCOMING: Final = "raft.snapshot.incoming"


@dataclass(frozen=True, kw_only=True)
class Claimant:
    """The node that is to be the cluster's only manager, and what it is called there."""

    node_id: NodeId
    hostname: str
    raft_id: str
    address: str
    availability: NodeAvailability = NodeAvailability.UNSPECIFIED

    @property
    def member(self) -> Member:
        return Member(raft_id=self.raft_id, address=self.address)


def claims(view: View, me: Claimant, *, now: Timestamp, epoch: int) -> tuple[Batch, ...]:
    """What is to be written into the store so that it is the cluster of ``me`` alone."""
    cluster = view.cluster()
    if cluster is None:
        raise FailedPrecondition("there is no cluster in this state: nothing can be recovered from it")
    nodes = sorted(view.nodes(), key=lambda node: node.id)
    dropped = [node for node in nodes if node.id != me.node_id and _is_manager(node)]
    trusted = refusing(cluster, [node.id for node in dropped], now)
    changes: list[Change] = [Update(object=trusted)] if trusted != cluster else []
    changes += [Delete(kind=Kind.NODE, id=node.id) for node in dropped]
    changes += _own_record(view.node(me.node_id), dropped, me)
    status = ManagerStatus(raft_id=RaftId(me.raft_id), addr=me.address)
    changes.append(NodeReport(node_id=me.node_id, manager_status=status))
    groups = [Group(owner=Owner.API, changes=tuple(changes))]
    gone = {node.id for node in dropped}
    groups += [
        Group(owner=Owner.DISPATCHER, changes=(_doubt(node, now, epoch),))
        for node in nodes
        if node.id not in gone and node.status.state is not NodeState.DOWN
    ]
    return tuple(
        Batch(groups=tuple(groups[start : start + BATCH_GROUPS_MAX]), at=now)
        for start in range(0, len(groups), BATCH_GROUPS_MAX)
    )


def _is_manager(node: Node) -> bool:
    """Whether it has, or may have, a manager's certificate or log."""
    return node.role is NodeRole.MANAGER or node.manager_status is not None


def _own_record(known: Node | None, dropped: list[Node], me: Claimant) -> list[Change]:
    """This node as a manager. One that takes the place of a lost one of its name keeps that one's labels."""
    if known is not None:
        wanted = replace(known, spec=replace(known.spec, role=NodeRole.MANAGER), role=NodeRole.MANAGER)
        return [Update(object=wanted)] if wanted != known else []
    namesakes = [node for node in dropped if me.hostname and node.description.hostname == me.hostname]
    spec = namesakes[0].spec if len(namesakes) == 1 else NodeSpec(availability=NodeAvailability.ACTIVE)
    if me.availability is not NodeAvailability.UNSPECIFIED:
        spec = replace(spec, availability=me.availability)
    return [
        Create(
            object=Node(
                id=me.node_id,
                spec=replace(spec, role=NodeRole.MANAGER),
                role=NodeRole.MANAGER,
                description=NodeDescription(hostname=me.hostname),
            )
        )
    ]


def _doubt(node: Node, now: Timestamp, epoch: int) -> NodeReport:
    """The grace that every unknown node has begins later than now."""
    status = NodeStatus(
        state=NodeState.UNKNOWN,
        message=FOUND_AGAIN_MESSAGE,
        addr=node.status.addr,
        since=Timestamp(now + _GRACE_NS),
        epoch=epoch,
    )
    return NodeReport(node_id=node.id, status=status)


# --- a survivor


def make_alone(config: ManagerConfig, node_id: NodeId, hostname: str, env: Env) -> None:
    """Rewrite a stopped manager's log so that it is its cluster's only manager.

    ``FailedPrecondition`` if there is nothing to go on from, ``Corrupt`` if the log is damaged; the files
    then are as they were.
    """
    store = Store()
    survivor = Survivor(env.disk, config.folder, AesGcmSealer(config.key, env.entropy), store)
    try:
        if not survivor.has_state or store.cluster() is None:
            raise FailedPrecondition(
                "this manager has not received anything of the swarm's state yet: "
                "there is nothing that it could go on from"
            )
        me = Claimant(
            node_id=node_id,
            hostname=hostname,
            raft_id=new_raft_id(node_id, env),
            address=config.advertise_addr,
        )
        batches = claims(store, me, now=env.clock.now(), epoch=survivor.next_term)
        survivor.stand_alone(me.member, [codec.encode(batch) for batch in batches])
    finally:
        survivor.close()


def read_backup(config: ManagerConfig, env: Env) -> Iterator[bytes]:
    """A backup, piece by piece, from the files of a manager that does not run."""
    store = Store()
    survivor = Survivor(env.disk, config.folder, AesGcmSealer(config.key, env.entropy), store)
    survivor.close()
    return backup.backup_of(store, node_id=NodeId(""), now=env.clock.now(), term=survivor.next_term)


# --- a backup


class Restore:
    """A backup on its way in: ``feed`` it, ``finish`` it, or ``discard`` it.

    ``InvalidArgument`` says what is wrong with the backup. What it writes until ``finish`` nobody reads, and
    what ``finish`` writes counts only once the node's certificate, which the caller saves, says so.
    """

    def __init__(self, config: ManagerConfig, me: Claimant, env: Env) -> None:
        self._config, self._me, self._env = config, me, env
        self._sealer = AesGcmSealer(config.key, env.entropy)
        self._reader = backup.Reader()
        self._side = config.folder / _INCOMING
        self._file: AppendFile | None = None
        self._head: SnapshotHead | None = None
        self._slices = 0
        self._bytes = 0

    def feed(self, data: bytes) -> None:
        self._bytes += len(data)
        if self._bytes > BACKUP_BYTES_MAX:
            raise InvalidArgument(f"the backup is larger than {BACKUP_BYTES_MAX} bytes")
        slices = self._reader.feed(data)
        if self._reader.head is None:
            return
        if self._reader.head.HasField("sealing"):
            raise InvalidArgument(
                "the backup is sealed with a passphrase: it has to be opened before it is sent"
            )
        if self._file is None:
            self._begin(self._reader.head)
        for part in slices:
            self._slices += 1
            self._write((RecordKind.SNAPSHOT_SLICE, part))

    def finish(self) -> Cluster:
        """Check all of it and make it this node's log. The cluster that it is of."""
        self._reader.finish()
        head = self._reader.head
        assert head is not None
        assert self._head is not None
        assert self._file is not None
        self._write(snapshot.end_frame(self._slices))
        self._file.sync()
        self._file.close()
        self._file = None
        store = Store()
        try:
            store.restore(snapshot.slices_of(self._env.disk, self._side, self._sealer))
        except Corrupt as error:
            raise InvalidArgument(f"the backup is damaged: {error}") from error
        cluster = store.cluster()
        if cluster is None or cluster.id != head.cluster_id or store.version != head.version:
            raise InvalidArgument("the backup is damaged: its head does not belong to what follows")
        term = self._head.last[2]
        batches = claims(store, self._me, now=self._env.clock.now(), epoch=term)
        recover.found_from(
            self._env.disk,
            self._config.folder,
            self._sealer,
            self._head,
            side=self._side,
            entries=[codec.encode(batch) for batch in batches],
        )
        return cluster

    def discard(self) -> None:
        """Leave nothing behind."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self._env.disk.remove(self._side)

    def _begin(self, head: pb.BackupHead) -> None:
        disk = self._env.disk
        disk.make_dirs(self._config.folder)
        disk.remove(self._side)
        self._head = recover.head_of_new(self._me.member, max(head.term, 1) + 1)
        self._file = disk.append(self._side)
        self._write(snapshot.head_frame(self._head))

    def _write(self, frame: snapshot.Frame) -> None:
        assert self._file is not None
        self._file.write(snapshot.seal_frame(frame, self._sealer))
