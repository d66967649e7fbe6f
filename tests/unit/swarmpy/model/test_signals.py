"""Signals by name: the numbers are the kernel's."""

from __future__ import annotations

import signal

import pytest

from swarmpy.errors import InvalidArgument
from swarmpy.model.signals import SIGKILL, SIGTERM, signal_number


@pytest.mark.parametrize("known", sorted(signal.Signals), ids=lambda known: known.name)
def test_every_name_has_its_number(known: signal.Signals) -> None:
    name = known.name.removeprefix("SIG")
    assert {signal_number(each) for each in (name, f"SIG{name}", name.lower(), str(known.value))} == {known}


def test_real_time_signals_count_from_either_end() -> None:
    assert signal_number("SIGRTMIN+3") == signal.SIGRTMIN + 3
    assert signal_number("RTMAX-2") == signal.SIGRTMAX - 2
    assert (SIGKILL, SIGTERM) == (signal.SIGKILL, signal.SIGTERM)


@pytest.mark.parametrize(
    "name", ["", "FOO", "0", "65", "999", "-1", "RTMIN+40", "RTMAX-40", "TERM+1", "RTMIN+x"]
)
def test_what_is_none_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgument, match="Invalid signal: "):
        signal_number(name)
