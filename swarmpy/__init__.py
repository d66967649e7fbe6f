"""SwarmPy: swarm mode without the Docker Engine."""

from __future__ import annotations

import os

# gRPC reads these once, when it is loaded, which may be by any of our modules: so they are set before all of
# them. Its log only repeats what errors say; we never fork, so its fork handlers would only print warnings.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
