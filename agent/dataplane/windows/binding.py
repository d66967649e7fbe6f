"""``NativeHns``: HNS's two libraries through ctypes. Only ``load`` knows that it is on Windows.

``vmcompute.dll`` has ``HNSCall`` for V1, ``computenetwork.dll`` (from Windows 1809) the Hcn functions for V2.
Strings go out as zero-terminated UTF-16; those that come back were made by the library and are freed here by
``CoTaskMemFree``; handles are closed, whatever happens. A non-empty error record is a failure even where the
HRESULT is 0.

Never executed on Windows. Tests drive it against a library of their own with the same functions.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

from agent.dataplane.windows.errors import failure
from agent.dataplane.windows.objects import plain_id
from agent.dataplane.windows.service import Hns, Kind
from agent.dataplane.windows.v2 import QUERY
from swarmpy.errors import Unavailable

_PLURALS = {kind: f"{kind.value}s" for kind in Kind}
_UNIT_BYTES = 2
_ENCODING = "utf-16-le"
_ZERO = UUID(int=0)


def load() -> NativeHns:
    """HNS of this machine."""
    open_library = vars(ctypes).get("WinDLL")
    if open_library is None:
        raise Unavailable("the Host Networking Service is a part of Windows: there is none on this machine")
    try:
        v1, memory = open_library("vmcompute.dll"), open_library("ole32.dll")
    except OSError as error:
        raise Unavailable(
            f"this Windows has no Host Networking Service ({error}): enable the Containers feature and reboot"
        ) from error
    try:
        v2 = open_library("computenetwork.dll")
    except OSError:  # before Windows 1809
        v2 = None
    return NativeHns(v1=v1, v2=v2, memory=memory)


class NativeHns(Hns):
    """``memory`` has CoTaskMemFree. Calls block; the libraries take calls from any thread."""

    def __init__(self, *, v1: ctypes.CDLL, v2: ctypes.CDLL | None, memory: ctypes.CDLL) -> None:
        self._v1, self._v2 = v1, v2
        self._free = memory.CoTaskMemFree
        self._free.argtypes = [ctypes.c_void_p]
        self._free.restype = None

    # --- V1

    def call(self, method: str, path: str, body: str) -> str:
        function = self._v1.HNSCall
        function.restype = ctypes.c_int32
        with self._string() as answer:
            result = function(_wide(method), _wide(path), _wide(body), ctypes.byref(answer))
            text = self._text(answer)
        if result < 0:
            raise failure(result, text, doing=f"{method} {path}")
        return text

    # --- V2

    def enumerate(self, kind: Kind, query: str) -> str:
        with self._string() as found:
            self._do(f"HcnEnumerate{_PLURALS[kind]}", _wide(query), ctypes.byref(found))
            return self._text(found)

    def query(self, kind: Kind, id_: str, query: str) -> str:
        with self._open(kind, id_) as handle:
            return self._properties(kind, handle, query)

    def create(self, kind: Kind, settings: str, *, id_: str = "", network_id: str = "") -> str:
        """The zero id lets HNS choose; what it chose is read from the new object."""
        guid = _guid(UUID(id_) if id_ else _ZERO)
        handle = ctypes.c_void_p()
        name = f"HcnCreate{kind.value}"
        with self._closing(kind, handle):
            if kind is Kind.ENDPOINT:
                with self._open(Kind.NETWORK, network_id) as network:
                    self._do(name, network, guid, _wide(settings), ctypes.byref(handle))
            else:
                self._do(name, guid, _wide(settings), ctypes.byref(handle))
            return self._properties(kind, handle, json.dumps(QUERY))

    def modify(self, kind: Kind, id_: str, settings: str) -> None:
        with self._open(kind, id_) as handle:
            self._do(f"HcnModify{kind.value}", handle, _wide(settings))

    def delete(self, kind: Kind, id_: str) -> None:
        self._do(f"HcnDelete{kind.value}", _guid(UUID(id_)))

    # --- inside

    def _properties(self, kind: Kind, handle: ctypes.c_void_p, query: str) -> str:
        with self._string() as found:
            self._do(f"HcnQuery{kind.value}Properties", handle, _wide(query), ctypes.byref(found))
            return self._text(found)

    @contextlib.contextmanager
    def _open(self, kind: Kind, id_: str) -> Iterator[ctypes.c_void_p]:
        handle = ctypes.c_void_p()
        with self._closing(kind, handle):
            self._do(f"HcnOpen{kind.value}", _guid(UUID(plain_id(id_))), ctypes.byref(handle))
            yield handle

    @contextlib.contextmanager
    def _closing(self, kind: Kind, handle: ctypes.c_void_p) -> Iterator[None]:
        try:
            yield
        finally:
            if handle.value is not None:
                close = self._function(f"HcnClose{kind.value}")
                close(handle)

    def _do(self, name: str, *arguments: Any) -> None:
        """Every function's last argument is the place for an error record."""
        with self._string() as record:
            result = self._function(name)(*arguments, ctypes.byref(record))
            text = self._text(record)
        if result < 0 or text:
            raise failure(*_read_record(result, text), doing=name)

    def _function(self, name: str) -> Callable[..., int]:
        if self._v2 is None:
            raise Unavailable("this Windows has no HCN (1809 and newer have it)")
        function = getattr(self._v2, name)
        function.restype = ctypes.c_int32
        return function  # type: ignore[no-any-return]

    @contextlib.contextmanager
    def _string(self) -> Iterator[ctypes.c_void_p]:
        """A place for a string that the library makes."""
        place = ctypes.c_void_p()
        try:
            yield place
        finally:
            if place.value is not None:
                self._free(place)

    def _text(self, place: ctypes.c_void_p) -> str:
        """Read unit by unit: ``wchar_t`` has another width where the tests run."""
        if place.value is None:
            return ""
        units = ctypes.cast(place, ctypes.POINTER(ctypes.c_uint16))
        length = 0
        while units[length]:
            length += 1
        return ctypes.string_at(place.value, length * _UNIT_BYTES).decode(_ENCODING, errors="replace")


def _read_record(result: int, text: str) -> tuple[int, str]:
    """The record's code says more than the result where there is one."""
    try:
        record = json.loads(text) if text else {}
    except ValueError:
        record = {}
    if not isinstance(record, dict):
        return result, text
    return int(record.get("ErrorCode") or result), str(record.get("Error") or text)


def _wide(text: str) -> ctypes.Array[ctypes.c_char]:
    return ctypes.create_string_buffer(text.encode(_ENCODING) + b"\0")


def _guid(value: UUID) -> ctypes.Array[ctypes.c_char]:
    """By reference, as REFGUID is."""
    return ctypes.create_string_buffer(value.bytes_le, len(value.bytes_le))
