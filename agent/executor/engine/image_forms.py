"""Images as an engine tells of them -> images as a node tells of them. Pure.

Podman writes names in full; here they are as docker shows them, but for those under ``localhost``, which say
something. An engine does not give an image's configuration as it came: it is put together from what it says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from agent.executor.engine.log_forms import parse_time
from swarmpy.errors import InvalidArgument
from swarmpy.model import image_names as references
from swarmpy.model.ids import SECOND_NS, Timestamp
from swarmpy.model.images import Image, Progress

_NAMELESS: Final = "<none>"
_ID_CHARS: Final = 64
Json = Mapping[str, Any]


def id_of(said: Json) -> str:
    found = str(said.get("Id") or "")
    return found if found.startswith("sha256:") else f"sha256:{found}"


def full_name(name: str) -> str:
    """With all that goes without saying to docker: to Podman it does not."""
    parsed = references.parse(name)
    if parsed.registry != references.DEFAULT_REGISTRY:
        return str(parsed)
    return f"docker.io/{parsed if '/' in parsed.name else f'library/{parsed}'}"


def shown(name: str) -> str:
    """As docker shows a name or an id."""
    if len(name) == _ID_CHARS and "/" not in name and ":" not in name:
        return f"sha256:{name}"
    try:
        return name if references.is_digest(name) else references.parse(name).key
    except InvalidArgument:
        return name


def names_of(said: Json, key: str) -> tuple[str, ...]:
    """``RepoTags`` or ``RepoDigests``."""
    found = [shown(name) for name in said.get(key) or () if _NAMELESS not in name]
    return tuple(dict.fromkeys(found))


def listed(said: Json, *, users: Sequence[str] = (), running: Sequence[str] = ()) -> Image:
    """A row of the list of images."""
    created = int(said.get("Created") or 0)
    moment = datetime.fromtimestamp(created, UTC).isoformat().replace("+00:00", "Z") if created else ""
    return Image(
        id=id_of(said),
        tags=names_of(said, "RepoTags"),
        digests=names_of(said, "RepoDigests"),
        created=moment,
        created_at=Timestamp(created * SECOND_NS),
        size_bytes=int(said.get("Size") or 0),
        shared_bytes=max(int(said.get("SharedSize") or 0), 0),
        users=tuple(users),
        running=tuple(running),
        config={"config": {"Labels": said.get("Labels")}},
    )


def inspected(
    said: Json, history: Sequence[Json], *, users: Sequence[str] = (), running: Sequence[str] = ()
) -> Image:
    """One image and the steps that made it, newest first."""
    steps = [_step(row) for row in reversed(history)]
    sizes = tuple(int(row.get("Size") or 0) for row in reversed(history) if row.get("Size"))
    rootfs = said.get("RootFS") or {}
    layers = tuple(str(each) for each in rootfs.get("Layers") or ())
    created = str(said.get("Created") or "")
    config = {
        "architecture": said.get("Architecture") or "",
        "os": said.get("Os") or "",
        "variant": said.get("Variant") or "",
        "created": created,
        "author": said.get("Author") or "",
        "comment": said.get("Comment") or "",
        "docker_version": said.get("DockerVersion") or "",
        "container": said.get("Container") or "",
        "container_config": said.get("ContainerConfig"),
        "config": said.get("Config"),
        "history": steps,
        "rootfs": {"type": "layers", "diff_ids": list(layers)},
    }
    return Image(
        id=id_of(said),
        tags=names_of(said, "RepoTags"),
        digests=names_of(said, "RepoDigests"),
        created=created,
        created_at=Timestamp(max(parse_time(created.encode()), 0)),
        size_bytes=int(said.get("Size") or 0),
        diff_ids=layers,
        layer_sizes=sizes,
        layer_dirs=_folders(said),
        tagged_at=Timestamp(max(parse_time(_tagged(said).encode()), 0)),
        users=tuple(users),
        running=tuple(running),
        config=config,
    )


def steps_of_podman(said: Json) -> list[Json]:
    """The history in an image's description by Podman's own API, as docker's clients are told one: newest
    first."""
    return [
        {
            "Created": max(parse_time(str(row.get("created") or "").encode()), 0) // SECOND_NS,
            "CreatedBy": row.get("created_by") or "",
            "Comment": row.get("comment") or "",
        }
        for row in reversed(said.get("History") or ())
    ]


def _step(row: Json) -> dict[str, Any]:
    created = int(row.get("Created") or 0)
    return {
        "created": datetime.fromtimestamp(created, UTC).isoformat(),
        "created_by": row.get("CreatedBy") or "",
        "comment": row.get("Comment") or "",
        **({} if row.get("Size") else {"empty_layer": True}),
    }


def _tagged(said: Json) -> str:
    return str((said.get("Metadata") or {}).get("LastTagTime") or "")


def _folders(said: Json) -> tuple[str, ...]:
    """Lowest first."""
    data = (said.get("GraphDriver") or {}).get("Data") or {}
    lower = [each for each in str(data.get("LowerDir") or "").split(":") if each]
    upper = str(data.get("UpperDir") or "")
    return (*reversed(lower), upper) if upper else ()


def progress(said: Json) -> Progress | None:
    """A line of a pull's or a push's story; None of what is none."""
    status, id_, detail = said.get("status"), said.get("id"), said.get("progressDetail")
    if detail is None and status is None and said.get("aux") is None:
        text = said.get("stream")
        return Progress(status=str(text).rstrip("\n")) if text else None
    counts = detail if isinstance(detail, dict) else {}
    return Progress(
        status=str(status or ""),
        id=str(id_ or ""),
        current=int(counts.get("current") or 0),
        total=int(counts.get("total") or 0),
        is_measured=detail is not None,
        aux=said.get("aux"),
    )
