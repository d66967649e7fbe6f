"""Which runtime was found to work, kept for as long as a daemon lives.

To try one costs a container. The executor that is probed and the one that is started later are two, of one
node, with one folder of states: what the first has found out, the second need not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agent.executor.oci.runtimes import Runtime


@dataclass
class Choice:
    """``runtime``: None until one was found. ``reasons``: sentences about those that do not work."""

    runtime: Runtime | None = None
    reasons: tuple[str, ...] = ()
