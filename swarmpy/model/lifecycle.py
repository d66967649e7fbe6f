"""The page docs/task-lifecycle.md, made from the tables in ``states`` and the words about each state here.

``python -m swarmpy.model.lifecycle docs/task-lifecycle.md`` writes it. The diagram shows the ordinary way and
says in words what it leaves out (a task on its node may skip states); the table below it leaves out nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from swarmpy.model.states import (
    CREATED_STATES,
    DESIRED_STATES,
    TERMINAL_STATES,
    TRANSITIONS,
    Owner,
    TaskState,
)

S = TaskState

MEANINGS: Final[dict[TaskState, tuple[str, str]]] = {
    S.NEW: ("It exists; nobody has looked for a node yet.", "`New`; hardly ever seen"),
    S.PENDING: (
        "No node can take it now. It is looked at again when nodes, or what they carry, change.",
        "`Pending`, and why: `no suitable node (insufficient resources on 2 nodes)`",
    ),
    S.ASSIGNED: ("It has a node, for ever. The node's agent is told of it next.", "`Assigned`"),
    S.ACCEPTED: ("The agent has it on record.", "`Accepted`"),
    S.PREPARING: (
        "The agent fetches the image, makes the network and the file system. Trouble that may pass is tried "
        "again.",
        "`Preparing`",
    ),
    S.READY: (
        "All is prepared. While the wish is `ready` it waits here: for the end of a restart delay, or for "
        "the task that it replaces.",
        "`Ready`",
    ),
    S.STARTING: (
        "On record before the process is made, so that no task is ever started twice.",
        "`Starting`",
    ),
    S.RUNNING: ("Its process runs.", "`Running 5 minutes ago`"),
    S.COMPLETE: ("Its process ended by itself with exit code 0.", "`Complete`"),
    S.SHUTDOWN: (
        "It was stopped because it was not wished to run any more, or it ended before it reached a node.",
        "`Shutdown`",
    ),
    S.FAILED: (
        "Its process ended badly, could not be started, or was lost.",
        "`Failed`, and why: `task: non-zero exit (1)`",
    ),
    S.REJECTED: (
        "It could not be prepared (no such image, for example); or its node no longer meets the service's "
        "constraints, or no longer has what was reserved.",
        "`Rejected`, and why",
    ),
    S.REMOVE: ("Only ever a wish.", "never as a current state"),
    S.ORPHANED: (
        "Its node was removed, or was down for a day: nobody will ever tell what became of it.",
        "`Orphaned`",
    ),
}
"""What each state means, and what ``service ps`` shows as the current state."""

WISHES: Final[dict[TaskState, str]] = {
    S.READY: "Prepare, but do not start: a restart delay or a predecessor is to be waited for.",
    S.RUNNING: "Run. What ends is judged by the restart policy.",
    S.COMPLETE: "Run to its end: for the tasks of jobs.",
    S.SHUTDOWN: "Stop. The task is kept as history, with its log.",
    S.REMOVE: "Stop, then forget: the service or the slot is gone. The reaper deletes what has ended.",
}
"""The desired states, in the order in which a wish grows."""

BEFORE_NODE: Final = (S.NEW, S.PENDING)
ON_NODE: Final = (S.ASSIGNED, S.ACCEPTED, S.PREPARING, S.READY, S.STARTING, S.RUNNING)
_BOX: Final = "on_node"

DrawnStep = tuple[str, str, str]
"""From, to, owners: as drawn."""


def word(state: TaskState) -> str:
    return state.name.lower()


def names(owners: Iterable[Owner]) -> str:
    return ", ".join(sorted(owners))


# --- the diagram


def drawn_steps() -> list[DrawnStep]:
    """The arrows: single steps before the node and along the box, one from the whole box where all may go."""
    steps: list[DrawnStep] = []
    for source, target in sorted(TRANSITIONS):
        owners = names(TRANSITIONS[source, target])
        if source in BEFORE_NODE:
            steps.append((word(source), _BOX if target in ON_NODE else word(target), owners))
        elif target in ON_NODE:
            if ON_NODE.index(target) == ON_NODE.index(source) + 1:
                steps.append((word(source), word(target), owners))
        elif source is ON_NODE[0]:
            everyones = all(
                TRANSITIONS.get((each, target)) == TRANSITIONS[source, target] for each in ON_NODE
            )
            assert everyones, f"not every state on a node may become {word(target)}: the drawing must say so"
            steps.append((_BOX, word(target), owners))
    return steps


def diagram() -> str:
    """Mermaid's text, which code hosts draw."""
    inside = [step for step in drawn_steps() if step[1] in map(word, ON_NODE)]
    outside = [step for step in drawn_steps() if step not in inside]
    lines = ["stateDiagram-v2"]
    for state, owners in sorted(CREATED_STATES.items()):
        lines.append(f"    [*] --> {_BOX if state in ON_NODE else word(state)}: {names(owners)}")
    lines += [f'    state "on its node" as {_BOX} {{', f"        [*] --> {word(ON_NODE[0])}"]
    lines += [f"        {source} --> {target}: {owners}" for source, target, owners in inside]
    lines.append("    }")
    lines += [f"    {source} --> {target}: {owners}" for source, target, owners in outside]
    lines += [f"    {word(state)} --> [*]" for state in sorted(TERMINAL_STATES)]
    return "\n".join(lines)


