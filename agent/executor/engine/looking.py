"""What can be told of a task's container: what was written down when it was made, and what the engine adds.

The record stands before the engine's word: that speaks of images and mounts in its own way. Of a container
that is gone, the record alone is told.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent.executor.engine.client import Engine
from agent.executor.engine.task import EngineTask
from swarmpy.errors import NotFound
from swarmpy.model.containers import ContainerFacts
from swarmpy.model.ids import Timestamp


async def look(engine: Engine, task: EngineTask, *, has_sizes: bool = False) -> ContainerFacts | None:
    """None of a task whose container was not made."""
    if not task.container:
        return None
    inspected: Mapping[str, Any] = {}
    image: Mapping[str, Any] = {}
    try:
        params = {"size": "1"} if has_sizes else {}
        inspected = await engine.call("GET", f"/containers/{task.container}/json", params=params) or {}
        image = await engine.call("GET", f"/images/{inspected.get('Image')}/json") or {}
    except NotFound:
        pass  # the container was removed, or its image is only left in it
    return facts_of(task, inspected, image, has_sizes=has_sizes)


def facts_of(
    task: EngineTask, inspected: Mapping[str, Any], image: Mapping[str, Any], *, has_sizes: bool
) -> ContainerFacts:
    """Pure."""
    record, started, end = task.record, task.started, task.end
    config: Mapping[str, Any] = image.get("Config") or {}
    exit_ = end.exit if end is not None else None
    return ContainerFacts(
        task_id=record.task_id,
        image_id=record.image_id or str(image.get("Id") or ""),
        entrypoint=tuple(config.get("Entrypoint") or ()),
        command=tuple(config.get("Cmd") or ()),
        image_env=tuple(config.get("Env") or ()),
        image_user=str(config.get("User") or ""),
        image_workdir=str(config.get("WorkingDir") or ""),
        stop_signal=str(config.get("StopSignal") or ""),
        argv=record.argv,
        hostname=record.hostname,
        pid=started.pid if started is not None and end is None else 0,
        started_at=started.at if started is not None else Timestamp(0),
        ended_at=exit_.at if exit_ is not None else Timestamp(0),
        exit_code=exit_.code if exit_ is not None else 0,
        is_oom_killed=exit_ is not None and exit_.is_oom_killed,
        log_path=str(inspected.get("LogPath") or ""),
        mounts=record.mounts,
        size_rw=int(inspected.get("SizeRw") or 0) if has_sizes else -1,
        size_root=int(inspected.get("SizeRootFs") or 0) if has_sizes else -1,
    )
