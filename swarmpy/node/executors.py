"""Which executor runs this node's tasks, and how it is made.

Decided once and kept in the data folder (``executor.json``), so that a daemon that starts again adopts its
tasks, whatever else has been installed meanwhile:

* while there are tasks of an executor in the folder, that one is used, and no other one can be;
* else the one that the settings name, if its probe says that tasks can run; if it does not, the daemon ends;
* else, with none named, the one used last, under the same condition: an engine that comes up after the daemon
  must not make another node of it, so it is waited for, and in the end the daemon ends;
* else the first of ``EXECUTORS`` that is usable.

Another one may be named as soon as no task of the former runs: what ended ones have left is then taken down
by the executor that made it. Without a record, the tasks' own records tell whose they are; a version that
kept none had ``native`` only.

Probing makes nothing that stays. An executor that is probed is not started.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import msgspec
import structlog

from agent.executor.base import Capabilities, Executor
from agent.executor.native import node_ids
from agent.executor.native.executor import NativeExecutor
from agent.executor.native.task_images import Fetch
from agent.executor.oci.choice import Choice
from swarmpy.config import NodeConfig
from swarmpy.errors import Corrupt, FailedPrecondition, InvalidArgument, SwarmError
from swarmpy.model.executors import ENGINES, EXECUTORS, FIRST_EXECUTOR
from swarmpy.node.images import Images
from swarmpy.runtime import Disk, Env

if TYPE_CHECKING:
    from agent.executor.engine.client import Flavour
    from agent.executor.engine.pulling import Pulled
    from agent.executor.engine.service import PodmanService
    from swarmpy.node.engine_images import EngineImages

log = structlog.get_logger(__name__)

Make = Callable[[str], Executor]
ENGINE_WAIT_S: Final = 30.0
"""For the engine that was used last to come up, as after a boot; shorter than a unit may take to start."""
ENGINE_WAIT_PERIOD_S: Final = 0.5


class _Kept(msgspec.Struct, frozen=True, kw_only=True):
    executor: str


def kept_executor(disk: Disk, data_dir: Path) -> str:
    """Which one was used last here; empty if none is on record."""
    path = _record(data_dir)
    if not disk.exists(path):
        return ""
    try:
        return msgspec.json.decode(disk.read(path), type=_Kept).executor
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Corrupt(
            f"{path} is damaged: {error}; remove it, and name the --executor whose tasks run here"
        ) from error


def candidates(wanted: str, used: str) -> tuple[str, ...]:
    """Which ones to probe, one after the other, on a node that has no tasks. Pure."""
    if wanted:
        return (wanted,)
    return (used,) if used else EXECUTORS


async def choose(config: NodeConfig, env: Env, make: Make) -> str:
    """The executor of this daemon. FailedPrecondition if there is none, with the reasons."""
    if config.executor and config.executor not in EXECUTORS:
        raise InvalidArgument(f"unknown executor {config.executor!r}: give one of {', '.join(EXECUTORS)}")
    kept = kept_executor(env.disk, config.data_dir)
    has_tasks = _has_tasks(config.data_dir)
    used = kept or (_whose_tasks(config) if has_tasks else "")
    if has_tasks and config.executor in ("", used):
        chosen = used  # nothing is probed: its tasks are here, and nobody else can look after them
    else:
        names = candidates(config.executor, used)
        awaited_s = ENGINE_WAIT_S if names == (kept,) and kept in ENGINES else 0.0
        chosen = await _first_usable(names, make, env.clock.monotonic() + awaited_s, env)
        if has_tasks:
            await _clear_away(make(used), config)
    if chosen != kept:
        record = msgspec.json.encode(_Kept(executor=chosen))
        env.disk.write_atomic(_record(config.data_dir), record)
    log.info("executor_chosen", executor=chosen, is_new=chosen != kept)
    return chosen


async def probe_all(config: NodeConfig, env: Env) -> tuple[Capabilities, ...]:
    """What each one needs that is not here. Tried apart from what a daemon may have in use."""
    parent = next(folder for folder in (config.data_dir, *config.data_dir.parents) if folder.is_dir())
    place = parent if os.access(parent, os.W_OK) else None  # who may not write there hears it of each one
    with tempfile.TemporaryDirectory(prefix="swarmpy-probe-", dir=place) as folder:
        scratch = Path(folder)
        # other ids are for one of them, and the others are asked too
        apart = replace(config, data_dir=scratch, run_dir=scratch / "run", userns_remap="")
        return tuple([await _probe(name, partial(make_executor, apart, env)) for name in EXECUTORS])


async def _first_usable(names: tuple[str, ...], make: Make, deadline: float, env: Env) -> str:
    while True:
        reasons = []
        for name in names:
            found = await _probe(name, make)
            if found.is_usable:
                return found.name
            reasons += [f"\n  {found.name}: {reason}" for reason in found.missing]
        if env.clock.monotonic() >= deadline:
            break
        log.info("engine_awaited", executor=names[0])
        await asyncio.sleep(ENGINE_WAIT_PERIOD_S)
    what = f'The executor "{names[0]}" cannot' if len(names) == 1 else "No executor can"
    raise FailedPrecondition(f"{what} run tasks on this machine:{''.join(reasons)}")


async def _probe(name: str, make: Make) -> Capabilities:
    async with _opened(make(name)) as executor:
        try:
            return await executor.probe()
        except SwarmError as error:
            return Capabilities(name=name, is_usable=False, missing=(str(error),))


async def _clear_away(former: Executor, config: NodeConfig) -> None:
    """Take down what ended tasks of another executor have left; FailedPrecondition if any may still run."""
    name = former.name
    async with _opened(former, starts=True) as executor:
        found = await executor.list()
        going = [item for item in found if item.exit is None]
        if going:
            one = len(going) == 1
            tasks = "1 task on this node was" if one else f"{len(going)} tasks on this node were"
            raise FailedPrecondition(
                f'{tasks} started by the executor "{name}", and no other can take {"it" if one else "them"} '
                f'over. Start the daemon with --executor {name}, run "swarmpy node drain '
                f'{config.hostname or "NODE"}", and change it then; or stay with {name}.'
            )
        for item in found:
            await executor.remove(item.task_id, keep_log=True)
    log.info("former_executor_cleared", executor=name, tasks=len(found))


@asynccontextmanager
async def _opened(executor: Executor, *, starts: bool = False) -> AsyncIterator[Executor]:
    try:
        if starts:
            await executor.start_up()
        yield executor
    finally:
        await executor.shut_down()


def _has_tasks(data_dir: Path) -> bool:
    folder = data_dir / "tasks"
    return folder.is_dir() and any(folder.iterdir())


def _whose_tasks(config: NodeConfig) -> str:
    """By what lies in the tasks' folders. Which of the engines it was, only the settings can say."""
    folder = config.data_dir / "tasks"
    if any(folder.glob("*/bundle.json")):
        return "oci"
    if not any(folder.glob("*/record.json")):
        return FIRST_EXECUTOR
    if config.executor in ENGINES:
        return config.executor
    raise FailedPrecondition(
        f"The tasks on this node are containers of an engine, and {_record(config.data_dir)}, which said of "
        f"which one, is gone: name it, with --executor {' or '.join(ENGINES)}."
    )


