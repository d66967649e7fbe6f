"""``swarmpy dev``: a whole cluster on this machine, and the faults to try on it.

Every command is a few lines over ``swarmpy.lab``: parse, do, say what happened in one line.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Final

import typer

from swarmpy.errors import NotFound, SwarmError
from swarmpy.lab import engines, process
from swarmpy.lab.cluster import HostStatus, Lab
from swarmpy.lab.network import Way

app = typer.Typer(
    name="dev",
    help="Run a whole cluster on this machine, and break it.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

DEFAULT_NAME: Final = "lab"
Name = Annotated[str, typer.Option("--name", help="Which lab; several can run side by side.")]
Node = Annotated[str, typer.Argument(metavar="NODE", help="A node of the lab, such as node-1.")]


@contextmanager
def _told() -> Iterator[None]:
    """Errors are sentences for the user: one line, exit code 1."""
    try:
        yield
    except SwarmError as error:
        print(f"Error: {error}", file=sys.stderr)
        raise typer.Exit(1) from None


@app.command()
def up(
    managers: Annotated[int, typer.Option(help="How many managers.")] = 3,
    workers: Annotated[int, typer.Option(help="How many workers.")] = 2,
    executor: Annotated[
        list[str] | None,
        typer.Option(help="What runs tasks: NAME on all nodes, NODE=NAME on one; several by commas."),
    ] = None,
    name: Name = DEFAULT_NAME,
) -> None:
    """Make the hosts, start a daemon on each and form a swarm."""
    with _told():
        begin = time.monotonic()
        chosen = engines.parse(executor or [])
        lab = Lab.up(managers=managers, workers=workers, name=name, executors=chosen)
        took_s = time.monotonic() - begin
        _print_status(lab.status())
    print(f"\n{managers + workers} nodes are ready after {took_s:.1f} s.")
    print(f'For a client on this machine: eval "$(swarmpy dev env node-1{_option(name)})"')


@app.command()
def status(name: Name = DEFAULT_NAME) -> None:
    """List the nodes: their daemons, links and roles."""
    with _told():
        _print_status(Lab.open(name).status())


@app.command("ls")
def ls() -> None:
    """List the labs on this machine."""
    with _told():
        for name in Lab.names():
            print(name)


@app.command()
def kill(
    node: Node,
    host: Annotated[
        bool, typer.Option("--host", help="A power failure: all processes of the host, and its link.")
    ] = False,
    name: Name = DEFAULT_NAME,
) -> None:
    """kill -9 a node's daemon (its tasks go on), or with --host the whole host."""
    with _told():
        Lab.open(name).kill(node, host=host)
    print(f"{node} is off." if host else f"The daemon of {node} is dead; its tasks go on.")


@app.command()
def start(node: Node, name: Name = DEFAULT_NAME) -> None:
    """Start a node's daemon again, after switching its host on if need be."""
    with _told():
        begin = time.monotonic()
        Lab.open(name).start(node)
        print(f"{node} answers again after {time.monotonic() - begin:.1f} s.")


@app.command()
def stop(node: Node, name: Name = DEFAULT_NAME) -> None:
    """Stop a node's daemon in good order; its tasks go on."""
    with _told():
        in_order = Lab.open(name).stop(node)
    print(f"The daemon of {node} has ended." if in_order else f"The daemon of {node} had to be killed.")


@app.command()
def restart(node: Node, name: Name = DEFAULT_NAME) -> None:
    """Stop a node's daemon in good order and start it again."""
    with _told():
        begin = time.monotonic()
        Lab.open(name).restart(node)
        print(f"{node} answers again after {time.monotonic() - begin:.1f} s.")


@app.command()
def pause(node: Node, name: Name = DEFAULT_NAME) -> None:
    """Freeze a node's daemon (SIGSTOP)."""
    with _told():
        Lab.open(name).pause(node)
    print(f"The daemon of {node} is frozen.")


@app.command()
def resume(node: Node, name: Name = DEFAULT_NAME) -> None:
    """Let a frozen daemon go on."""
    with _told():
        Lab.open(name).resume(node)
    print(f"The daemon of {node} goes on.")


