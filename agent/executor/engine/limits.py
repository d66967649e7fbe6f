"""Bounds of what is asked of an engine, beside those of ``agent/executor/limits``."""

ENGINE_CALLS_PARALLEL_MAX = 16
"""Calls that are under way at a time; more wait for their turn."""
ENGINE_STREAMS_MAX = 1_024
"""Streams that are open at a time: logs, archives, events, images."""
ENGINE_CONNECT_TIMEOUT_S = 5.0
ENGINE_CALL_TIMEOUT_S = 60.0
ENGINE_HANG_UP_S = 1.0
"""For what was written to a raw stream to be taken, before it is let go of."""
ENGINE_STREAM_BYTES = 64 << 10
"""One read of a stream."""
ENGINE_HEAD_BYTES_MAX = 64 << 10
"""Of an answer to a request for a raw stream."""
ENGINE_ANSWER_BYTES_MAX = 64 << 20
ENGINE_EVENT_BYTES_MAX = 1 << 20
"""One event: it has all labels of its container in it."""
ENGINE_RETRY_MIN_S = 0.1
ENGINE_RETRY_MAX_S = 5.0
ENGINE_RECONCILE_S = 30.0
"""How often containers are compared with what is known of them, should an event ever be missed."""
ENGINE_EVENTS_OVERLAP_S = 5
"""Events of so long ago are asked for again after a reconnection: their clock counts whole seconds."""
ENGINE_PULL_TIMEOUT_S = 3_600.0
ENGINE_SERVICE_START_TIMEOUT_S = 15.0
ENGINE_SERVICE_STOP_TIMEOUT_S = 5.0
PAUSE_START_TIMEOUT_S = 10.0
ENGINE_LOG_OVERLAP_NS = 100_000_000
"""So much of a log is read twice when it is asked for again: its two streams are out of order by less."""
ENGINE_LIST_TIMEOUT_S = 120.0
ENGINE_END_POLL_S = 1.0
"""Who waits for a task's end looks for itself so often, should the event be late."""
ENGINE_CONMON_GRACE_S = 3.0
"""From a container's last process on, for its conmon to tell Podman; after that it is not there."""
ENGINE_CONMON_POLL_S = 0.2
ENGINE_JOIN_POLL_S = 0.005
ENGINE_EXEC_POLL_S = 0.02
"""How often an engine is asked whether a command has begun, or has ended."""
ENGINE_SERVICE_POLL_S = 0.05
ATTACHED_BACKLOG_BYTES_MAX = 1 << 20
"""So far behind may be a client that nobody waits for."""
ATTACHED_OVERLAP_BYTES_MAX = 16 << 10
"""Of what a terminal has said, and may come a second time to who is attached to it."""
ENGINE_BREAK_S = 5.0
"""A task's end is known so long after its streams have ended, or it is the engine that has ended them."""
ENGINE_NAME_POLL_S = 0.1
