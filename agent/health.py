"""What checks of a running task mean: docker's health check, and the same for readiness.

``check_of`` says which command is run and how often; ``Monitor`` is one such check of one task: it names the
moment when the next probe is due and turns what came of probes into a state.

* The first probe of health is due one interval after the start, as docker's is; that of readiness at once.
* Failures while the task is STARTING and the probe began in the start period do not count. From the first
  success on they do, whatever is left of the period.
* ``retries`` failures in a row make it UNHEALTHY; one success, HEALTHY.
* A probe that could not be run for reasons of this node says nothing.

For readiness the same states mean: not ready yet, ready, not ready any more. What follows from a state is
decided elsewhere (task, core); which probes run when there are many, in probes. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

from msgspec.structs import replace

from swarmpy.limits import READY_AGAIN_MIN_S
from swarmpy.model import defaults
from swarmpy.model.ids import SECOND_NS
from swarmpy.model.specs import Healthcheck
from swarmpy.model.states import HealthState

SHELL = ("/bin/sh", "-c")


@dataclass(frozen=True, slots=True)
class Check:
    """A health check with nothing left out, in seconds."""

    argv: tuple[str, ...]
    interval_s: float
    timeout_s: float
    start_period_s: float
    start_interval_s: float
    retries: int


def check_of(own: Healthcheck | None, image: Healthcheck | None = None) -> Check | None:
    """The check that a task gets: its service's, and what that leaves open from the image. None: no check."""
    wish = _merged(own, image)
    kind, *words = wish.test or ("NONE",)
    match kind:
        case "CMD":
            argv = tuple(words)
        case "CMD-SHELL":
            argv = (*SHELL, *words)
        case _:
            return None  # NONE, and what docker does not know either
    if not words:
        return None
    full = defaults.healthcheck(wish)
    return Check(
        argv=argv,
        interval_s=full.interval / SECOND_NS,
        timeout_s=full.timeout / SECOND_NS,
        start_period_s=full.start_period / SECOND_NS,
        start_interval_s=full.start_interval / SECOND_NS,
        retries=full.retries,
    )


def readiness_of(own: Healthcheck | None) -> Check | None:
    """An image cannot ask for one."""
    if own is None:
        return None
    return check_of(replace(own, interval=own.interval or defaults.READINESS_INTERVAL))


def _merged(own: Healthcheck | None, image: Healthcheck | None) -> Healthcheck:
    if own is None or image is None:
        return own or image or Healthcheck()
    return replace(
        own,
        test=own.test or image.test,
        interval=own.interval or image.interval,
        timeout=own.timeout or image.timeout,
        start_period=own.start_period or image.start_period,
        start_interval=own.start_interval or image.start_interval,
        retries=own.retries or image.retries,
    )


class Monitor:
    """One check of one task that runs. All times on the monotonic clock.

    ``is_well``: it was found well by a former life of the agent, so it stays so until probes say otherwise.
    """

    def __init__(
        self,
        check: Check,
        *,
        started_at: float,
        now: float,
        is_well: bool = False,
        is_readiness: bool = False,
    ) -> None:
        self.check = check
        self.state = HealthState.HEALTHY if is_well else HealthState.STARTING
        self.output = ""
        self.streak = 0
        self._started_at = started_at
        self._is_readiness = is_readiness
        self._unready_since = float("-inf")
        self.due_at = now if is_readiness else now + self._pause_s(now)

    @property
    def is_well(self) -> bool:
        return self.state is HealthState.HEALTHY

    def settle(self, exit_code: int | None, output: str, *, began_at: float, now: float) -> None:
        """A probe has come to its end. ``exit_code`` None: it could not be run."""
        if exit_code is not None:
            self.output = output
            if exit_code == 0:
                self._succeed(now)
            else:
                self._fail(began_at, now)
        self.due_at = now + self._pause_s(now)

    def _succeed(self, now: float) -> None:
        self.streak = 0
        if now >= self._unready_since + READY_AGAIN_MIN_S:
            self.state = HealthState.HEALTHY

    def _fail(self, began_at: float, now: float) -> None:
        is_lenient = began_at < self._started_at + self.check.start_period_s
        if self.state is HealthState.STARTING and is_lenient:
            return
        self.streak += 1
        if self.streak >= self.check.retries:
            if self._is_readiness and self.is_well:
                self._unready_since = now
            self.state = HealthState.UNHEALTHY

    def _pause_s(self, now: float) -> float:
        is_early = now < self._started_at + self.check.start_period_s
        if is_early and self.state is HealthState.STARTING:
            return self.check.start_interval_s
        return self.check.interval_s
