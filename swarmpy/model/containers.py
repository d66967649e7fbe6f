"""What a node tells of its containers beside what the store knows of their tasks: JSON, agent to API."""

from __future__ import annotations

from typing import Final

from swarmpy.model.ids import TaskId, Timestamp
from swarmpy.model.value import Value

CONTAINER_LOOK: Final = "task.look"

OUT_OF_MEMORY: Final = "out of memory"
"""What the error of a task says whose processes the kernel killed for that."""


class ContainerQuery(Value, frozen=True, kw_only=True):
    """``has_sizes``: also what their files take up, which has to be counted."""

    task_ids: tuple[TaskId, ...] = ()
    has_sizes: bool = False


class ContainerMount(Value, frozen=True, kw_only=True):
    """``name``: of a volume."""

    type: str = ""
    name: str = ""
    source: str = ""
    target: str = ""
    is_read_only: bool = False
    propagation: str = ""


class ContainerFacts(Value, frozen=True, kw_only=True):
    """One container as its node has made it. ``size_*``: bytes, -1 if they were not asked for.

    ``entrypoint`` and ``command`` are the image's; ``argv`` is what runs.
    """

    task_id: TaskId
    image_id: str = ""
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    image_env: tuple[str, ...] = ()
    image_user: str = ""
    image_workdir: str = ""
    image_volumes: tuple[str, ...] = ()
    image_ports: tuple[str, ...] = ()
    image_labels: dict[str, str] = {}
    stop_signal: str = ""
    argv: tuple[str, ...] = ()
    hostname: str = ""
    pid: int = 0
    started_at: Timestamp = Timestamp(0)
    ended_at: Timestamp = Timestamp(0)
    exit_code: int = 0
    is_oom_killed: bool = False
    log_path: str = ""
    mounts: tuple[ContainerMount, ...] = ()
    size_rw: int = -1
    size_root: int = -1


class ContainerAnswer(Value, frozen=True, kw_only=True):
    containers: tuple[ContainerFacts, ...] = ()
