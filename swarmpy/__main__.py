"""The program's entry: checks of the installation, then the command line."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path


def main() -> int:
    reason = _why_not()
    if reason:
        sys.stderr.write(f"Error: {reason}\n")
        return 1
    from swarmpy.cli.app import main as run

    return run(sys.argv[1:])


def _why_not() -> str | None:
    """Why this installation cannot be trusted; None if it can.

    ``agent`` and ``manager`` are common names: another package's must never be run in their place. And
    invariants are assertions, which ``-O`` would remove.
    """
    if sys.flags.optimize:
        return "SwarmPy checks its invariants by assertions and does not run under python -O."
    home = Path(__file__).resolve().parent.parent
    for name in ("agent", "manager"):
        spec = importlib.util.find_spec(name)
        origin = None if spec is None or spec.origin is None else Path(spec.origin).resolve()
        if origin is None:
            return f'The package "{name}" of SwarmPy is missing beside {home / "swarmpy"}; install it again.'
        if origin.parent.parent != home:
            return (
                f'The package "{name}" is found at {origin.parent}, not beside {home / "swarmpy"}. Install '
                "SwarmPy into an environment of its own (pipx install swarmpy, or uv tool install swarmpy)."
            )
    return None


if __name__ == "__main__":
    sys.exit(main())
