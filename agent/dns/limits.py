"""Bounds and periods of names in task networks, with their units last."""

from __future__ import annotations

DNS_TTL_S = 2
"""How long a client may keep an answer: names follow the cluster's state."""
DNS_UDP_BYTES_MAX = 4096
"""The largest answer over UDP, and the largest query that is read."""
DNS_STREAM_BYTES_MAX = 65_535
"""The largest message over TCP: its length has two bytes."""
DNS_ANSWERS_KEPT = 4_096
"""Answers kept ready for tasks with the same networks; with one more, all are let go."""
DNS_BATCH_MAX = 64
"""Queries of one task that are answered before others have their turn."""
DNS_SERVERS_MAX = 3
"""Servers outside that are asked for one name; as many as C libraries ask."""
DNS_TRY_S = 2.0
"""Without an answer for so long, the next server is asked too."""
DNS_FORWARD_TIMEOUT_S = 8.0
DNS_FORWARDS_MAX = 1_024
"""Queries under way to servers outside."""
DNS_FORWARDS_PER_TASK_MAX = 256
"""The same of one task, so that one cannot keep the others from asking."""
DNS_CONNECTIONS_MAX = 1_024
"""TCP connections of tasks to their resolver."""
DNS_CONNECTIONS_PER_TASK_MAX = 64
DNS_CONNECTION_IDLE_S = 10.0
DNS_ACCEPT_PAUSE_S = 1.0
"""Before connections are accepted again, after the daemon had no descriptor left for one."""
DNS_CONNECTION_BYTES_MAX = 1 << 20
"""Answers that a client has not read yet; with more, its connection is closed."""
DNS_PORT_TRIES_MAX = 8
"""Ports that are tried for a task's resolver, if the task has taken the usual one."""
DNS_STOP_TIMEOUT_S = 10.0
"""For the resolver's thread to end."""
