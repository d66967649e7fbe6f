"""What an explanation is made of, and how times and counts are said in it."""

from __future__ import annotations

from manager.store.view import View
from swarmpy.model.defaults import place_text
from swarmpy.model.ids import SECOND_NS, NodeId, Timestamp
from swarmpy.model.objects import Service, Task, TaskStatus
from swarmpy.model.value import Value


class Reason(Value, frozen=True, kw_only=True):
    """One sentence. ``about``: the question that it answers, such as "Why pending"."""

    about: str
    text: str


class NodeVerdict(Value, frozen=True, kw_only=True):
    """Whether a node would take the task now. ``refusal`` empty: it would."""

    node_id: str
    node: str
    refusal: str = ""
    load: str = ""
    is_chosen: bool = False


class Explanation(Value, frozen=True, kw_only=True):
    subject: str
    reasons: tuple[Reason, ...] = ()
    nodes: tuple[NodeVerdict, ...] = ()


def task_title(service: Service | None, task: Task) -> str:
    """``web.3``; of a global service the node's id takes the number's place."""
    spec = service.spec if service is not None else None
    return f"{task.service_id if spec is None else spec.name}.{place_text(spec, task)}"


def node_title(view: View, node_id: NodeId) -> str:
    node = view.node(node_id)
    return node.description.hostname if node is not None and node.description.hostname else str(node_id)


def with_output(text: str, status: TaskStatus) -> str:
    """What the task's last check has printed stands behind the text, as in ``service ps``."""
    return ": ".join(part for part in (text, " ".join(status.health_output.split())) if part)


def ago(then: Timestamp, now: Timestamp) -> str:
    return f"{span(now - then)} ago" if then else "at an unknown time"


def span(length_ns: int) -> str:
    """``45 s``, ``3 min``, ``2 h``, ``5 days``."""
    seconds = max(length_ns, 0) / SECOND_NS
    for name, size, below in (("s", 1, 120), ("min", 60, 7200), ("h", 3600, 172_800)):
        if seconds < below:
            return f"{seconds / size:.0f} {name}"
    return f"{seconds / 86_400:.0f} days"


def many(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
