"""What manifests say: which image of an index is this machine's, and what an image is made of. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from agent.executor.images.archive import own_architecture
from swarmpy.errors import InvalidArgument, NotFound
from swarmpy.limits import IMAGE_BYTES_MAX, IMAGE_LAYERS_MAX, IMAGE_MANIFESTS_MAX
from swarmpy.model.image_names import is_digest
from swarmpy.model.images import Platform

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
ACCEPTED = (DOCKER_MANIFEST, DOCKER_LIST, OCI_MANIFEST, OCI_INDEX)
_INDEXES = (DOCKER_LIST, OCI_INDEX)
_UNKNOWN = "unknown"
"""The platform of what is no image: a proof of how one was built."""


class Descriptor(NamedTuple):
    digest: str
    size: int
    media_type: str = ""
    platform: Platform = Platform()


class Manifest(NamedTuple):
    """Of one image, with ``config`` and ``layers``; or an index, with ``children``."""

    media_type: str
    digest: str
    raw: bytes
    children: tuple[Descriptor, ...] = ()
    config: Descriptor | None = None
    layers: tuple[Descriptor, ...] = ()


def parse(raw: bytes, media_type: str, digest: str) -> Manifest:
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        raise InvalidArgument(f"the registry's manifest {digest} is no JSON") from None
    if not isinstance(value, dict):
        raise InvalidArgument(f"the registry's manifest {digest} is no object")
    written = value.get("mediaType")
    media_type = written if isinstance(written, str) and written in ACCEPTED else media_type.split(";")[0]
    if media_type not in ACCEPTED:
        media_type = OCI_INDEX if "manifests" in value else OCI_MANIFEST
    if media_type in _INDEXES:
        children = _descriptors(value, "manifests")[:IMAGE_MANIFESTS_MAX]
        return Manifest(media_type, digest, raw, children=children)
    if value.get("schemaVersion") != 2 or not isinstance(value.get("config"), dict):
        raise InvalidArgument(f"the manifest {digest} is of a form that is not supported any more")
    layers = _descriptors(value, "layers")
    if len(layers) > IMAGE_LAYERS_MAX:
        raise InvalidArgument(f"the image has {len(layers)} layers; {IMAGE_LAYERS_MAX} is the most")
    if sum(layer.size for layer in layers) > IMAGE_BYTES_MAX:
        raise InvalidArgument(f"the image is larger than {IMAGE_BYTES_MAX >> 30} GiB")
    return Manifest(media_type, digest, raw, config=_descriptor(value["config"]), layers=layers)


def _descriptors(value: Mapping[str, Any], key: str) -> tuple[Descriptor, ...]:
    entries = value.get(key)
    if not isinstance(entries, list):
        raise InvalidArgument(f"the registry's manifest has no list of {key}")
    return tuple(_descriptor(entry) for entry in entries)


def _descriptor(entry: Any) -> Descriptor:
    digest = entry.get("digest") if isinstance(entry, dict) else None
    size = entry.get("size") if isinstance(entry, dict) else None
    if not isinstance(digest, str) or not is_digest(digest):
        raise InvalidArgument(f"the registry's manifest names {digest!r}, which is no sha256 digest")
    if not isinstance(size, int) or not 0 <= size <= IMAGE_BYTES_MAX:
        raise InvalidArgument(f"the registry's manifest gives {digest} the size {size!r}")
    return Descriptor(digest, size, str(entry.get("mediaType") or ""), platform_of(entry.get("platform")))


def platform_of(value: Any) -> Platform:
    if not isinstance(value, dict):
        return Platform()
    return Platform(
        os=str(value.get("os") or ""),
        architecture=str(value.get("architecture") or ""),
        variant=str(value.get("variant") or ""),
    )


def parse_platform(text: str) -> Platform:
    """``os/architecture[/variant]``, or one of the two alone. Empty: this machine."""
    own = own_architecture()
    parts = text.lower().split("/") if text else []
    if len(parts) > 3 or not all(part.replace("_", "").replace("-", "").isalnum() for part in parts):
        raise InvalidArgument(f'"{text}" is an invalid component of "{text}": platform specifier')
    match parts:
        case []:
            return Platform(os="linux", architecture=own)
        case [one]:
            is_system = one in ("linux", "windows", "darwin", "freebsd")
            return Platform(os=one if is_system else "linux", architecture=own if is_system else one)
        case [system, architecture, *variant]:
            return Platform(os=system, architecture=architecture, variant="".join(variant))
    raise AssertionError("split gives at least one part")


def platforms(index: Manifest) -> tuple[Platform, ...]:
    """Of the images in an index, in its order."""
    return tuple(child.platform for child in index.children if child.platform.os)


def choose(index: Manifest, wanted: Platform, name: str) -> Descriptor:
    """The image for a platform. NotFound, in docker's words, if there is none."""
    fitting = [child for child in index.children if _fits(child.platform, wanted)]
    if not fitting:
        shown = "/".join(part for part in (wanted.os, wanted.architecture, wanted.variant) if part)
        raise NotFound(f"no matching manifest for {shown} in the manifest list entries: {name}")
    return min(fitting, key=lambda child: child.platform.variant not in ("", wanted.variant))


def _fits(offered: Platform, wanted: Platform) -> bool:
    if _UNKNOWN in (offered.os, offered.architecture):
        return False
    if wanted.variant and offered.variant not in ("", wanted.variant):
        return False
    return offered.os in ("", wanted.os) and offered.architecture in ("", wanted.architecture)


def docker_manifest(config: Descriptor, layers: tuple[Descriptor, ...]) -> bytes:
    """For an image that came without a manifest."""

    def row(descriptor: Descriptor) -> dict[str, object]:
        return {
            "mediaType": descriptor.media_type,
            "size": descriptor.size,
            "digest": descriptor.digest,
        }

    return json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": DOCKER_MANIFEST,
            "config": row(config),
            "layers": [row(layer) for layer in layers],
        },
        indent=3,
    ).encode()
