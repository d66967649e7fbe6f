"""Generate ``swarmpy/pb`` from ``proto/swarmpy/v1`` (``make proto``); ``--check`` only compares.

The proto package is ``swarmpy.v1``; the Python stubs live in ``swarmpy.pb``, so the import lines of the
generated files are rewritten.
"""

from __future__ import annotations

import filecmp
import re
import sys
import tempfile
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "proto"
TARGET = ROOT / "swarmpy" / "pb"


def generate(into: Path) -> list[Path]:
    """Write all stubs for all ``.proto`` files to ``into``; return the files there that are of none."""
    files = sorted(str(path.relative_to(SOURCES)) for path in SOURCES.glob("swarmpy/v1/*.proto"))
    written = {"__init__.py"}
    with tempfile.TemporaryDirectory() as scratch:
        arguments = ["protoc", f"-I{SOURCES}", f"-I{Path(grpc_tools.__file__).parent / '_proto'}"]
        tools = Path(sys.prefix, "bin")
        arguments += [f"--plugin=protoc-gen-{p}={tools}/protoc-gen-{p}" for p in ("mypy", "mypy_grpc")]
        arguments += [f"--{kind}_out={scratch}" for kind in ("python", "grpc_python")]
        arguments += [f"--{kind}_out=quiet:{scratch}" for kind in ("mypy", "mypy_grpc")]
        if protoc.main(arguments + files) != 0:
            raise SystemExit("protoc failed; its message stands above")
        into.mkdir(parents=True, exist_ok=True)
        (into / "__init__.py").write_text('"""Generated from ``proto/`` by ``make proto``; do not edit."""\n')
        for path in sorted(Path(scratch, "swarmpy", "v1").iterdir()):
            text = re.sub(r"\bswarmpy\.v1 import\b", "swarmpy.pb import", path.read_text())
            text = re.sub(r"\bimport swarmpy\.v1\.", "import swarmpy.pb.", text)
            if path.suffix == ".pyi":
                text = re.sub(r"\bswarmpy\.v1\.", "swarmpy.pb.", text)
            (into / path.name).write_text(text)
            written.add(path.name)
    return sorted(path for path in into.glob("*.py*") if path.name not in written)


def main() -> int:
    """Generate in place, or report the files that differ and exit 1."""
    if "--check" not in sys.argv:
        for name in generate(TARGET):
            name.unlink()
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        fresh = Path(scratch, "pb")
        generate(fresh)
        names = sorted({p.name for folder in (fresh, TARGET) for p in folder.glob("*.py*") if p.is_file()})
        _, different, missing = filecmp.cmpfiles(fresh, TARGET, names, shallow=False)
    for name in different + missing:
        print(f"swarmpy/pb/{name} is not what proto/ generates: run 'make proto'")
    return 1 if different or missing else 0


if __name__ == "__main__":
    sys.exit(main())
