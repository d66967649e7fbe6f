"""Every bound and period of SwarmPy, named once, with its unit last.

Cluster-wide settings that a user may change are fields of the Cluster object; their defaults are in
``model/defaults.py``. What stands here is ours: sizes of queues and batches, timeouts, retry delays. What is
of one part alone stands beside it: ``agent/dns/limits.py``, ``swarmpy/{compose,lab,sim}/limits.py``.
"""

from __future__ import annotations

# --- store and control loops
BATCH_GROUPS_MAX = 500
"""Atomic groups in one raft entry."""
PLAN_GROUPS_MAX = 250
"""Atomic groups in one plan: what a reconcile decides before the loop looks at its time slice."""
ENTRY_BYTES_MAX = 1_500_000
"""Size of one raft entry; the same limit as swarm mode's transaction."""
REQUEST_IDS_MAX = 1_000
"""Named batches whose outcomes the store remembers. Replicated state follows from it: a change needs every
manager to have it."""
FILE_VERSIONS_MAX = 32
"""Former data of one secret or config that are kept for rollbacks."""
FILE_VERSIONS_BYTES_MAX = 1_200_000
"""Of one secret's or config's data, the newest and the former: they share one raft entry with the services
that are moved to newer data."""
FILE_SERVICES_MAX = 200
"""Services that one update of a secret's or config's data can roll: they change together or not at all."""
STORE_SLICE_BYTES = 64 << 10
"""A slice of a snapshot of the store; its thread rests after each."""
STORE_RECORD_BYTES_MAX = 64 << 20
"""One record of such a snapshot; more is taken for damage."""
WATCH_QUEUE_EVENTS_MAX = 20_000
"""Events that a slow watcher may lag behind before it is told to resync."""
DEBOUNCE_S = 0.05
SLICE_S = 0.01
"""The longest that one decision may hold the event loop."""
PROPOSE_TIMEOUT_S = 10.0
READ_BARRIER_TIMEOUT_S = 5.0
"""An API read or write without a quorum fails within this time."""
RETRY_DELAY_MIN_S = 0.1
RETRY_DELAY_MAX_S = 8.0

