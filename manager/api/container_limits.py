"""Bounds of the API of containers that are started by hand."""

from __future__ import annotations

CONTAINER_PORTS_MAX = 1_000
"""Published ports of one container."""
CONTAINER_REQUEST_BYTES_MAX = 256 << 10
"""What is stored of a client's request, to be shown again."""
CONTAINER_START_WAIT_S = 60.0
"""How long a start waits for the node to have begun; the container starts even so once the node is back."""
CONTAINER_STOP_MARGIN_S = 20.0
"""Beyond the time that the container is given to end, for its node to say that it has."""
CONTAINER_KILL_WAIT_S = 10.0
"""As docker waits for a process that was killed."""
CONTAINERS_PRUNED_MAX = 200
"""Removed by one change of the store; a prune makes as many changes as it takes."""
