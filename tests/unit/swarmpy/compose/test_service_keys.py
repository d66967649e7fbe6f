"""Keys of a service that docker's stacks do not have: limits, devices, security, dependencies, x-swarmpy."""

from __future__ import annotations

import pytest

from swarmpy.compose import ComposeError, Document, Stack, read_stack
from swarmpy.model.ids import SECOND_NS, Duration
from swarmpy.model.specs import (
    AppArmorOptions,
    Autoscale,
    BindOptions,
    ContainerSpec,
    CronJob,
    Dependency,
    Device,
    DeviceRequest,
    Healthcheck,
    ImageOptions,
    Limits,
    Mount,
    Privileges,
    ReplicatedJob,
    ResourceRequirements,
    Resources,
    SeccompOptions,
    SELinuxContext,
    ServiceMode,
    ServiceSpec,
    TmpfsOptions,
)
from swarmpy.model.states import ConcurrencyPolicy, DependencyCondition, MountType, PlacementStrategy


def read(lines: str, *, top: str = "", files: dict[str, str] | None = None) -> Stack:
    text = f"services:\n  web:\n    image: host\n    {lines}\n{top}"
    return read_stack([Document("a.yml", text, "/in")], name="st", variables={}, files=files)


def service(lines: str, *, top: str = "", files: dict[str, str] | None = None) -> ServiceSpec:
    found = {each.name: each.spec for each in read(lines, top=top, files=files).services}
    return found["web"]


def container(lines: str, *, top: str = "", files: dict[str, str] | None = None) -> ContainerSpec:
    found = service(lines, top=top, files=files).task_template.container_spec
    assert found is not None
    return found


def refusal(lines: str, *, top: str = "") -> str:
    with pytest.raises(ComposeError) as refused:
        read(lines, top=top)
    return str(refused.value)


# --- resources


@pytest.mark.parametrize(
    ("lines", "resources"),
    [
        ("cpus: 0.5", ResourceRequirements(limits=Limits(nano_cpus=500_000_000))),
        ("mem_limit: 1g", ResourceRequirements(limits=Limits(memory_bytes=1 << 30))),
        ("pids_limit: 9", ResourceRequirements(limits=Limits(pids=9))),
        ("pids_limit: -1", ResourceRequirements()),
        ("cpu_quota: 50000", ResourceRequirements(limits=Limits(nano_cpus=500_000_000))),
        (
            "cpu_quota: 50000\n    cpu_period: 25000",
            ResourceRequirements(limits=Limits(nano_cpus=2 * SECOND_NS)),
        ),
        ("mem_reservation: 64m", ResourceRequirements(reservations=Resources(memory_bytes=64 << 20))),
        (
            "mem_limit: 1g\n    memswap_limit: 3g\n    mem_swappiness: 10",
            ResourceRequirements(
                limits=Limits(memory_bytes=1 << 30), swap_bytes=2 << 30, memory_swappiness=10
            ),
        ),
        ("memswap_limit: -1", ResourceRequirements(swap_bytes=-1)),
        (
            "mem_limit: 1g\n    deploy: {resources: {limits: {memory: 1024m, cpus: '2'}}}",
            ResourceRequirements(limits=Limits(memory_bytes=1 << 30, nano_cpus=2 * SECOND_NS)),
        ),
    ],
)
def test_limits_of_the_service_itself(lines: str, resources: ResourceRequirements) -> None:
    assert service(lines).task_template.resources == resources


def test_scale_is_replicas() -> None:
    replicated = service("scale: 3").mode.replicated
    assert replicated is not None
    assert replicated.replicas == 3


# --- devices and rights


GPU = ("gpu",)
RESERVED = "deploy: {resources: {reservations: {devices: [{%s}]}}}"


def test_devices() -> None:
    found = container(
        "devices: [/dev/a, '/dev/a:/dev/b', '/dev/a:/dev/c:r', {source: /dev/d, target: /dev/e}]"
    )
    assert found.devices == tuple(
        Device(path_on_host=source, path_in_container=target, cgroup_permissions=permissions)
        for source, target, permissions in (
            ("/dev/a", "/dev/a", "rwm"),
            ("/dev/a", "/dev/b", "rwm"),
            ("/dev/a", "/dev/c", "r"),
            ("/dev/d", "/dev/e", "rwm"),
        )
    )


@pytest.mark.parametrize(
    ("lines", "requests"),
    [
        ("gpus: all", [DeviceRequest(count=-1, capabilities=("gpu",))]),
        ("gpus: [{count: 2, driver: nvidia}]", [DeviceRequest(driver="nvidia", count=2, capabilities=GPU)]),
        (
            RESERVED % "capabilities: [gpu, tpu], device_ids: ['0', x]",
            [DeviceRequest(device_ids=("0", "x"), capabilities=("gpu", "tpu"))],
        ),
        (
            RESERVED % "capabilities: [gpu], count: all, options: {a: b}",
            [DeviceRequest(count=-1, capabilities=("gpu",), options={"a": "b"})],
        ),
    ],
)  # fmt: skip
def test_device_requests(lines: str, requests: list[DeviceRequest]) -> None:
    assert container(lines).device_requests == tuple(requests)


