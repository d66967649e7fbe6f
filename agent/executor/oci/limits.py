"""Bounds of the oci executor, beside those of ``swarmpy/limits``."""

from swarmpy.limits import LOG_FILE_BYTES_MAX, LOG_FILES_MAX

RUNTIME_TIMEOUT_S = 30.0
"""For one call of a runtime: its own work takes some ten milliseconds."""
RUNTIME_OUTPUT_BYTES_MAX = 64 << 10
"""What is kept of a runtime's or conmon's last words."""
LOG_ROTATE_PERIOD_S = 0.25
"""How often the sizes of logs are looked at."""
LOG_BACKSTOP_BYTES = LOG_FILE_BYTES_MAX * LOG_FILES_MAX
"""So long a log file gets while no daemon rotates it; then conmon begins another by itself."""
LOG_ROTATE_ROOM_BYTES = 1 << 20
"""So much room the disk must have before conmon is told to begin another file: it dies if it cannot."""
ATTACH_READ_PERIOD_S = 0.02
"""How often who is attached looks for more in the log."""
INPUT_CHUNK_BYTES = 4_096
"""What conmon takes at once."""
INPUT_CLOSE_POLL_S = 0.01
INPUT_CLOSE_TIMEOUT_S = 5.0
"""For conmon to close a task's input."""
TERMINAL_SIDE_MAX = 1_000
"""Rows and columns that conmon takes."""
STRAY_POLL_S = 0.005
STRAY_TIMEOUT_S = 10.0
"""For processes of an attempt that was given up to go away."""
