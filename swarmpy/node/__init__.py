"""The composition root: one daemon, from its settings to its end. With ``sim`` the one place that names both
manager and agent.
"""

from __future__ import annotations

import asyncio
import gc
import resource
import signal
import sys
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from functools import partial
from typing import TypeVar

import structlog

from agent.dataplane.base import Backend
from agent.dataplane.linux.backend import LinuxBackend
from agent.dataplane.windows.backend import WindowsBackend
from agent.describe import describe
from agent.executor.base import Capabilities, Executor
from agent.executor.images.collection import Rules
from agent.executor.native import node_ids
from agent.executor.oci.choice import Choice
from agent.journal import Journal
from manager.api.server import ApiServer
from manager.api.tls import TlsServer
from swarmpy.config import NodeConfig
from swarmpy.errors import SwarmError
from swarmpy.lean import return_memory
from swarmpy.limits import DAEMON_FILES_MAX
from swarmpy.log import configure
from swarmpy.model.executors import ENGINES
from swarmpy.node import executors
from swarmpy.node.daemon import Daemon, Machine
from swarmpy.node.image_gc import ImageCollector
from swarmpy.node.images import Images
from swarmpy.node.lock import locked
from swarmpy.node.system import read_system
from swarmpy.node.volumes import NodeVolumes
from swarmpy.runtime import Env

log = structlog.get_logger(__name__)

T = TypeVar("T")

EXIT_FATAL = 3
"""The daemon stopped since it could not go on safely; its supervisor may start it again."""


def run(config: NodeConfig) -> int:
    """Run the daemon until it is told to stop; the process's exit code. ``SwarmError`` if it can't start."""
    configure(config.log_level, config.log_format)
    raise_file_limit()
    return asyncio.run(serve(config, Env()))


def raise_file_limit() -> None:
    """A shell's limit of 1,024 files is soon reached: each agent is a connection, and each task here has
    sockets for its names and addresses."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = DAEMON_FILES_MAX if hard == resource.RLIM_INFINITY else min(hard, DAEMON_FILES_MAX)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


async def serve(config: NodeConfig, env: Env) -> int:
    """``run`` on a loop of the caller's."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    with locked(config.data_dir):  # before anything is touched: a second daemon ends here
        async with AsyncExitStack() as stack:
            make = partial(executors.make_executor, config, env, choice=Choice())
            choosing = executors.choose(config, env, make)
            executor = await _until(choosing, stopping)
            if executor is None:
                return 0
            machine = make_machine(executor, config, env, make)
            daemon = Daemon(config, env, machine)
            daemon.fatal.add_done_callback(lambda _: stopping.set())
            stack.push_async_callback(daemon.stop)
            server = ApiServer(daemon, env)
            stack.push_async_callback(server.stop)
            tls = TlsServer.of(config, env.clock)
            loop.add_signal_handler(signal.SIGHUP, _nothing_to_reload if tls is None else tls.reload)
            await server.start(
                config.socket,
                tcp_addresses=config.api_addresses,
                tls=None if tls is None else lambda: tls.context,
                group=config.api_group,
            )
            await _until(daemon.resume(), stopping)
            gc.collect()
            gc.freeze()  # what was loaded stays: the collector need not look at it again
            log.info("daemon_started", socket=str(config.socket), state=daemon.local().state.value)
            await _until(_keep_house(machine, config, env), stopping)
            await stopping.wait()
            if daemon.fatal.done():
                log.error("daemon_failed", reason=daemon.fatal.result())
                return EXIT_FATAL
            return 0


async def _keep_house(machine: Machine, config: NodeConfig, env: Env) -> None:
    """What is done now and then for as long as the daemon runs."""
    rules = Rules(config.image_gc_age, *config.image_gc_disk)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(return_memory())
        if machine.executor_name not in ENGINES:  # which see to their own images
            collector = ImageCollector(config.data_dir, env, rules, machine.images.events)
            tasks.create_task(collector.run())


def _nothing_to_reload() -> None:
    log.info("reload_ignored", reason="only files of the API on TCP can be read again, and there are none")


async def _until(work: Coroutine[None, None, T], stopping: asyncio.Event) -> T | None:
    """Do the work, or leave it where it is once the daemon has to stop: None."""
    working = asyncio.create_task(work)
    waiting = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait([working, waiting], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (working, waiting):
            task.cancel()
        await asyncio.gather(working, waiting, return_exceptions=True)
    return None if working.cancelled() else working.result()


def probe(config: NodeConfig) -> tuple[Capabilities, ...]:
    """What each executor needs that this machine does not have. Nothing stays of it."""
    configure("error", config.log_format)
    return asyncio.run(executors.probe_all(config, Env()))


def make_machine(executor: str, config: NodeConfig, env: Env, make: Callable[..., Executor]) -> Machine:
    """This machine, with this executor, one of those that ``make`` makes, and its own network backend."""
    ids = node_ids.task_ids(config.userns_remap)
    if config.userns_remap and ids is None:
        log.warning(
            "ids_not_remapped", reason=f"{config.userns_remap} is root, who cannot be remapped with itself"
        )
    service = executors.podman_service(config, executor)
    images = executors.make_images(config, env, executor, service)
    fetch = images.fetch if isinstance(images, Images) else None
    pulled = None if isinstance(images, Images) else images.tell_pulled
    return Machine(
        executor_name=executor,
        make_executor=partial(make, executor, fetch=fetch, service=service, pulled=pulled),
        make_backend=lambda: make_backend(config, env),
        open_journal=Journal,
        describe=partial(
            describe,
            executor=executor,
            hostname=config.hostname,
            labels=config.labels,
            generic_resources=config.generic_resources,
        ),
        read_system=partial(read_system, has_other_ids=ids is not None),
        images=images,
        volumes=NodeVolumes(config.data_dir, env.clock),
    )


def make_backend(config: NodeConfig, env: Env, *, system: str = sys.platform) -> Backend:
    """What programs this machine's network. Windows has this much of a node only: no executor is for it."""
    if system == "win32":
        return WindowsBackend(threads=env.threads)
    return LinuxBackend(run_dir=config.run_dir, ids=node_ids.task_ids(config.userns_remap))


__all__ = ["SwarmError", "run", "serve"]