# --- orchestration
AUTOSCALE_PERIOD_S = 10.0
"""Between two looks at an autoscaled service, and between two figures of an agent."""
AUTOSCALE_TOLERANCE = 0.1
"""So far from the target load may be, as a part of it, without any change."""
AUTOSCALE_UP_GAP_S = 30.0
"""After a change of replicas: the new tasks take over their part of the load before more are added."""
AUTOSCALE_UP_STEP_MIN = 4
"""A service may always grow by this many tasks at once; a larger one at most doubles."""
AUTOSCALE_DOWN_DELAY_S = 300.0
"""How long fewer replicas must have done before some are taken away, where the service sets no time."""
USAGE_FRESH_S = 30.0
"""Figures of a task that are older say nothing about now."""
USAGE_TASKS_MAX = 100_000
"""Tasks whose figures a leader remembers."""
USAGE_PERIOD_MIN_S = 1.0
"""An agent does not read figures more often, whatever it is asked for."""
USAGE_MESSAGE_TASKS_MAX = 2_000
"""Tasks in one message of figures."""
RESTART_DELAY_FIRST_S = 0.1
"""Before the first restart after a stable run, where the user set no delay."""
RESTART_DELAY_MIN_S = 1.0
"""Before the second; from here on each failure doubles the delay."""
RESTART_DELAY_MAX_S = 60.0
RESTART_STABLE_S = 30.0
"""A task that lived this long was no crash loop: the delay starts small again."""
RESTART_STOP_WAIT_S = 60.0
"""How long a replacement waits for the task that it replaces to stop."""
UPDATE_START_ALLOWANCE_S = 30.0
"""Time to fetch and start that is not counted when a failure is attributed to an update."""
UPDATE_PROGRESS_DEADLINE_S = 600.0
"""The longest time without a slot that came up before an update counts as failed, where none is set."""
UPDATE_REASONS_MAX = 3
"""Tasks that an update's message names."""
REBALANCE_PERIOD_S = 5.0
"""Between two tasks of a service that are moved to even out its spread."""
REBALANCE_ASKED_PERIOD_S = 1.0
"""The same where a user asked for it and may be waiting."""
REBALANCE_SETTLED_S = 5.0
"""How long a node must have been back before tasks are moved to it."""
REBALANCE_MOVES_MAX = 10
"""Services of which a task is moved within one period."""
UNKNOWN_GRACE_S = 3.0
"""After a leader change, for an agent to open its session with the new leader."""
UNKNOWN_GRACE_PER_NODE_S = 0.005
"""Added for every node of the cluster: each handshake costs the leader some milliseconds."""
OUTAGE_LONG_S = 5.0
"""Without a leader for longer than this, agents wait so long between two tries that the grace needs more."""
OUTAGE_DIALS_S = 3.0
"""Added after a long outage, as is the agents' wait: for asking managers that are not back yet."""
OUTAGE_LOOK_S = 1.0
"""How often a manager looks who leads, so that it notices if it was frozen itself."""
OUTAGE_SETTLED_S = 12.0
"""A leader that was there for so long was found by every agent; a shorter one has not ended the outage."""
NODE_ORPHAN_S = 24 * 3600.0
"""Tasks of a node that is down this long are given up."""
NODE_FAILURES_MAX = 5
"""Failures of one revision on one node, or of one slot, after which other nodes are tried first."""
NODE_FAILURES_WINDOW_S = 300.0
CRON_TEXT_CHARS_MAX = 256
"""Of a schedule, and of the name of a time zone."""
CRON_SCHEDULES_CACHED_MAX = 1_000
CRON_CHANGES_CACHED_MAX = 50
"""Days on which clocks change whose ticks are remembered, 1,440 at most of each."""
CRON_COUNT_DAYS_MAX = 100
"""Ticks that were missed are counted back to here: a clock may be wrong by decades."""
CRON_HISTORY_MAX = 100
"""Ended runs of one cron job that are kept, of each sort: they are part of the service."""
CRON_ACTIVE_RUNS_MAX = 20
"""Runs of one cron job at a time; ticks that come while so many go on are missed."""
CRON_WAKE_MAX_S = 60.0
"""How long a cron job may sleep before it looks at the clock again, which may have been set."""
REVISIONS_KEPT = 6
"""Revisions of a service that are kept to return to."""
PORTS_RETRY_S = 30.0
"""Between attempts to publish a port while every number of the dynamic range is taken."""
ADDRESSES_RESTING_MAX = 10_000
"""Released addresses of one network and family that are remembered, so as to be the last to be reused."""
ADDRESSES_RETRY_S = 30.0
"""Between attempts to give a service or a node an address while a network has none left."""
NETWORKS_RETRY_S = 30.0
"""Between attempts to find a subnet for a network while the pools have none left."""
CONTAINER_RESTART_DELAY_MIN_S = 0.1
"""Before a container that was started by hand is restarted; each failure doubles it. Docker's numbers."""
CONTAINER_RESTART_DELAY_MAX_S = 60.0
CONTAINER_STABLE_S = 10.0
CONTAINER_LINGER_S = 0.5
"""How long a container that is to be removed with its end stays beyond it."""
NEEDS_CACHE_REVISIONS_MAX = 10_000
"""Revisions whose scheduling needs are remembered."""

