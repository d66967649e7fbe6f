"""What stands under ``deploy``: mode, placement, resources, restarts, updates."""

from __future__ import annotations

from typing import Final

from swarmpy.compose.fields import Fields
from swarmpy.compose.resources import same
from swarmpy.model import defaults
from swarmpy.model.ids import Duration
from swarmpy.model.specs import (
    Global,
    GlobalJob,
    Placement,
    PlacementPreference,
    Replicated,
    ReplicatedJob,
    RestartPolicy,
    ServiceMode,
    SpreadOver,
    UpdateConfig,
)
from swarmpy.model.states import FailureAction, RestartCondition, UpdateOrder

_MODES: Final = ["replicated", "global", "replicated-job", "global-job"]
_CONDITIONS: Final = [condition.value for condition in RestartCondition if condition]
_ACTIONS: Final = [action.value for action in FailureAction if action]
_ORDERS: Final = [order.value for order in UpdateOrder if order]


def mode(service: Fields, rules: Fields) -> ServiceMode:
    """``scale`` of the service says the same as ``deploy.replicas``."""
    kind = rules.one_of("mode", str, known=_MODES) or "replicated"
    replicas = same(service, "scale", service.whole("scale"), rules.whole("replicas"), path="deploy.replicas")
    if replicas is not None and kind.startswith("global"):
        raise rules.error("replicas", f"can only be used with replicated or replicated-job mode, not {kind}")
    match kind:
        case "global":
            return ServiceMode(global_=Global())
        case "global-job":
            return ServiceMode(global_job=GlobalJob())
        case "replicated-job":
            return ServiceMode(
                replicated_job=ReplicatedJob(max_concurrent=replicas, total_completions=replicas)
            )
    return ServiceMode(replicated=Replicated(replicas=replicas))


def placement(rules: Fields) -> Placement:
    fields = rules.fields("placement")
    if fields is None:
        return Placement()
    return Placement(
        constraints=fields.texts("constraints"),
        preferences=tuple(
            PlacementPreference(spread=SpreadOver(spread_descriptor=preference.text("spread")))
            for preference in fields.list_of_fields("preferences")
        ),
        max_replicas=fields.whole("max_replicas_per_node") or 0,
    )


def restart_policy(service: Fields, rules: Fields) -> RestartPolicy | None:
    """``restart`` of single machines is read where there is no policy for the swarm."""
    fields = rules.fields("restart_policy")
    if fields is None:
        return _plain_restart(service)
    return RestartPolicy(
        condition=fields.one_of("condition", RestartCondition, known=_CONDITIONS)
        or RestartCondition.UNSPECIFIED,
        delay=fields.duration("delay"),
        max_attempts=fields.whole("max_attempts"),
        window=fields.duration("window"),
    )


def _plain_restart(service: Fields) -> RestartPolicy | None:
    if not service.has("restart"):
        return None
    node = service.node.items["restart"]
    # an unquoted "no" is text here, but a variable may hold "false"
    text = "no" if getattr(node, "value", None) is False else service.text("restart")
    name, _, attempts = text.partition(":")
    match name:
        case "no" | "":
            return None if not attempts else _bad_restart(service, text)
        case "always" | "unless-stopped" if not attempts:
            return RestartPolicy(condition=RestartCondition.ANY)
        case "on-failure" if not attempts:
            return RestartPolicy(condition=RestartCondition.ON_FAILURE)
        case "on-failure" if attempts.isascii() and attempts.isdigit() and len(attempts) < 10:
            return RestartPolicy(condition=RestartCondition.ON_FAILURE, max_attempts=int(attempts))
    return _bad_restart(service, text)


def _bad_restart(service: Fields, text: str) -> RestartPolicy:
    raise service.error(
        "restart", f'is no restart policy: "{text}"; write no, always, unless-stopped or on-failure:3'
    )


def update_config(rules: Fields, key: str) -> UpdateConfig | None:
    fields = rules.fields(key)
    if fields is None:
        return None
    parallelism = fields.whole("parallelism")
    return UpdateConfig(
        parallelism=defaults.UPDATE_PARALLELISM if parallelism is None else parallelism,
        delay=fields.duration("delay") or Duration(0),
        failure_action=fields.one_of("failure_action", FailureAction, known=_ACTIONS)
        or FailureAction.UNSPECIFIED,
        monitor=fields.duration("monitor") or Duration(0),
        max_failure_ratio=fields.ratio("max_failure_ratio"),
        order=fields.one_of("order", UpdateOrder, known=_ORDERS) or UpdateOrder.UNSPECIFIED,
    )
