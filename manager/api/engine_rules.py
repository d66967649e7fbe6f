"""What dockerd refuses of a service's spec by itself, before a manager looks at it: in its words, without the
gRPC code that stands in what managers say. Pure.
"""

from __future__ import annotations

from typing import Final

from swarmpy.errors import InvalidArgument
from swarmpy.model.specs import ContainerSpec, CredentialSpec, ServiceMode, ServiceSpec, TaskSpec

PROPAGATIONS: Final = ("", "private", "rprivate", "shared", "rshared", "slave", "rslave")
_RUNTIMES: Final = ("", "container", "plugin")


def check(spec: ServiceSpec) -> None:
    _check_runtime(spec.task_template)
    if spec.task_template.container_spec is not None:
        _check_container(spec.task_template.container_spec)
    _check_mode(spec.mode)


def _check_runtime(template: TaskSpec) -> None:
    if template.runtime not in _RUNTIMES:
        raise InvalidArgument("unsupported runtime")
    if template.container_spec is None and template.runtime != "plugin":
        raise InvalidArgument("mismatched Runtime and *Spec fields")


def _check_container(spec: ContainerSpec) -> None:
    for mount in spec.mounts:
        propagation = "" if mount.bind_options is None else mount.bind_options.propagation
        if propagation not in PROPAGATIONS:
            raise InvalidArgument(f'invalid MountPropagation: "{propagation}"')
    if any(config.file is None and config.runtime is None for config in spec.configs):
        raise InvalidArgument("invalid Config: either File or Runtime should be set")
    if spec.privileges is not None and spec.privileges.credential_spec is not None:
        _check_credentials(spec.privileges.credential_spec)


def _check_credentials(spec: CredentialSpec) -> None:
    given = [name for name in ("config", "file", "registry") if getattr(spec, name)]
    if not given:
        raise InvalidArgument(
            'invalid CredentialSpec: must either provide "file", "registry", or "config" for credential spec'
        )
    if len(given) > 1:
        raise InvalidArgument(
            f'invalid CredentialSpec: cannot specify both "{given[0]}" and "{given[1]}" credential specs'
        )


def _check_mode(mode: ServiceMode) -> None:
    if (
        sum(getattr(mode, name) is not None for name in mode.__struct_fields__ if name != "unknown_fields")
        > 1
    ):
        raise InvalidArgument("must specify only one service mode")
