"""The table of a task's life: what it may never hold."""

from __future__ import annotations

import pytest

from swarmpy.model.states import (
    CREATED_STATES,
    DESIRED_STATES,
    TERMINAL_STATES,
    TRANSITIONS,
    Owner,
    TaskState,
    is_terminal,
)

NOT_REACHED = {TaskState.NEW, TaskState.REMOVE}
"""NEW is a start, REMOVE only ever wished for."""


def test_states_only_grow() -> None:
    assert all(source < target for source, target in TRANSITIONS)


def test_nothing_leaves_an_end() -> None:
    assert not [pair for pair in TRANSITIONS if pair[0] in TERMINAL_STATES]


@pytest.mark.parametrize("state", TaskState)
def test_every_state_is_reached_and_ends(state: TaskState) -> None:
    assert (state in NOT_REACHED) != any(target is state for _, target in TRANSITIONS)
    if not is_terminal(state):
        assert (state, TaskState.ORPHANED) in TRANSITIONS


def test_only_an_agent_says_what_a_process_does() -> None:
    started = (TaskState.STARTING, TaskState.RUNNING, TaskState.COMPLETE, TaskState.FAILED)
    assert {owner for (_, to), owners in TRANSITIONS.items() if to in started for owner in owners} == {
        Owner.AGENT
    }


def test_created_states_come_before_any_agents() -> None:
    assert max(CREATED_STATES) is TaskState.ASSIGNED
    assert TaskState.NEW not in DESIRED_STATES
