"""Whether an engine can run this node's tasks: asked, and tried with one real container in a netns of ours.

Answers are sentences for the user. What the trial makes is taken away again; what a crash leaves of it has
the labels of this node, so that the next start finds it.
"""

from __future__ import annotations

import os
import platform
import secrets
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

from agent.dataplane.linux import namespaces
from agent.executor.base import ImageConfig, Launch, Sandbox
from agent.executor.engine import pause, records
from agent.executor.engine.body import (
    Around,
    container_body,
    container_name,
    needs_pause,
    own_ulimits,
    pause_body,
    pause_name,
)
from agent.executor.engine.client import Engine, flavour_of
from agent.executor.engine.containers import Containers
from agent.executor.engine.joining import join
from agent.executor.engine.states import state_of
from swarmpy.errors import SwarmError, TaskRejected, Unavailable
from swarmpy.model.ids import TaskId
from swarmpy.model.specs import ContainerSpec
from swarmpy.runtime import Clock

Run = Callable[[Callable[[], Any]], Awaitable[Any]]
_TRIAL: Final = "probe"


async def find_missing(engine: Engine, data_dir: Path, *, clock: Clock, run: Run) -> tuple[str, ...]:
    """Empty if tasks can run here."""
    if os.geteuid() != 0:
        return (f"The daemon must run as root to run tasks with {engine.flavour}.",)
    try:
        version = await engine.version()
    except SwarmError:
        return (f"{engine.flavour} does not answer at {engine.socket}: start it, or name its socket.",)
    if (flavour := flavour_of(version)) != engine.flavour:
        return (f"What answers at {engine.socket} is {flavour}, not {engine.flavour}.",)
    try:
        await _try_one(engine, data_dir, clock=clock, run=run)
    except SwarmError as error:
        return (f"{engine.flavour} {version.get('Version', '')} cannot run a task: {error}",)
    return ()


async def _try_one(engine: Engine, data_dir: Path, *, clock: Clock, run: Run) -> None:
    task_id = TaskId(f"{_TRIAL}-{secrets.token_hex(8)}")
    node = await run(partial(records.node_key, data_dir))
    containers = Containers(engine, node, platform.machine())
    netns = data_dir / task_id
    launch = Launch(
        task_id=task_id,
        name=task_id,
        spec=ContainerSpec(image=pause.IMAGE, command=(pause.PROGRAM,)),
        image=ImageConfig(reference=pause.IMAGE),
        sandbox=Sandbox(netns=str(netns)),
    )
    around = Around(folder=str(data_dir), node=node, ulimits=own_ulimits())
    try:
        await run(partial(_clear, data_dir))
        await run(partial(_make_netns, netns))
        await containers.load_pause()
        await _run_one(containers, engine, launch, around, clock=clock)
    finally:
        try:
            for one in await containers.find(task_id):
                await containers.remove(one.id)
        finally:
            await run(partial(namespaces.remove, netns))


async def _run_one(
    containers: Containers, engine: Engine, launch: Launch, around: Around, *, clock: Clock
) -> None:
    """It has to be in our namespace, as the kernel says it."""
    name, netns = container_name(launch), launch.sandbox.netns
    if needs_pause(launch, engine.flavour):
        holder = await containers.make(pause_name(name), pause_body(launch, around, image=pause.IMAGE))
        await join(containers, holder, netns, clock)
    container = await containers.make(name, container_body(launch, engine.flavour, around))
    await containers.start(container)
    state = state_of(await containers.inspect(container))
    if state.started is None or state.ended is not None:
        raise TaskRejected("the container ended at once")
    place = f"/proc/{state.started.pid}/ns/net"
    try:
        is_in = os.path.samestat(os.stat(place), os.stat(netns))
    except OSError:
        raise Unavailable(
            "its processes are not seen from here: it has to run on this machine, in the pid namespace of "
            f"the daemon ({place} is not there)"
        ) from None
    if not is_in:
        raise Unavailable("the container is not in the network namespace that it was given")


def _clear(data_dir: Path) -> None:
    """Namespaces of trials that a crash broke off."""
    for left in data_dir.glob(f"{_TRIAL}-*"):
        namespaces.remove(left)


def _make_netns(path: Path) -> None:
    try:
        namespaces.make(path).close()
    except OSError as error:
        raise Unavailable(f"no network namespace can be made: {error.strerror}") from None
