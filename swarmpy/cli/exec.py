"""``swarmpy exec`` and ``swarmpy attach``: the user's streams and terminal inside a task, wherever it runs.

The exit code is the command's. 126 and 127 are commands that cannot be run, 1 is a stream that broke.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack

from swarmpy.cli.flags import Command, Options, UsageError, listed, switch, text
from swarmpy.cli.session import Session, tell
from swarmpy.cli.target import task_path
from swarmpy.cli.terminal import (
    Broken,
    DetachKeys,
    following_size,
    raw_terminal,
    send_input,
    show_output,
)
from swarmpy.client import Client, Conversation, ErrorAnswer, Json

_MULTIPLEXED = "application/vnd.docker.multiplexed-stream"


def exec_(session: Session, arguments: list[str], options: Options) -> int:
    target, *argv = arguments
    has_terminal, has_input = options.on("tty"), options.on("interactive")
    if has_terminal and has_input and not sys.stdin.isatty():
        raise UsageError("the input device is not a TTY: leave -t away")
    config: Json = {
        "Cmd": argv[1:] if argv[0] == "--" else argv,
        "Env": [_variable(given, session) for given in options.many("env")],
        "User": options.text("user"),
        "WorkingDir": options.text("workdir"),
        "Privileged": options.on("privileged"),
        "Tty": has_terminal,
        "AttachStdin": has_input,
        "AttachStdout": True,
        "AttachStderr": True,
    }
    if not config["Cmd"]:
        raise UsageError("give the command to run after the task")
    client = session.client
    path = f"/exec/{client.post(f'{task_path(client, target)}/exec', config)['Id']}"
    with client.upgrade(f"{path}/start", body={"Tty": has_terminal}) as conversation, ExitStack() as stack:
        if has_terminal and has_input:
            stack.enter_context(raw_terminal())
        if has_terminal and sys.stdout.isatty():
            stack.enter_context(following_size(lambda rows, columns: _resize(client, path, rows, columns)))
        if has_input:
            send_input(conversation)
        if not _show(conversation, stack):
            return 1
    code = client.get(f"{path}/json")["ExitCode"]
    return int(code) if code is not None else 1


def _show(conversation: Conversation, stack: ExitStack) -> bool:
    """Whether it went to its regular end; if not, the user is told on a terminal that is as it was."""
    try:
        show_output(conversation, is_multiplexed=conversation.content_type == _MULTIPLEXED)
    except Broken as error:
        stack.close()
        tell(f"Error: {error}")
        return False
    return True


def _variable(given: str, session: Session) -> str:
    """``NAME=value``; a name alone takes the value that it has here."""
    name, has_value, _ = given.partition("=")
    if not name:
        raise UsageError(f"invalid environment variable: {given}")
    return given if has_value else f"{name}={session.environment.get(name, '')}"


def _resize(client: Client, path: str, rows: int, columns: int) -> None:
    try:
        client.post(f"{path}/resize", query={"h": rows, "w": columns})
    except ErrorAnswer:
        return  # it has just ended, or not yet begun: then it keeps its size until the next change


def attach(session: Session, arguments: list[str], options: Options) -> int:
    path = task_path(session.client, arguments[0])
    query: dict[str, str | int | bool] = {"stream": True, "stdout": True, "stderr": True}
    query["stdin"] = not options.on("no-stdin")
    with session.client.upgrade(f"{path}/attach", query) as conversation, ExitStack() as stack:
        is_multiplexed = conversation.content_type == _MULTIPLEXED
        is_raw = not is_multiplexed and query["stdin"] and sys.stdin.isatty()
        if is_raw:
            stack.enter_context(raw_terminal())
        if not is_multiplexed and sys.stdout.isatty():
            stack.enter_context(
                following_size(lambda rows, columns: _resize(session.client, path, rows, columns))
            )
        detached = None
        if query["stdin"]:
            detached = send_input(conversation, DetachKeys() if sys.stdin.isatty() else None)
        is_complete = _show(conversation, stack)
        if detached is not None and detached.is_set():
            stack.close()
            tell("detached: the task runs on")
            return 0
    return 0 if is_complete else 1


COMMANDS = {
    "exec": Command(
        exec_,
        "Run a command in a task",
        "TASK|SERVICE[.SLOT] [--] COMMAND [ARG...]",
        2,
        None,
        (
            switch("interactive", "Keep STDIN open", short="i"),
            switch("tty", "Allocate a terminal", short="t"),
            listed("env", "Set environment variables", short="e"),
            text("user", "Username or UID (format: <name|uid>[:<group|gid>])", short="u"),
            text("workdir", "Working directory inside the task", short="w"),
            switch("privileged", "Give extended privileges to the command"),
        ),
        is_interspersed=False,
    ),
    "attach": Command(
        attach,
        "Attach to a running task: ctrl-p ctrl-q detaches from a terminal",
        "TASK|SERVICE[.SLOT]",
        1,
        1,
        (switch("no-stdin", "Do not attach STDIN"),),
    ),
}
