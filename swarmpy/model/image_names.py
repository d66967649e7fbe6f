"""Image names: ``[registry/]path[:tag][@digest]``, and which names mean the same image.

Pure. Docker's familiar names: ``alpine``, ``alpine:latest`` and ``docker.io/library/alpine:latest`` are one.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from swarmpy.errors import InvalidArgument

_NAME = re.compile(r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_REGISTRY = re.compile(r"(?:[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*)(?::[0-9]+)?")
_CHARS_MAX = 255
HOST = "host"
"""No image: the node's own root file system."""
DEFAULT_REGISTRY = "docker.io"


class Reference(NamedTuple):
    """``name`` without the parts that go without saying; ``digest`` empty if none was given."""

    name: str
    tag: str
    digest: str
    is_tagged: bool = False
    """Whether the tag was written; else it is the one that goes without saying."""

    def __str__(self) -> str:
        return f"{self.name}:{self.tag}"

    @property
    def registry(self) -> str:
        """The host that the name leads to."""
        host, slash, _ = self.name.partition("/")
        return host if slash and _is_registry(host) else DEFAULT_REGISTRY

    @property
    def key(self) -> str:
        """The one name that is looked up: a digest says more than a tag."""
        return f"{self.name}@{self.digest}" if self.digest else str(self)

    @property
    def shown(self) -> str:
        """All that was written of it, as docker's events name it."""
        tag = f":{self.tag}" if self.is_tagged or not self.digest else ""
        return f"{self.name}{tag}@{self.digest}" if self.digest else f"{self.name}{tag}"


def repository_of(key: str) -> str:
    """Of a ``Reference.key``, which is of one form: what stands before its tag or digest."""
    return key.partition("@")[0] if "@" in key else key.rpartition(":")[0]


def parse(text: str) -> Reference:
    """The one form of a name. InvalidArgument, in Docker's words, if it is none."""
    rest, _, digest = text.partition("@")
    head, slash, last = rest.rpartition("/")
    last, has_tag, tag = last.partition(":")
    name = head + slash + last
    registry, has_registry, path = name.partition("/")
    if has_registry and _is_registry(registry):
        is_valid = bool(_REGISTRY.fullmatch(registry))
        if registry in (DEFAULT_REGISTRY, "index.docker.io"):
            name = path = path.removeprefix("library/")
    else:
        is_valid, path = True, name.removeprefix("library/")
        name = path
    is_valid = is_valid and bool(_NAME.fullmatch(path)) and len(name) <= _CHARS_MAX
    if has_tag:
        is_valid = is_valid and bool(_TAG.fullmatch(tag))
    if digest or "@" in text:
        is_valid = is_valid and bool(_DIGEST.fullmatch(digest))
    if not is_valid:
        is_spelled = bool(_NAME.fullmatch(path.lower())) and path != path.lower()
        raise InvalidArgument(
            f"invalid reference format{': repository name must be lowercase' if is_spelled else ''}"
        )
    return Reference(name, tag or "latest", digest, bool(tag))


def _is_registry(part: str) -> bool:
    """Of a name's first part: whether it is a registry, not the beginning of a path."""
    return "." in part or ":" in part or part == "localhost"


def is_host(name: str) -> bool:
    """Whether it means the node's own root, which is there without an image."""
    return name in (HOST, f"{HOST}:latest")


def refuse_host(name: str, what: str) -> None:
    """InvalidArgument for the node's own root; ``what`` says what that means for who asked."""
    if is_host(name):
        raise InvalidArgument(f'the image "{HOST}" is the node\'s own root file system: {what}')


def parse_tag(text: str) -> str:
    if not _TAG.fullmatch(text):
        raise InvalidArgument("invalid tag format")
    return text


def is_digest(text: str) -> bool:
    return bool(_DIGEST.fullmatch(text))
