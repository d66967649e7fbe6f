"""The page about a task's life: it is what the tables say, and its drawing stands for all of them."""

from __future__ import annotations

from pathlib import Path

from swarmpy.model import lifecycle
from swarmpy.model.lifecycle import BEFORE_NODE, MEANINGS, ON_NODE, WISHES, drawn_steps, names, page, word
from swarmpy.model.states import DESIRED_STATES, TERMINAL_STATES, TRANSITIONS, TaskState

PAGE = Path(__file__).resolve().parents[4] / "docs" / "task-lifecycle.md"


def test_the_committed_page_is_the_generators() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), f"run: python -m {lifecycle.__name__} docs/{PAGE.name}"


def test_every_state_and_every_wish_is_explained() -> None:
    assert set(MEANINGS) == set(TaskState)
    assert set(WISHES) == DESIRED_STATES
    assert {*BEFORE_NODE, *ON_NODE, *TERMINAL_STATES, TaskState.REMOVE} == set(TaskState)


def test_the_drawing_stands_for_the_whole_table() -> None:
    """As the page says: what leaves the box leaves each state in it, and inside it steps may be skipped."""
    by_word = {word(state): state for state in TaskState}
    read: dict[tuple[TaskState, TaskState], str] = {}
    for source, target, owners in drawn_steps():
        sources = [by_word[source]] if source in by_word else list(ON_NODE)
        for each in sources:
            read[each, by_word.get(target, ON_NODE[0])] = owners
    for position, each in enumerate(ON_NODE):
        for later in ON_NODE[position + 1 :]:
            read.setdefault((each, later), read[ON_NODE[0], ON_NODE[1]])
    assert read == {pair: names(owners) for pair, owners in TRANSITIONS.items()}
