"""Bounds and periods of a lab, with their units last."""

from __future__ import annotations

LAB_HOSTS_MAX = 64
LAB_NAME_CHARS_MAX = 24
LAB_HOST_START_TIMEOUT_S = 10.0
LAB_DAEMON_START_TIMEOUT_S = 30.0
LAB_ENGINE_START_TIMEOUT_S = 60.0
LAB_DAEMON_STOP_TIMEOUT_S = 15.0
"""After SIGTERM; then the lab says so and kills."""
LAB_KILL_TIMEOUT_S = 15.0
LAB_READY_TIMEOUT_S = 60.0
LAB_REQUEST_TIMEOUT_S = 30.0
LAB_STATUS_TIMEOUT_S = 1.5
LAB_COMMAND_TIMEOUT_S = 30.0
LAB_POLL_S = 0.02
LAB_LOG_TAIL_LINES = 15
LAB_PARALLEL_MAX = 16
"""Hosts that boot, or nodes that join, at a time."""
