"""``swarmpy``: which command runs, and how what goes wrong is told.

Exit codes: 0 done, 1 it could not be done, 2 the command line is wrong, 130 interrupted. Commands live in one
module per noun, imported when they are needed; this file alone reads the environment.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Final

from swarmpy.cli.flags import Command, HelpWanted, UsageError, parse, switch, text, usage

DEFAULT_SOCKET: Final = "/run/swarmpy/swarmpy.sock"
PROGRAM: Final = "swarmpy"

_GLOBAL: Final = Command(
    run=lambda: 0,
    summary="Swarm mode without the Docker Engine",
    arguments="COMMAND",
    most=None,
    flags=(
        text("host", "Daemon to talk to: unix:///path or tcp://host:port", short="H"),
        switch("stale", "Accept an answer from this manager's own state, which may lag behind"),
        switch("version", "Print the version", short="v"),
    ),
    is_interspersed=False,
)

_GROUPS: Final = {
    "service": ("services", "Manage services"),
    "network": ("networks", "Manage networks"),
    "node": ("nodes", "Manage the nodes of the swarm"),
    "task": ("tasks", "Look at tasks"),
    "secret": ("secrets", "Manage secrets"),
    "config": ("configs", "Manage configs"),
    "image": ("images", "Manage the images on this node"),
    "volume": ("volumes", "Manage the volumes on a node"),
    "stack": ("stack", "Manage stacks of services from Compose files"),
    "swarm": ("swarm", "Manage the swarm as a whole"),
}
_VERBS: Final = {
    "init": ("swarm", "Start a swarm with this node as its first manager"),
    "join": ("swarm", "Join a swarm as a worker or a manager"),
    "leave": ("swarm", "Leave the swarm"),
    "join-token": ("swarm", "Show or change the tokens that nodes join with"),
    "unlock": ("swarm", "Unlock a manager that has started again, with the key on its standard input"),
    "unlock-key": ("swarm", "Show or change the key that managers are unlocked with"),
    "ca": ("ca", "Show the root certificate of the swarm, or change it"),
    "exec": ("exec", "Run a command in a task"),
    "attach": ("exec", "Attach to a running task"),
    "cp": ("copy", "Copy files out of a task or into it"),
    "top": ("top", "Display the processes of a task or of a service's tasks"),
    "stats": ("top", "Display what tasks use, per task and per service"),
    "explain": ("explain", "Say why tasks and services are as they are"),
    "info": ("system", "Show what this node is and does"),
    "events": ("system", "Show what changes in the swarm, as it changes"),
    "version": ("system", "Show the versions of client and daemon"),
    "backup": ("recovery", "Write everything that the swarm knows into a file"),
    "restore": ("recovery", "Make this node the only manager of the swarm that a backup is of"),
    "recover": ("recovery", "Make this manager the only one of a swarm that has lost its quorum for good"),
    "migrate": ("migrate", "Recreate here what a Docker swarm holds"),
    "daemon": ("daemon", "Run this node's daemon in the foreground"),
    "rebalance": ("rebalance", "Move tasks of services until they are evenly spread"),
    "sim": ("sim", "Run a swarm in virtual time, with faults, and judge it"),
}
_DEV_SUMMARY: Final = "Run a whole cluster on this machine, and break it"


def main(argv: Sequence[str], environment: dict[str, str] | None = None) -> int:
    """Run one command; returns the exit code."""
    surroundings = dict(os.environ) if environment is None else environment
    try:
        return _run(list(argv), surroundings)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # the reader of our output has left, as ``head`` does: nobody to tell, and no noise at exit either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _run(argv: list[str], environment: dict[str, str]) -> int:
    try:
        words, options = parse(_GLOBAL, argv)
    except HelpWanted:
        print(_overview())
        return 0
    except UsageError as error:
        return _usage_failed(error, PROGRAM)
    if options.on("version"):
        from swarmpy.version import VERSION

        print(f"SwarmPy version {VERSION}")
        return 0
    if not words:
        print(_overview())
        return 0
    if words[0] == "dev":
        return _run_dev(words[1:])
    if words[0] == "help":
        return _run([*words[1:], "--help"], environment)
    address = options.text("host") or default_address(environment)
    return _dispatch(words, address=address, is_stale=options.on("stale"), environment=environment)


def default_address(environment: dict[str, str]) -> str:
    for name in ("SWARMPY_HOST", "SWARMPY_SOCKET", "DOCKER_HOST"):
        if environment.get(name):
            return environment[name]
    return DEFAULT_SOCKET


def _dispatch(words: list[str], *, address: str, is_stale: bool, environment: dict[str, str]) -> int:
    first, rest = words[0], words[1:]
    if first in _GROUPS:
        module, _ = _GROUPS[first]
        commands = _commands(module)
        if not rest or rest[0] in ("--help", "-h"):
            print(_group_overview(first, commands))
            return 0
        verb, rest = rest[0], rest[1:]
        path = f"{PROGRAM} {first} {verb}"
    elif first in _VERBS:
        module, _ = _VERBS[first]
        commands, verb, path = _commands(module), first, f"{PROGRAM} {first}"
    else:
        return _usage_failed(UsageError(f"'{first}' is not a {PROGRAM} command"), PROGRAM)
    verb = _ALIASES.get(verb, verb)
    if verb not in commands:
        return _usage_failed(UsageError(f"unknown command: {path}"), f"{PROGRAM} {first}")
    return _call(commands[verb], path, rest, address=address, is_stale=is_stale, environment=environment)


_ALIASES: Final = {"list": "ls", "remove": "rm"}


def _call(
    command: Command,
    path: str,
    argv: list[str],
    *,
    address: str,
    is_stale: bool,
    environment: dict[str, str],
) -> int:
    from swarmpy.cli.session import Session, fail, tell_refused
    from swarmpy.client import Client, ErrorAnswer
    from swarmpy.errors import SwarmError

    try:
        arguments, options = parse(command, argv)
        session = Session(Client(address, is_stale=is_stale), environment, is_terminal=sys.stdout.isatty())
        return command.run(session, arguments, options)
    except HelpWanted:
        print(usage(path, command))
        return 0
    except UsageError as error:
        return _usage_failed(error, path, command)
    except ErrorAnswer as error:
        tell_refused(error)
        return 1
    except SwarmError as error:
        fail(str(error))
        return 1


def _commands(module: str) -> dict[str, Command]:
    found: dict[str, Command] = importlib.import_module(f"swarmpy.cli.{module}").COMMANDS
    return found


def every_command() -> Iterator[tuple[str, Command]]:
    """All commands with their paths, for the reference; ``dev`` has a page of its own."""
    for verb, (module, _) in sorted(_VERBS.items()):
        yield f"{PROGRAM} {verb}", _commands(module)[verb]
    for group, (module, _) in sorted(_GROUPS.items()):
        for verb, command in sorted(_commands(module).items()):
            yield f"{PROGRAM} {group} {verb}", command


def _run_dev(argv: list[str]) -> int:
    """The lab's commands are typer's: nobody waits for their tenths of a second."""
    from swarmpy.cli.dev import app

    try:
        app(args=argv, prog_name=f"{PROGRAM} dev")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    return 0


def _usage_failed(error: UsageError, path: str, command: Command | None = None) -> int:
    lines = [str(error) if command is None else f'"{path}": {error}' if _is_count(error) else str(error)]
    lines.append(f"See '{path} --help'.")
    if command is not None:
        lines += ["", usage(path, command).splitlines()[0]]
    print("\n".join(lines), file=sys.stderr)
    return 2


def _is_count(error: UsageError) -> bool:
    return str(error).startswith(("accepts ", "requires "))


def _overview() -> str:
    lines = [usage(PROGRAM, _GLOBAL).split("\n\nOptions:")[0], "", "Commands:"]
    every = {**_VERBS, **_GROUPS, "dev": ("dev", _DEV_SUMMARY)}
    lines += [f"  {name:<12}{summary}" for name, (_, summary) in sorted(every.items())]
    lines += ["", "Options:", *usage(PROGRAM, _GLOBAL).split("Options:\n")[1].splitlines()]
    lines += ["", f"Run '{PROGRAM} COMMAND --help' for more information on a command."]
    return "\n".join(lines)


def _group_overview(group: str, commands: dict[str, Command]) -> str:
    lines = [f"Usage:  {PROGRAM} {group} COMMAND", "", _GROUPS[group][1], "", "Commands:"]
    lines += [f"  {verb:<12}{command.summary}" for verb, command in sorted(commands.items())]
    lines += ["", f"Run '{PROGRAM} {group} COMMAND --help' for more information on a command."]
    return "\n".join(lines)
