"""Who gets in, and who is turned away: one suite for gRPC on loopback and for the simulated transport."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pki_cluster import DAY, HOUR, PkiCluster
from transport_rig import AnyRig as Rig
from transport_rig import both_rigs, ping, raft

from swarmpy import errors, pki, rpc, tls_probe
from swarmpy.errors import InvalidArgument, Unavailable
from swarmpy.model.ids import Timestamp
from swarmpy.pb import raft_pb2
from swarmpy.pki import Role


@pytest.fixture(params=both_rigs, ids=["grpc", "simulated"])
def rig(request: pytest.FixtureRequest) -> Rig:
    made: Rig = request.param()
    return made


def test_certificates_that_do_not_fit(rig: Rig) -> None:
    other = PkiCluster()
    cluster = rig.cluster
    roots, now = cluster.cluster.root_ca.ca_cert, cluster.clock.now()
    strangers = {
        "of another cluster": replace(other.identity(Role.MANAGER), roots=roots),
        "a token of another cluster": replace(other.joiner(Role.MANAGER), roots=roots),
        "expired": cluster.identity(Role.MANAGER, now=Timestamp(now - DAY), expiry=HOUR),
        "not valid yet": cluster.identity(Role.MANAGER, now=Timestamp(now + 8 * DAY)),
        "other roots": replace(cluster.identity(Role.MANAGER), roots=other.cluster.root_ca.ca_cert),
    }

    async def scenario(rig: Rig) -> None:
        server, address = await rig.start()
        for what, stranger in strangers.items():
            with pytest.raises(Unavailable):
                pytest.fail(f"{what}: {await ping(rig, address, stranger)}")
        with pytest.raises(Unavailable):
            await ping(rig, address, server_role=Role.WORKER)
        assert await ping(rig, address) == cluster.manager.node_id
        await rig.at_server(server.stop(0))

    rig.run(scenario)


def test_roles(rig: Rig) -> None:
    async def scenario(rig: Rig) -> None:
        server, address = await rig.start()
        for role in (Role.WORKER, Role.MANAGER):
            with pytest.raises(errors.PermissionDenied, match=f"the caller is swarm-join-{role.node_role}"):
                await ping(rig, address, rig.cluster.joiner(role))
        with pytest.raises(errors.PermissionDenied, match="for swarm-manager, the caller is swarm-worker"):
            await ping(rig, address, rig.cluster.identity(Role.WORKER))
        await rig.at_server(server.stop(0))

    rig.run(scenario)


def test_trust_changes_while_the_port_is_open(rig: Rig) -> None:
    async def scenario(rig: Rig) -> None:
        server, address = await rig.start()
        cluster = rig.cluster
        old_joiner, node = cluster.joiner(Role.WORKER), cluster.identity(Role.MANAGER)
        async with rig.transport.channel(node, address) as channel:
            await raft(channel).Ping(raft_pb2.RaftPingRequest(), timeout=5)
            tokens = pki.rotate_tokens(cluster.cluster.root_ca, worker=b"x" * pki.SECRET_BYTES)
            server.trust = rpc.Trust(
                identity=cluster.manager,
                join_tokens=tokens.join_tokens,
                removed=frozenset({node.node_id}),
            )
            # A removed node hears so, on connections that it has and on new ones.
            with pytest.raises(errors.NodeRemoved), rpc.translate_errors():
                await raft(channel).Ping(raft_pb2.RaftPingRequest(), timeout=5)
        with pytest.raises(errors.NodeRemoved):
            await ping(rig, address, node)
        with pytest.raises(Unavailable):
            await ping(rig, address, old_joiner)
        new_joiner = pki.join_identity(pki.parse_token(tokens.join_tokens.worker), tokens.ca_cert)
        with pytest.raises(errors.PermissionDenied):
            await ping(rig, address, new_joiner)
        await rig.at_server(server.stop(0))

    rig.run(scenario)


def test_what_a_joiner_learns_before_it_trusts(rig: Rig) -> None:
    async def scenario(rig: Rig) -> None:
        server, address = await rig.start()
        cluster = rig.cluster
        chain = await rig.transport.fetch_chain(address)
        assert pki.split_pem(chain) == pki.split_pem(cluster.manager.certificate + cluster.manager.roots)
        assert not await rig.transport.is_turned_away(cluster.joiner(Role.WORKER), address)
        assert not await rig.transport.is_turned_away(cluster.manager, address)
        stranger = replace(PkiCluster().joiner(Role.WORKER), roots=cluster.manager.roots)
        assert await rig.transport.is_turned_away(stranger, address)
        with pytest.raises(InvalidArgument, match="is not a manager of the swarm"):
            await rig.transport.is_turned_away(PkiCluster().manager, address)
        with pytest.raises(InvalidArgument, match="not the address of a manager"):
            await rig.transport.fetch_chain("nonsense")
        assert tls_probe.split_address(address)[1] > 0
        await rig.at_server(server.stop(0))

    rig.run(scenario)
