"""What a node says of its images, and what it is asked about registries: values between node and API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from swarmpy.model.ids import Timestamp
from swarmpy.model.value import Value


class Image(Value, frozen=True, kw_only=True):
    """One image on a node. ``id`` is the digest of its configuration; lists of layers are lowest first."""

    id: str
    tags: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()
    created: str = ""
    created_at: Timestamp = Timestamp(0)
    size_bytes: int = 0
    shared_bytes: int = 0
    """Of layers that other images have, too."""
    diff_ids: tuple[str, ...] = ()
    layer_sizes: tuple[int, ...] = ()
    layer_dirs: tuple[str, ...] = ()
    tagged_at: Timestamp = Timestamp(0)
    users: tuple[str, ...] = ()
    """Tasks on this node that were made from it."""
    running: tuple[str, ...] = ()
    """Those of them that run."""
    config: dict[str, Any] = {}
    """As the image came: the OCI image configuration."""


class ImageRemoval(Value, frozen=True, kw_only=True):
    """What went: names, and ids of the image and of layers that nothing else has."""

    untagged: tuple[str, ...] = ()
    deleted: tuple[str, ...] = ()
    size_bytes: int = 0


class Import(Value, frozen=True, kw_only=True):
    """How an image is to be made of a root file system. An empty name: only its id names it."""

    name: str = ""
    comment: str = ""
    changes: tuple[str, ...] = ()


class Credentials(Value, frozen=True, kw_only=True):
    """Who asks a registry. All empty: nobody in particular."""

    username: str = ""
    password: str = ""
    identity_token: str = ""
    registry_token: str = ""

    def __repr__(self) -> str:
        return f"Credentials({self.username!r})"  # the rest is secret


class Platform(Value, frozen=True, kw_only=True):
    """For what an image was built. Empty: this machine."""

    os: str = ""
    architecture: str = ""
    variant: str = ""


class ManifestFacts(Value, frozen=True, kw_only=True):
    """What a registry says of a name, without the image being fetched."""

    media_type: str
    digest: str
    size: int
    platforms: tuple[Platform, ...] = ()


class Progress(Value, frozen=True, kw_only=True):
    """A step of a pull or a push. ``id`` is a layer's or a tag; ``total`` 0: nothing to measure."""

    status: str = ""
    id: str = ""
    current: int = 0
    total: int = 0
    is_measured: bool = False
    aux: dict[str, Any] | None = None


def labels_in(config: Mapping[str, Any]) -> dict[str, str] | None:
    """Of an image's configuration, as it came."""
    inner = config.get("config")
    labels = inner.get("Labels") if isinstance(inner, dict) else None
    return labels if isinstance(labels, dict) else None
