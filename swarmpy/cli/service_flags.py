"""The flags of ``service create`` and ``service update``, and the spec they make. Pure.

Two tables say everything: a *setting* puts one value at one place of the spec; a *family* is a list or map,
to which ``create`` adds with ``--NAME`` and ``update`` with ``--NAME-add`` and ``--NAME-rm``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from swarmpy.cli import values
from swarmpy.cli.autoscale import AUTOSCALE_FLAGS
from swarmpy.cli.container_flags import CREATE_CONTAINER_FLAGS, UPDATE_CONTAINER_FLAGS
from swarmpy.cli.flags import Flag, Options, Takes, UsageError, listed, switch, text
from swarmpy.cli.network_policy import POLICY_FLAGS
from swarmpy.cli.service_modes import CRON_FLAGS
from swarmpy.cli.spec_edits import (
    CAPABILITIES_ADDED,
    CAPABILITIES_DROPPED,
    CAPABILITY_FLAGS,
    apply_healthcheck,
    begin_log_driver,
    begin_rollouts,
    capability,
    change_capabilities,
    hosts_named,
    put,
    take,
)
from swarmpy.client import Json

_CONTAINER: Final = "TaskTemplate.ContainerSpec."
_HEALTH: Final = _CONTAINER + "Healthcheck."
_READINESS: Final = _CONTAINER + "Readiness."


@dataclass(frozen=True)
class Setting:
    """``--name VALUE`` puts ``read(VALUE)`` at ``path``."""

    name: str
    path: str
    read: Callable[[str], Any]
    help: str
    takes: Takes = Takes.TEXT
    short: str = ""


@dataclass(frozen=True)
class Family:
    """A list or map at ``path``. ``key`` names an item, to replace or remove it by."""

    name: str
    path: str
    read: Callable[[str], Any]
    key: Callable[[Any], Any]
    help: str
    is_map: bool = False
    short: str = ""


def _same(value: str) -> str:
    return value


def _on(value: str) -> bool:
    return value == "true"


def _choice(*choices: str) -> Callable[[str], str]:
    def read(value: str) -> str:
        if value not in choices:
            raise UsageError(f'invalid value "{value}": give one of {", ".join(choices)}')
        return value

    return read


def _health_command(value: str) -> list[str]:
    return ["CMD-SHELL", value]


def _rollout(kind: str) -> tuple[Setting, ...]:
    place = f"{kind.capitalize()}Config."
    actions = ("pause", "continue", "rollback") if kind == "update" else ("pause", "continue")
    return (
        Setting(f"{kind}-delay", place + "Delay", values.duration_ns, f"Delay between {kind}s"),
        Setting(
            f"{kind}-failure-action",
            place + "FailureAction",
            _choice(*actions),
            f"Action on {kind} failure ({', '.join(actions)})",
        ),
        Setting(
            f"{kind}-max-failure-ratio",
            place + "MaxFailureRatio",
            values.ratio,
            f"Failure rate to tolerate during a {kind}",
        ),
        Setting(
            f"{kind}-monitor",
            place + "Monitor",
            values.duration_ns,
            f"Duration after each task {kind} to monitor for failure",
        ),
        Setting(
            f"{kind}-order",
            place + "Order",
            _choice("start-first", "stop-first"),
            f"{kind.capitalize()} order (start-first, stop-first)",
        ),
        Setting(
            f"{kind}-parallelism",
            place + "Parallelism",
            values.whole,
            f"Maximum number of tasks changed at once by a {kind} (0: all)",
            Takes.NUMBER,
        ),
        Setting(
            f"{kind}-progress-deadline",
            place + "ProgressDeadline",
            values.duration_ns,
            f"The {kind} has failed after this long without a task that came up (default 10m)",
        ),
    )


SETTINGS: Final[tuple[Setting, ...]] = (
    Setting("workdir", _CONTAINER + "Dir", _same, "Working directory inside the container", short="w"),
    Setting("user", _CONTAINER + "User", _same, "Username or UID (<name|uid>[:<group|gid>])", short="u"),
    Setting("hostname", _CONTAINER + "Hostname", _same, "Container hostname"),
    Setting("entrypoint", _CONTAINER + "Command", values.words, "Overwrite the image's ENTRYPOINT"),
    Setting("init", _CONTAINER + "Init", _on, "Run an init in each container", Takes.NOTHING),
    Setting("tty", _CONTAINER + "TTY", _on, "Allocate a pseudo-TTY", Takes.NOTHING, "t"),
    Setting("read-only", _CONTAINER + "ReadOnly", _on, "Mount the root filesystem read only", Takes.NOTHING),
    Setting("stop-signal", _CONTAINER + "StopSignal", _same, "Signal to stop the container"),
    Setting(
        "stop-grace-period",
        _CONTAINER + "StopGracePeriod",
        values.duration_ns,
        "Time to wait before force killing a container (default 10s)",
    ),
    Setting("oom-score-adj", _CONTAINER + "OomScoreAdj", values.whole, "OOM score", Takes.NUMBER),
    Setting("isolation", _CONTAINER + "Isolation", _same, "Container isolation mode"),
    Setting("health-cmd", _HEALTH + "Test", _health_command, "Command to run to check health"),
    Setting("health-interval", _HEALTH + "Interval", values.duration_ns, "Time between running the check"),
    Setting("health-timeout", _HEALTH + "Timeout", values.duration_ns, "Maximum time one check may run"),
    Setting(
        "health-start-period", _HEALTH + "StartPeriod", values.duration_ns, "Start period before retries"
    ),
    Setting(
        "health-start-interval",
        _HEALTH + "StartInterval",
        values.duration_ns,
        "Time between checks during the start period",
    ),
    Setting(
        "health-retries", _HEALTH + "Retries", values.whole, "Failures to report unhealthy", Takes.NUMBER
    ),
    Setting(
        "readiness-cmd",
        _READINESS + "Test",
        _health_command,
        "Command to run to check whether a task wants requests now",
    ),
    Setting(
        "readiness-interval",
        _READINESS + "Interval",
        values.duration_ns,
        "Time between running the check of readiness (default 10s)",
    ),
    Setting(
        "readiness-timeout",
        _READINESS + "Timeout",
        values.duration_ns,
        "Maximum time one check of readiness may run (default 30s)",
    ),
    Setting(
        "readiness-retries",
        _READINESS + "Retries",
        values.whole,
        "Failures in a row to get no requests any more (default 3)",
        Takes.NUMBER,
    ),
    Setting("limit-cpu", "TaskTemplate.Resources.Limits.NanoCPUs", values.nano_cpus, "Limit CPUs"),
    Setting("limit-memory", "TaskTemplate.Resources.Limits.MemoryBytes", values.memory_bytes, "Limit memory"),
    Setting(
        "limit-pids", "TaskTemplate.Resources.Limits.Pids", values.whole, "Limit processes", Takes.NUMBER
    ),
    Setting("reserve-cpu", "TaskTemplate.Resources.Reservations.NanoCPUs", values.nano_cpus, "Reserve CPUs"),
    Setting(
        "reserve-memory",
        "TaskTemplate.Resources.Reservations.MemoryBytes",
        values.memory_bytes,
        "Reserve memory",
    ),
    Setting(
        "memory-swap",
        "TaskTemplate.Resources.SwapBytes",
        values.swap_bytes,
        "Swap Bytes (-1 for unlimited)",
    ),
    Setting(
        "memory-swappiness",
        "TaskTemplate.Resources.MemorySwappiness",
        values.whole,
        "Tune memory swappiness (0-100), -1 to reset to default",
        Takes.NUMBER,
    ),
    Setting(
        "restart-condition",
        "TaskTemplate.RestartPolicy.Condition",
        _choice("none", "on-failure", "any"),
        "Restart when condition is met (none, on-failure, any)",
    ),
    Setting(
        "restart-delay",
        "TaskTemplate.RestartPolicy.Delay",
        values.duration_ns,
        "Delay between restarts; without it a crash loop backs off",
    ),
    Setting(
        "restart-max-attempts",
        "TaskTemplate.RestartPolicy.MaxAttempts",
        values.whole,
        "Maximum number of restarts before giving up",
        Takes.NUMBER,
    ),
    Setting(
        "restart-window",
        "TaskTemplate.RestartPolicy.Window",
        values.duration_ns,
        "Window used to evaluate the restart policy",
    ),
    Setting(
        "replicas-max-per-node",
        "TaskTemplate.Placement.MaxReplicas",
        values.whole,
        "Maximum number of tasks per node (0: unlimited)",
        Takes.NUMBER,
    ),
    Setting(
        "placement-strategy",
        "TaskTemplate.Placement.Strategy",
        _choice("spread", "binpack"),
        "Spread tasks evenly over nodes, or fill one node after the other (spread, binpack)",
    ),
    Setting(
        "rebalance", "Rebalance", _on, "Move tasks, one by one, when nodes join or return", Takes.NOTHING
    ),
    Setting("log-driver", "TaskTemplate.LogDriver.Name", _same, "Logging driver"),
    Setting("endpoint-mode", "EndpointSpec.Mode", _choice("vip", "dnsrr"), "Endpoint mode (vip or dnsrr)"),
    *_rollout("update"),
    Setting(
        "update-pause-after",
        "UpdateConfig.PauseAfter",
        values.whole,
        "Pause an update after this many tasks until it is promoted or aborted (0: do not pause)",
        Takes.NUMBER,
    ),
    *_rollout("rollback"),
)


def _name_of(entry: str) -> str:
    return entry.partition("=")[0]


def _map_item(what: str) -> Callable[[str], tuple[str, str]]:
    return lambda value: values.pair(value, what=what)


def _resource_key(item: Json) -> str:
    return str(next(iter(item.values()))["Kind"])


FAMILIES: Final[tuple[Family, ...]] = (
    Family("env", _CONTAINER + "Env", _same, _name_of, "Set environment variables", short="e"),
    Family("label", "Labels", _map_item("label"), _same, "Service labels", is_map=True, short="l"),
    Family(
        "container-label", _CONTAINER + "Labels", _map_item("label"), _same, "Container labels", is_map=True
    ),
    Family("mount", _CONTAINER + "Mounts", values.mount, lambda m: m["Target"], "Attach a filesystem mount"),
    Family("constraint", "TaskTemplate.Placement.Constraints", _same, _same, "Placement constraints"),
    Family(
        "placement-pref",
        "TaskTemplate.Placement.Preferences",
        values.preference,
        lambda p: p["Spread"]["SpreadDescriptor"],
        "Placement preference",
    ),
    Family("group", _CONTAINER + "Groups", _same, _same, "Supplementary user groups for the container"),
    Family("host", _CONTAINER + "Hosts", values.host, _same, "Host-to-IP mappings (host:ip)"),
    Family("dns", _CONTAINER + "DNSConfig.Nameservers", values.name_server, _same, "Custom DNS servers"),
    Family("dns-option", _CONTAINER + "DNSConfig.Options", _same, _same, "DNS options"),
    Family("dns-search", _CONTAINER + "DNSConfig.Search", _same, _same, "Custom DNS search domains"),
    Family("sysctl", _CONTAINER + "Sysctls", _map_item("sysctl"), _same, "Sysctl options", is_map=True),
    Family("ulimit", _CONTAINER + "Ulimits", values.ulimit, lambda u: u["Name"], "Ulimit options"),
    Family("cap-add", CAPABILITIES_ADDED, capability, _same, "Add Linux capabilities"),
    Family("cap-drop", CAPABILITIES_DROPPED, capability, _same, "Drop Linux capabilities"),
    Family(
        "generic-resource",
        "TaskTemplate.Resources.Reservations.GenericResources",
        values.generic_resource,
        _resource_key,
        "User defined resources",
    ),
    Family(
        "log-opt",
        "TaskTemplate.LogDriver.Options",
        _map_item("log option"),
        _same,
        "Logging driver options",
        is_map=True,
    ),
)
_ONLY_WHOLE: Final = frozenset({"cap-add", "cap-drop", "log-opt"})
"""Families without ``-add`` and ``-rm``: ``update`` adds with the same flag as ``create``."""

COMMON_FLAGS: Final = (
    switch("detach", "Exit immediately instead of waiting for the service to converge", short="d"),
    switch("quiet", "Suppress progress output", short="q"),
    switch("no-resolve-image", "Do not ask the registry for the image's digest"),
    switch("with-registry-auth", "Accepted; images are never pulled with a client's credentials"),
    switch("no-healthcheck", "Disable any container-specified HEALTHCHECK"),
    switch("no-readiness", "Do not check readiness"),
    text("credential-spec", "Credential spec for managed service account (Windows only)"),
)


def _flag(setting: Setting) -> Flag:
    return Flag(setting.name, setting.takes, setting.help, setting.short)


CREATE_FLAGS: Final = (
    *COMMON_FLAGS,
    text("name", "Service name"),
    text("mode", "Service mode (replicated, global, replicated-job, global-job, cron)", default="replicated"),
    Flag("replicas", Takes.NUMBER, "Number of tasks"),
    Flag("max-concurrent", Takes.NUMBER, "Number of job tasks to run concurrently"),
    *CRON_FLAGS,
    listed("env-file", "Read in a file of environment variables"),
    listed("publish", "Publish a port as a node port", short="p"),
    listed("secret", "Specify secrets to expose to the service"),
    listed("config", "Specify configurations to expose to the service"),
    listed("network", "Network attachments (name, or name=…,alias=…,driver-opt=…,ip=…,ip6=…,mac=…)"),
    *POLICY_FLAGS,
    *AUTOSCALE_FLAGS,
    *CREATE_CONTAINER_FLAGS,
    *map(_flag, SETTINGS),
    *(Flag(family.name, Takes.LIST, family.help, family.short) for family in FAMILIES),
)

UPDATE_FLAGS: Final = (
    *COMMON_FLAGS,
    text("image", "Service image tag"),
    text("args", "Service command args"),
    switch("force", "Force update even if no changes require it"),
    switch("rollback", "Roll back to the previous specification"),
    Flag("replicas", Takes.NUMBER, "Number of tasks"),
    Flag("max-concurrent", Takes.NUMBER, "Number of job tasks to run concurrently"),
    *CRON_FLAGS,
    listed("publish-add", "Add or update a published port"),
    listed("publish-rm", "Remove a published port by its target port"),
    listed("secret-add", "Add or update a secret on a service"),
    listed("secret-rm", "Remove a secret"),
    listed("config-add", "Add or update a config file on a service"),
    listed("config-rm", "Remove a configuration file"),
    listed("network-add", "Add a network (name, or name=…,alias=…,driver-opt=…,ip=…,ip6=…,mac=…)"),
    listed("network-rm", "Remove a network"),
    *POLICY_FLAGS,
    *AUTOSCALE_FLAGS,
    *UPDATE_CONTAINER_FLAGS,
    *map(_flag, SETTINGS),
    *(
        Flag(f"{family.name}{end}", Takes.LIST, f"{act}: {family.help}")
        for family in FAMILIES
        if family.name not in _ONLY_WHOLE
        for end, act in (("-add", "Add or update"), ("-rm", "Remove"))
    ),
    *(Flag(family.name, Takes.LIST, family.help) for family in FAMILIES if family.name in _ONLY_WHOLE),
)


def apply_settings(spec: Json, options: Options) -> None:
    """Put every setting that was given at its place."""
    begin_rollouts(spec, options, [setting.name for setting in SETTINGS])
    for setting in SETTINGS:
        if options.is_set(setting.name):
            try:
                put(spec, setting.path, setting.read(options.text(setting.name)))
            except UsageError as error:
                raise UsageError(
                    f'invalid argument "{options.text(setting.name)}" for "--{setting.name}" flag: {error}'
                ) from None
    apply_healthcheck(spec, options, [setting.name for setting in SETTINGS])


def apply_families(spec: Json, options: Options, *, is_update: bool) -> None:
    """Add and remove members of every list and map."""
    if is_update:
        change_capabilities(spec, options)
        begin_log_driver(spec, options)
    for family in FAMILIES:
        if is_update and family.name in CAPABILITY_FLAGS:
            continue
        if not is_update or family.name in _ONLY_WHOLE:
            _change(spec, family, add=options.many(family.name), remove=[])
        else:
            add, remove = options.many(f"{family.name}-add"), options.many(f"{family.name}-rm")
            _change(spec, family, add=add, remove=remove)


def _change(spec: Json, family: Family, *, add: list[str], remove: list[str]) -> None:
    if not add and not remove:
        return
    if family.is_map:
        labels = {k: v for k, v in (take(spec, family.path) or {}).items() if k not in remove}
        put(spec, family.path, labels | dict(family.read(entry) for entry in add))
        return
    present = take(spec, family.path) or []
    gone = {key for entry in remove for key in _keys_of(family, entry, present)}
    new = {family.key(item): item for item in map(family.read, add)}
    kept = [item for item in present if family.key(item) not in gone and family.key(item) not in new]
    put(spec, family.path, [*kept, *new.values()])


def _keys_of(family: Family, entry: str, present: list[Any]) -> list[Any]:
    """What ``--NAME-rm ENTRY`` takes away."""
    match family.name:
        case "host":
            return hosts_named(entry, present)
        case "placement-pref":
            return [family.key(family.read(entry))]
        case "generic-resource":
            if entry not in map(family.key, present):
                raise UsageError(f"could not find generic-resource `{entry}` to remove it")
    return [entry]