# --- raft
RAFT_ELECTION_MIN_S = 0.5
RAFT_ELECTION_MAX_S = 1.5
RAFT_APPEND_PERIOD_S = 0.1
RAFT_LEADER_FALLBACK_S = 2.0
"""A leader that hears no majority for this long steps down."""
RAFT_TICK_S = 0.02
RAFT_COMMIT_NOTICE_S = 0.005
"""That more is committed is told without new entries this long after the last message, at the next tick."""
RAFT_ANSWER_PERIOD_S = 0.05
"""A follower repeats the answer that it gave before at most this often."""
RAFT_BATCH_BYTES_MAX = 4 << 20
RAFT_FRAME_BYTES_MAX = 64 << 20
RAFT_SNAPSHOT_CHUNK_BYTES = 1 << 20
RAFT_PROPOSALS_MAX = 10_000
"""Proposals under way on one manager; one more is refused with Retry."""
RAFT_DIAL_TIMEOUT_S = 2.0
RAFT_DIAL_PERIOD_S = 0.2
RAFT_PROPOSAL_BYTES_MAX = 64 << 20
"""Bytes of all proposals under way on one manager."""
RAFT_APPLY_SLICE_S = 0.01
"""Applying committed entries gives way to other work of the loop after this long."""
RAFT_BACKLOG_BYTES_MAX = 8 << 20
"""Bytes queued to one peer above which the leader sends it no more entries until some have left."""
RAFT_FRAMES_PER_MESSAGE_MAX = 256
RAFT_SNAPSHOT_ENTRIES = 10_000
"""Entries in the log that make a manager write a snapshot; the API's SnapshotInterval sets another."""
RAFT_LOG_BYTES_MAX = 64 << 20
"""The same, counted in bytes."""
RAFT_SNAPSHOT_PAUSE_S = 0.001
"""Pause of the snapshot thread between slices, so that the event loop gets the interpreter."""
RAFT_SNAPSHOT_RETRY_S = 30.0
"""After a snapshot that could not be written."""
RAFT_SNAPSHOT_SEND_MAX_S = 60.0
"""A snapshot under way to a slow member keeps the log from being trimmed for at most this long."""
RAFT_SNAPSHOT_SETTLE_S = 10.0
"""After a snapshot was sent its receiver loads it; the log is not trimmed for so long."""
RAFT_REMOVED_MAX = 1_000
"""Raft ids of removed members that are remembered; they may never come back."""
RAFT_LAG_S = 0.2
"""A loop that was held longer than this listens first before it stands for election."""
RAFT_NACK_PERIOD_S = 1.0
RAFT_NOTICE_PERIOD_S = 0.1
RAFT_TRANSFER_TIMEOUT_S = 3.0
RAFT_PING_TIMEOUT_S = 5.0
"""The leader's check of a joining manager's address."""

# --- sessions between agent and manager
KEEPALIVE_PERIOD_S = 1.0
KEEPALIVE_TIMEOUT_S = 1.0
DISCONNECT_GRACE_S = 2.0
"""Between the end of a session's stream and the node being down."""
RESTART_GRACE_S = 30.0
"""The same, for a daemon that announced a planned restart."""
SESSION_BACKOFF_MIN_S = 0.1
SESSION_BACKOFF_MAX_S = 8.0
SESSION_BACKOFF_FRACTION = 0.15
"""An agent without a session waits this part of the time that it has been without, within the bounds."""
SESSION_CONNECT_TIMEOUT_S = 1.0
"""For reaching one manager."""
SESSION_WELCOME_TIMEOUT_S = 5.0
"""For a reached manager's first word; a new leader may first have to commit who is there."""
SESSION_SUSPECT_S = 2.0
"""A manager that did not answer is not gone back to because another still takes it for the leader."""
SESSION_LOST_SUSPECT_S = 0.5
"""The same for one whose session was just lost: it may be well, and ``DISCONNECT_GRACE_S`` is not to pass."""
SESSION_REDIRECTS_MAX = 3
LEADER_WAIT_S = 0.5
"""How long a manager that knows of no leader keeps an agent waiting for one before it sends it away."""
SESSION_SETTLED_S = 1.0
"""A session that ended sooner than this counts as a failed attempt to open one."""
SESSION_GOODBYE_TIMEOUT_S = 1.0
HEARTBEAT_JITTER = 0.1
HEARTBEAT_PERIOD_MIN_S = 0.1
STATUS_UNACKED_BATCHES_MAX = 8
"""Status updates under way in one session; more wait, and are merged meanwhile."""
SESSION_QUEUE_MESSAGES_MAX = 1_000
SESSION_LAST_WORDS_S = 1.0
"""How long a session that the manager ends may take to hear why."""
SESSION_STARTS_MAX = 10
"""Sessions that one node may open within the window; more is a node that exists twice."""
SESSION_STARTS_WINDOW_S = 8.0
STATUS_BATCH_S = 0.1
"""How long an agent keeps back statuses that are soon followed by others, such as 'preparing'."""
STATUS_GAP_S = 0.02
"""Between two status updates of an agent in which tasks got to run, or ended."""
STATUS_BATCH_MAX = 500
ASSIGNMENT_CHANGES_MAX = 500
ASSIGNMENT_BYTES_MAX = 1 << 20
"""One assignment message ends with the change that reaches this size; far below RPC_MESSAGE_BYTES_MAX."""
DISCOVERY_CACHE_RECORDS_MAX = 50_000
"""Records of networks that the leader keeps, with their encoding, to send them to many agents."""
HEARTBEAT_MISSES_MAX = 3
STATUS_COMMIT_GAP_S = 0.02
"""The leader's pause between two commits of statuses, in which more of them gather."""
STATUS_UPDATES_MAX = 1_000
"""Status updates that wait at the leader; then agents' streams are not read on."""

