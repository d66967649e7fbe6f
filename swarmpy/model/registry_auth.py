"""Who asks a registry, as clients write it down for the daemon: JSON in base64 for URLs. Pure."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

from swarmpy.errors import InvalidArgument
from swarmpy.image_limits import REGISTRY_AUTH_CHARS_MAX
from swarmpy.model.images import Credentials


def decode_credentials(header: str) -> Credentials:
    """X-Registry-Auth: JSON in base64 for URLs. InvalidArgument if it is none."""
    if len(header) > REGISTRY_AUTH_CHARS_MAX:
        raise InvalidArgument("X-Registry-Auth is too long")
    try:
        padded = header.strip() + "=" * (-len(header.strip()) % 4)
        value = json.loads(base64.b64decode(padded.replace("-", "+").replace("_", "/"), validate=True))
    except (ValueError, binascii.Error, RecursionError) as error:
        raise InvalidArgument(f"X-Registry-Auth is no JSON in base64: {error}") from None
    if not isinstance(value, dict):
        raise InvalidArgument("X-Registry-Auth is no JSON object")
    return credentials_of(value)


def encode_credentials(credentials: Credentials) -> str:
    """What ``decode_credentials`` reads."""
    value = {
        "username": credentials.username,
        "password": credentials.password,
        "identitytoken": credentials.identity_token,
        "registrytoken": credentials.registry_token,
    }
    text = json.dumps({name: each for name, each in value.items() if each})
    return base64.urlsafe_b64encode(text.encode()).decode()


def credentials_of(value: dict[str, Any]) -> Credentials:
    username, password = _text(value, "username"), _text(value, "password")
    if not username and not password and (joined := _text(value, "auth")):
        try:
            username, _, password = base64.b64decode(joined, validate=True).decode().partition(":")
        except (ValueError, binascii.Error):
            raise InvalidArgument("the credentials' auth is no base64") from None
    return Credentials(
        username=username,
        password=password,
        identity_token=_text(value, "identitytoken"),
        registry_token=_text(value, "registrytoken"),
    )


def _text(value: dict[str, Any], key: str) -> str:
    found = next((part for name, part in value.items() if name.lower() == key), "")
    return found if isinstance(found, str) else ""