def _record(data_dir: Path) -> Path:
    return data_dir / "executor.json"


def make_images(
    config: NodeConfig, env: Env, name: str, service: PodmanService | None
) -> Images | EngineImages:
    """The images of the node: its own, or its engine's."""
    if name not in ENGINES:
        return Images(
            config.data_dir,
            env,
            insecure_registries=config.insecure_registries,
            registry_mirrors=config.registry_mirrors,
        )
    from swarmpy.node.engine_images import EngineImages

    return EngineImages(
        config.data_dir,
        env,
        flavour=cast("Flavour", name),
        socket=config.engine_socket,
        service=service,
        insecure_registries=config.insecure_registries,
        registry_mirrors=config.registry_mirrors,
    )


def podman_service(config: NodeConfig, name: str) -> PodmanService | None:
    """What serves Podman on this node, if nothing else does; for all that ask it."""
    if name != "podman" or config.engine_socket:
        return None
    from agent.executor.engine.client import DEFAULT_SOCKETS
    from agent.executor.engine.service import PodmanService

    return None if os.path.exists(DEFAULT_SOCKETS["podman"]) else PodmanService(config.data_dir)


def make_executor(
    config: NodeConfig,
    env: Env,
    name: str,
    *,
    fetch: Fetch | None = None,
    service: PodmanService | None = None,
    choice: Choice | None = None,
    pulled: Pulled | None = None,
) -> Executor:
    """An executor over this node's data folder. ``fetch``: for those whose images are in it, too; the others
    pull by themselves, and ``pulled`` is told. ``choice``: of all that are made for one daemon."""
    ids = node_ids.task_ids(config.userns_remap)
    if ids is not None and name != NativeExecutor.name:
        raise InvalidArgument(
            f'--userns-remap is for the executor "native", and this node has "{name}": take it out'
            + (", and set it for the engine instead" if name in ENGINES else "")
        )
    if name in ENGINES:
        from agent.executor.engine.executor import EngineExecutor

        return EngineExecutor(
            config.data_dir,
            flavour=cast("Flavour", name),
            socket=config.engine_socket,
            service=service,
            files_dir=config.run_dir / "files",
            clock=env.clock,
            pulled=pulled,
        )
    make: Callable[..., Executor] = partial(NativeExecutor, ids=ids)
    if name == "oci":
        from agent.executor.oci.executor import OciExecutor

        make = partial(OciExecutor, choice=choice)
    return make(
        config.data_dir,
        cgroup_parent=config.cgroup_parent,
        hidden=(config.run_dir / "netns",),
        files_dir=config.run_dir / "files",
        clock=env.clock,
        fetch=fetch,
    )
