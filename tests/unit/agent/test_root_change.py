"""A node while the cluster's root changes: what it trusts, when it renews, and what a crash leaves of it.

Against a real port, so who connects to whom is TLS's word.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace
from node_rig import Camera
from pki_cluster import PkiCluster, ping

from agent.identity import IdentityFiles, JoinRequest, Renewal, join
from swarmpy import pki, rpc
from swarmpy.errors import CertificateRetired, InvalidArgument, Rejected, Retry
from swarmpy.model.objects import Node
from swarmpy.model.root_ca import RootCA
from swarmpy.model.states import NodeRole
from swarmpy.pki import Identity, Role
from swarmpy.runtime import SystemDisk

DEADLINE_S = 20.0


def drawn(count: int) -> bytes:
    return os.urandom(count)


def begin(cluster: PkiCluster) -> RootCA:
    successor = pki.make_root(cluster.clock.now(), key=drawn(pki.KEY_BYTES), serial=drawn(pki.SERIAL_BYTES))
    return pki.begin_rotation(
        cluster.cluster.root_ca, successor, serial=drawn(16), secrets=(drawn(16), drawn(16))
    )


class Changing:
    """A cluster with one manager, whose root is changed step by step."""

    def __init__(self, cluster: PkiCluster, server: rpc.Server, address: str) -> None:
        self.cluster, self.server, self.address = cluster, server, address

    def node(self, role: Role = Role.WORKER) -> Identity:
        identity = self.cluster.identity(role)
        wire = NodeRole.MANAGER if role is Role.MANAGER else NodeRole.WORKER
        self.cluster.registry.nodes[identity.node_id] = Node(id=identity.node_id, role=wire)
        return identity

    def set_root(self, root: RootCA) -> None:
        self.cluster.change(self.server, replace(self.cluster.cluster, root_ca=root))

    def begin(self) -> None:
        self.set_root(begin(self.cluster))

    def finish(self, *absent: Identity) -> None:
        self.renew_manager()
        names = [identity.node_id for identity in absent]
        self.set_root(pki.finish_rotation(self.cluster.cluster.root_ca, names, self.cluster.clock.now()))
        self.renew_manager()

    def renew_manager(self) -> None:
        self.cluster.manager = self.cluster.identity(Role.MANAGER, node_id=self.cluster.manager.node_id)
        self.server.trust = self.cluster.trust()

    async def is_welcome(self, identity: Identity) -> bool:
        try:
            return await ping(identity, self.address) != ""
        except (Retry, Rejected):
            return False


@pytest.fixture
async def changing() -> AsyncIterator[Changing]:
    cluster = PkiCluster()
    async with cluster.serve() as (server, address):
        yield Changing(cluster, server, address)


@asynccontextmanager
async def renewing(
    changing: Changing, identity: Identity, folder: Path
) -> AsyncIterator[tuple[Renewal, list[Identity]]]:
    files = IdentityFiles(SystemDisk(), folder)
    files.save(identity)
    taken: list[Identity] = []
    renewal = Renewal(
        identity,
        files=files,
        managers=lambda: (changing.address,),
        on_renewed=taken.append,
        env=changing.cluster.env,
    )
    task = asyncio.create_task(renewal.run())
    try:
        yield renewal, taken
    finally:
        task.cancel()
        await asyncio.wait([task])


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.01)


async def test_old_and_new_certificates_are_welcome_until_the_end(changing: Changing) -> None:
    old = changing.node(Role.MANAGER)
    changing.begin()
    new = changing.node(Role.MANAGER)
    assert [await changing.is_welcome(each) for each in (old, new)] == [True, True]
    changing.renew_manager()
    assert [await changing.is_welcome(each) for each in (old, new)] == [True, True]
    changing.finish()
    assert [await changing.is_welcome(each) for each in (old, new)] == [False, True]


async def test_a_manager_that_has_not_heard_takes_new_certificates(changing: Changing) -> None:
    """It lags behind: the leader, renewed already, must reach it all the same."""
    before = changing.cluster.cluster.root_ca
    changing.begin()
    new = changing.node(Role.MANAGER)
    changing.set_root(before)
    assert await changing.is_welcome(new)


async def test_roots_are_adopted_and_kept(changing: Changing, tmp_path: Path) -> None:
    async with renewing(changing, changing.node(), tmp_path) as (renewal, taken):
        changing.begin()
        bundle = pki.trust_bundle(changing.cluster.cluster.root_ca)
        renewal.tell_roots(bundle)
        await until(lambda: taken)
        assert [identity.roots for identity in taken] == [bundle]
        kept = IdentityFiles(SystemDisk(), tmp_path).load()
        assert kept == taken[0]


async def test_a_node_that_is_asked_gets_a_certificate_of_the_new_root(
    changing: Changing, tmp_path: Path
) -> None:
    own = changing.node()
    asked = 0

    async def count() -> None:
        nonlocal asked
        asked += 1

    changing.cluster.registry.catch_up = count  # type: ignore[method-assign]
    async with renewing(changing, own, tmp_path) as (renewal, taken):
        renewal.ask_other_issuer()
        await until(lambda: asked == 1)  # by a manager that has not heard: of no use
        changing.begin()
        renewal.ask_other_issuer()
        await until(lambda: taken)
        issuer, _ = pki.issuer_of(changing.cluster.cluster.root_ca)
        assert pki.issuer_of_identity(taken[0]) == pki.issuer_in(issuer)
        assert taken[0].node_id == own.node_id


async def test_who_was_away_may_renew_and_nothing_else(changing: Changing, tmp_path: Path) -> None:
    away, other = changing.node(Role.MANAGER), changing.node(Role.MANAGER)
    changing.begin()
    changing.finish(away)
    with pytest.raises(CertificateRetired, match="renew it first"):
        await ping(away, changing.address)
    with pytest.raises((Rejected, Retry)) as refused:
        await ping(other, changing.address)
    assert not isinstance(refused.value, CertificateRetired)
    async with renewing(changing, away, tmp_path) as (renewal, taken):
        renewal.ask_other_issuer()
        await until(lambda: taken)
        assert await changing.is_welcome(taken[0])
        assert taken[0].roots == changing.cluster.cluster.root_ca.ca_cert
    root = changing.cluster.cluster.root_ca
    over = tuple(replace(each, expires_at=changing.cluster.clock.now()) for each in root.retired)
    changing.set_root(replace(root, retired=over))
    with pytest.raises((Rejected, Retry)) as late:
        await ping(away, changing.address)
    assert not isinstance(late.value, CertificateRetired)


async def test_whoever_crashes_while_renewing_is_welcome_or_may_renew(
    changing: Changing, tmp_path: Path
) -> None:
    """At every line between two writes, in the worst case: old and new identity share no root."""
    own = changing.node(Role.MANAGER)
    folder, album = tmp_path / "certificates", tmp_path / "album"
    camera = Camera(folder, album)
    files = IdentityFiles(camera, folder)
    files.save(own)
    changing.begin()
    changing.finish(own)
    renewed = changing.cluster.identity(Role.MANAGER, node_id=own.node_id)
    camera.is_on = True
    files.save(renewed)
    assert len(camera.photos) == 6
    for photo in camera.photos:
        left = IdentityFiles(SystemDisk(), photo).load()
        assert left is not None
        assert left.certificate in (own.certificate, renewed.certificate)
        if left.certificate == renewed.certificate:
            assert await changing.is_welcome(left)
        else:
            with pytest.raises(CertificateRetired):
                await ping(left, changing.address)
    assert IdentityFiles(SystemDisk(), folder).load() == renewed


async def test_joining_takes_the_old_token_until_the_end_and_the_new_one_after(changing: Changing) -> None:
    def request() -> JoinRequest:
        return JoinRequest(
            addresses=(changing.address,), token=changing.cluster.cluster.root_ca.join_tokens.worker
        )

    old = request()
    changing.begin()
    for _ in range(2):
        admission = await join(old, env=changing.cluster.env)
        assert admission.identity.roots == pki.trust_bundle(changing.cluster.cluster.root_ca)
        changing.renew_manager()
    changing.finish(changing.node())
    with pytest.raises(InvalidArgument, match="does not match fingerprint"):
        await join(old, env=changing.cluster.env)
    admission = await join(request(), env=changing.cluster.env)
    assert admission.identity.roots == changing.cluster.cluster.root_ca.ca_cert