def test_rights() -> None:
    found = container(
        "privileged: true\n    shm_size: 1m\n    cpuset: 0-1\n    security_opt: [no-new-privileges, "
        "'seccomp:p.json', "
        "apparmor=unconfined, 'label=type:t', 'label:level:s0:c1']\n    dns_opt: [ndots:1]",
        files={"/in/p.json": '{"defaultAction": "SCMP_ACT_ALLOW"}'},
    )
    assert found.privileges == Privileges(
        no_new_privileges=True,
        seccomp=SeccompOptions(mode="custom", profile=b'{"defaultAction": "SCMP_ACT_ALLOW"}'),
        app_armor=AppArmorOptions(mode="disabled"),
        selinux_context=SELinuxContext(type="t", level="s0:c1"),
    )
    assert (found.privileged, found.shm_size, found.cpuset_cpus) == (True, 1 << 20, "0-1")
    assert found.dns_config is not None
    assert found.dns_config.options == ("ndots:1",)


def test_mounts_have_all_their_options() -> None:
    found = container(
        "tmpfs: ['/t:size=1m,mode=1770,ro']\n    volumes:\n"
        "    - {type: bind, source: /a, target: /b, bind: {create_host_path: true, recursive: readonly}}\n"
        "    - {type: image, source: busybox, target: /i, image: {subpath: etc}}"
    )
    assert found.mounts == (
        Mount(
            type=MountType.BIND,
            source="/a",
            target="/b",
            bind_options=BindOptions(create_mountpoint=True, read_only_force_recursive=True),
        ),
        Mount(type=MountType.IMAGE, source="busybox", target="/i", image_options=ImageOptions(subpath="etc")),
        Mount(
            type=MountType.TMPFS,
            target="/t",
            read_only=True,
            tmpfs_options=TmpfsOptions(size_bytes=1 << 20, mode=0o1770),
        ),
    )


@pytest.mark.parametrize("mode", ["host", "bridge", "none"])
def test_networks_of_the_nodes_own(mode: str) -> None:
    stack = read(f"network_mode: {mode}")
    (place,) = stack.services[0].spec.task_template.networks
    assert (place.target, place.aliases, stack.networks) == (mode, (), ())


# --- dependencies

OTHERS = "  db: {image: host}\n  job: {image: host, deploy: {mode: replicated-job}}\n"


def test_dependencies_by_full_name() -> None:
    wish = (
        "{job: {condition: service_completed_successfully}, "
        "db: {condition: service_healthy, required: false}}"
    )
    assert service(f"depends_on: {wish}", top=OTHERS).depends_on == (
        Dependency(service="st_db", condition=DependencyCondition.HEALTHY, optional_=True),
        Dependency(service="st_job", condition=DependencyCondition.COMPLETED),
    )
    assert service("depends_on: [db]", top=OTHERS).depends_on == (
        Dependency(service="st_db", condition=DependencyCondition.STARTED),
    )


def test_what_never_completes_is_warned_of() -> None:
    stack = read("depends_on: {db: {condition: service_completed_successfully}}", top=OTHERS)
    (warning,) = stack.warnings
    assert str(warning).startswith("a.yml:4: services.web waits for db to complete, which is started again")


def test_a_long_circle_and_a_long_chain_are_walked() -> None:
    count = 300
    chain = "".join(f"  s{n}: {{image: host, depends_on: [s{n + 1}]}}\n" for n in range(count))
    assert len(read("tty: true", top=f"{chain}  s{count}: {{image: host}}\n").services) == count + 2
    assert "wait for one another in a circle" in refusal(
        "tty: true", top=f"{chain}  s{count}: {{image: host, depends_on: [s0]}}\n"
    )


# --- x-swarmpy


def test_a_cron_job() -> None:
    spec = service(
        "deploy: {mode: replicated-job, replicas: 3}\n    x-swarmpy: {job: {max_concurrent: 1}, cron: "
        "{schedule: '*/5 * * * *', timezone: Europe/Vienna, concurrency_policy: forbid, "
        "successful_history: 2, failed_history: 0, starting_deadline: 1m, suspended: true}}"
    )
    assert spec.mode == ServiceMode(
        cron_job=CronJob(
            schedule="*/5 * * * *",
            timezone="Europe/Vienna",
            concurrency_policy=ConcurrencyPolicy.FORBID,
            total_completions=3,
            max_concurrent=1,
            successful_history=2,
            failed_history=0,
            starting_deadline=Duration(60 * SECOND_NS),
            suspended=True,
        )
    )
    assert service("x-swarmpy: {cron: {schedule: '@hourly'}}").mode.cron_job == CronJob(schedule="@hourly")