# --- the tables


def steps_table() -> Iterator[str]:
    yield "| to | from | by |"
    yield "|---|---|---|"
    for state, owners in sorted(CREATED_STATES.items()):
        yield f"| `{word(state)}` | *created so* | {names(owners)} |"
    rows: dict[tuple[TaskState, str], list[TaskState]] = {}
    for (source, target), by in sorted(TRANSITIONS.items()):
        rows.setdefault((target, names(by)), []).append(source)
    for (target, listed), sources in sorted(rows.items()):
        yield f"| `{word(target)}` | {_grouped(sources)} | {listed} |"


def _grouped(sources: list[TaskState]) -> str:
    parts = []
    for group, label in ((BEFORE_NODE, "before it has a node"), (ON_NODE, "any state on its node")):
        found = [state for state in group if state in sources]
        if found == list(group):
            parts.append(f"{label} (`{word(group[0])}` … `{word(group[-1])}`)")
        else:
            parts += [f"`{word(state)}`" for state in found]
    return ", ".join(parts)


def states_table() -> Iterator[str]:
    yield "| state | meaning | moved on by | in `service ps` |"
    yield "|---|---|---|---|"
    for state, (meaning, shown) in MEANINGS.items():
        movers = names({owner for (source, _), by in TRANSITIONS.items() if source is state for owner in by})
        yield f"| `{word(state)}` | {meaning} | {movers or 'nobody'} | {shown} |"


def wishes_table() -> Iterator[str]:
    assert set(WISHES) == DESIRED_STATES
    yield "| wish | meaning |"
    yield "|---|---|"
    for state, meaning in sorted(WISHES.items()):
        yield f"| `{word(state)}` | {meaning} |"


# --- the page

_HEAD: Final = """\
# The life of a task

<!-- made by python -m swarmpy.model.lifecycle docs/task-lifecycle.md -->

A task is one run of a service's container, in one slot, on one node. It is never edited and never started
again: what replaces it is another task. Its state only grows, and each step has an owner; the store refuses
every other step, whoever asks (`manager/store/rules.py`, from the tables in `swarmpy/model/states.py`)."""

_BELOW_DIAGRAM: Final = """\
The words on the arrows say who takes the step. On its node a task may skip states: an agent that comes back
after a while reports how far things are, not every step on the way."""

_MERGING: Final = """\
## How wish and state merge

Orchestrators write what is wished of a task (`desired_state`), agents what became of it (`status`), at the
same time and without knowing of each other. So neither is overwritten; both are *merged*, and a change that
is late, lost or repeated does no harm:

- **The wish** becomes the larger of the stored and the new one. A task that is to stop will not be told to
  run again.
- **The state**: of two statuses the one with the larger pair (`state`, `report`) holds. `report` counts what
  was reported of one state, so news within a state (another reason for waiting) gets through, and old news
  does not. A status that is not ahead is passed over silently; one that is ahead by a step that its proposer
  may not take is refused, and nothing else of its group happens either.

Merging does not touch the task's version; every other field of it is guarded by that version.

A task may be deleted when it has ended, or before it has a node: never while an agent may run it."""


def page() -> str:
    sections = [
        _HEAD,
        f"```mermaid\n{diagram()}\n```",
        _BELOW_DIAGRAM,
        "## The states",
        "\n".join(states_table()),
        "## Who may take which step",
        "\n".join(steps_table()),
        "## What may be wished",
        "\n".join(wishes_table()),
        _MERGING,
    ]
    return "\n\n".join(sections) + "\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), encoding="utf-8")
