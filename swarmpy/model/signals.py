"""Signals by name or number, as docker's clients give them. The numbers are Linux's, wherever this runs."""

from __future__ import annotations

from typing import Final

from swarmpy.errors import InvalidArgument

_WORDS: Final = (
    "HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD CONT STOP TSTP TTIN "
    "TTOU URG XCPU XFSZ VTALRM PROF WINCH IO PWR SYS"
)
_IN_ORDER: Final = tuple(_WORDS.split())
_NUMBERS: Final = {
    **{name: number for number, name in enumerate(_IN_ORDER, 1)},
    "IOT": 6,
    "CLD": 17,
    "POLL": 29,
    "RTMIN": 34,
    "RTMAX": 64,
}
SIGKILL: Final = _NUMBERS["KILL"]
SIGTERM: Final = _NUMBERS["TERM"]
_MAX: Final = 64


def signal_number(name: str) -> int:
    """``9``, ``KILL``, ``SIGKILL``, ``SIGRTMIN+3``. InvalidArgument, in docker's words, if it is none."""
    if name.isascii() and name.isdecimal():
        number = int(name) if len(name) <= 2 else 0
    else:
        base, sign, offset = _split(name.upper().removeprefix("SIG"))
        number = _NUMBERS.get(base, 0)
        if sign:
            is_real_time = (base, sign) in (("RTMIN", "+"), ("RTMAX", "-")) and offset.isdecimal()
            shift = int(offset) if is_real_time and len(offset) <= 2 else _MAX
            number = number + shift if sign == "+" else number - shift
            number = number if number >= _NUMBERS["RTMIN"] else 0
    if not 1 <= number <= _MAX:
        raise InvalidArgument(f"Invalid signal: {name}")
    return number


def _split(name: str) -> tuple[str, str, str]:
    return name.partition("-") if name.startswith("RTMAX-") else name.partition("+")
