"""The configuration of an image that is made of a root file system, and what ``--change`` makes of it.

Pure. The instructions are those of a Dockerfile that docker's import knows.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from typing import Any

from swarmpy.errors import InvalidArgument
from swarmpy.image_limits import IMAGE_CHANGES_CHARS_MAX
from swarmpy.model.ids import SECOND_NS
from swarmpy.version import VERSION

Config = dict[str, Any]

_SHELL = ("/bin/sh", "-c")
_PORT = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?(?:/(tcp|udp|sctp))?")
_PORT_MAX = 65_535
_UNITS_NS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "ms": 1_000_000,
    "s": SECOND_NS,
    "m": 60 * SECOND_NS,
    "h": 3600 * SECOND_NS,
}
_AMOUNT = re.compile(r"(\d+(?:\.\d*)?)(ns|us|µs|ms|s|m|h)")
_CHECK_TIMES = {
    "interval": "Interval",
    "timeout": "Timeout",
    "start-period": "StartPeriod",
    "start-interval": "StartInterval",
}


def image_config(
    diff_id: str, *, architecture: str, created: str, comment: str, changes: Sequence[str] = ()
) -> bytes:
    """The image's configuration as it is stored; its digest is the image's id. It need not say when it was
    created, but an empty time is none."""
    moment = {"created": created} if created else {}
    return json.dumps(
        {
            "architecture": architecture,
            "comment": comment,
            "config": changed(changes),
            **moment,
            "docker_version": VERSION,
            "history": [{**moment, "comment": comment}],
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        },
        sort_keys=True,
    ).encode()


def changed(changes: Sequence[str]) -> Config:
    """An empty configuration with the instructions carried out. InvalidArgument in docker's words."""
    text = "\n".join(changes)
    if len(text) > IMAGE_CHANGES_CHARS_MAX:
        raise InvalidArgument(f"the changes are longer than {IMAGE_CHANGES_CHARS_MAX} characters")
    config: Config = {}
    for line in text.replace("\\\n", " ").splitlines():
        word, _, rest = line.strip().partition(" ")
        if not word or word.startswith("#"):
            continue
        instruction = _INSTRUCTIONS.get(word.lower())
        if instruction is None:
            raise InvalidArgument(f"{word.lower()} is not a valid change command")
        if not rest.strip():
            raise InvalidArgument(f"{word.upper()} requires at least one argument")
        instruction(config, rest.strip())
    return config


def _cmd(config: Config, rest: str) -> None:
    config["Cmd"] = _command(rest)


def _entrypoint(config: Config, rest: str) -> None:
    config["Entrypoint"] = _command(rest)


def _command(rest: str) -> list[str]:
    words = _json_words(rest)
    return [*_SHELL, rest] if words is None else words


def _json_words(rest: str) -> list[str] | None:
    if not rest.startswith("["):
        return None
    try:
        words = json.loads(rest)
    except (ValueError, RecursionError):
        return None
    return words if isinstance(words, list) and all(isinstance(word, str) for word in words) else None


def _env(config: Config, rest: str) -> None:
    env = {entry.partition("=")[0]: entry for entry in config.get("Env", ())}
    env.update((name, f"{name}={value}") for name, value in _pairs(rest, "ENV"))
    config["Env"] = list(env.values())


def _label(config: Config, rest: str) -> None:
    config.setdefault("Labels", {}).update(_pairs(rest, "LABEL"))


def _pairs(rest: str, instruction: str) -> list[tuple[str, str]]:
    """``a=b c="d e"``, or of old ``a b``."""
    first = rest.split(maxsplit=1)
    if "=" not in first[0]:
        if len(first) < 2:
            raise InvalidArgument(f"{instruction} must have two arguments")
        return [(first[0], first[1])]
    try:
        words = shlex.split(rest)
    except ValueError as error:
        raise InvalidArgument(f"{instruction} cannot be read: {error}") from None
    for word in words:
        if "=" not in word:
            raise InvalidArgument(
                f'Syntax error - can\'t find = in "{word}". Must be of the form: name=value'
            )
    return [(word.partition("=")[0], word.partition("=")[2]) for word in words]


def _expose(config: Config, rest: str) -> None:
    ports = config.setdefault("ExposedPorts", {})
    for word in rest.split():
        match = _PORT.fullmatch(word)
        first, last = (int(match[1]), int(match[2] or match[1])) if match is not None else (1, 0)
        if match is None or not first <= last <= _PORT_MAX:
            raise InvalidArgument(f"invalid containerPort: {word}")
        ports.update((f"{port}/{match[3] or 'tcp'}", {}) for port in range(first, last + 1))


def _volume(config: Config, rest: str) -> None:
    words = _json_words(rest)
    config.setdefault("Volumes", {}).update((word, {}) for word in (rest.split() if words is None else words))


def _user(config: Config, rest: str) -> None:
    config["User"] = rest


def _workdir(config: Config, rest: str) -> None:
    base = "" if rest.startswith("/") else config.get("WorkingDir") or "/"
    config["WorkingDir"] = f"{base.rstrip('/')}/{rest}" if base else rest


def _onbuild(config: Config, rest: str) -> None:
    config.setdefault("OnBuild", []).append(rest)


def _healthcheck(config: Config, rest: str) -> None:
    check: Config = {}
    while rest.startswith("--"):
        option, _, rest = rest.partition(" ")
        name, _, value = option[2:].partition("=")
        rest = rest.strip()
        if name == "retries" and value.isascii() and value.isdecimal():
            check["Retries"] = int(value)
        elif name in _CHECK_TIMES:
            check[_CHECK_TIMES[name]] = _nanoseconds(value)
        else:
            raise InvalidArgument(f"Unknown flag: {name}")
    kind, _, command = rest.partition(" ")
    words = _json_words(command.strip())
    match kind.upper():
        case "NONE":
            check = {"Test": ["NONE"]}
        case "CMD" if command.strip():
            check["Test"] = ["CMD-SHELL", command.strip()] if words is None else ["CMD", *words]
        case "CMD":
            raise InvalidArgument("Missing command after HEALTHCHECK CMD")
        case _:
            raise InvalidArgument(f'Unknown type "{kind.upper()}" in HEALTHCHECK (try CMD)')
    config["Healthcheck"] = check


def _nanoseconds(text: str) -> int:
    parts = _AMOUNT.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise InvalidArgument(f'time: invalid duration "{text}"')
    return int(sum(float(number) * _UNITS_NS[unit] for number, unit in parts))


_INSTRUCTIONS = {
    "cmd": _cmd,
    "entrypoint": _entrypoint,
    "env": _env,
    "expose": _expose,
    "healthcheck": _healthcheck,
    "label": _label,
    "onbuild": _onbuild,
    "user": _user,
    "volume": _volume,
    "workdir": _workdir,
}
