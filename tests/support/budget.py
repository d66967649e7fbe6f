"""How much Hypothesis tries: little in a quick run, much under the profile ``thorough``.

``pytest --hypothesis-profile=thorough tests/properties`` (docs/testing.md). A machine names what a quick run
may cost; the profile multiplies it.
"""

from __future__ import annotations

from typing import Final

from hypothesis import HealthCheck, settings

QUICK: Final = "quick"
THOROUGH: Final = "thorough"
THOROUGH_FACTOR: Final = 20
"""Times as many examples."""
THOROUGH_STEPS_FACTOR: Final = 2
"""Times as many steps of each machine."""
_EXAMPLES: Final = 100

_TIME_IS_NO_MATTER: Final = (HealthCheck.too_slow,)
"""How long a strategy takes says how busy the machine is."""
_SLOW_IS_FINE: Final = (HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large)


def register_profiles() -> None:
    """Called once, before any test module is read."""
    settings.register_profile(
        QUICK,
        max_examples=_EXAMPLES,
        deadline=None,
        print_blob=True,
        suppress_health_check=_TIME_IS_NO_MATTER,
    )
    settings.register_profile(
        THOROUGH,
        max_examples=_EXAMPLES * THOROUGH_FACTOR,
        deadline=None,
        print_blob=True,
        suppress_health_check=_SLOW_IS_FINE,
    )
    if settings.get_current_profile_name() == "default":
        settings.load_profile(QUICK)


def machine_settings(*, examples: int, steps: int) -> settings:
    """Settings of a stateful machine that tries ``examples`` runs of up to ``steps`` steps in a quick run."""
    if settings.get_current_profile_name() == THOROUGH:
        examples, steps = examples * THOROUGH_FACTOR, steps * THOROUGH_STEPS_FACTOR
    return settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        print_blob=True,
        suppress_health_check=_SLOW_IS_FINE,
    )
