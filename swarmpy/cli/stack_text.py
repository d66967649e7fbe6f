"""Plans as people read them."""

from __future__ import annotations

from swarmpy.cli.stack_plan import Action, Kind, Plan, Standing, Step, stored_spec, wished_spec
from swarmpy.compose import Stack

_SIGNS = {Action.CREATE: "+", Action.UPDATE: "~", Action.REMOVE: "-"}


def show_plan(plan: Plan, standing: Standing, stack: Stack) -> None:
    """A line for each object, and below it why."""
    for step in plan.changes:
        print(f"{step.action} {step.kind} {step.name}")
        for reason in (*step.reasons, *_consequence(step, plan, standing, stack)):
            print(f"    {reason}")
    for step in plan.steps:
        if step.action is Action.KEEP and step.reasons:
            print(f"keep {step.kind} {step.name}\n    {step.reasons[0]}")
    count = {action: sum(step.action is action for step in plan.steps) for action in Action}
    print(
        f"{count[Action.CREATE]} to create, {count[Action.UPDATE]} to update, "
        f"{count[Action.REMOVE]} to remove, {count[Action.KEEP]} unchanged"
    )


def show_diff(plan: Plan, standing: Standing, stack: Stack) -> None:
    """Only what changes: ``+`` is made, ``-`` removed, ``~`` changed, with a line for each field."""
    for step in plan.changes:
        print(f"{_SIGNS[step.action]} {step.kind} {step.name}")
        if step.action is Action.UPDATE:
            for reason in step.reasons:
                print(f"    {reason}")


def _consequence(step: Step, plan: Plan, standing: Standing, stack: Stack) -> list[str]:
    """What an update means for tasks that run."""
    if step.kind is not Kind.SERVICE or step.action is not Action.UPDATE:
        return []
    from manager.reconcile.outdated import concerns_tasks

    newer = {(each.kind, each.name) for each in plan.steps if each.has_new_data}
    service = next(each for each in stack.services if each.spec.name == step.name)
    old = stored_spec(standing.of(Kind.SERVICE)[step.name], standing)
    new = wished_spec(service.spec, old, standing, newer)
    if concerns_tasks(old, new):
        return ["-> its tasks are replaced, as its update_config says"]
    return ["-> no task is restarted"]
