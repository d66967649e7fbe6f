"""``swarmpy node inspect --pretty``: a node as docker's command shows it."""

from __future__ import annotations

from swarmpy.cli.render import binary_size, capital
from swarmpy.client import Json
from swarmpy.model.executors import EXECUTOR_PLUGIN, FIRST_EXECUTOR
from swarmpy.model.quantities import duration_text

_CPU_NANOS = 1_000_000_000


def pretty(node: Json) -> str:
    spec, description, status = node["Spec"], node.get("Description") or {}, node["Status"]
    lines = [f"ID:\t\t\t{node['ID']}"]
    if spec.get("Name"):
        lines.append(f"Name:\t\t\t{spec['Name']}")
    lines += _labels("Labels", spec.get("Labels"))
    lines += [
        f"Hostname:              \t{description.get('Hostname', '')}",
        f"Joined at:             \t{node['CreatedAt']}",
        "Status:",
        f" State:\t\t\t{capital(status['State'])}",
        f" Availability:         \t{capital(spec.get('Availability', ''))}",
    ]
    if status.get("Message"):
        lines.append(f" Message:\t\t{status['Message']}")
    lines.append(f" Address:\t\t{status.get('Addr', '')}")
    if spec.get("StopAfter"):
        lines.append(f" Stops tasks after:\t{duration_text(spec['StopAfter'])} without a manager")
    lines += _manager(node.get("ManagerStatus"))
    lines += _machine(description)
    return "\n".join(lines)


def _manager(status: Json | None) -> list[str]:
    if not status:
        return []
    return [
        "Manager Status:",
        f" Address:\t\t{status.get('Addr', '')}",
        f" Raft Status:\t\t{capital(status.get('Reachability', ''))}",
        f" Leader:\t\t{'Yes' if status.get('Leader') else 'No'}",
    ]


def _machine(description: Json) -> list[str]:
    platform, has = description.get("Platform") or {}, description.get("Resources") or {}
    engine = description.get("Engine") or {}
    lines = [
        "Platform:",
        f" Operating System:\t{platform.get('OS', '')}",
        f" Architecture:\t\t{platform.get('Architecture', '')}",
        "Resources:",
        f" CPUs:\t\t\t{has.get('NanoCPUs', 0) / _CPU_NANOS:g}",
        f" Memory:\t\t{binary_size(has.get('MemoryBytes', 0))}",
    ]
    generic = [_generic(each) for each in has.get("GenericResources") or ()]
    if generic:
        lines.append(f" Generic:\t\t{', '.join(generic)}")
    if engine.get("Plugins"):
        lines.append("Plugins:")
        by_type: dict[str, list[str]] = {}
        for plugin in engine["Plugins"]:
            if plugin["Type"] != EXECUTOR_PLUGIN:
                by_type.setdefault(plugin["Type"], []).append(plugin["Name"])
        lines += [f" {type_}:\t\t{', '.join(names)}" for type_, names in sorted(by_type.items())]
    lines += [
        f"Engine Version:\t\t{engine.get('EngineVersion', '')}",
        f"Executor:\t\t{executor_of(engine)}",
    ]
    lines += _labels("Engine Labels", engine.get("Labels"))
    volumes = [volume["Name"] for volume in description.get("Volumes") or ()]
    if volumes:
        lines += ["Volumes:", *(f" - {name}" for name in volumes)]
    return lines


def executor_of(engine: Json) -> str:
    """What runs the node's tasks; its daemon may be of before there was more than one."""
    plugins = engine.get("Plugins") or ()
    return next((each["Name"] for each in plugins if each["Type"] == EXECUTOR_PLUGIN), FIRST_EXECUTOR)


def _generic(resource: Json) -> str:
    spec = resource.get("DiscreteResourceSpec") or resource.get("NamedResourceSpec") or {}
    return f"{spec.get('Kind', '')}={spec.get('Value', '')}"


def _labels(title: str, labels: Json | None) -> list[str]:
    if not labels:
        return []
    return [f"{title}:", *(f" - {name}={value}" for name, value in sorted(labels.items()))]
