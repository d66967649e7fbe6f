"""Which runtime works on this node: each runs a task that does nothing, as any task is run, until one does.

The task has the node's own root and ends by itself. It lies in a folder of its own, which is cleared before
and after, so a crash in the middle leaves nothing that the next trial does not take away.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

from agent.executor.base import ImageConfig, Launch, Sandbox
from agent.executor.native import folders
from agent.executor.native.making import Maker
from agent.executor.oci import runtimes
from agent.executor.oci.life import Life
from agent.executor.oci.limits import RUNTIME_TIMEOUT_S, STRAY_POLL_S
from agent.executor.oci.runtimes import Runtime
from swarmpy.errors import SwarmError
from swarmpy.model.ids import TaskId
from swarmpy.model.image_names import HOST
from swarmpy.model.specs import ContainerSpec

_TASK = "swarmpy-trial"
_COMMAND = ("/bin/sh", "-c", "exit 0")


@dataclass(kw_only=True)
class Trial:
    """Blocks. ``maker`` and ``life`` are the executor's: what is tried is what will be used."""

    folder: Path
    maker: Maker
    life: Life

    def choose(self, only: str = "") -> tuple[Runtime | None, tuple[str, ...]]:
        """The first that works, and sentences about those that do not."""
        self.maker.cgroups.prepare()
        self.life.conmon = self.life.conmon or runtimes.find("conmon")
        if not self.life.conmon:
            return None, ("The oci executor needs conmon, which is not on this node: install conmon.",)
        reasons = []
        for name in (only,) if only else runtimes.NAMES:
            path = runtimes.find(name)
            if not path:
                reasons.append(f"The OCI runtime {name} is not on this node.")
                continue
            runtime = Runtime(name=name, path=path, root=self.life.runtime_root)
            trouble = self._try(runtime)
            if runtimes.is_hybrid_refusal(trouble):
                runtime = replace(runtime, is_apart=True)
                trouble = self._try(runtime)
            if not trouble:
                return runtime, tuple(reasons)
            reasons.append(f"The OCI runtime {name} does not work here: {trouble}")
        return None, (*reasons, "Install crun or runc, one that works on this kernel.")

    def _try(self, runtime: Runtime) -> str:
        """What is wrong with it; empty if nothing is."""
        tasks_dir = self.folder / "tasks"
        life = replace(self.life, tasks_dir=tasks_dir, runtime=runtime)
        maker = replace(self.maker, tasks_dir=tasks_dir, logs_dir=self.folder / "logs")
        try:
            self._clear(life)
            tasks_dir.mkdir(mode=0o700, parents=True)
            self.maker.volumes.prepare()
            maker.create(_launch())
            life.start(_TASK)
            deadline = time.monotonic() + RUNTIME_TIMEOUT_S
            while (state := life.recover(_TASK)).shim and time.monotonic() < deadline:
                time.sleep(STRAY_POLL_S)
            state = life.settle(_TASK) if not state.shim else state
            if state.ended is None:
                return f"a task that ends at once did not end in {RUNTIME_TIMEOUT_S:g} s"
            if state.ended["kind"] != "ended" or state.ended["code"]:
                return state.ended["message"] or f"a task that does nothing ended with {state.ended['code']}"
            return ""
        except (SwarmError, OSError) as error:
            return str(error)
        finally:
            self._clear(life)

    def _clear(self, life: Life) -> None:
        folder = life.tasks_dir / _TASK
        if folder.is_dir():
            life.take_down(_TASK)
            life.remove_groups(_TASK)
            self.maker.cgroups.remove(_TASK)
        folders.remove_tree(self.folder)


def _launch() -> Launch:
    return Launch(
        task_id=TaskId(_TASK),
        name=_TASK,
        spec=ContainerSpec(image=HOST, command=_COMMAND),
        image=ImageConfig(reference=HOST),
        sandbox=Sandbox(netns=""),
    )
