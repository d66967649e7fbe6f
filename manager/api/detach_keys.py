"""The keys that let a client go of what it is attached to: how docker writes them, and finding them. Pure.

``ctrl-p,ctrl-q``: single characters, or ``ctrl-`` and a letter or one of ``@ [ \\ ] ^ _``, with commas in
between.
"""

from __future__ import annotations

from typing import Final

from swarmpy.errors import InvalidArgument

DEFAULT: Final = b"\x10\x11"
"""ctrl-p ctrl-q"""

_CONTROL: Final = "ctrl-"
_CONTROL_SIGNS: Final = {"@": 0, "[": 27, "\\": 28, "]": 29, "^": 30, "_": 31}


def parse_keys(text: str) -> bytes:
    """InvalidArgument, in docker's words, for what names no keys."""
    keys = bytearray()
    for word in text.split(","):
        sign = word.removeprefix(_CONTROL)
        if len(word) == 1 and word.isascii():
            keys += word.encode()
        elif word.startswith(_CONTROL) and len(sign) == 1 and "a" <= sign <= "z":
            keys.append(ord(sign) - ord("a") + 1)
        elif word.startswith(_CONTROL) and sign in _CONTROL_SIGNS:
            keys.append(_CONTROL_SIGNS[sign])
        else:
            raise InvalidArgument(f"Invalid detach keys ({text}) provided")
    return bytes(keys)


class DetachKeys:
    """Looks for the keys in what is typed, over the bounds of its pieces. None: it never finds them."""

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._count = 0
        """How many of the keys were typed last: they are held back."""
        self.are_typed = False

    def pass_on(self, data: bytes) -> bytes:
        """What of it is for the process, and of what was held back before."""
        if not self._keys or self.are_typed:
            return data if not self.are_typed else b""
        passed = bytearray()
        for byte in data:
            if byte == self._keys[self._count]:
                self._count += 1
                if self._count == len(self._keys):
                    self.are_typed = True
                    break
                continue
            passed += self._keys[: self._count]
            self._count = 1 if byte == self._keys[0] else 0
            if not self._count:
                passed.append(byte)
        return bytes(passed)
