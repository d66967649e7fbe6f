"""``PodmanService``: a Podman that no system service serves is served by a child of this daemon.

Podman needs no daemon: its containers outlive the service, each with its monitor. So the child may end with
the daemon (the kernel sees to that), and the next daemon starts another. Its socket lies in the data folder.

Which runtime works is tried, not guessed: Podman's own choice; runc; crun from a mount namespace without the
cgroup v2 hierarchy, since some crun refuse machines that have both versions. What served last is tried first.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import structlog

from agent.executor.engine.client import Engine
from agent.executor.engine.limits import (
    ENGINE_SERVICE_POLL_S,
    ENGINE_SERVICE_START_TIMEOUT_S,
    ENGINE_SERVICE_STOP_TIMEOUT_S,
)
from agent.executor.native.shim.supervise import write_record
from swarmpy.errors import SwarmError, Unavailable

log = structlog.get_logger(__name__)

Missing = tuple[str, ...]
_SOCKET: Final = "podman.sock"
_CHOICE: Final = "podman.runtime"
_WRAPPER: Final = "crun-without-v2"
_HYBRID: Final = Path("/sys/fs/cgroup/unified")
_SYSTEMD: Final = Path("/run/systemd/system")
_PATH_CHARS_MAX: Final = 100
"""Of a unix socket; the kernel takes 107."""


class PodmanService:
    """``options``: of podman, before its command; for tests, which have a storage of their own."""

    def __init__(self, data_dir: Path, options: tuple[str, ...] = ()) -> None:
        self.socket: Final = str(data_dir / _SOCKET)
        self._data_dir = data_dir
        self._options = options
        self._child: asyncio.subprocess.Process | None = None
        self._runtime = ""
        self._lock = asyncio.Lock()

    async def ensure(self, engine: Engine) -> None:
        """Have it answer: with the runtime that served last, if any did. Unavailable if it does not."""
        async with self._lock:
            if self._child is None or self._child.returncode is not None:
                await self._start(engine, self._runtime or self._read_choice())

    async def choose(self, engine: Engine, trial: Callable[[], Awaitable[Missing]]) -> Missing:
        """Try runtimes until one passes; what the first one lacks if none does."""
        first: Missing = ()
        for runtime in dict.fromkeys((self._read_choice(), *self._candidates())):
            async with self._lock:
                try:
                    if self._child is None or self._child.returncode is not None or runtime != self._runtime:
                        await self.stop()
                        await self._start(engine, runtime)
                except Unavailable as error:
                    first = first or (str(error),)
                    continue
            missing = await trial()
            if not missing:
                self._keep_choice(runtime)
                return ()
            log.warning("podman_runtime_refused", runtime=runtime or "default", reason=missing[0])
            first = first or missing
        return first

    async def stop(self) -> None:
        child, self._child = self._child, None
        if child is None or child.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            child.terminate()
        try:
            async with asyncio.timeout(ENGINE_SERVICE_STOP_TIMEOUT_S):
                await child.wait()
        except TimeoutError:
            child.kill()
            await child.wait()

    def _keep_choice(self, runtime: str) -> None:
        try:
            write_record(str(self._data_dir / _CHOICE), runtime)
        except OSError as error:  # a full disk, say: it only saves the next daemon a trial
            log.warning("podman_runtime_not_kept", reason=str(error))

    def _read_choice(self) -> str:
        """Podman's own if it was not kept, was torn by a power failure, or is not there any more."""
        try:
            runtime = (self._data_dir / _CHOICE).read_text()
            return runtime if runtime and os.access(runtime, os.X_OK) else ""
        except (OSError, ValueError):
            return ""

    def _candidates(self) -> tuple[str, ...]:
        found = [""]
        if runc := shutil.which("runc"):
            found.append(runc)
        if (crun := shutil.which("crun")) and _HYBRID.is_dir() and (wrapper := self._wrap(crun)):
            found.append(wrapper)
        return tuple(found)

    def _wrap(self, crun: str) -> str:
        """A program that runs crun where it sees cgroup v1 alone; all else of the machine is as it is. It
        appears whole, for monitors run it at any time. Empty if it cannot be written."""
        place = self._data_dir / _WRAPPER
        inner = f'umount -l {_HYBRID} && exec {shlex.quote(crun)} "$@"'
        text = f'#!/bin/sh\nexec unshare --mount --propagation slave sh -c {shlex.quote(inner)} crun "$@"\n'
        fresh = place.with_suffix(".new")
        try:
            fresh.write_text(text)
            fresh.chmod(0o700)
            os.replace(fresh, place)
        except OSError as error:
            log.warning("podman_runtime_not_kept", reason=str(error))
            return ""
        return str(place)

    async def _start(self, engine: Engine, runtime: str) -> None:
        podman = shutil.which("podman")
        if podman is None:
            raise Unavailable("podman is not installed on this node, and no podman answers at its socket")
        if len(self.socket) > _PATH_CHARS_MAX:
            raise Unavailable(
                f"the path {self.socket} is too long for a socket: choose a shorter data folder, or start "
                "Podman's service (systemctl enable --now podman.socket)"
            )
        if runtime and not os.access(runtime, os.X_OK):
            raise Unavailable(f"the runtime {runtime} is not there any more")
        Path(self.socket).unlink(missing_ok=True)
        words = [podman, "--log-level", "error", *self._options]
        if runtime:
            words += ["--runtime", runtime]
        if not _SYSTEMD.exists():
            words += ["--cgroup-manager", "cgroupfs", "--events-backend", "file"]
        words += ["system", "service", "--time", "0", f"unix://{self.socket}"]
        if setpriv := shutil.which("setpriv"):  # the service goes with the daemon, however that ends
            words = [setpriv, "--pdeathsig", "TERM", "--", *words]
        env = os.environ | {"DISABLE_HC_SYSTEMD": "true"}  # health is the agent's affair
        try:
            with (self._data_dir / "podman.log").open("wb") as output:
                self._child = await asyncio.create_subprocess_exec(
                    *words,
                    cwd=self._data_dir,  # monitors leave their notes where it stands
                    env=env,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                )
        except OSError as error:
            raise Unavailable(f"podman's service cannot be started: {error}") from None
        self._runtime = runtime
        try:
            async with asyncio.timeout(ENGINE_SERVICE_START_TIMEOUT_S):
                while not await _answers(engine):
                    if self._child.returncode is not None:
                        raise Unavailable(f"podman's service does not start: {self._last_words()}")
                    await asyncio.sleep(ENGINE_SERVICE_POLL_S)
        except TimeoutError:
            await self.stop()
            raise Unavailable(
                f"podman's service does not answer in {ENGINE_SERVICE_START_TIMEOUT_S:g} s"
            ) from None

    def _last_words(self) -> str:
        lines = (self._data_dir / "podman.log").read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it says nothing"


async def _answers(engine: Engine) -> bool:
    try:
        await engine.version()
    except SwarmError:
        return False
    return True