def test_jobs_may_run_fewer_tasks_at_a_time() -> None:
    spec = service("deploy: {mode: replicated-job, replicas: 4}\n    x-swarmpy: {job: {max_concurrent: 2}}")
    assert spec.mode.replicated_job == ReplicatedJob(max_concurrent=2, total_completions=4)


def test_what_is_ours_alone() -> None:
    spec = service(
        """x-swarmpy:
      rebalance: true
      cpuset_mems: "0"
      autoscale: {min: 2, max: 9, cpu: 60%, scale_down_delay: 1m}
      readiness: {test: exit 0, interval: 2s}
      placement: {strategy: spread}
      update: {pause_after: 1, progress_deadline: 5m}
      sticky_volumes: [data]
      secrets: {key: {reload_signal: SIGHUP}}
    volumes: ["data:/data", "other:/other"]
    secrets: [key]
    configs: [settings]
    deploy: {update_config: {delay: 1s}}""",
        top="volumes: {data: , other: }\nsecrets: {key: {content: x}}\nconfigs: {settings: {content: x}}",
    )
    assert (spec.rebalance, spec.autoscale) == (
        True,
        Autoscale(min=2, max=9, cpu_percent=60, scale_down_delay=Duration(60 * SECOND_NS)),
    )
    template, update = spec.task_template, spec.update_config
    assert template.placement is not None
    assert template.placement.strategy is PlacementStrategy.SPREAD
    assert update is not None
    assert (update.pause_after, update.progress_deadline, update.delay, update.parallelism) == (
        1,
        300 * SECOND_NS,
        SECOND_NS,
        1,
    )
    made = template.container_spec
    assert made is not None
    assert made.readiness == Healthcheck(test=("CMD-SHELL", "exit 0"), interval=Duration(2 * SECOND_NS))
    assert made.cpuset_mems == "0"
    assert {m.target: m.volume_options is not None and m.volume_options.sticky for m in made.mounts} == {
        "/data": True,
        "/other": False,
    }
    assert [(each.reload_signal, each.version) for each in made.secrets] == [("SIGHUP", 0)]
    assert [(each.reload_signal, each.version) for each in made.configs] == [("", 0)]


WEB = "a.yml:4: services.web."


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ("cpus: 1\n    deploy: {resources: {limits: {cpus: '2'}}}", WEB + "cpus and deploy.resources.limits"),
        ("scale: 2\n    deploy: {replicas: 3}", WEB + "scale and deploy.replicas cannot differ"),
        ("memswap_limit: 1g", WEB + "memswap_limit is memory and swap together: set mem_limit"),
        ("devices: [vendor.com/gpu=all]", "invalid device 'vendor.com/gpu=all': write /dev/source"),
        ("devices: ['/dev/a:/dev/b:x']", WEB + 'devices.0.permissions must be letters of rwm, not "x"'),
        ("gpus: some", WEB + 'gpus must be "all" or a list'),
        ("gpus: [{count: 1, device_ids: [a]}]", WEB + "gpus.0.count cannot be set together with device_ids"),
        ("security_opt: [what]", WEB + 'security_opt has an entry that is not supported: "what"'),
        ("security_opt: ['seccomp:gone.json']", WEB + "security_opt names /in/gone.json, which cannot be re"),
        ("network_mode: service:db", WEB + 'network_mode must be one of bridge, host, none, not "service:db'),
        ("network_mode: host\n    networks: [default]", WEB + "network_mode and networks cannot be combined"),
        ("depends_on: [nowhere]", WEB + 'depends_on names a service that is not there: "nowhere"'),
        ("depends_on: [web]", WEB + "depends_on names the service itself"),
        ("depends_on: {db: {condition: ready, required: false}}", ".condition must be one of service_starte"),
        ("x-swarmpy: {rebalanse: true}", "Additional property rebalanse is not allowed: did you mean rebala"),
        ("x-swarmpy: {cron: {}}", WEB + "x-swarmpy.cron.schedule is missing"),
        ("deploy: {mode: global}\n    x-swarmpy: {cron: {schedule: '* * * * *'}}", "cron is for jobs: set d"),
        ("x-swarmpy: {job: {max_concurrent: 1}}", WEB + "x-swarmpy.job is for jobs"),
        ("x-swarmpy: {autoscale: {cpu: lots}}", WEB + 'x-swarmpy.autoscale.cpu must be a percentage such as'),
        ("x-swarmpy: {sticky_volumes: [d]}", WEB + 'x-swarmpy.sticky_volumes names a volume that the servic'),
        ("x-swarmpy: {configs: {c: {reload_signal: HUP}}}", WEB + "x-swarmpy.configs.c is none of the servi"),
    ],
)  # fmt: skip
def test_errors_name_file_line_and_key(lines: str, says: str) -> None:
    assert says in refusal(lines)
    assert refusal(lines).startswith("a.yml:")
