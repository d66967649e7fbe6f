"""The unlock key of a cluster whose settings are being changed: a decision."""

from __future__ import annotations

from msgspec.structs import replace

from swarmpy.errors import FailedPrecondition
from swarmpy.model.objects import Cluster
from swarmpy.version import STORE_FORMAT_AUTOLOCK


def keyed(cluster: Cluster, new_key: bytes, *, is_rotating: bool) -> Cluster:
    """The cluster with the unlock key that its settings ask for; ``new_key`` if it has to be another one.

    Without autolock a rotation means nothing, as with docker. FailedPrecondition while an older manager would
    leave its keys readable and nobody would notice.
    """
    if not cluster.spec.encryption_config.auto_lock_managers:
        return replace(cluster, unlock_key=b"")
    if cluster.unlock_key and not is_rotating:
        return cluster
    if cluster.store_format < STORE_FORMAT_AUTOLOCK:
        raise FailedPrecondition(
            "autolock needs a newer SwarmPy on every manager: one of them would leave its keys readable on "
            "its disk. Upgrade the managers (docker node ls shows their versions), then try again"
        )
    return replace(cluster, unlock_key=new_key)
