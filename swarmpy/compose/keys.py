"""Which keys a Compose document may hold, and what becomes of each. docs/compose.md shows this very table.

UNDERSTOOD keys say what the cluster does. IGNORED ones are taken, warned of and dropped, as docker does with
what swarm mode has no use for. REFUSED ones stop the deployment: a stack without them would not be what was
meant. A key that is in no table is an error that names the nearest one that is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from enum import StrEnum
from typing import Final

from swarmpy.compose.tree import ComposeError, Mapping, Node, Place, Scalar, Sequence, kind_of


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

TABLES: Final[dict[str, dict[str, Key]]] = {
    "document": {
        **_of("version"),
        "services": Key(table="service", each=True),
        "networks": Key(table="network", each=True),
        "volumes": Key(table="volume", each=True),
        "secrets": Key(table="secret", each=True),
        "configs": Key(table="config", each=True),
        **_ignored(name="the stack's name is given when it is deployed"),
        **_refused(include="give every file with its own -c instead"),
    },
    "service": {
        **_of(
            "image command entrypoint environment env_file labels stop_grace_period stop_signal user "
            "working_dir hostname tty stdin_open init read_only cap_add cap_drop dns dns_search "
            "extra_hosts sysctls isolation tmpfs group_add oom_score_adj"
        ),
        "restart": Key(note="deploy.restart_policy goes first"),
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
        **_ignored(
            build="the image must exist already",
            cgroup_parent="",
            cgroupns_mode="",
            container_name="Setting the container name is not supported.",
            depends_on="services start in no particular order",
            devices="",
            domainname="",
            expose="Exposing ports is unnecessary - services on the same network can access each other's "
            "containers on any port.",
            external_links="",
            ipc="",
            links="",
            mac_address="",
            network_mode="",
            pid="",
            platform="use deploy.placement.constraints with node.platform.os or node.platform.arch",
            privileged="",
            pull_policy="",
            security_opt="",
            shm_size="",
            userns_mode="",
        ),
        **_refused(
            cpu_quota="Set resource limits using deploy.resources",
            cpu_shares="Set resource limits using deploy.resources",
            cpus="Set resource limits using deploy.resources",
            cpuset="Set resource limits using deploy.resources",
            extends="use an anchor and a merge key (<<: *name) instead",
            mem_limit="Set resource limits using deploy.resources",
            mem_reservation="Set resource reservations using deploy.resources",
            memswap_limit="Set resource limits using deploy.resources",
            profiles="put the service into a file of its own, and give that file with -c when it is wanted",
            scale="use deploy.replicas",
            volume_driver="Instead of setting the volume driver on the service, define a volume using the "
            "top-level `volumes` option and specify the driver there.",
            volumes_from="To share a volume between services, define it using the top-level `volumes` option "
            "and reference it from each service that shares it using the service-level `volumes` option.",
        ),
    },
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
        **_refused(devices="ask for a generic resource (generic_resources) that nodes offer"),
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
    },
    "bind": _of("propagation") | _ignored(create_host_path="", selinux=""),
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


@dataclass(frozen=True, slots=True)
class Checked:
    """Keys that are ignored, with the place of each and the reason."""

    ignored: list[tuple[Place, str, str]] = field(default_factory=list)


_EXTENDED: Final = frozenset({"document", "service", "network", "volume", "secret", "config"})
"""Tables whose maps may hold anything under x-…"""


def check_keys(document: Mapping) -> Checked:
    """Raises for the first key that is unknown or refused."""
    checked = Checked()
    _check(document, "document", "", checked)
    return checked


def _check(node: Mapping, table: str, path: str, checked: Checked) -> None:
    known = TABLES[table]
    for name, value in node.items.items():
        if name.startswith("x-") and table in _EXTENDED:
            continue
        place, key = node.at(name), known.get(name)
        if key is None:
            raise ComposeError(place, _unknown(name, path, known))
        if key.fate is Fate.REFUSED:
            raise ComposeError(place, f"{path or 'the document'}: {name} is not supported: {key.note}")
        if key.fate is Fate.IGNORED:
            checked.ignored.append((place, f"{path}.{name}".lstrip("."), key.note))
        elif key.table:
            for inner, inner_path in _inner(value, key, f"{path}.{name}".lstrip(".")):
                _check(inner, key.table, inner_path, checked)


def _inner(value: Node, key: Key, path: str) -> Iterator[tuple[Mapping, str]]:
    """The maps below a key whose own keys are to be checked; other forms are looked at by their reader."""
    if key.each and isinstance(value, Mapping):
        for name, item in value.items.items():
            if isinstance(item, Mapping):
                yield item, f"{path}.{name}"
            elif key.table == "service" or isinstance(item, Sequence):
                raise ComposeError(value.at(name), f"{path}.{name} must be a mapping, not {kind_of(item)}")
    elif key.each and path in _SECTIONS and not (isinstance(value, Scalar) and value.value is None):
        raise ComposeError(value.place, f"{path} must be a mapping of names, not {kind_of(value)}")
    elif isinstance(value, Mapping) and not key.each:
        yield value, path
    elif isinstance(value, Sequence):
        for number, item in enumerate(value.items):
            if isinstance(item, Mapping):
                yield item, f"{path}.{number}"


_SECTIONS: Final = frozenset(name for name, key in TABLES["document"].items() if key.each)


def _unknown(name: str, path: str, known: dict[str, Key]) -> str:
    near = get_close_matches(name, known, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]}?" if near else f"known here are {', '.join(sorted(known))}"
    return f"{path or 'the document'}: Additional property {name} is not allowed: {hint}"
