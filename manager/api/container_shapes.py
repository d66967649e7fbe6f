"""Which task a container's name means, and docker's shape of what a task uses. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from manager.api.docker_json import Json, rfc3339
from manager.api.lookup import find, find_or_none
from manager.api.requests import Filters
from manager.store.view import View
from swarmpy.errors import Conflict, NotFound
from swarmpy.model.defaults import place_text
from swarmpy.model.ids import SECOND_NS, NodeId, Timestamp
from swarmpy.model.objects import Service, Task
from swarmpy.model.specs import ContainerSpec, ServiceSpec
from swarmpy.model.states import TaskState
from swarmpy.pb import streams_pb2 as pb


def find_container(view: View, reference: str) -> Task:
    """By a task's id or its beginning, or by ``SERVICE.SLOT[.TASK]``, of cron jobs also ``SERVICE.RUN.SLOT``:
    the one that is to run, or ran last."""
    name = reference.removeprefix("/")
    found = find_or_none(view, Task, name) or _by_name(view, name)
    if found is None:
        raise NotFound(f"No such container: {reference}")
    return found


def _by_name(view: View, name: str) -> Task | None:
    rest, _, last = name.rpartition(".")
    base, _, middle = rest.rpartition(".")
    for service_name, place, id_ in ((rest, last, ""), (base, f"{middle}.{last}", ""), (base, middle, last)):
        service = find_or_none(view, Service, service_name) if service_name else None
        if service is None:
            continue
        tasks = [
            task
            for task in view.tasks_of_service(service.id)
            if place in _places(service.spec, task) and task.id.startswith(id_)
        ]
        if tasks:
            return max(tasks, key=_newness)
    return None


def _places(spec: ServiceSpec, task: Task) -> tuple[str, ...]:
    place = place_text(spec, task)
    return (place, f"{task.job_iteration}.{place}") if spec.mode.cron_job is not None else (place,)


def _newness(task: Task) -> tuple[bool, Timestamp, str]:
    """Of the tasks of a slot, the one that is not to end, and else the last that was made."""
    return task.desired_state <= TaskState.COMPLETE, task.created_at, task.id


def container_spec(view: View, task: Task) -> ContainerSpec:
    revision = view.revision(task.revision_id)
    container = revision.spec.task_template.container_spec if revision is not None else None
    return container if container is not None else ContainerSpec()


def container_name(view: View, task: Task) -> str:
    service = view.service(task.service_id)
    spec = service.spec if service is not None else None
    return f"{task.service_id if spec is None else spec.name}.{place_text(spec, task)}.{task.id}"


def node_of(task: Task) -> NodeId:
    """Where the task's processes are. Conflict if it has none."""
    if not task.node_id or not TaskState.STARTING <= task.status.state <= TaskState.RUNNING:
        raise Conflict(f"Container {task.id} is not running")
    return task.node_id


def chosen(view: View, wanted: Filters) -> Sequence[Task]:
    """The tasks of the services and the tasks that are named; all if none is. By service, slot, age."""
    found: dict[str, Task] = {}
    for reference in wanted.get("service", ()):
        service = find(view, Service, reference)
        found.update((task.id, task) for task in view.tasks_of_service(service.id))
    for reference in wanted.get("task", ()):
        task = find_container(view, reference)
        found[task.id] = task
    tasks = found.values() if wanted else view.tasks()
    return sorted(
        tasks, key=lambda task: (task.service_id, task.slot, task.node_id, task.created_at, task.id)
    )


def container_shape(view: View, task: Task) -> Json:
    """What docker's clients look at before they enter a container."""
    container = container_spec(view, task)
    state = task.status.state
    is_running = TaskState.STARTING <= state <= TaskState.RUNNING
    status = task.status.container_status
    return {
        "Id": task.id,
        "Created": rfc3339(task.created_at),
        "Name": f"/{container_name(view, task)}",
        "Image": container.image,
        "State": {
            "Status": "running" if is_running else "created" if state < TaskState.STARTING else "exited",
            "Running": is_running,
            "Paused": False,
            "Restarting": False,
            "OOMKilled": False,
            "Dead": False,
            "Pid": status.pid if status is not None and is_running else 0,
            "ExitCode": status.exit_code if status is not None else 0,
            "Error": task.status.err,
        },
        "Config": {
            "Hostname": container.hostname,
            "User": container.user,
            "Tty": container.tty,
            "OpenStdin": container.open_stdin,
            "AttachStdin": container.open_stdin,
            "AttachStdout": True,
            "AttachStderr": True,
            "StdinOnce": False,
            "Env": list(container.env),
            "Cmd": [*container.command, *container.args],
            "Image": container.image,
            "Labels": container.labels,
            "WorkingDir": container.dir,
        },
        "HostConfig": {},
        "NetworkSettings": {"Networks": {}},
        "Mounts": [],
    }


def stats_shape(view: View, task: Task, current: pb.TaskStats, previous: pb.TaskStats | None) -> Json:
    """As ``docker stats`` reads it: a rate is a difference of CPU time over one of the system's, which is
    that of all processors together."""
    node = view.node(task.node_id)
    resources = node.description.resources if node is not None else None
    cpus = max((resources.nano_cpus // SECOND_NS) if resources is not None else 1, 1)
    memory = resources.memory_bytes if resources is not None else 0
    revision = view.revision(task.revision_id)
    wishes = revision.spec.task_template.resources if revision is not None else None
    limits = wishes.limits if wishes is not None else None
    limit = limits.memory_bytes if limits is not None and limits.memory_bytes else memory
    before = previous if previous is not None and previous.is_running else pb.TaskStats()
    traffic = {"rx_bytes": current.received_bytes, "tx_bytes": current.sent_bytes}
    return {
        "id": task.id,
        "name": f"/{container_name(view, task)}",
        "service_id": task.service_id,
        "node_id": task.node_id,
        "read": rfc3339(Timestamp(current.at)),
        "preread": rfc3339(Timestamp(before.at)),
        "pids_stats": {"current": current.pids},
        "num_procs": 0,
        "cpu_stats": _cpu(current, cpus),
        "precpu_stats": _cpu(before, cpus),
        "memory_stats": {"usage": current.memory_bytes, "limit": limit},
        "networks": {"all": traffic},
        "blkio_stats": {},
    }


def _cpu(stats: pb.TaskStats, cpus: int) -> Json:
    return {
        "cpu_usage": {"total_usage": stats.cpu_ns},
        "system_cpu_usage": stats.at * cpus,
        "online_cpus": cpus,
    }
