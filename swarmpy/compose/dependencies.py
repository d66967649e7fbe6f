"""What a service waits for before its first task starts, and whether services wait for one another in a
circle."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Mapping as Mappings
from typing import Final

from swarmpy.compose.fields import Fields
from swarmpy.compose.stack import NamedSpec, StackWarning
from swarmpy.compose.tree import ComposeError
from swarmpy.model.specs import Dependency
from swarmpy.model.states import DependencyCondition, RestartCondition

_CONDITIONS: Final = [condition.value for condition in DependencyCondition if condition]


def dependencies(service: Fields, document: Fields, stack: str) -> tuple[Dependency, ...]:
    defined = document.fields("services")
    found = []
    for name, fields in service.each("depends_on"):
        is_optional = fields.flag("required") is False
        if service.path == f"services.{name}":
            raise service.error("depends_on", "names the service itself: take it away")
        if not is_optional and (defined is None or name not in defined.node.items):
            raise service.error("depends_on", f'names a service that is not there: "{name}"')
        condition = fields.one_of("condition", DependencyCondition, known=_CONDITIONS)
        found.append(
            Dependency(
                service=f"{stack}_{name}",
                condition=condition or DependencyCondition.STARTED,
                optional_=is_optional,
            )
        )
    return tuple(sorted(found, key=lambda dependency: dependency.service))


def check_dependencies(services: Iterable[NamedSpec]) -> list[StackWarning]:
    """Raises for a circle; warns of what will never come true."""
    by_name = {service.spec.name: service for service in services}
    _check_circles(by_name)
    return [
        StackWarning(
            service.at("depends_on"),
            f"services.{service.name} waits for {wanted.name} to complete, which is started again whenever "
            "it ends: give that one deploy.mode: replicated-job, or restart: on-failure",
        )
        for service in by_name.values()
        for dependency in service.spec.depends_on
        if dependency.condition is DependencyCondition.COMPLETED
        and (wanted := by_name.get(dependency.service)) is not None
        and not _can_complete(wanted)
    ]


def _can_complete(service: NamedSpec) -> bool:
    mode, policy = service.spec.mode, service.spec.task_template.restart_policy
    if mode.replicated_job is not None or mode.global_job is not None or mode.cron_job is not None:
        return True
    return policy is not None and policy.condition in (RestartCondition.NONE, RestartCondition.ON_FAILURE)


def _check_circles(by_name: Mappings[str, NamedSpec]) -> None:
    """Walks without recursion: a chain may be as long as there are services."""
    done: set[str] = set()
    for start in by_name:
        path: list[str] = []
        pending = [(start, False)]
        while pending:
            name, is_left = pending.pop()
            if is_left:
                done.add(path.pop())
                continue
            if name in path:
                service = by_name[name]
                circle = [by_name[each].name for each in (*path[path.index(name) :], name)]
                raise ComposeError(
                    service.at("depends_on"),
                    f"services wait for one another in a circle: {' -> '.join(circle)}; take one "
                    "depends_on away",
                )
            if name in done or name not in by_name:
                continue
            path.append(name)
            pending.append((name, True))
            pending += [(each.service, False) for each in by_name[name].spec.depends_on]
