"""``swarmpy init|join|leave|join-token`` and ``swarmpy swarm …``."""

from __future__ import annotations

from swarmpy.cli import autolock, values
from swarmpy.cli.flags import Command, Options, UsageError, listed, number, switch, text
from swarmpy.cli.session import Session, is_stale, version_of
from swarmpy.cli.start import START_FLAGS, ensure_daemon
from swarmpy.client import ErrorAnswer, Json
from swarmpy.limits import STALE_RETRIES_MAX

_SETTINGS = (
    ("task-history-limit", "Orchestration", "TaskHistoryRetentionLimit", values.whole),
    ("snapshot-interval", "Raft", "SnapshotInterval", values.whole),
    ("max-snapshots", "Raft", "KeepOldSnapshots", values.whole),
    ("dispatcher-heartbeat", "Dispatcher", "HeartbeatPeriod", values.duration_ns),
    ("cert-expiry", "CAConfig", "NodeCertExpiry", values.duration_ns),
)


def init(session: Session, arguments: list[str], options: Options) -> int:
    spec: Json = {"Labels": {}}
    _apply_settings(spec, options)
    if options.on("autolock"):
        spec["EncryptionConfig"] = {"AutoLockManagers": True}
    request = {
        **_addresses(options),
        "DataPathPort": options.number("data-path-port"),
        "DefaultAddrPool": [pool for entry in options.many("default-addr-pool") for pool in entry.split(",")],
        "SubnetSize": options.number("default-addr-pool-mask-length"),
        "ForceNewCluster": options.on("force-new-cluster"),
        "AutoLockManagers": options.on("autolock"),
        "Availability": options.text("availability"),
        "Spec": spec,
    }
    ensure_daemon(session, options)
    node_id = session.client.post("/swarm/init", request)
    print(f"Swarm initialized: current node ({node_id}) is now a manager.\n")
    print("To add a worker to this swarm, run the following command:\n")
    print(f"    {_join_command(session, 'worker')}\n")
    print("To add a manager to this swarm, run 'swarmpy join-token manager' and follow the instructions.")
    if options.on("autolock"):
        print(autolock.told(session))
    return 0


def join(session: Session, arguments: list[str], options: Options) -> int:
    if not options.is_set("token"):
        raise UsageError("a join token is needed: --token SWMTKN-1-… (see 'swarmpy join-token worker')")
    request = {
        **_addresses(options),
        "RemoteAddrs": [arguments[0]],
        "JoinToken": options.text("token"),
        "Availability": options.text("availability"),
    }
    ensure_daemon(session, options)
    session.client.post("/swarm/join", request)
    is_manager = session.client.get("/info")["Swarm"]["ControlAvailable"]
    print(f"This node joined a swarm as a {'manager' if is_manager else 'worker'}.")
    return 0


def _addresses(options: Options) -> Json:
    return {
        "ListenAddr": options.text("listen-addr"),
        "AdvertiseAddr": options.text("advertise-addr"),
        "DataPathAddr": options.text("data-path-addr"),
    }


def leave(session: Session, arguments: list[str], options: Options) -> int:
    session.client.post("/swarm/leave", None, {"force": options.on("force")})
    print("Node left the swarm.")
    return 0


def join_token(session: Session, arguments: list[str], options: Options) -> int:
    role = arguments[0]
    if role not in ("worker", "manager"):
        raise UsageError(f"unknown role {role}: give worker or manager")
    if options.on("rotate"):
        _update(session, {f"rotate{role.capitalize()}Token": True}, Options({}))
        if not options.on("quiet"):
            print(f"Successfully rotated {role} join token.\n")
    if options.on("quiet"):
        print(_token(session, role))
        return 0
    command = _join_command(session, role)
    print(f"To add a {role} to this swarm, run the following command:\n\n    {command}\n")
    return 0


def _token(session: Session, role: str) -> str:
    token: str = session.client.get("/swarm")["JoinTokens"][role.capitalize()]
    return token


def _join_command(session: Session, role: str) -> str:
    swarm = session.client.get("/info")["Swarm"]
    peers = swarm.get("RemoteManagers") or []
    own = next((peer["Addr"] for peer in peers if peer["NodeID"] == swarm["NodeID"]), "")
    return f"swarmpy join --token {_token(session, role)} {own or swarm['NodeAddr'] + ':2377'}"


def update(session: Session, arguments: list[str], options: Options) -> int:
    before = _update(session, {}, options)
    print("Swarm updated.")
    if options.on("autolock") and not autolock.is_on(before):
        print(autolock.told(session))
    return 0


def _update(session: Session, query: dict[str, bool], options: Options) -> Json:
    """Change the settings; the swarm as it was before."""
    attempt = 0
    while True:
        cluster: Json = session.client.get("/swarm")
        before = {**cluster, "Spec": {**cluster["Spec"]}}
        _apply_settings(cluster["Spec"], options)
        if "autolock" in options.flags and options.is_set("autolock"):
            cluster["Spec"]["EncryptionConfig"] = {"AutoLockManagers": options.on("autolock")}
        try:
            session.client.post("/swarm/update", cluster["Spec"], {**query, "version": version_of(cluster)})
        except ErrorAnswer as error:
            attempt += 1
            if not is_stale(error) or attempt == STALE_RETRIES_MAX:
                raise
        else:
            return before


def _apply_settings(spec: Json, options: Options) -> None:
    for name, part, field, read in _SETTINGS:
        if name in options.flags and options.is_set(name):
            spec.setdefault(part, {})[field] = read(options.text(name))


_SETTING_FLAGS = (
    number("task-history-limit", "Task history retention limit"),
    number("snapshot-interval", "Number of log entries between Raft snapshots"),
    number("max-snapshots", "Number of additional Raft snapshots to retain"),
    text("dispatcher-heartbeat", "Dispatcher heartbeat period"),
    text("cert-expiry", "Validity period for node certificates"),
)
_ADDRESS_FLAGS = (
    text("advertise-addr", "Advertised address (<ip|interface>[:port])"),
    text("listen-addr", "Listen address (<ip|interface>[:port])"),
    text("data-path-addr", "Address or interface to use for data path traffic"),
    text("availability", "Availability of the node (active, pause, drain)"),
)

COMMANDS = {
    "init": Command(
        init,
        "Start a swarm with this node as its first manager",
        flags=(
            *_ADDRESS_FLAGS,
            *_SETTING_FLAGS,
            *START_FLAGS,
            number("data-path-port", "Port number to use for data path traffic (1024 - 49151)"),
            listed("default-addr-pool", "Default address pool in CIDR format"),
            number("default-addr-pool-mask-length", "Default address pool subnet mask length"),
            switch("force-new-cluster", "Force create a new cluster from current state"),
            switch("autolock", "Enable manager autolocking"),
        ),
    ),
    "join": Command(
        join,
        "Join a swarm as a worker or a manager",
        "HOST:PORT",
        1,
        1,
        (*_ADDRESS_FLAGS, *START_FLAGS, text("token", "Token for entry into the swarm")),
    ),
    "leave": Command(
        leave,
        "Leave the swarm",
        flags=(switch("force", "Force this node to leave the swarm, ignoring warnings", short="f"),),
    ),
    "join-token": Command(
        join_token,
        "Show or change the tokens that nodes join with",
        "(worker|manager)",
        1,
        1,
        (switch("rotate", "Rotate join token"), switch("quiet", "Only display token", short="q")),
    ),
    "update": Command(
        update,
        "Update the swarm's settings",
        flags=(*_SETTING_FLAGS, switch("autolock", "Change manager autolocking setting (true|false)")),
    ),
    **autolock.COMMANDS,
}
