"""Command lines as docker's: what a command takes, reading argv, usage texts.

Rules, the same as docker's: ``--name value``, ``--name=value``, ``-n value``, ``-nvalue``, ``-dq``; a boolean
takes a value only after ``=``; a flag may repeat where it is a list; ``--`` ends flags; a command whose last
argument is somebody else's command line stops reading flags at its first argument.

Standard library only: a command must answer within a fraction of a second (docs/adr/002-command-line.md).
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

_USAGE_COLUMN: Final = 36
_WIDTH: Final = 110
_TRUE: Final = frozenset({"true", "1", "t", "yes"})
_FALSE: Final = frozenset({"false", "0", "f", "no"})


class UsageError(Exception):
    """The command line is at fault; the text names the flag."""


class HelpWanted(Exception):
    """``--help`` was given."""


class Takes(Enum):
    NOTHING = "bool"
    TEXT = "string"
    NUMBER = "int"
    LIST = "list"


@dataclass(frozen=True, slots=True)
class Flag:
    name: str
    takes: Takes
    help: str
    short: str = ""
    default: str = ""


def switch(name: str, help_: str, *, short: str = "") -> Flag:
    return Flag(name, Takes.NOTHING, help_, short)


def text(name: str, help_: str, *, short: str = "", default: str = "") -> Flag:
    return Flag(name, Takes.TEXT, help_, short, default)


def number(name: str, help_: str, *, short: str = "", default: str = "") -> Flag:
    return Flag(name, Takes.NUMBER, help_, short, default)


def listed(name: str, help_: str, *, short: str = "") -> Flag:
    return Flag(name, Takes.LIST, help_, short)


@dataclass(frozen=True)
class Command:
    """One verb. ``arguments`` is its usage text; ``most`` None: any number.

    ``is_interspersed`` False: flags end at the first argument, as in ``service create IMAGE sh -c …``.
    """

    run: Callable[..., int]
    summary: str
    arguments: str = ""
    least: int = 0
    most: int | None = 0
    flags: tuple[Flag, ...] = ()
    is_interspersed: bool = True


@dataclass
class Options:
    """What was given. Accessors by kind; a flag that the command lacks is a mistake of ours: KeyError."""

    flags: dict[str, Flag]
    values: dict[str, list[str]] = field(default_factory=dict)

    def is_set(self, name: str) -> bool:
        return bool(self.values.get(self.flags[name].name))

    def on(self, name: str) -> bool:
        return self.text(name) == "true"

    def text(self, name: str) -> str:
        flag = self.flags[name]
        return self.values[name][-1] if self.values.get(name) else flag.default

    def number(self, name: str) -> int:
        return int(self.text(name) or "0")

    def many(self, name: str) -> list[str]:
        self.flags[name]
        return self.values.get(name, [])


def parse(command: Command, argv: Sequence[str]) -> tuple[list[str], Options]:
    """Arguments and options, or UsageError."""
    by_name = {flag.name: flag for flag in command.flags}
    by_short = {flag.short: flag for flag in command.flags if flag.short}
    options = Options(by_name)
    arguments: list[str] = []
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if word == "--":
            arguments += rest
            break
        if word in ("--help", "-h") and word.lstrip("-") not in by_short:
            raise HelpWanted
        if word.startswith("--"):
            _read_long(word[2:], rest, by_name, options)
        elif word.startswith("-") and word != "-":
            _read_short(word[1:], rest, by_short, options)
        else:
            arguments.append(word)
            if not command.is_interspersed:
                arguments += rest
                break
    if len(arguments) < command.least or (command.most is not None and len(arguments) > command.most):
        raise UsageError(_wrong_count(command))
    return arguments, options


def _read_long(word: str, rest: list[str], flags: dict[str, Flag], options: Options) -> None:
    name, has_value, value = word.partition("=")
    flag = flags.get(name)
    if flag is None:
        raise UsageError(f"unknown flag: --{name}")
    if not has_value:
        if flag.takes is Takes.NOTHING:
            value = "true"
        elif rest:
            value = rest.pop(0)
        else:
            raise UsageError(f"flag needs an argument: --{name}")
    _keep(flag, value, options)


def _read_short(letters: str, rest: list[str], flags: dict[str, Flag], options: Options) -> None:
    while letters:
        letter, letters = letters[0], letters[1:]
        flag = flags.get(letter)
        if flag is None:
            raise UsageError(f"unknown shorthand flag: '{letter}' in -{letter}{letters}")
        if flag.takes is Takes.NOTHING:
            if letters.startswith("="):
                _keep(flag, letters[1:], options)
                return
            _keep(flag, "true", options)
            continue
        if not letters and not rest:
            raise UsageError(f"flag needs an argument: '{letter}' in -{letter}")
        _keep(flag, letters.removeprefix("=") if letters else rest.pop(0), options)
        return


def _keep(flag: Flag, value: str, options: Options) -> None:
    if flag.takes is Takes.NOTHING:
        lowered = value.lower()
        if lowered not in _TRUE | _FALSE:
            raise UsageError(f'invalid argument "{value}" for "--{flag.name}" flag: give true or false')
        value = "true" if lowered in _TRUE else "false"
    if flag.takes is Takes.NUMBER:
        digits = value.removeprefix("-")
        if not (digits.isascii() and digits.isdigit()):
            raise UsageError(f'invalid argument "{value}" for "--{flag.name}" flag: it is no whole number')
    options.values.setdefault(flag.name, []).append(value)


def _wrong_count(command: Command) -> str:
    wanted = "no arguments"
    if command.most is None:
        wanted = f"at least {command.least} argument{'s' if command.least != 1 else ''}"
    elif command.most:
        bound = "exactly" if command.least == command.most else "at most"
        wanted = f"{bound} {command.most} argument{'s' if command.most != 1 else ''}"
    return f"accepts {wanted}" if command.most == 0 else f"requires {wanted}"


def usage(path: str, command: Command) -> str:
    """The help text of one command."""
    line = f"Usage:  {path}{' [OPTIONS]' if command.flags else ''} {command.arguments}".rstrip()
    parts = [line, "", command.summary]
    if command.flags:
        parts += ["", "Options:", *(_describe(flag) for flag in sorted(command.flags, key=lambda f: f.name))]
    return "\n".join(parts)


def _describe(flag: Flag) -> str:
    start = f"  -{flag.short}, --{flag.name}" if flag.short else f"      --{flag.name}"
    if flag.takes is not Takes.NOTHING:
        start += f" {flag.takes.value}"
    told = flag.help + (f" (default {flag.default})" if flag.default else "")
    lines = textwrap.wrap(told, _WIDTH - _USAGE_COLUMN) or [""]
    gap = "\n" + " " * _USAGE_COLUMN
    if len(start) >= _USAGE_COLUMN:
        return start + gap + gap.join(lines)
    return start.ljust(_USAGE_COLUMN) + gap.join(lines)
