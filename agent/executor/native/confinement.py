"""What a task must not do: system call filter, new privileges, security modules. Pure.

``no_new_privileges`` is off unless asked for, as in docker: su, sudo and ping of an image work. A task of
image ``host`` has it always, since the set-uid programs in its reach are the node's own.
"""

from __future__ import annotations

import base64
from typing import Final, NamedTuple

from agent.executor.native import seccomp
from swarmpy.errors import TaskRejected
from swarmpy.model.specs import AppArmorOptions, ContainerSpec, Privileges, SeccompOptions

_UNCONFINED: Final = ("unconfined", "disabled")


class Confinement(NamedTuple):
    """``seccomp``: the filter's program as base64, empty for none. ``apparmor``: a profile to run under."""

    seccomp: str
    no_new_privileges: bool
    apparmor: str


def confine(
    spec: ContainerSpec, capabilities: frozenset[str], *, is_host: bool, has_apparmor: bool
) -> Confinement:
    """TaskRejected for what this node cannot enforce."""
    wish = spec.privileges or Privileges()
    _check_elsewhere(spec, wish)
    return Confinement(
        seccomp=base64.b64encode(_filter(spec, wish.seccomp, capabilities)).decode(),
        no_new_privileges=wish.no_new_privileges or (is_host and not spec.privileged),
        apparmor=_apparmor(wish.app_armor, has_apparmor=has_apparmor),
    )


def _filter(spec: ContainerSpec, wish: SeccompOptions | None, capabilities: frozenset[str]) -> bytes:
    mode = wish.mode if wish else ""
    match mode:
        case "custom":
            assert wish is not None
            return seccomp.custom_program(wish.profile, capabilities)
        case "unconfined":
            return b""
        case "" | "default":
            return b"" if spec.privileged else seccomp.default_program(capabilities)
        case _:
            raise TaskRejected(f'unknown seccomp mode "{mode}": give default, unconfined or custom')


def _apparmor(wish: AppArmorOptions | None, *, has_apparmor: bool) -> str:
    """``default`` means what the node has by itself: no profile of ours is loaded into kernels."""
    mode = wish.mode if wish else ""
    if mode in ("", "default", *_UNCONFINED):
        return ""
    if not has_apparmor:
        raise TaskRejected(
            f'AppArmor is not enabled on this node, so the profile "{mode}" cannot be applied; take it out, '
            "or place the service on nodes that have it"
        )
    return mode


def _check_elsewhere(spec: ContainerSpec, wish: Privileges) -> None:
    """What is for Windows nodes, or for kernels with SELinux."""
    if spec.isolation not in ("", "default"):
        raise TaskRejected(f'invalid isolation "{spec.isolation}" on linux: it is for Windows nodes')
    if wish.credential_spec is not None:
        raise TaskRejected("credential specs are for Windows nodes: this one runs Linux")
    selinux = wish.selinux_context
    if (
        selinux is not None
        and not selinux.disable
        and (selinux.user or selinux.role or selinux.type or selinux.level)
    ):
        raise TaskRejected("SELinux labels are not supported by the native executor: take the context out")
