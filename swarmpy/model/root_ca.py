"""The cluster's certificate authority, as the store keeps it.

``RootCA`` is what certificates are issued by now. While the root is being changed, ``rotation`` holds the new one:
certificates are issued by it already, with a cross-signed intermediate so that who trusts only the old root takes
them too; the old root goes when every node has a certificate of the new one.
"""

from __future__ import annotations

from swarmpy.model.value import Value


class JoinTokens(Value, frozen=True, kw_only=True):
    worker: str = ""
    manager: str = ""


class RootRotation(Value, frozen=True, kw_only=True):
    """The root that is to come. PEM texts; ``cross_signed_cert`` is its certificate signed by the old root."""

    ca_cert: bytes = b""
    ca_key: bytes = b""
    cross_signed_cert: bytes = b""


class RootCA(Value, frozen=True, kw_only=True):
    """The cluster's certificate authority. PEM texts; the key never leaves the managers."""

    ca_cert: bytes = b""
    ca_key: bytes = b""
    ca_cert_hash: str = ""
    join_tokens: JoinTokens = JoinTokens()
    rotation: RootRotation | None = None
    last_force_rotate: int = 0
    """The ``CAConfig.force_rotate`` that was obeyed last."""
