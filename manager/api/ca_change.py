"""What a change of the swarm's settings means for its root: nothing, a rotation, or the end of one.

As swarm mode has it: ``CAConfig.ForceRotate`` that was not obeyed yet asks for a new root of our making, a
``SigningCACert`` with its key for that one. Who asks during a rotation replaces its target; the present root,
if it is asked for, ends it. What was asked for is not kept in the settings: the key is in the root then, and
clients see neither. Pure; what is random is drawn before.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from msgspec.structs import replace

from manager.api import texts
from manager.store.view import View
from swarmpy import pki
from swarmpy.errors import FailedPrecondition, InvalidArgument
from swarmpy.model.cluster_specs import CAConfig, ClusterSpec
from swarmpy.model.ids import Timestamp
from swarmpy.model.objects import Cluster
from swarmpy.model.root_ca import RootCA
from swarmpy.model.states import NodeState
from swarmpy.runtime import Entropy
from swarmpy.version import STORE_FORMAT_ROOT_ROTATION

_PEM_CERTIFICATE = "-----BEGIN CERTIFICATE-----"
_NAMED_MAX = 5


@dataclass(frozen=True, kw_only=True)
class Draws:
    """What a new root is made of."""

    key: bytes = field(repr=False)
    serials: tuple[bytes, bytes]
    secrets: tuple[bytes, bytes] = field(repr=False)

    @classmethod
    def draw(cls, entropy: Entropy) -> Draws:
        return cls(
            key=entropy.token_bytes(pki.KEY_BYTES),
            serials=(entropy.token_bytes(pki.SERIAL_BYTES), entropy.token_bytes(pki.SERIAL_BYTES)),
            secrets=(entropy.token_bytes(pki.SECRET_BYTES), entropy.token_bytes(pki.SECRET_BYTES)),
        )


def check_supported(spec: ClusterSpec, *, is_new: bool = False) -> None:
    """Refuse what somebody would rely on in vain."""
    if spec.ca_config.external_cas:
        raise texts.unimplemented(
            "external CAs are not supported: the managers sign certificates themselves. To have them sign "
            "with a root of yours, give its certificate and key: "
            "docker swarm ca --rotate --ca-cert FILE --ca-key FILE"
        )
    if is_new and (spec.ca_config.signing_ca_cert or spec.ca_config.signing_ca_key):
        raise texts.unimplemented(
            "a swarm starts with a root of its own: initialize it, then change the root with "
            "docker swarm ca --rotate --ca-cert FILE --ca-key FILE"
        )


def with_root(view: View, cluster: Cluster, draws: Draws, now: Timestamp) -> Cluster:
    """The cluster, whose settings have just been changed, with the root that they ask for."""
    config = cluster.spec.ca_config
    try:
        root = _root(view, cluster, draws, now)
    except InvalidArgument as error:
        raise texts.invalid(error) from error
    spec = replace(cluster.spec, ca_config=replace(config, signing_ca_cert="", signing_ca_key=""))
    return replace(cluster, spec=spec, root_ca=replace(root, last_force_rotate=config.force_rotate))


def _root(view: View, cluster: Cluster, draws: Draws, now: Timestamp) -> RootCA:
    root, config = cluster.root_ca, cluster.spec.ca_config
    certificate = config.signing_ca_cert if _PEM_CERTIFICATE in config.signing_ca_cert else ""
    if config.signing_ca_key and not certificate:
        raise InvalidArgument("if a signing CA key is provided, the signing CA cert must also be provided")
    if certificate:
        wanted = pki.own_root(certificate)
        if wanted == _normal(root.ca_cert):
            return pki.cancel_rotation(root)
        if root.rotation is not None and wanted == _normal(root.rotation.ca_cert):
            return root
        successor = _given(config, now)
    elif config.force_rotate != root.last_force_rotate:
        successor = pki.make_root(now, key=draws.key, serial=draws.serials[0])
    else:
        return root
    _check_ready(view, cluster)
    return pki.begin_rotation(root, successor, serial=draws.serials[1], secrets=draws.secrets)


def _given(config: CAConfig, now: Timestamp) -> tuple[bytes, bytes]:
    if not config.signing_ca_key:
        raise InvalidArgument(
            "there must be at least one valid, reachable external CA corresponding to the desired CA "
            "certificate"
        )
    return pki.check_own_root(config.signing_ca_cert, config.signing_ca_key, now)


def _normal(certificate: bytes) -> bytes:
    return b"".join(pki.split_pem(certificate))


def _check_ready(view: View, cluster: Cluster) -> None:
    """A manager that knows of no rotation would issue by the old root, and refuse who has the new one."""
    if cluster.store_format < STORE_FORMAT_ROOT_ROTATION:
        raise FailedPrecondition(
            "changing the root needs a newer SwarmPy on every manager. Upgrade the managers (docker node ls "
            "shows their versions), then try again"
        )
    old = sorted(
        node.description.hostname or node.id
        for node in view.nodes()
        if node.status.state is NodeState.READY and node.description.tls_info is None
    )
    if old:
        named = ", ".join(old[:_NAMED_MAX]) + (" and others" if len(old) > _NAMED_MAX else "")
        raise FailedPrecondition(
            f"changing the root needs a newer SwarmPy on {named}: a node that does not renew its certificate "
            "when told would keep the change from ever ending. Upgrade it, or remove it from the swarm, then "
            "try again"
        )
