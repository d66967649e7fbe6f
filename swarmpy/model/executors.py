"""What runs the tasks of nodes, by name, and how a node's description says it."""

from __future__ import annotations

from typing import Final

EXECUTORS: Final = ("native", "oci", "podman", "docker")
"""In the order in which a daemon tries them: what needs the least of the machine first."""
ENGINES: Final = ("podman", "docker")
"""Those that have images of their own."""
FIRST_EXECUTOR: Final = "native"
"""That of a daemon which does not say: there was no other one then."""
EXECUTOR_PLUGIN: Final = "Executor"
"""The type of the one plug-in in the description that names it."""