LINKS_READY_S = 2.0
"""How long an agent waits for the kernel to forward what a new task sends; it takes milliseconds."""
LINKS_POLL_S = 0.002
HNS_BIND_S = 5.0
"""How long a task waits on Windows for HNS to bind a new network to the adapter beneath."""
HNS_BIND_POLL_S = 0.1
NETWORK_RECHECK_S = 60.0
"""How often a node compares what its kernel has with what its networks should be."""
NODE_NUMBER_MAX = (1 << 24) - 1
"""Numbers of nodes have room in 24 bits."""
NETWORK_KEYS_MAX = 3
"""Keys of encrypted networks that are known at a time: the last, the one in use, the next."""
NETWORK_KEY_ROTATION_S = 12 * 3600.0
SECURE_PORT_START_S = 30.0
"""Within this the process that encrypts in user space has started, or ended."""
SECURE_PORT_ANSWER_S = 5.0
NETWORK_MTU_BYTES_MIN = 576
NETWORK_MTU_BYTES_MAX = 65_000
DHCP_RETRY_S = 1.0
DHCP_RETRY_MAX_S = 16.0
"""A task asks the LAN for an address at intervals that double between these."""
DHCP_LEASES_MAX = 256
"""Of tasks of one node."""
POLICY_RULES_MAX = 200
"""In the access list of one endpoint."""
POLICY_FLOWS_MAX = 65_536
POLICY_FLOW_S = 180
"""How long after its last packet a datagram's answer passes an access list."""
VIP_SLOTS_MAX = 16_384
"""Slots of one service behind a virtual address; so many backends get new connections at most."""
VIP_TCP_IDLE_S = 432_000
"""For so long at least an idle TCP connection through a virtual address stays with its backend: five days."""
VIP_UDP_IDLE_S = 300
"""So long a client that sends no UDP packet stays with its backend; as swarm mode's balancer."""

TERM_SETTLED_S = 60.0
"""A term of leadership that failed after this long was no failing start: its delay is short again."""
MEMBERSHIP_PERIOD_S = 1.0
"""Between two tries of a membership change that had to wait."""
LOG_BATCH_LINES_MAX = 500
LOG_BATCH_BYTES_MAX = 256 << 10
LOG_BATCH_S = 0.05
"""How long an agent gathers log lines into one batch."""
LOG_TASKS_PARALLEL_MAX = 64
"""Task logs that one subscription reads at a time, unless it follows them."""
LOG_OPEN_TIMEOUT_S = 3.0
"""How long a log reader waits for an agent to open its stream."""
LOG_QUEUE_BATCHES_MAX = 64
LOG_MERGE_S = 0.2
"""How long a line waits for older ones of other tasks."""
LOG_MERGE_LINES_MAX = 20_000
LOG_MERGE_BYTES_MAX = 8 << 20
LOG_SUBSCRIPTIONS_MAX = 500

