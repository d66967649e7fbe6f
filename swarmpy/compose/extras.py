"""``x-swarmpy`` of a service: what Compose has no word for. docs/compose.md says what each key does."""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from swarmpy.compose.fields import Fields
from swarmpy.compose.health import healthcheck
from swarmpy.compose.tree import Mapping
from swarmpy.model import defaults
from swarmpy.model.ids import Duration
from swarmpy.model.specs import (
    Autoscale,
    ContainerSpec,
    CronJob,
    Mount,
    Placement,
    ReplicatedJob,
    ServiceMode,
    ServiceSpec,
    UpdateConfig,
    VolumeOptions,
)
from swarmpy.model.states import ConcurrencyPolicy, MountType, PlacementStrategy

KEY: Final = "x-swarmpy"
_POLICIES: Final = [policy.value for policy in ConcurrencyPolicy if policy]
_STRATEGIES: Final = [strategy.value for strategy in PlacementStrategy if strategy]


def extras(service: Fields) -> Fields:
    """The section; an empty one where there is none."""
    return service.fields(KEY) or Fields(Mapping({}, service.node.place), f"{service.path}.{KEY}")


def with_extras(spec: ServiceSpec, service: Fields, full_names: dict[str, str]) -> ServiceSpec:
    """``full_names`` of the document's volumes, by their names in it."""
    own = extras(service)
    if not own.node.items:
        return spec
    template = spec.task_template
    container = template.container_spec or ContainerSpec()
    container = replace(
        container,
        readiness=healthcheck(own, "readiness"),
        cpuset_mems=own.text("cpuset_mems"),
        mounts=_sticky(container.mounts, own, full_names),
    )
    placement = own.fields("placement")
    strategy = (
        None if placement is None else placement.one_of("strategy", PlacementStrategy, known=_STRATEGIES)
    )
    if strategy:
        template = replace(template, placement=replace(template.placement or Placement(), strategy=strategy))
    return replace(
        spec,
        task_template=replace(template, container_spec=container),
        mode=_mode(spec.mode, own),
        update_config=_paced(spec.update_config, own, "update"),
        rollback_config=_paced(spec.rollback_config, own, "rollback"),
        autoscale=_autoscale(own),
        rebalance=own.flag("rebalance") or False,
    )


def reload_signal(service: Fields, section: str, name: str) -> str:
    """Sent to a task when there is new data in a secret or a config; empty: the task is replaced."""
    below = extras(service).fields(section)
    fields = None if below is None else below.fields(name)
    return "" if fields is None else fields.text("reload_signal")


def check_reloaded(service: Fields, section: str, names: set[str]) -> None:
    below = extras(service).fields(section)
    for name in () if below is None else below.node.items:
        if name not in names:
            assert below is not None
            raise below.error(name, f"is none of the service's {section}: name it under {section}, too")


def _mode(mode: ServiceMode, own: Fields) -> ServiceMode:
    cron, job = own.fields("cron"), own.fields("job")
    if job is not None:
        if mode.replicated_job is None:
            raise own.error("job", "is for jobs: set deploy.mode to replicated-job")
        most = job.whole("max_concurrent", low=1)
        mode = ServiceMode(
            replicated_job=mode.replicated_job
            if most is None
            else replace(mode.replicated_job, max_concurrent=most)
        )
    return mode if cron is None else ServiceMode(cron_job=_cron(cron, _job_of(mode, own)))


def _job_of(mode: ServiceMode, own: Fields) -> ReplicatedJob:
    """How many tasks one run has: as many as a job without a schedule would have."""
    if mode.replicated_job is not None:
        return mode.replicated_job
    if mode.replicated is None or mode.replicated.replicas is not None:
        raise own.error(
            "cron", "is for jobs: set deploy.mode to replicated-job, or leave it and replicas out"
        )
    return ReplicatedJob()


def _cron(fields: Fields, job: ReplicatedJob) -> CronJob:
    if not fields.text("schedule"):
        raise fields.error("schedule", "is missing: write five fields, such as '*/5 * * * *'")
    return CronJob(
        schedule=fields.text("schedule"),
        timezone=fields.text("timezone"),
        concurrency_policy=fields.one_of("concurrency_policy", ConcurrencyPolicy, known=_POLICIES)
        or ConcurrencyPolicy.UNSPECIFIED,
        total_completions=job.total_completions,
        max_concurrent=job.max_concurrent,
        successful_history=fields.whole("successful_history"),
        failed_history=fields.whole("failed_history"),
        starting_deadline=fields.duration("starting_deadline"),
        suspended=fields.flag("suspended") or False,
    )


def _paced(config: UpdateConfig | None, own: Fields, key: str) -> UpdateConfig | None:
    fields = own.fields(key)
    if fields is None:
        return config
    return replace(
        config or UpdateConfig(parallelism=defaults.UPDATE_PARALLELISM),
        pause_after=fields.whole("pause_after") or 0,
        progress_deadline=fields.duration("progress_deadline") or Duration(0),
    )


def _autoscale(own: Fields) -> Autoscale | None:
    fields = own.fields("autoscale")
    if fields is None:
        return None
    return Autoscale(
        min=fields.whole("min", low=1) or 1,
        max=fields.whole("max", low=1) or 1,
        cpu_percent=_percent(fields, "cpu"),
        memory_percent=_percent(fields, "memory"),
        scale_down_delay=fields.duration("scale_down_delay") or Duration(0),
    )


def _percent(fields: Fields, key: str) -> int:
    text = fields.text(key)
    digits = text.removesuffix("%")
    if text and not (digits.isascii() and digits.isdigit() and len(digits) < 10):
        raise fields.error(key, f'must be a percentage such as 60%, not "{text}"')
    return int(digits or "0")


def _sticky(mounts: tuple[Mount, ...], own: Fields, full_names: dict[str, str]) -> tuple[Mount, ...]:
    """Tasks run only where the data of these volumes is."""
    wanted = own.texts("sticky_volumes")
    mounted = {mount.source for mount in mounts if mount.type is MountType.VOLUME}
    for name in wanted:
        if full_names.get(name) not in mounted:
            raise own.error("sticky_volumes", f'names a volume that the service does not mount: "{name}"')
    sticky = {full_names[name] for name in wanted}
    return tuple(
        replace(mount, volume_options=replace(mount.volume_options or VolumeOptions(), sticky=True))
        if mount.type is MountType.VOLUME and mount.source in sticky
        else mount
        for mount in mounts
    )
