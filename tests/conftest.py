"""What holds for all tests: the profiles of Hypothesis."""

from __future__ import annotations

from budget import register_profiles

register_profiles()
