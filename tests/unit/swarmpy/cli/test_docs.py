"""The documents say what the program does."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from api_node import FakeNode

from manager.api.context import Api
from manager.api.server import make_app
from swarmpy.cli.reference import MARKER, reference
from swarmpy.runtime import Env
from swarmpy.version import VERSION

ROOT = Path(__file__).parents[4]


def test_the_command_reference_is_up_to_date() -> None:
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    _, _, shown = text.partition(MARKER)
    assert shown.strip() == reference().strip(), "run: python -m swarmpy.cli.reference docs/cli.md"


def test_every_route_is_documented() -> None:
    served = set()
    for route in make_app(Api(FakeNode(), Env())).router.routes():
        assert route.resource is not None
        path = re.sub(r"\{(\w+)[^}]*\}", r"{\1}", route.resource.canonical)
        if not path.startswith("/v{"):
            served.add((route.method, path))
    documented = set()
    for line in (ROOT / "docs" / "api.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) > 3 and re.fullmatch(r"[A-Z]+(, [A-Z]+)*", cells[1]):
            for method in cells[1].split(", "):
                documented |= {(method, path) for path in re.findall(r"`(/[^`]*)`", cells[2])}
    heads = {(method, path) for method, path in served if method == "HEAD"}
    assert documented - {("HEAD", "/_ping")} == served - heads


def test_the_version_is_the_packages() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == VERSION
