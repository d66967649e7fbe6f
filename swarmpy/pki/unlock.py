"""The key that a locked manager is unlocked with: its text, and what is sealed with it and beneath it.

The text is docker's: ``SWMKEY-1-`` and the key in base64 without padding.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from swarmpy.errors import InvalidArgument, Unauthenticated

UNLOCK_KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
WRONG_KEY: Final = "swarm could not be unlocked: invalid key provided"

_PREFIX: Final = "SWMKEY-1-"
_BASE64: Final = re.compile(r"[A-Za-z0-9+/]*")


def unlock_key_text(key: bytes) -> str:
    """What the user keeps; empty for no key."""
    return _PREFIX + base64.b64encode(key).decode().rstrip("=") if key else ""


def parse_unlock_key(text: str) -> bytes:
    """InvalidArgument if it is no key at all, Unauthenticated if it can't be anybody's."""
    encoded = text.removeprefix(_PREFIX)
    try:
        if encoded == text or not _BASE64.fullmatch(encoded):
            raise InvalidArgument("invalid key string")
        key = base64.b64decode(encoded + "=" * (-len(encoded) % 4))
    except binascii.Error:
        raise InvalidArgument("invalid key string") from None
    if len(key) != UNLOCK_KEY_BYTES:
        raise Unauthenticated(WRONG_KEY)
    return key


def seal(key: bytes, data: bytes, *, about: bytes, nonce: bytes) -> bytes:
    """AES-256-GCM. ``about`` says what it is and stays readable beside it; ``nonce`` is drawn afresh."""
    return nonce + AESGCM(key).encrypt(nonce, data, about)


def unseal(key: bytes, sealed: bytes, *, about: bytes) -> bytes:
    """The inverse; Unauthenticated if it was another key, or ``sealed`` or ``about`` were changed."""
    try:
        return AESGCM(key).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], about)
    except (InvalidTag, ValueError):
        raise Unauthenticated(WRONG_KEY) from None
