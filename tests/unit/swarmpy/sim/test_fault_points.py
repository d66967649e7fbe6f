"""The table of fault points and the code that has them say the same."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from swarmpy.sim.fault_points import FAULT_POINTS

ROOT = Path(__file__).parents[4]
FEW = 10


def test_each_fault_point_is_in_the_table_and_asked_for_in_one_place() -> None:
    asked: Counter[str] = Counter()
    for top in ("agent", "manager", "swarmpy"):
        for path in sorted((ROOT / top).rglob("*.py")):
            asked.update(re.findall(r'buggify\(\s*"([^"]*)"', path.read_text(encoding="utf-8")))
    assert asked == Counter(dict.fromkeys(FAULT_POINTS, 1))


def test_they_are_few_and_each_says_what_happens() -> None:
    assert len(FAULT_POINTS) <= FEW
    for name, meaning in FAULT_POINTS.items():
        assert re.fullmatch(r"[a-z_]+\.[a-z_]+", name)
        assert len(meaning) > len(name)
