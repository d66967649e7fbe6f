"""The house rules that a machine can check: sizes, words, pure code, what the wheel holds.

Who may import whom is ``.importlinter``'s; the rest of the style is ruff's and mypy's.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CODE = ("swarmpy", "agent", "manager")
TEXT = (*CODE, "proto", "tests", "docs", "deploy", ".ci")
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "Makefile", "pyproject.toml", ".importlinter")

FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 70

UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|NotImplementedError)\b")
SKIPPED = re.compile(r'\b(pytest\.skip\(|importorskip|mark\.xfail|mark\.skip\((?!reason="needs root"))')
FOREIGN = re.compile(r"/[w]ork/(main|shared)|\bpypi\.org\b|\bpythonhosted\b|\bDESIGN\b|\bSTYLE\b")

PURE = (
    "swarmpy/model",
    "swarmpy/compose",
    "manager/store",
    "manager/reconcile",
    "manager/allocate",
    "manager/schedule",
    "manager/assignments.py",
    "manager/audience.py",
    "manager/discovery.py",
    "manager/file_needs.py",
    "manager/node_records.py",
    "agent/core.py",
    "agent/discovery.py",
    "agent/files.py",
    "agent/network_picture.py",
    "agent/health.py",
    "agent/places.py",
    "agent/probes.py",
    "agent/revisions.py",
    "agent/roster.py",
    "agent/round.py",
    "agent/task.py",
    "agent/events.py",
    "agent/operations.py",
    "agent/dns/wire.py",
    "agent/dns/zone.py",
    "agent/dataplane/plan.py",
    "agent/dataplane/diff.py",
    "agent/dataplane/linux/elements.py",
    "agent/dataplane/linux/plan.py",
    "agent/dataplane/linux/drivers/dhcp.py",
    "agent/dataplane/linux/policy/rules.py",
    "agent/policy.py",
    *(f"agent/dataplane/windows/{name}.py" for name in ("objects", "features", "refusals", "plan", "diff")),
    *("agent/dataplane/windows/v1.py", "agent/dataplane/windows/v2.py"),
    "agent/dataplane/linux/mesh/host_rules.py",
    "agent/dataplane/linux/mesh/names.py",
    "agent/dataplane/linux/mesh/task_rules.py",
    "agent/dataplane/linux/balancing/rules.py",
    "agent/dataplane/linux/balancing/slots.py",
)
IMPURE_MODULES = {
    *("asyncio", "time", "random", "os", "socket", "threading", "subprocess"),
    *("secrets", "uuid", "grpc", "pysyncobj", "structlog"),
}
NOW = {"now", "utcnow", "today"}
"""Methods of datetime and date that read the clock."""

WAITS = "manager/store/watch.py"
"""The queue that shells wait on: ``apply`` only appends to it. The one exception."""


def sources(*places: str) -> Iterator[Path]:
    for place in places:
        path = ROOT / place
        found = [path] if path.is_file() else sorted(path.rglob("*.py"))
        yield from (file for file in found if "pb" not in file.relative_to(ROOT).parts[:2])


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


def test_files_are_short() -> None:
    lines = {named(path): path.read_text().count("\n") for path in sources(*CODE, "tests", "proto")}
    assert len(lines) > 200
    assert {name: count for name, count in lines.items() if count > FILE_LINES_MAX} == {}


def test_functions_fit_a_screen() -> None:
    long = [
        f"{named(path)}: {node.name} has {node.end_lineno - node.lineno + 1} lines"
        for path in sources(*CODE, "tests", "proto")
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno >= FUNCTION_LINES_MAX
    ]
    assert long == []


_MADE = {"pb", "__pycache__"}


@pytest.mark.parametrize("banned", [UNFINISHED, SKIPPED, FOREIGN], ids=["unfinished", "skipped", "foreign"])
def test_banned_words(banned: re.Pattern[str]) -> None:
    files = [ROOT / page for page in PAGES]
    for place in TEXT:
        files += [path for path in sorted((ROOT / place).rglob("*")) if path.is_file()]
    ours = Path(__file__).resolve()
    texts = [path for path in files if path != ours and not _MADE.intersection(path.relative_to(ROOT).parts)]
    found = [
        f"{named(path)}:{number}: {line.strip()}"
        for path in texts
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if banned.search(line)
    ]
    assert found == []


def test_a_broad_except_raises_again_or_says_why() -> None:
    silent = []
    for path in sources(*CODE, "tests"):
        text = path.read_text()
        if not _MAYBE_BROAD.search(text):  # most files are not worth the parsing
            continue
        lines = text.splitlines()
        for node in ast.walk(parsed(path)):
            if not isinstance(node, ast.ExceptHandler) or _names(node.type).isdisjoint(_BROAD):
                continue
            reraises = isinstance(node.body[-1], ast.Raise)
            if not reraises and not re.search(r"#.*\w{3,}.* \w", lines[node.lineno - 1]):
                silent.append(f"{named(path)}:{node.lineno}: {lines[node.lineno - 1].strip()}")
    assert silent == []


_BROAD = {"Exception", "BaseException", ""}
_MAYBE_BROAD = re.compile(r"\bException\b|\bBaseException\b|\bexcept\s*\\?\s*\*?\s*:")


def _names(caught: ast.expr | None) -> set[str]:
    """What an ``except`` catches; the empty name for a bare one."""
    if caught is None:
        return {""}
    parts = caught.elts if isinstance(caught, ast.Tuple) else [caught]
    return {part.id for part in parts if isinstance(part, ast.Name)}


def test_tests_sleep_only_between_two_looks_at_a_condition() -> None:
    """A sleep outside a loop stands for a condition that nobody wrote down."""
    lonely = []
    for path in sources("tests"):
        if "bench" in path.relative_to(ROOT).parts or "sleep" not in path.read_text():
            continue
        tree = parsed(path)
        in_loops = {
            id(inner)
            for loop in ast.walk(tree)
            if isinstance(loop, ast.While | ast.For | ast.AsyncFor)
            for inner in ast.walk(loop)
        }
        lonely += [
            f"{named(path)}:{node.lineno}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Call)
            and ast.unparse(node.func) == "time.sleep"
            and id(node) not in in_loops
        ]
    assert lonely == []


def test_decisions_are_pure() -> None:
    files = [path for path in sources(*(p for p in PURE if (ROOT / p).exists())) if named(path) != WAITS]
    assert len(files) > 30
    impure = [f"{named(path)}: {reason}" for path in files for reason in _impurities(parsed(path))]
    assert impure == []


def _impurities(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.AsyncFunctionDef(name=name):
                yield f"async def {name}"
            case ast.Import(names=names):
                yield from (f"imports {a.name}" for a in names if a.name.split(".")[0] in IMPURE_MODULES)
            case ast.ImportFrom(module=str(module)) if module.split(".")[0] in IMPURE_MODULES:
                yield f"imports {module}"
            case ast.Call(func=ast.Attribute(attr=name, value=ast.Name(id="datetime" | "date"))) if (
                name in NOW
            ):
                yield f"reads the clock with {name}()"


def test_impurities_are_seen() -> None:
    tree = ast.parse("import os.path\nfrom time import time\nasync def f(): pass\ndatetime.now()")
    assert len(list(_impurities(tree))) == 4


def test_links_between_pages_lead_somewhere() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    links = {
        (named(page), link.partition("#")[0], page.parent / link.partition("#")[0])
        for page in pages
        for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text())
        if "://" not in link
    }
    assert len(links) > 20
    assert [(page, link) for page, link, target in sorted(links) if not target.exists()] == []


def test_the_wheel_holds_three_packages_and_no_more() -> None:
    """``agent`` and ``manager`` are common names: an addition would be one more that may clash."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"] == {
        "packages": ["swarmpy", "agent", "manager"]
    }
    assert project["project"]["scripts"] == {"swarmpy": "swarmpy.__main__:main"}
    assert all((ROOT / package / "__init__.py").is_file() for package in CODE)
