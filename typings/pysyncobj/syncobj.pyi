# ruff: noqa: N802, N803 - the names are the library's
from collections.abc import Callable, Iterable
from typing import Any

from pysyncobj.config import SyncObjConf
from pysyncobj.node import Node

VERSION: str
PIPE_NOTIFIER_ENABLED: bool
pickle: Any
createJournal: Callable[[Any], Any]  # noqa: N816
Serializer: Callable[..., Any]
monotonicTime: Callable[[], float]  # noqa: N816

_Callback = Callable[[Any, int], None]

class SyncObj:
    _poller: Any
    _SyncObj__otherNodes: set[Node]
    _SyncObj__connectedNodes: set[Node]
    _SyncObj__raftElectionDeadline: float
    _SyncObj__raftCommitIndex: int
    _SyncObj__raftLastApplied: int
    _SyncObj__raftCurrentTerm: int
    _SyncObj__raftNextIndex: dict[Node, int]
    _SyncObj__newAppendEntriesTime: float
    _SyncObj__needLoadDumpFile: bool
    _SyncObj__commandsWaitingCommit: dict[int, list[tuple[int, _Callback]]]
    _SyncObj__commandsWaitingReply: dict[int, _Callback]

    def __init__(
        self,
        selfNode: Node,
        otherNodes: Iterable[Node],
        conf: SyncObjConf | None = None,
        consumers: object = None,
        nodeClass: type = ...,
        transport: object = None,
    ) -> None: ...
    @property
    def raftLastApplied(self) -> int: ...
    @property
    def raftCommitIndex(self) -> int: ...
    @property
    def raftCurrentTerm(self) -> int: ...
    def _onTick(self, timeToWait: float = 0.0) -> None: ...
    def _isLeader(self) -> bool: ...
    def _getLeader(self) -> Node | None: ...
    def _applyCommand(
        self, command: bytes, callback: _Callback | None, commandType: int | None = None
    ) -> None: ...
    def addNodeToCluster(self, node: Node, callback: _Callback | None = None) -> None: ...
    def removeNodeFromCluster(self, node: Node, callback: _Callback | None = None) -> None: ...
    def transferLeadership(self, node: Node | None = None, callback: _Callback | None = None) -> None: ...
    def forceLogCompaction(self) -> None: ...
    def _SyncObj__updateClusterConfiguration(self, newNodes: Iterable[Node]) -> None: ...
    def _SyncObj__applyLogEntries(self) -> bool: ...
    def _SyncObj__loadDumpFile(self, clearJournal: bool) -> None: ...
    def _SyncObj__sendAppendEntries(self) -> None: ...
    def _SyncObj__generateRaftTimeout(self) -> float: ...