# --- streams: commands in tasks, being attached, copies, calls to agents
CHANNEL_READ_BYTES_MAX = 32_768
"""What is read of a command's output, or passed on of its input, at a time."""
COMMAND_BYTES_MAX = 1 << 20
"""Of a command line with its environment."""
COMMAND_START_TIMEOUT_S = 10.0
COMMANDS_PER_NODE_MAX = 256
"""Commands and copies under way in one node's tasks."""
STREAMS_MAX = 500
"""Streams from one manager to agents at a time, and streams that one agent serves."""
STREAM_QUEUE_PARTS_MAX = 16
"""Parts of a stream that wait on a manager; then its sender has to."""
STREAM_PART_BYTES_MAX = 64 << 10
STREAM_BODY_BYTES_MAX = 4 << 20
"""Of what opens a stream, and of what it comes to."""
STREAM_OPEN_TIMEOUT_S = 5.0
"""For an agent to attend a stream that it was asked for."""
STREAM_LOOK_S = 0.1
"""Until then it is looked whether the agent has another session, which has to be asked anew."""
STREAM_CALL_TIMEOUT_S = 30.0
EVENTS_KEPT_MAX = 4_096
"""Changes of the store that a manager remembers for those who ask for events of the past."""
EXECS_KEPT_MAX = 1_000
"""Commands that a daemon's API remembers, so that clients can ask how they ended."""
ARCHIVE_HEAD_BYTES_MAX = 256 << 10
"""Of an archive's first member, with all that comes before its content."""
STATS_PERIOD_S = 1.0
STATS_TASKS_MAX = 5_000
"""Tasks whose usage is shown at a time."""
TOP_COMMAND_BYTES_MAX = 4_096
"""Of one process's command line where processes are listed."""

# --- certificates and joining
JOIN_TIMEOUT_S = 20.0
LEAVE_TIMEOUT_S = 5.0
"""How long a leaving manager waits for the others to go on without it."""
UNLOCK_WAIT_S = 3.0
"""How long an unlocked manager's client waits for the swarm, which may need more managers."""
RPC_TIMEOUT_S = 5.0
CSR_BYTES_MAX = 16_384
TOKEN_CHARS_MAX = 512
HOSTNAME_CHARS_MAX = 255
START_RETRY_MIN_S = 1.0
"""Before a manager that could not start with its daemon is tried again; doubles."""
JOIN_PROBE_TIMEOUT_S = 3.0
"""For one TLS handshake with the manager that is being joined."""
JOIN_RETRY_MIN_S = 0.2
JOIN_RETRY_MAX_S = 2.0
JOIN_UNREACHABLE_ROUNDS_MAX = 5
"""Times that a joiner tries addresses at which nobody answers."""
RENEW_CHECK_PERIOD_S = 3600.0
"""How long the renewal of a certificate may sleep before it looks at the clock again."""
RENEW_RETRY_MIN_S = 5.0
RENEW_RETRY_MAX_S = 3600.0
RENEW_FAILED_S = 60.0
"""After a renewal that was refused, or whose certificate could not be stored."""

