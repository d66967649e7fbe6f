"""The tables of keys that a Compose document may hold, and what becomes of each; docs/compose.md shows them.

UNDERSTOOD keys say what the cluster does. IGNORED ones are taken, warned of and dropped, as docker does with
what swarm mode has no use for. REFUSED ones stop the deployment: a stack without them would not be what was
meant.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Fate(StrEnum):
    UNDERSTOOD = "understood"
    IGNORED = "ignored"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Key:
    """``table`` names the keys of the map (or of the maps in the list) that this key may hold; ``each`` says
    that the map's own keys are the user's names, and the table is for what they hold."""

    fate: Fate = Fate.UNDERSTOOD
    note: str = ""
    table: str = ""
    each: bool = False


def _of(names: str, **tables: Key) -> dict[str, Key]:
    return {**{name: Key() for name in names.split()}, **tables}


def _ignored(**notes: str) -> dict[str, Key]:
    return {name: Key(Fate.IGNORED, note) for name, note in notes.items()}


def _refused(**notes: str) -> dict[str, Key]:
    return {name: Key(Fate.REFUSED, note) for name, note in notes.items()}


_UPDATE: Final = _of("parallelism delay failure_action monitor max_failure_ratio order")
_OWN_ADDRESS: Final = "for a service of one task; another task with it waits until it is free"
_EXTERNAL: Final = {"external": Key(table="external")}
_LIMITS: Final = "set resource limits using deploy.resources"

TABLES: Final[dict[str, dict[str, Key]]] = {
    "document": {
        **_of("version"),
        "include": Key(table="include"),
        "services": Key(table="service", each=True),
        "networks": Key(table="network", each=True),
        "volumes": Key(table="volume", each=True),
        "secrets": Key(table="secret", each=True),
        "configs": Key(table="config", each=True),
        **_ignored(name="the stack's name is given when it is deployed", models=""),
    },
    "include": _of("path project_directory env_file"),
    "service": {
        **_of(
            "image command entrypoint environment labels stop_grace_period stop_signal user "
            "working_dir hostname tty stdin_open init read_only cap_add cap_drop dns dns_search dns_opt "
            "extra_hosts sysctls isolation tmpfs group_add oom_score_adj profiles label_file privileged "
            "shm_size cpuset security_opt mem_swappiness scale"
        ),
        "env_file": Key(table="env_file"),
        "restart": Key(note="deploy.restart_policy goes first"),
        "extends": Key(table="extends"),
        "depends_on": Key(table="depends_on", each=True, note="first tasks wait; nothing is restarted later"),
        "network_mode": Key(note="host, bridge or none: the network of that name on each node"),
        "deploy": Key(table="deploy"),
        "ports": Key(table="port"),
        "healthcheck": Key(table="healthcheck"),
        "networks": Key(table="attachment", each=True),
        "secrets": Key(table="file reference"),
        "configs": Key(table="file reference"),
        "volumes": Key(table="mount"),
        "logging": Key(table="logging"),
        "ulimits": Key(table="ulimit", each=True),
        "credential_spec": Key(table="credential_spec"),
        "devices": Key(table="device"),
        "gpus": Key(table="device request"),
        **{
            name: Key(note=f"the same as deploy.resources.{path}")
            for name, path in {
                "cpus": "limits.cpus",
                "mem_limit": "limits.memory",
                "mem_reservation": "reservations.memory",
                "pids_limit": "limits.pids",
            }.items()
        },
        "memswap_limit": Key(note="memory and swap together; -1 for swap without a limit"),
        "cpu_quota": Key(note="with cpu_period: a limit of so many CPUs"),
        "cpu_period": Key(note="see cpu_quota"),
        "x-swarmpy": Key(table="x-swarmpy"),
        **_ignored(
            annotations="",
            attach="",
            blkio_config="",
            build="the image must exist already",
            cgroup="",
            cgroup_parent="",
            cgroupns_mode="",
            container_name="Setting the container name is not supported.",
            cpu_count=_LIMITS,
            cpu_percent=_LIMITS,
            cpu_rt_period="",
            cpu_rt_runtime="",
            cpu_shares=_LIMITS,
            develop="",
            device_cgroup_rules="name the devices in devices",
            domainname="",
            expose="Exposing ports is unnecessary - services on the same network can access each other's "
            "containers on any port.",
            external_links="",
            ipc="",
            links="",
            mac_address="set mac_address below the service's network",
            models="",
            oom_kill_disable="",
            pid="",
            platform="use deploy.placement.constraints with node.platform.os or node.platform.arch",
            post_start="",
            pre_stop="",
            pull_policy="",
            runtime="",
            storage_opt="",
            use_api_socket="",
            userns_mode="",
            uts="",
        ),
        **_refused(
            provider="deploy it by other means, and name it as an external network or by its address",
            volume_driver="Instead of setting the volume driver on the service, define a volume using the "
            "top-level `volumes` option and specify the driver there.",
            volumes_from="To share a volume between services, define it using the top-level `volumes` option "
            "and reference it from each service that shares it using the service-level `volumes` option.",
        ),
    },
    "env_file": _of("path required format"),
    "extends": _of("service file"),
    "depends_on": _of("condition required") | _ignored(restart="a dependency restarts nothing"),
    "device": _of("source target permissions"),
    "device request": _of("driver count device_ids capabilities options"),
    "x-swarmpy": {
        **_of("rebalance cpuset_mems sticky_volumes"),
        "cron": Key(table="x-swarmpy cron"),
        "job": Key(table="x-swarmpy job"),
        "autoscale": Key(table="x-swarmpy autoscale"),
        "readiness": Key(table="healthcheck"),
        "placement": Key(table="x-swarmpy placement"),
        "update": Key(table="x-swarmpy update"),
        "rollback": Key(table="x-swarmpy update"),
        "secrets": Key(table="x-swarmpy file", each=True),
        "configs": Key(table="x-swarmpy file", each=True),
    },
    "x-swarmpy cron": _of(
        "schedule timezone concurrency_policy successful_history failed_history starting_deadline suspended"
    ),
    "x-swarmpy job": _of("max_concurrent"),
    "x-swarmpy autoscale": _of("min max cpu memory scale_down_delay"),
    "x-swarmpy placement": _of("strategy"),
    "x-swarmpy update": _of("pause_after progress_deadline"),
    "x-swarmpy file": _of("reload_signal"),
    "deploy": {
        **_of("mode replicas labels endpoint_mode"),
        "placement": Key(table="placement"),
        "resources": Key(table="resources"),
        "restart_policy": Key(table="restart_policy"),
        "update_config": Key(table="update_config"),
        "rollback_config": Key(table="rollback_config"),
    },
    "placement": {**_of("constraints max_replicas_per_node"), "preferences": Key(table="preference")},
    "preference": _of("spread"),
    "resources": {"limits": Key(table="limits"), "reservations": Key(table="reservations")},
    "limits": _of("cpus memory pids"),
    "reservations": {
        **_of("cpus memory"),
        "generic_resources": Key(table="generic_resource"),
        "devices": Key(table="device request"),
    },
    "generic_resource": {
        "discrete_resource_spec": Key(table="discrete_resource"),
        "named_resource_spec": Key(table="discrete_resource"),
    },
    "discrete_resource": _of("kind value"),
    "restart_policy": _of("condition delay max_attempts window"),
    "update_config": _UPDATE,
    "rollback_config": _UPDATE,
    "port": _of("name target published protocol mode host_ip") | _ignored(app_protocol=""),
    "healthcheck": _of("test interval timeout retries start_period start_interval disable"),
    "attachment": {
        **_of("aliases driver_opts"),
        "ipv4_address": Key(note=_OWN_ADDRESS),
        "ipv6_address": Key(note=_OWN_ADDRESS),
        "mac_address": Key(note=_OWN_ADDRESS),
        **_ignored(
            priority="the networks' order is that of their names",
            gw_priority="the way out is each node's own",
            link_local_ips="",
            interface_name="",
        ),
    },
    "file reference": _of("source target uid gid mode"),
    "mount": {
        **_of("type source target read_only consistency"),
        "bind": Key(table="bind"),
        "volume": Key(table="volume options"),
        "tmpfs": Key(table="tmpfs"),
        "image": Key(table="image options"),
    },
    "bind": _of("propagation create_host_path recursive") | _ignored(selinux=""),
    "image options": _of("subpath"),
    "volume options": _of("nocopy subpath"),
    "tmpfs": _of("size mode"),
    "logging": _of("driver options"),
    "ulimit": _of("soft hard"),
    "credential_spec": _of("config file registry"),
    "external": _of("name"),
    "network": {
        **_of("name driver driver_opts internal attachable labels enable_ipv6"),
        **_EXTERNAL,
        "ipam": Key(table="ipam"),
        **_ignored(enable_ipv4="IPv4 is always on"),
    },
    "ipam": {**_of("driver options"), "config": Key(table="ipam config")},
    "ipam config": _of("subnet gateway ip_range aux_addresses"),
    "volume": {**_of("name driver driver_opts labels"), **_EXTERNAL},
    "secret": {**_of("name file environment content labels driver driver_opts template_driver"), **_EXTERNAL},
    "config": {**_of("name file environment content labels template_driver"), **_EXTERNAL},
}
