"""The secrets that keys of encrypted networks are derived from: made and rotated by the leader.

A ring of three: the newest is known to everybody for a whole period before anybody sends with it, the second
is sent with, the oldest is still received with. So no two nodes have to switch at the same time, and a node
that was away for a period understands all the others when it is back. No encrypted network, no keys.

How a node's keys follow from a secret is the dataplane's affair.
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog
from msgspec.structs import replace

from manager.proposer import Proposer, require_applied
from manager.store.events import Event, Resync
from manager.store.store import Store
from manager.store.view import View
from manager.store.watch import Watch
from swarmpy.errors import Rejected, Retry
from swarmpy.limits import NETWORK_KEY_ROTATION_S, NETWORK_KEYS_MAX, RETRY_DELAY_MIN_S
from swarmpy.model.changes import Batch, Group, Update
from swarmpy.model.defaults import is_encrypted
from swarmpy.model.ids import SECOND_NS, Timestamp
from swarmpy.model.objects import Kind, Network, NetworkKey
from swarmpy.model.states import Owner
from swarmpy.runtime import Env

log = structlog.get_logger(__name__)

SECRET_BYTES: Final = 32
_START_KEYS: Final = 2
"""One to send with, and the next."""
_ROTATION_NS: Final = int(NETWORK_KEY_ROTATION_S * SECOND_NS)

Ring = tuple[NetworkKey, ...]
"""By tag, the newest first."""


def due_at(view: View) -> Timestamp | None:
    """When the ring has to change next; None: not for what the store holds now."""
    cluster = view.cluster()
    if cluster is None or not _has_encrypted_network(view):
        return None
    ring = cluster.network_keys
    if len(ring) < _START_KEYS:
        return Timestamp(0)
    return Timestamp(ring[0].created_at + _ROTATION_NS)


def next_ring(ring: Ring, *, now: Timestamp, secrets: tuple[bytes, ...]) -> Ring:
    """The ring with new secrets at its front and the oldest dropped. A tag is never used twice."""
    tag = max((key.tag for key in ring), default=0)
    for secret in secrets:
        tag += 1
        ring = (NetworkKey(tag=tag, secret=secret, created_at=now), *ring)
    return ring[:NETWORK_KEYS_MAX]


def _has_encrypted_network(view: View) -> bool:
    return any(
        isinstance(network, Network) and is_encrypted(network.spec) for network in view.all(Kind.NETWORK)
    )


class NetworkKeys:
    """Keeps the ring for one term of leadership."""

    def __init__(self, store: Store, proposer: Proposer, env: Env, *, epoch: int) -> None:
        self._store = store
        self._proposer = proposer
        self._env = env
        self._epoch = epoch

    async def run(self) -> None:
        """Until cancelled."""
        with self._store.watch() as watch:
            while True:
                due = due_at(self._store)
                now = self._env.clock.now()
                if due is not None and due <= now:
                    await self._rotate(now)
                    continue
                try:
                    async with asyncio.timeout(None if due is None else (due - now) / SECOND_NS):
                        await _changed(watch)
                except TimeoutError:
                    pass  # a rotation is due

    async def _rotate(self, now: Timestamp) -> None:
        cluster = self._store.cluster()
        assert cluster is not None, "a ring is due only for a cluster"
        count = 1 if len(cluster.network_keys) >= _START_KEYS else _START_KEYS
        secrets = tuple(self._env.entropy.token_bytes(SECRET_BYTES) for _ in range(count))
        changed = replace(cluster, network_keys=next_ring(cluster.network_keys, now=now, secrets=secrets))
        group = Group(owner=Owner.ORCHESTRATOR, changes=(Update(object=changed),))
        try:
            applied = await self._proposer.propose(Batch(groups=(group,), at=now, epoch=self._epoch))
            require_applied(applied)
        except Retry as error:
            log.info("network_key_rotation_put_off", reason=str(error))
            await asyncio.sleep(error.delay_s)
        except Rejected as error:
            # the cluster was changed at the same moment: decided again
            log.info("network_key_rotation_put_off", reason=str(error))
            await asyncio.sleep(RETRY_DELAY_MIN_S)
        else:
            log.info("network_keys_rotated", newest=changed.network_keys[0].tag)


async def _changed(watch: Watch) -> None:
    """Until the cluster or a network has changed."""
    while True:
        for event in watch.take():
            match event:
                case Event(kind=Kind.CLUSTER | Kind.NETWORK) | Resync():
                    return
        await watch.wait()
