"""What a health check, or a check of readiness, has to look like. Docker's texts where it has some."""

from __future__ import annotations

from typing import Final

from swarmpy.errors import InvalidArgument
from swarmpy.model.ids import Duration
from swarmpy.model.specs import ContainerSpec, Healthcheck

DURATION_MIN: Final = Duration(1_000_000)
"""Docker's: a millisecond. Zero means the default."""
_KINDS: Final = ("NONE", "CMD", "CMD-SHELL")


def check_health(spec: ContainerSpec) -> None:
    """InvalidArgument if a check makes no sense."""
    if spec.healthcheck is not None:
        _check(spec.healthcheck, "HealthConfig")
    if spec.readiness is not None:
        _check(spec.readiness, "Readiness")
        if not spec.readiness.test:
            raise InvalidArgument(
                'ContainerSpec: Readiness needs a Test, such as ["CMD-SHELL", "curl -f http://localhost/"]'
            )


def _check(check: Healthcheck, field: str) -> None:
    for name, value in (
        ("Interval", check.interval),
        ("Timeout", check.timeout),
        ("StartPeriod", check.start_period),
        ("StartInterval", check.start_interval),
    ):
        if value != 0 and value < DURATION_MIN:
            raise InvalidArgument(f"ContainerSpec: {name} in {field} cannot be less than 1ms")
    if check.retries < 0:
        raise InvalidArgument(f"ContainerSpec: Retries in {field} cannot be negative")
    if not check.test:
        return
    kind, *words = check.test
    if kind not in _KINDS:
        raise InvalidArgument(
            f"ContainerSpec: Test in {field} must begin with NONE, CMD or CMD-SHELL, not with {kind!r}"
        )
    if kind != "NONE" and not any(words):
        raise InvalidArgument(f"ContainerSpec: Test in {field} has no command after {kind}")
    if any("\0" in word for word in words):
        raise InvalidArgument(f"ContainerSpec: Test in {field} has a NUL character in its command")
