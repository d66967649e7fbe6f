"""What a service's tasks may do: credential specs, and ``security_opt`` as docker's command line has it."""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from swarmpy.compose.fields import Fields
from swarmpy.model.specs import (
    AppArmorOptions,
    CredentialSpec,
    Privileges,
    SeccompOptions,
    SELinuxContext,
)

_UNCONFINED: Final = "unconfined"
_LABELS: Final = ("user", "role", "type", "level")


def privileges(service: Fields) -> Privileges | None:
    found = _credential_spec(service)
    for text in service.texts("security_opt"):
        found = _with_option(found or Privileges(), text, service)
    return found


def _credential_spec(service: Fields) -> Privileges | None:
    fields = service.fields("credential_spec")
    if fields is None:
        return None
    given = {key: fields.text(key) for key in ("config", "file", "registry")}
    if sum(map(bool, given.values())) != 1:
        raise service.error("credential_spec", "needs exactly one of config, file and registry")
    return Privileges(
        credential_spec=CredentialSpec(config=given["config"], file=given["file"], registry=given["registry"])
    )


def _with_option(found: Privileges, text: str, service: Fields) -> Privileges:
    name, _, value = text.replace(":", "=", 1).partition("=") if "=" not in text else text.partition("=")
    match name:
        case "no-new-privileges" if value in ("", "true", "false"):
            return replace(found, no_new_privileges=value != "false")
        case "seccomp" if value == _UNCONFINED:
            return replace(found, seccomp=SeccompOptions(mode=_UNCONFINED))
        case "seccomp" if value.lstrip().startswith("{"):
            return replace(found, seccomp=SeccompOptions(mode="custom", profile=value.encode()))
        case "apparmor" if value == _UNCONFINED:
            return replace(found, app_armor=AppArmorOptions(mode="disabled"))
        case "label" if value:
            return replace(found, selinux_context=_labelled(found.selinux_context, value, service))
    raise service.error(
        "security_opt",
        f'has an entry that is not supported: "{text}"; known are no-new-privileges:true, '
        "seccomp:unconfined, seccomp:FILE, apparmor:unconfined, label:disable and label:type:NAME",
    )


def _labelled(context: SELinuxContext | None, text: str, service: Fields) -> SELinuxContext:
    found = context or SELinuxContext()
    if text == "disable":
        return replace(found, disable=True)
    name, _, value = text.partition(":")
    if name not in _LABELS or not value:
        raise service.error(
            "security_opt",
            f'has a bad label "{text}": write disable, or one of {", ".join(_LABELS)} with a value',
        )
    return replace(found, **{name: value})
