"""Bounds of the API server's connections, in seconds and bytes."""

from __future__ import annotations

from typing import Final

API_CONNECTIONS_MAX: Final = 4_096
"""At a time, on all of a daemon's sockets: what streams may take, and as many again for everything else."""
API_REFUSALS_MAX: Final = 256
"""Of the connections beyond it, those that are told why. More are closed without a word."""
API_REFUSAL_TIMEOUT_S: Final = 2.0
"""How long a connection that is refused stays open for its client to read why."""
API_BACKLOG: Final = 1_024
"""Connections that the kernel holds until the daemon takes them; a thousand clients may come at once."""
API_IDLE_TIMEOUT_S: Final = 300.0
"""A connection without a request is closed after it. Longer than clients keep theirs by default."""
API_HEAD_TIMEOUT_S: Final = 30.0
"""From the first byte of a request's head to its last."""
API_HEAD_BYTES_MAX: Final = 1 << 20
"""All of a head together, as Go's servers have it."""
API_BODY_TIMEOUT_S: Final = 60.0
"""For a body of JSON, which is 5 MiB at most."""
API_UPLOAD_QUIET_S: Final = 600.0
"""How long a body that is streamed (an image, an archive) may stand still: what makes it may be slow."""
API_STALL_TIMEOUT_S: Final = 300.0
"""How long a client may read nothing of what waits for it: somebody may have stopped a terminal."""
API_WATCH_PERIOD_S: Final = 5.0
"""How often all of this is looked at."""
API_EVENTS_LOOK_S: Final = 5.0
"""How often a stream of events looks whether its node is still what it was."""
API_PARSED_AT_ONCE_BYTES_MAX: Final = 64 << 10
"""Larger bodies of JSON are read beside the loop: a megabyte takes a tenth of a second."""