# --- the port between nodes
RPC_MESSAGE_BYTES_MAX = 16 << 20
RPC_CONCURRENT_MAX = 50_000
"""Calls and streams that one manager serves at a time; one more is refused."""
RPC_STREAMS_PER_PEER_MAX = 1_000
RPC_HANDSHAKE_TIMEOUT_S = 10.0
"""A connection that has not finished its TLS handshake by then is closed."""
RPC_CONNECT_TIMEOUT_S = 2.0
RPC_RECONNECT_MIN_S = 0.1
RPC_RECONNECT_MAX_S = 2.0
RPC_PING_INTERVAL_MIN_S = 0.5
"""Peers may ping as often as this."""
RPC_ERROR_CHARS_MAX = 4_000
RPC_PEERS_CACHED_MAX = 20_000
RPC_STOP_GRACE_S = 1.0
PKI_PARSED_CACHED_MAX = 64
"""Texts of certificates, and outcomes of checked signatures, that a process remembers."""

# --- tasks on a node
LOG_FILE_BYTES_MAX = 10 << 20
LOG_FILES_MAX = 3
LOG_LINE_BYTES_MAX = 16_384
LOG_READ_BYTES = 256 << 10
"""What a log reader takes in at a time."""
LOG_FOLLOW_PERIOD_S = 0.1
"""How often a reader that follows a log looks for more."""
LOG_TAIL_LINES_MAX = 1_000_000
TASK_STARTS_PARALLEL_MAX = 16
TASK_START_TIMEOUT_S = 30.0
"""From the start order to the executed command; a task that takes longer is killed and tried again."""
TASK_KILL_TIMEOUT_S = 10.0
"""From SIGKILL to the task's end being recorded."""
VOLUMES_REPORTED_MAX = 1_000
"""Volumes of a node that its managers are told of."""
VOLUMES_REPORTED_BYTES_MAX = 256 << 10
"""All that they are told of them."""
VOLUME_RECORD_BYTES_MAX = 16 << 10
"""Labels and options of one volume: its node's description holds them."""
DEVICES_MAX = 256
"""Device files of one task; a folder of them counts each."""
SECCOMP_INSTRUCTIONS_MAX = 4_096
"""Of one filter: what the kernel takes."""
TEMPLATE_CHARS_MAX = 1 << 20
"""What a template may grow to: as much as a config may hold."""
EXECUTOR_THREADS_MAX = 4
"""Threads for the blocking work of one executor or network backend."""
SHIM_POLL_S = 0.005
CGROUP_POLL_S = 0.002
CGROUP_REMOVE_TIMEOUT_S = 10.0
AGENT_EVENTS_MAX = 1_000
"""Events that wait for the agent's core; then sessions are not read on."""
AGENT_ROUND_EVENTS_MAX = 256
"""Events that the agent's core takes in before what it asks for is persisted and carried out."""
HOST_PORT_MIN, HOST_PORT_MAX = 32_768, 60_999
"""What a node chooses from where a service publishes in mode host and names no port."""
DRAIN_S = 0.2
"""Between the order to stop a task that others reach through a network and its stop: by then names and
virtual addresses lead to it no more."""
UNHEALTHY_DRAIN_S = 0.5
"""The same for a task that its health check has given up: its node has to tell managers first."""
HEALTH_PROBES_PARALLEL_MAX = 8
"""Of health and readiness, on one node; the others wait in the order in which they are due."""
PROBE_KILL_TIMEOUT_S = 10.0
"""For a probe to be gone after it was told to; then it is left to its task's end."""
HEALTH_OUTPUT_BYTES_MAX = 4_096
"""What is taken in of a probe's output; the rest is thrown away."""
HEALTH_REPORT_CHARS_MAX = 512
"""What managers are told of it: its end."""
READY_AGAIN_MIN_S = 1.0
"""A task that wants no requests any more gets none for at least this long, however its checks go."""
JOURNAL_DISCOVERY_MAX = 100_000
"""Networks and records of them that the agent's journal keeps; more come with a restarted agent's session."""
JOURNAL_CHECKPOINT_COMMITS = 1_000
"""Commits to the agent's journal after which its write-ahead file is folded in."""
JOURNAL_LOCK_TIMEOUT_S = 5.0
TASK_STOP_GRACE_S = 10.0
TASK_STOP_ENDLESS_S = 30 * 24 * 3600.0
"""Where a user said that a task is never to be killed: docker's timeout of -1."""
TASK_RETRIES_MAX = 5
"""Times that an operation of bringing a task up is tried again before the task is given up."""
IMAGE_LAYERS_MAX = 128
IMAGE_BYTES_MAX = 20 << 30
"""Of one layer unpacked, and of one archive."""
IMAGE_MEMBERS_MAX = 2_000_000
"""Files in one layer."""
IMAGE_LINKS_MAX = 40
"""Symbolic links on the way to one file of a layer."""
IMAGE_MANIFEST_BYTES_MAX = 8 << 20
IMAGE_MANIFESTS_MAX = 256
"""Images in one archive."""

