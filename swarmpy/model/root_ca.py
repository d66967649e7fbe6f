"""The cluster's certificate authority, as the store keeps it.

``RootCA`` is what certificates are issued by now. While the root is being changed, ``rotation`` holds the
new one: certificates are issued by it already, with a cross-signed intermediate so that who trusts only the
old root takes them too; the old root goes when every node has a certificate of the new one. Nodes that were
down then are named in ``retired``: they alone may still use the old root, to renew.
"""

from __future__ import annotations

from swarmpy.model.ids import NodeId, Timestamp
from swarmpy.model.value import Value


class JoinTokens(Value, frozen=True, kw_only=True):
    worker: str = ""
    manager: str = ""


class RootRotation(Value, frozen=True, kw_only=True):
    """The root that is to come. PEM texts; ``cross_signed_cert``: its certificate, signed by the old root."""

    ca_cert: bytes = b""
    ca_key: bytes = b""
    cross_signed_cert: bytes = b""
    join_tokens: JoinTokens = JoinTokens()
    """What nodes join with from the end of the rotation on."""


class RetiredRoot(Value, frozen=True, kw_only=True):
    """A root that the cluster has left while some nodes were down. PEM texts."""

    ca_cert: bytes = b""
    cross_signed_cert: bytes = b""
    """The certificate of its successor, signed by it."""
    node_ids: tuple[NodeId, ...] = ()
    """Who may still renew with it."""
    expires_at: Timestamp = Timestamp(0)


class RootCA(Value, frozen=True, kw_only=True):
    """The cluster's certificate authority. PEM texts; the key never leaves the managers."""

    ca_cert: bytes = b""
    ca_key: bytes = b""
    ca_cert_hash: str = ""
    join_tokens: JoinTokens = JoinTokens()
    rotation: RootRotation | None = None
    last_force_rotate: int = 0
    """The ``CAConfig.force_rotate`` that was obeyed last."""
    retired: tuple[RetiredRoot, ...] = ()
    """The newest first."""