@app.command()
def cut(
    node: Node,
    one_way: Annotated[
        Way, typer.Option("--one-way", help="Cut only what the node receives (in) or sends (out).")
    ] = Way.BOTH,
    name: Name = DEFAULT_NAME,
) -> None:
    """Pull a node's network cable."""
    with _told():
        Lab.open(name).cut(node, one_way)
    lost = {Way.BOTH: "is cut off", Way.IN: "receives nothing", Way.OUT: "sends nothing"}[one_way]
    print(f'{node} {lost}; "swarmpy dev heal {node}{_option(name)}" undoes it.')


@app.command()
def heal(node: Node, name: Name = DEFAULT_NAME) -> None:
    """Plug a node's network cable in again."""
    with _told():
        Lab.open(name).heal(node)
    print(f"{node} is connected.")


@app.command("exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def exec_(
    node: Node,
    command: Annotated[list[str], typer.Argument(metavar="-- COMMAND…")],
    name: Name = DEFAULT_NAME,
) -> None:
    """Run a command on a node, or on the "switch" between them: dev exec node-1 -- ip address."""
    with _told():
        words = command[1:] if command[0] == "--" else command
        argv = Lab.open(name).exec_argv(node, words)
    try:
        code = subprocess.call(argv, env=process.environment())
    except KeyboardInterrupt:
        code = 130
    raise typer.Exit(code if code >= 0 else 128 - code)


@app.command()
def env(node: Node, name: Name = DEFAULT_NAME) -> None:
    """Print what to set so that clients on this machine talk to a node."""
    with _told():
        print(f"export DOCKER_HOST={shlex.quote(Lab.open(name).docker_host(node))}")


@app.command()
def logs(
    node: Node,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines are added.")] = False,
    lines: Annotated[int, typer.Option("--tail", "-n", min=0, help="How many lines from the end.")] = 100,
    name: Name = DEFAULT_NAME,
) -> None:
    """Show the log of a node's daemon."""
    with _told():
        log = Lab.open(name).log(node)
        if not log.exists():
            raise NotFound(f"The daemon of {node} has not logged anything yet.")
    argv = ["tail", "-n", str(lines), *(["-F"] if follow else []), str(log)]
    try:
        raise typer.Exit(subprocess.call(argv, env=process.environment()))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


@app.command()
def down(
    name: Name = DEFAULT_NAME,
    every: Annotated[bool, typer.Option("--all", help="Every lab on this machine.")] = False,
) -> None:
    """Take the lab away: processes, namespaces, cgroups, files. Also after a crash."""
    with _told():
        for lab in Lab.names() if every else [name]:
            found = Lab.remove(lab)
            print(f'The lab "{lab}" is gone.' if found else f'There was no lab "{lab}".')


@app.command()
def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave the cluster running at the end.")] = False,
) -> None:
    """Show the main job on real processes: five nodes, a service, a dead leader, a dead worker."""
    from swarmpy.lab.demo import run_demo

    raise typer.Exit(run_demo(keep=keep))


def _option(name: str) -> str:
    return "" if name == DEFAULT_NAME else f" --name {name}"


def _print_status(hosts: Sequence[HostStatus]) -> None:
    print(table([HEADINGS, *(_cells(host) for host in hosts)]))


HEADINGS: Final = ("NODE", "ADDRESS", "DAEMON", "PID", "LINK", "ROLE", "STATE", "TASKS")


def _cells(host: HostStatus) -> tuple[str, ...]:
    links = {None: "up", Way.BOTH: "cut", Way.IN: "cut (in)", Way.OUT: "cut (out)"}
    return (
        host.name,
        host.address,
        host.daemon,
        str(host.pid or "-"),
        links[host.cut],
        (host.role or "-") + (" (leader)" if host.is_leader else ""),
        host.state or "-",
        "-" if host.tasks is None else str(host.tasks),
    )


def table(rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell, two blanks apart."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)