MESH_STICKY_SLOTS = 1_024
"""Slots of a published port whose clients stick to a task."""
NFT_DESCRIPTORS_HELD = 384
"""Of a daemon's first 1,024 descriptors those for nftables, which can do with no others: of as many tasks as
below, of networks, and of the node."""
NFT_CONTEXTS_MAX = 256
"""Tasks whose nftables context is kept open; another's is made when needed, in a fifth of a millisecond."""

# --- API
API_BODY_BYTES_MAX = 5 << 20
API_STREAMS_MAX = 2_000
API_HEADER_BYTES_MAX = 64 << 10
API_LIST_SLICE_OBJECTS = 250
"""Objects of a list that are encoded before other work of the loop gets a turn."""
API_CHUNK_BYTES = 1 << 16
"""How much of a body that is streamed is read at a time."""
NETWORK_JOIN_S = 20.0
"""How long a call waits until a running task is on a network that it was joined to, or off; as docker's."""
NETWORK_RELEASE_S = 3.0
"""How long removing a network waits for tasks of services that are gone to be told to leave."""
INFO_BARRIER_TIMEOUT_S = 2.0
"""``/info`` answers from what it has if no quorum confirms within this time."""
API_SHUTDOWN_TIMEOUT_S = 2.0
"""How long open requests may take to end when the daemon stops."""
MEMORY_RETURN_FIRST_S = 3.0
MEMORY_RETURN_PERIOD_S = 60.0
"""How often a daemon gives free memory back to the system."""
API_STREAM_IDLE_S = 1.0
"""How often a stream with nothing to say looks whether its reader is still there."""
REPLICAS_MAX = 100_000
"""Replicas of one service; more is refused as a slip of the keyboard."""

# --- recovery
RECOVERY_GRACE_S = 30.0
"""After a cluster was recovered or restored, for agents to find it: tasks of nodes that were there when it
was lost are not replaced before. Longer than agents wait between two rounds of looking for a manager."""
BACKUP_PASSPHRASE_BYTES_MIN = 8
BACKUP_PASSPHRASE_BYTES_MAX = 4096
BACKUP_SCRYPT_BYTES_MAX = 64 << 20
"""Memory that making the key of a sealed backup may take."""
BACKUP_BYTES_MAX = 8 << 30
"""A backup that a node takes in to restore it."""

# --- command line
CLIENT_CONNECT_TIMEOUT_S = 5.0
CLIENT_TIMEOUT_S = 60.0
"""A call that is no stream. Longer than any bound on the daemon's side, so that its words arrive."""
STALE_RETRIES_MAX = 20
"""How often a command reads again when others keep changing the object that it wants to change."""
PROGRESS_PERIOD_S = 0.2
PROGRESS_ROWS_MAX = 20
"""Replicas that a progress display shows one by one; more are only counted."""
STACK_NAMES_PER_CALL_MAX = 40
"""Names that one request asks for, so that its line stays short."""
STACK_GONE_TIMEOUT_S = 120.0
"""How long a command waits for what it removes to be gone; longer than tasks take to stop by default."""
DAEMON_FILES_MAX = 1 << 20
"""Files that a daemon raises its limit to, where it may; as many as its systemd unit says."""
DAEMON_START_TIMEOUT_S = 30.0
DAEMON_START_POLL_S = 0.05
