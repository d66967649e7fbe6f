"""What clients may ask of the root, and what they are answered. Texts are dockerd 20.10's."""

from __future__ import annotations

import os

import pytest
from clusters import apply, make_node
from msgspec.structs import replace

from manager.api import ca_change
from manager.api.ca_change import Draws
from manager.store.store import Store
from swarmpy import pki
from swarmpy.errors import FailedPrecondition, InvalidArgument, Unimplemented
from swarmpy.model.changes import Create
from swarmpy.model.cluster_specs import CAConfig, ClusterSpec, ExternalCA
from swarmpy.model.ids import SECOND_NS, ClusterId, Timestamp
from swarmpy.model.objects import Cluster, TLSInfo
from swarmpy.version import STORE_FORMAT_ROOT_ROTATION

NOW = Timestamp(1_790_000_000 * SECOND_NS)


def drawn() -> Draws:
    return Draws(
        key=os.urandom(pki.KEY_BYTES),
        serials=(os.urandom(16), os.urandom(16)),
        secrets=(os.urandom(16), os.urandom(16)),
    )


@pytest.fixture
def cluster() -> Cluster:
    draws = drawn()
    root = pki.create_root_ca(NOW, key=draws.key, serial=draws.serials[0], secrets=draws.secrets)
    return Cluster(id=ClusterId("c"), root_ca=root, store_format=STORE_FORMAT_ROOT_ROTATION)


def asked(cluster: Cluster, **config: object) -> Cluster:
    """The cluster after its settings were changed to these."""
    return asked_in(Store(), cluster, **config)


def asked_in(store: Store, cluster: Cluster, **config: object) -> Cluster:
    spec = replace(cluster.spec, ca_config=replace(cluster.spec.ca_config, **config))
    return ca_change.with_root(store, replace(cluster, spec=spec), drawn(), NOW)


def pair() -> tuple[str, str]:
    certificate, key = pki.make_root(NOW, key=os.urandom(pki.KEY_BYTES), serial=os.urandom(16))
    return certificate.decode(), key.decode()


def test_other_settings_leave_the_root_alone(cluster: Cluster) -> None:
    assert asked(cluster, node_cert_expiry=3600 * SECOND_NS).root_ca == cluster.root_ca


def test_each_wish_for_a_rotation_is_obeyed_once(cluster: Cluster) -> None:
    once = asked(cluster, force_rotate=1)
    assert once.root_ca.rotation is not None
    assert once.root_ca.ca_cert == cluster.root_ca.ca_cert
    assert asked(once).root_ca == once.root_ca
    again = asked(once, force_rotate=2)
    assert again.root_ca.rotation is not None
    assert again.root_ca.rotation.ca_cert != once.root_ca.rotation.ca_cert


def test_a_given_root_is_rotated_to_and_its_key_is_not_kept_in_the_settings(cluster: Cluster) -> None:
    certificate, key = pair()
    changed = asked(cluster, signing_ca_cert=certificate, signing_ca_key=key, force_rotate=1)
    assert changed.root_ca.rotation is not None
    assert changed.root_ca.rotation.ca_cert.decode() == certificate
    assert changed.spec.ca_config == CAConfig(force_rotate=1)
    assert asked(changed, signing_ca_cert=certificate).root_ca == changed.root_ca


def test_to_ask_for_the_present_root_calls_a_rotation_off(cluster: Cluster) -> None:
    rotating = asked(cluster, force_rotate=1)
    present = cluster.root_ca.ca_cert.decode()
    off = asked(rotating, signing_ca_cert=present, force_rotate=2)
    assert off.root_ca == replace(cluster.root_ca, last_force_rotate=2)


def test_what_is_refused(cluster: Cluster) -> None:
    certificate, key = pair()
    cases = [
        (
            {"signing_ca_key": key},
            "if a signing CA key is provided, the signing CA cert must also be provided",
        ),
        (
            {"signing_ca_key": key, "signing_ca_cert": "nonsense"},
            "if a signing CA key is provided, the signing CA cert must also be provided",
        ),
        (
            {"signing_ca_cert": certificate},
            "there must be at least one valid, reachable external CA corresponding to the desired "
            "CA certificate",
        ),
        ({"signing_ca_cert": certificate, "signing_ca_key": pair()[1]}, "certificate key mismatch"),
        (
            {"signing_ca_cert": certificate * 2, "signing_ca_key": key},
            "the desired CA certificate cannot contain multiple certificates",
        ),
    ]
    for config, text in cases:
        with pytest.raises(InvalidArgument) as refused:
            asked(cluster, **config)
        assert str(refused.value) == f"rpc error: code = InvalidArgument desc = {text}"


def test_what_is_not_supported_is_said() -> None:
    spec = ClusterSpec(ca_config=CAConfig(external_cas=(ExternalCA(protocol="cfssl", url="https://x"),)))
    with pytest.raises(Unimplemented, match="--ca-cert FILE --ca-key FILE"):
        ca_change.check_supported(spec)
    given = ClusterSpec(ca_config=CAConfig(signing_ca_cert="x"))
    ca_change.check_supported(given)
    with pytest.raises(Unimplemented, match="initialize it, then change the root"):
        ca_change.check_supported(given, is_new=True)


def test_it_waits_for_managers_and_nodes_that_know_of_it(cluster: Cluster) -> None:
    old = replace(cluster, store_format=STORE_FORMAT_ROOT_ROTATION - 1)
    with pytest.raises(FailedPrecondition, match="newer SwarmPy on every manager"):
        asked(old, force_rotate=1)
    store = Store()
    newer = make_node("newer")
    told = replace(newer, description=replace(newer.description, tls_info=TLSInfo(trust_root="x")))
    apply(store, Create(object=told))
    assert asked_in(store, cluster, force_rotate=1).root_ca.rotation is not None
    apply(store, Create(object=make_node("older")))
    with pytest.raises(FailedPrecondition, match="newer SwarmPy on older: "):
        asked_in(store, cluster, force_rotate=1)
