"""Docker's shape of what a container uses. Pure. A rate is a difference of CPU time over one of the system's,
which is that of all processors together."""

from __future__ import annotations

from collections.abc import Sequence

from manager.api.container_refs import ContainerRef, find_container, name_of
from manager.api.docker_json import Json, rfc3339
from manager.api.lookup import find
from manager.api.requests import Filters
from manager.store.view import View
from swarmpy.model.ids import SECOND_NS, NodeId, Timestamp
from swarmpy.model.objects import Service, Task
from swarmpy.pb import streams_pb2 as pb

_DISK_LISTS = (
    "io_service_bytes_recursive", "io_serviced_recursive", "io_queue_recursive", "io_service_time_recursive",
    "io_wait_time_recursive", "io_merged_recursive", "io_time_recursive", "sectors_recursive",
)  # fmt: skip


def chosen(view: View, wanted: Filters, here: NodeId) -> Sequence[Task]:
    """The tasks of the services and the tasks that are named; all if none is. By service, slot, age."""
    found: dict[str, Task] = {}
    for reference in wanted.get("service", ()):
        service = find(view, Service, reference)
        found.update((task.id, task) for task in view.tasks_of_service(service.id))
    for reference in wanted.get("task", ()):
        task = find_container(view, reference, here=here).task
        if task is not None:
            found[task.id] = task
    tasks = found.values() if wanted else view.tasks()
    return sorted(
        tasks, key=lambda task: (task.service_id, task.slot, task.node_id, task.created_at, task.id)
    )


def nothing_shape(view: View, container: ContainerRef) -> Json:
    """Of a container that does not run."""
    never, nothing = rfc3339(Timestamp(0)), pb.TaskStats()
    return {
        "read": never,
        "preread": never,
        "pids_stats": {},
        "blkio_stats": dict.fromkeys(_DISK_LISTS),
        "num_procs": 0,
        "storage_stats": {},
        "cpu_stats": _cpu(nothing, 0),
        "precpu_stats": _cpu(nothing, 0),
        "memory_stats": {},
        "name": f"/{name_of(view, container)}",
        "id": container.id,
    }


def stats_shape(
    view: View, container: ContainerRef, task: Task, current: pb.TaskStats, previous: pb.TaskStats | None
) -> Json:
    """``previous``: an earlier reading, for rates. ``service_id`` and ``node_id`` are ours."""
    node = view.node(task.node_id)
    resources = node.description.resources if node is not None else None
    cpus = max((resources.nano_cpus // SECOND_NS) if resources is not None else 1, 1)
    memory = resources.memory_bytes if resources is not None else 0
    revision = view.revision(task.revision_id)
    wishes = revision.spec.task_template.resources if revision is not None else None
    limits = wishes.limits if wishes is not None else None
    limit = limits.memory_bytes if limits is not None and limits.memory_bytes else memory
    before = previous if previous is not None and previous.is_running else pb.TaskStats()
    return {
        "read": rfc3339(Timestamp(current.at)),
        "preread": rfc3339(Timestamp(before.at)),
        "pids_stats": _pids(current),
        "blkio_stats": _disks(current),
        "num_procs": 0,
        "storage_stats": {},
        "cpu_stats": _cpu(current, cpus),
        "precpu_stats": _cpu(before, cpus if before.at else 0),
        "memory_stats": _memory(current, limit),
        "name": f"/{name_of(view, container)}",
        "id": container.id,
        "networks": _networks(current),
        "service_id": task.service_id,
        "node_id": task.node_id,
    }


def _pids(stats: pb.TaskStats) -> Json:
    shape: Json = {"current": stats.pids}
    if stats.pids_limit:
        shape["limit"] = stats.pids_limit
    return shape


def _cpu(stats: pb.TaskStats, cpus: int) -> Json:
    """``cpus`` 0: there is no reading."""
    shape: Json = {
        "cpu_usage": {
            "total_usage": stats.cpu_ns,
            "usage_in_kernelmode": stats.cpu_system_ns,
            "usage_in_usermode": stats.cpu_user_ns,
        }
    }
    if cpus:
        # a node that is older than this has its clock as what all processors have gone through
        shape["system_cpu_usage"] = stats.system_cpu_ns or stats.at * cpus
        shape["online_cpus"] = cpus
    shape["throttling_data"] = {
        "periods": stats.cpu_periods,
        "throttled_periods": stats.throttled_periods,
        "throttled_time": stats.throttled_ns,
    }
    return shape


def _memory(stats: pb.TaskStats, limit: int) -> Json:
    shape: Json = {"usage": stats.memory_bytes}
    if stats.memory_max_bytes:
        shape["max_usage"] = stats.memory_max_bytes
    shape["stats"] = {name: stats.memory[name] for name in sorted(stats.memory)}
    shape["limit"] = limit
    return shape


def _networks(stats: pb.TaskStats) -> Json:
    """By link. A node that is older than this tells their sum alone."""
    if not stats.interfaces:
        return {"all": {"rx_bytes": stats.received_bytes, "tx_bytes": stats.sent_bytes}}
    return {
        each.name: {
            "rx_bytes": each.received_bytes,
            "rx_packets": each.received_packets,
            "rx_errors": each.received_errors,
            "rx_dropped": each.received_dropped,
            "tx_bytes": each.sent_bytes,
            "tx_packets": each.sent_packets,
            "tx_errors": each.sent_errors,
            "tx_dropped": each.sent_dropped,
        }
        for each in stats.interfaces
    }


def _disks(stats: pb.TaskStats) -> Json:
    found: dict[str, list[Json]] = {name: [] for name in _DISK_LISTS}
    for disk in stats.disks:
        for name, read, written in (
            ("io_service_bytes_recursive", disk.read_bytes, disk.written_bytes),
            ("io_serviced_recursive", disk.reads, disk.writes),
        ):
            for word, value in (("read", read), ("write", written)):
                found[name].append({"major": disk.major, "minor": disk.minor, "op": word, "value": value})
    return dict(found)
