"""The machine of a check against docker's rules written down once more, as plainly as can be."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from agent.health import Check, Monitor
from swarmpy.limits import READY_AGAIN_MIN_S
from swarmpy.model.states import HealthState


@dataclass(frozen=True)
class Ran:
    """One probe that came to an end. ``code`` None: it could not be run."""

    late_s: float
    took_s: float
    code: int | None


_SECONDS = st.sampled_from([0.5, 1.0, 2.5, 10.0, 30.0])
CHECKS = st.builds(
    Check,
    argv=st.just(("check",)),
    interval_s=_SECONDS,
    timeout_s=_SECONDS,
    start_period_s=st.sampled_from([0.0, 0.0, 5.0, 40.0]),
    start_interval_s=_SECONDS,
    retries=st.integers(1, 4),
)
RUNS = st.lists(
    st.builds(
        Ran,
        late_s=st.sampled_from([0.0, 0.0, 0.25, 7.0]),
        took_s=st.sampled_from([0.0, 0.1, 3.0]),
        code=st.sampled_from([0, 0, 1, 1, 1, -1, None]),
    ),
    max_size=30,
)


def expected(check: Check, runs: list[tuple[float, int | None]]) -> HealthState:
    """From the whole history, with nothing remembered: ``runs`` are (began, code), the start is at 0."""
    said = [(began, code) for began, code in runs if code is not None]
    first_success = next((n for n, (_, code) in enumerate(said) if code == 0), len(said))
    streak = 0
    for n, (began, code) in reversed(list(enumerate(said))):
        is_in_start_period = n < first_success and began < check.start_period_s
        if code == 0 or is_in_start_period:
            break
        streak += 1
    if streak >= check.retries:
        return HealthState.UNHEALTHY
    return HealthState.HEALTHY if first_success < len(said) else HealthState.STARTING


@given(check=CHECKS, runs=RUNS)
def test_health_is_what_dockers_rules_say(check: Check, runs: list[Ran]) -> None:
    monitor = Monitor(check, started_at=0.0, now=0.0)
    history: list[tuple[float, int | None]] = []
    ended = 0.0
    for ran in runs:
        is_early = ended < check.start_period_s and monitor.state is HealthState.STARTING
        pause_s = check.start_interval_s if is_early else check.interval_s
        assert monitor.due_at == ended + pause_s, "an interval after the start, and after each end"
        began = monitor.due_at + ran.late_s
        ended = began + ran.took_s
        history.append((began, ran.code))
        monitor.settle(ran.code, "", began_at=began, now=ended)
        assert monitor.state is expected(check, history), history


@given(check=CHECKS, runs=RUNS, is_well=st.booleans())
def test_readiness_never_comes_back_at_once(check: Check, runs: list[Ran], is_well: bool) -> None:
    monitor = Monitor(check, started_at=0.0, now=100.0, is_well=is_well, is_readiness=True)
    assert monitor.due_at == 100.0, "readiness is asked for at once"
    assert monitor.is_well is is_well
    lost_at, streak = float("-inf"), 0
    for ran in runs:
        began = monitor.due_at + ran.late_s
        now = began + ran.took_s
        was_well = monitor.is_well
        monitor.settle(ran.code, "", began_at=began, now=now)
        streak = streak if ran.code is None else 0 if ran.code == 0 else streak + 1
        if ran.code is None:
            assert monitor.is_well is was_well, "a probe that could not be run says nothing"
        elif ran.code != 0:
            assert monitor.is_well is (was_well and streak < check.retries)
        else:
            assert monitor.is_well is (was_well or now >= lost_at + READY_AGAIN_MIN_S)
        if was_well and not monitor.is_well:
            lost_at = now
