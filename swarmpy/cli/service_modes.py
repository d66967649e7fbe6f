"""A service's mode on the command line: flags to the spec's ``Mode``, and the mode in words. Pure."""

from __future__ import annotations

from typing import Any, Final

from swarmpy.cli import values
from swarmpy.cli.flags import Flag, Options, Takes, UsageError, switch, text
from swarmpy.cli.spec_edits import put
from swarmpy.client import Json

MODES: Final = {
    "replicated": "Replicated",
    "global": "Global",
    "replicated-job": "ReplicatedJob",
    "global-job": "GlobalJob",
    "cron": "CronJob",
}
_WORDS: Final = {
    "Replicated": "replicated",
    "Global": "global",
    "ReplicatedJob": "replicated job",
    "GlobalJob": "global job",
    "CronJob": "cron job",
}
_SIZED: Final = ("ReplicatedJob", "CronJob")
_POLICIES: Final = ("allow", "forbid", "replace")

CRON_FLAGS: Final = (
    text("schedule", 'When a cron job runs: five fields, such as "*/5 * * * *", or @hourly, @daily, …'),
    text("timezone", "Time zone of the schedule, such as Europe/Berlin (default UTC)"),
    text("concurrency-policy", "What a cron job does while a run goes on (allow, forbid, replace)"),
    Flag("successful-history", Takes.NUMBER, "Completed runs of a cron job to keep (default 3)"),
    Flag("failed-history", Takes.NUMBER, "Failed runs of a cron job to keep (default 1)"),
    text("starting-deadline", "How late a run of a cron job may begin; later ones are missed"),
    switch("suspend", "Begin no runs of a cron job; --suspend=false goes on"),
)
_CRON_NAMES: Final = tuple(flag.name for flag in CRON_FLAGS)


def new_mode(options: Options) -> Json:
    """The mode that ``service create`` sends."""
    chosen = options.text("mode")
    if chosen not in MODES:
        raise UsageError(f"Unknown mode: {chosen}, only {', '.join(MODES)} supported")
    mode: Json = {}
    field = MODES[chosen]
    if options.is_set("replicas"):
        count = whole(options, "replicas")
        if field in _SIZED:
            # as docker has it: all at once, unless --max-concurrent says less
            mode |= {"TotalCompletions": count, "MaxConcurrent": count}
        elif chosen == "replicated":
            mode["Replicas"] = count
        else:
            raise UsageError("replicas can only be used with replicated or replicated-job mode")
    if options.is_set("max-concurrent"):
        if field not in _SIZED:
            raise UsageError("max-concurrent can only be used with replicated-job mode")
        mode["MaxConcurrent"] = whole(options, "max-concurrent")
    if chosen == "replicated" and "Replicas" not in mode:
        mode["Replicas"] = 1
    result = {field: mode}
    _put_cron(result, options)
    if chosen == "cron" and not options.is_set("schedule"):
        raise UsageError('a cron job needs a --schedule, such as "*/5 * * * *" or @daily')
    return result


def change_mode(spec: Json, options: Options) -> None:
    """What ``service update`` makes of a spec's mode."""
    mode = spec.setdefault("Mode", {})
    if options.is_set("replicas"):
        set_replicas(spec, whole(options, "replicas"))
    if options.is_set("max-concurrent"):
        field = next((name for name in _SIZED if name in mode), "")
        if not field:
            raise UsageError("max-concurrent can only be used with replicated-job mode")
        put(spec, f"Mode.{field}.MaxConcurrent", whole(options, "max-concurrent"))
    _put_cron(mode, options)


def set_replicas(spec: Json, count: int) -> None:
    mode = spec.get("Mode") or {}
    field = next((name for name in _SIZED if name in mode), "")
    if field:
        put(spec, f"Mode.{field}.TotalCompletions", count)
    elif "Global" in mode or "GlobalJob" in mode:
        raise UsageError("replicas can only be used with replicated or replicated-job mode")
    else:
        put(spec, "Mode.Replicated.Replicas", count)


def whole(options: Options, name: str) -> int:
    number = values.whole(options.text(name))
    if number < 0:
        raise UsageError(f'invalid argument "{number}" for "--{name}" flag: it cannot be negative')
    return number


def _put_cron(mode: Json, options: Options) -> None:
    given = [name for name in _CRON_NAMES if options.is_set(name)]
    if not given:
        return
    if "CronJob" not in mode:
        raise UsageError(f"{given[0]} can only be used with cron mode")
    settings: dict[str, Any] = {}
    for name, field in (("schedule", "Schedule"), ("timezone", "Timezone")):
        if name in given:
            settings[field] = options.text(name)
    if "concurrency-policy" in given:
        policy = options.text("concurrency-policy")
        if policy not in _POLICIES:
            raise UsageError(
                f'invalid argument "{policy}" for "--concurrency-policy" flag: give one of '
                f"{', '.join(_POLICIES)}"
            )
        settings["ConcurrencyPolicy"] = policy
    for name, field in (("successful-history", "SuccessfulHistory"), ("failed-history", "FailedHistory")):
        if name in given:
            settings[field] = whole(options, name)
    if "starting-deadline" in given:
        settings["StartingDeadline"] = values.duration_ns(options.text("starting-deadline"))
    if "suspend" in given:
        settings["Suspended"] = options.on("suspend")
    mode["CronJob"] = {**(mode["CronJob"] or {}), **settings}


# --- in words


def mode_of(service: Json) -> str:
    return next((_WORDS[name] for name in service["Spec"].get("Mode") or {} if name in _WORDS), "replicated")


def replicas_of(service: Json) -> str:
    """``2/3``, with what else shapes the number, as docker shows it; of jobs ``1/3 (5/10 completed)``."""
    status = service.get("ServiceStatus") or {}
    running, desired = status.get("RunningTasks", 0), status.get("DesiredTasks", 0)
    completed = status.get("CompletedTasks", 0)
    mode = service["Spec"].get("Mode") or {}
    field = next((name for name in _SIZED if name in mode), "")
    if field:
        total = total_of(mode[field])
        return f"{running}/{desired} ({completed}/{total} completed)"
    if "GlobalJob" in mode:
        return f"{running}/{desired} ({completed}/{desired + completed} completed)"
    most = (service["Spec"]["TaskTemplate"].get("Placement") or {}).get("MaxReplicas", 0)
    return f"{running}/{desired}" + (f" (max {most} per node)" if most else "")


def total_of(job: Json) -> int:
    """How many completions the mode of a job asks for."""
    field = "TotalCompletions" if "TotalCompletions" in job else "MaxConcurrent"
    return int(job.get(field, 1))
