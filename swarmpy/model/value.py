"""``Value``: the base of every stored or transmitted value, and the spelling of its JSON fields.

A value is frozen; a change is ``msgspec.structs.replace``. Collections are tuples, so that a value can be
kept across an ``await`` and shared between a draft and the store. ``gc=False`` is safe since values form
no cycles. Field names in JSON are the Docker Engine API's.
"""

from __future__ import annotations

import msgspec

_WORDS = {
    "api": "API",
    "ca": "CA",
    "cas": "CAs",
    "cpus": "CPUs",
    "dns": "DNS",
    "gid": "GID",
    "id": "ID",
    "ids": "IDs",
    "ip": "IP",
    "ipam": "IPAM",
    "ips": "IPs",
    "ipv4": "IPv4",
    "ipv6": "IPv6",
    "nat": "NAT",
    "os": "OS",
    "pid": "PID",
    "selinux": "SELinux",
    "tls": "TLS",
    "tty": "TTY",
    "uid": "UID",
    "vip": "VIP",
}

UNKNOWN_FIELDS_NAME = "-"
"""The JSON name of ``unknown_fields``: no API has it, and the API's edge leaves it out."""


def docker_name(field: str) -> str:
    """The Engine API's name of a field: ``nano_cpus`` is ``NanoCPUs``, ``global_`` is ``Global``."""
    if field == "unknown_fields":
        return UNKNOWN_FIELDS_NAME
    words = field.rstrip("_").split("_")
    return "".join(_WORDS.get(word, word[:1].upper() + word[1:]) for word in words)


class Value(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True, rename=docker_name):
    """Base of all values.

    ``unknown_fields`` carries, as protobuf bytes, fields that a newer version wrote and this one does not
    know, so that a mixed cluster loses nothing when an older manager copies an object.
    """

    unknown_fields: bytes = b""
