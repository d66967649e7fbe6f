"""An oci executor on a scratch folder, and what may be left of its tasks: groups, mounts, processes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

from native_rig import DEADLINE_S, NativeRig

from agent.executor.native.executor import NativeExecutor
from agent.executor.oci import roots
from agent.executor.oci.executor import OciExecutor
from agent.executor.oci.runtimes import Runtime


class OciRig(NativeRig):
    """``close`` leaves nothing behind."""

    executor: OciExecutor
    known: Runtime | None = None
    """What works on this machine: found once, by the first rig."""

    def _make(self) -> OciExecutor:
        executor = OciExecutor(self.data_dir, cgroup_parent=self.parent)
        if OciRig.known is not None:
            executor.life.runtime = replace(OciRig.known, root=executor.life.runtime_root)
        return executor

    async def open(self) -> OciExecutor:
        await super().open()
        OciRig.known = self.executor.life.runtime
        return self.executor

    async def reopen(
        self, *, is_clean: bool = True, meanwhile: Callable[[], Awaitable[None]] | None = None
    ) -> NativeExecutor:
        if not is_clean:
            await self._stop_threads()
        return await super().reopen(is_clean=is_clean, meanwhile=meanwhile)

    async def _stop_threads(self) -> None:
        """Those of a daemon that dies die with it: they begin no step any more, and undo none."""
        former = self.executor

        def dies(*_: object) -> None:
            raise RuntimeError("the daemon is dead")

        vars(former.life).update(take_down=dies, _make=dies)
        threads = former._pool._max_workers
        all_idle = threading.Barrier(threads + 1)
        for _ in range(threads):
            former._pool.submit(all_idle.wait, DEADLINE_S)
        await asyncio.to_thread(all_idle.wait, DEADLINE_S)

    def left(self) -> list[str]:
        """What there is of tasks outside of their folders."""
        groups = [Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").iterdir()]
        found = [
            str(path)
            for folder in (root / self.parent.strip("/") for root in groups)
            if folder.is_dir()
            for path in folder.iterdir()
            if path.is_dir()
        ]
        found += roots.mounts_below(self.data_dir / "tasks", Path("/proc/self/mountinfo").read_bytes())
        states = self.data_dir / "oci"
        found += [str(path) for path in states.iterdir()] if states.is_dir() else []
        return found + [f"process {pid}" for pid in self.processes()]

    def processes(self) -> list[int]:
        """Those that name the data folder: conmon and runtimes do."""
        wanted = str(self.data_dir / "tasks").encode()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    words = (entry / "cmdline").read_bytes().split(b"\0")
                except OSError:
                    continue
                if Path(words[0].decode(errors="replace")).name in ("conmon", "crun", "runc") and any(
                    wanted in word for word in words
                ):
                    found.append(int(entry.name))
        return found
