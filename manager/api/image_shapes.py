"""Docker's shapes of images, and of what happens to them. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from manager.api.docker_json import Json, rfc3339
from manager.api.image_filters import labels_of
from swarmpy.image_events import ImageEvent
from swarmpy.model.ids import SECOND_NS
from swarmpy.model.images import Image, ImageRemoval, Progress

_NO_VIRTUAL_SIZE_SINCE: Final = (1, 44)
_NO_PLACEHOLDERS_SINCE: Final = (1, 43)
_NO_CONTAINER_SINCE: Final = (1, 45)
_BAR_CHARS: Final = 50
_UNITS: Final = ("B", "kB", "MB", "GB", "TB")
_CONFIG: Final[tuple[tuple[str, Any], ...]] = (
    ("Hostname", ""),
    ("Domainname", ""),
    ("User", ""),
    ("AttachStdin", False),
    ("AttachStdout", False),
    ("AttachStderr", False),
    ("Tty", False),
    ("OpenStdin", False),
    ("StdinOnce", False),
    ("Env", None),
    ("Cmd", None),
    ("Image", ""),
    ("Volumes", None),
    ("WorkingDir", ""),
    ("Entrypoint", None),
    ("OnBuild", None),
    ("Labels", None),
)
_CONFIG_IF_SET: Final = ("ExposedPorts", "Healthcheck", "ArgsEscaped", "StopSignal", "StopTimeout", "Shell")

Version = tuple[int, ...]


def summary(image: Image, version: Version, *, is_shared_size: bool = False, users: int = -1) -> Json:
    is_nameless = not image.tags and not image.digests
    has_placeholders = is_nameless and version < _NO_PLACEHOLDERS_SINCE
    shape: Json = {
        "Containers": users,
        "Created": image.created_at // SECOND_NS,
        "Id": image.id,
        "Labels": labels_of(image),
        "ParentId": "",
        "RepoDigests": ["<none>@<none>"] if has_placeholders else list(image.digests),
        "RepoTags": ["<none>:<none>"] if has_placeholders else list(image.tags),
        "SharedSize": image.shared_bytes if is_shared_size else -1,
        "Size": image.size_bytes,
    }
    if version < _NO_PLACEHOLDERS_SINCE:
        shape["RepoDigests"] = shape["RepoDigests"] or None
        shape["RepoTags"] = shape["RepoTags"] or None
    if version < _NO_VIRTUAL_SIZE_SINCE:
        shape["VirtualSize"] = image.size_bytes
    return shape


def details(image: Image, version: Version) -> Json:
    config = image.config
    shape: Json = {
        "Id": image.id,
        "RepoTags": list(image.tags),
        "RepoDigests": list(image.digests),
        "Parent": "",
        "Comment": _comment(config),
        "Created": image.created,
        "DockerVersion": _text(config, "docker_version"),
        "Author": _text(config, "author"),
        "Config": _container_config(config.get("config")),
        "Architecture": _text(config, "architecture"),
        "Os": _text(config, "os") or "linux",
        "Size": image.size_bytes,
        "GraphDriver": {"Data": _folders(image), "Name": "overlay2"},
        "RootFS": {"Type": "layers", **({"Layers": list(image.diff_ids)} if image.diff_ids else {})},
        "Metadata": {"LastTagTime": rfc3339(image.tagged_at)},
    }
    for name, key in (("Variant", "variant"), ("OsVersion", "os.version")):
        if text := _text(config, key):
            shape[name] = text
    if version < _NO_CONTAINER_SINCE:
        shape["Container"] = _text(config, "container")
        shape["ContainerConfig"] = _container_config(config.get("container_config"))
    if version < _NO_VIRTUAL_SIZE_SINCE:
        shape["VirtualSize"] = image.size_bytes
    return shape


def _text(config: Json, key: str) -> str:
    value = config.get(key)
    return value if isinstance(value, str) else ""


def _comment(config: Json) -> str:
    """Where there is none, that of the last step."""
    history = config.get("history")
    last = history[-1] if isinstance(history, list) and history else None
    return _text(config, "comment") or (_text(last, "comment") if isinstance(last, dict) else "")


def _container_config(value: object) -> Json:
    given = value if isinstance(value, dict) else {}
    shape = {name: given.get(name, default) for name, default in _CONFIG}
    shape = {name: default if shape[name] is None else shape[name] for name, default in _CONFIG}
    shape.update((name, given[name]) for name in _CONFIG_IF_SET if given.get(name))
    return shape


def _folders(image: Image) -> Json:
    """What lies where; there is no merged folder before a task has one."""
    if not image.layer_dirs:
        return {}
    *lower, upper = image.layer_dirs
    return {"UpperDir": upper, **({"LowerDir": ":".join(reversed(lower))} if lower else {})}


def history(image: Image) -> list[Json]:
    """Newest first; the layers are those of the steps that made one."""
    steps = image.config.get("history")
    rows = [step for step in steps if isinstance(step, dict)] if isinstance(steps, list) else []
    sizes = iter(image.layer_sizes)
    shapes = []
    for step in rows:
        size = 0 if step.get("empty_layer") else next(sizes, 0)
        shapes.append(
            {
                "Comment": _text(step, "comment"),
                "Created": _seconds(_text(step, "created")),
                "CreatedBy": _text(step, "created_by"),
                "Id": "<missing>",
                "Size": size,
                "Tags": None,
            }
        )
    shapes.reverse()
    if shapes:
        shapes[0] |= {"Id": image.id, "Tags": list(image.tags) or None}
    return shapes


def _seconds(text: str) -> int:
    try:
        return int(datetime.fromisoformat(text).timestamp())
    except (ValueError, OverflowError):
        return -62135596800  # the year 1, which is Go's time of nothing


def removal(removed: ImageRemoval) -> list[Json]:
    return [
        *({"Untagged": name} for name in removed.untagged),
        *({"Deleted": id_} for id_ in removed.deleted),
    ]


def progress(step: Progress) -> Json:
    """A line of a pull's or a push's story."""
    shape: Json = {"status": step.status} if step.status else {}
    if step.is_measured:
        shape["progressDetail"] = {"current": step.current, "total": step.total} if step.total else {}
    if step.total:
        shape["progress"] = progress_bar(step.current, step.total)
    if step.id:
        shape["id"] = step.id
    if step.aux is not None:
        shape["aux"] = step.aux
    return shape


def progress_bar(current: int, total: int) -> str:
    """``[=====>     ]  1.2MB/3.4MB``, as clients print it."""
    done = min(current * _BAR_CHARS // total, _BAR_CHARS) if total else 0
    bar = "=" * done + ">" + " " * (_BAR_CHARS - done) if done < _BAR_CHARS else "=" * _BAR_CHARS + ">"
    if current > total:
        return f"[{bar}] {amount(current):>8}"
    return f"[{bar}] {amount(current):>8}/{amount(total)}"


def amount(size: int) -> str:
    """Four digits and a unit of thousands."""
    value = float(size)
    for unit in _UNITS:
        if value < 1_000 or unit == _UNITS[-1]:
            return f"{value:.4g}{unit}"
        value /= 1_000
    raise AssertionError("the last unit is for all that is left")


def failure(text: str) -> Json:
    return {"errorDetail": {"message": text}, "error": text}


def event(told: ImageEvent) -> Json:
    """With the fields of old that clients of docker still read."""
    return {
        "status": told.action,
        **({"id": told.id} if told.id else {}),
        "Type": "image",
        "Action": told.action,
        "Actor": {"ID": told.id, "Attributes": dict(sorted(told.attributes.items()))},
        "scope": "local",
        "time": told.at // SECOND_NS,
        "timeNano": told.at,
    }
