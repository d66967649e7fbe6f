"""Where an image's name leads, who asks there, and what the registry's answers say. Pure.

A registry is asked over TLS. Loopback addresses, and registries that the node's settings call insecure, are
asked over TLS without a check of the certificate first, and then in plain.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Collection, Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

from swarmpy.image_limits import (
    REGISTRY_RETRY_AFTER_MAX_S,
    REGISTRY_RETRY_DELAY_MAX_S,
    REGISTRY_RETRY_DELAY_S,
)

DEFAULT_HOST = "registry-1.docker.io"
_DEFAULT_NAMES = ("docker.io", "index.docker.io", DEFAULT_HOST)
_PARAMETER = re.compile(r'([A-Za-z_]+)="((?:[^"\\]|\\.)*)"|([A-Za-z_]+)=([^",\s]+)')


class Remote(NamedTuple):
    """A repository in a registry. ``host`` has its port, if one was given. ``scheme``: empty to find out.
    ``is_mirror``: it has copies of another's images, so whoever asks here remains unknown."""

    host: str
    path: str
    is_insecure: bool = False
    scheme: str = ""
    is_mirror: bool = False


class Challenge(NamedTuple):
    """What a registry wants before it answers. ``kind`` is ``basic`` or ``bearer``."""

    kind: str
    parameters: dict[str, str]


def remote_of(name: str, insecure: Collection[str] = ()) -> Remote:
    """``name`` is a ``Reference.name``: without the parts that go without saying."""
    host, slash, path = name.partition("/")
    if not slash or not ("." in host or ":" in host or host == "localhost"):
        host, path = DEFAULT_HOST, name if "/" in name else f"library/{name}"
    elif host in _DEFAULT_NAMES:
        host = DEFAULT_HOST
    return Remote(host, path, is_insecure(host, insecure))


def sources_of(remote: Remote, mirrors: Sequence[str], insecure: Collection[str] = ()) -> tuple[Remote, ...]:
    """Where a repository's images may be had, in the order in which to ask. ``mirrors``: URLs of those of
    docker's own registry, the only one that has any."""
    if remote.host != DEFAULT_HOST:
        return (remote,)
    copies = []
    for url in mirrors:
        parts = urlsplit(url)
        is_lax = parts.scheme == "http" or is_insecure(parts.netloc, insecure)
        copies.append(Remote(parts.netloc, remote.path, is_lax, parts.scheme, is_mirror=True))
    return (*copies, remote)


def retry_delay(attempt: int, retry_after: str = "") -> float:
    """Seconds before the next try; ``attempt`` is the number of those before. A registry may say when it
    wants to be asked again, within bounds."""
    if retry_after.strip().isdecimal():
        return min(float(retry_after), REGISTRY_RETRY_AFTER_MAX_S)
    return min(REGISTRY_RETRY_DELAY_S * 2.0**attempt, REGISTRY_RETRY_DELAY_MAX_S)


def is_insecure(host: str, insecure: Collection[str]) -> bool:
    bare = urlsplit(f"//{host}").hostname or ""
    if host in insecure or bare == "localhost":
        return True
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        return bare in insecure
    return address.is_loopback or any(_is_within(address, entry) for entry in insecure)


def _is_within(address: ipaddress.IPv4Address | ipaddress.IPv6Address, entry: str) -> bool:
    try:
        return address in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return False


def server_host(address: str) -> str:
    """The host of what a client logs in to: ``host:port``, a URL, or nothing for the default registry."""
    text = address.strip()
    host = urlsplit(text if "//" in text else f"//{text}").netloc.rpartition("@")[2]
    return DEFAULT_HOST if not host or host in _DEFAULT_NAMES else host


def parse_challenge(header: str) -> Challenge | None:
    kind, _, rest = header.strip().partition(" ")
    if kind.lower() not in ("basic", "bearer"):
        return None
    parameters = {}
    for match in _PARAMETER.finditer(rest):
        name = (match[1] or match[3]).lower()
        parameters[name] = match[2].replace('\\"', '"') if match[1] else match[4]
    return Challenge(kind.lower(), parameters)


def error_text(body: bytes) -> str:
    """A registry's errors as docker tells them; empty if there are none."""
    try:
        errors = json.loads(body)["errors"]
        texts = [
            f"{str(error['code']).lower().replace('_', ' ')}: {error.get('message') or error['code']}"
            for error in errors
        ]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return ""
    return texts[0] if len(texts) == 1 else "errors:\n" + "\n".join(texts) if texts else ""
