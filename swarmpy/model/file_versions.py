"""Which data of a secret or a config is meant, and what rules references to it keep. Pure.

The data of a secret or config are numbered from 1. A reference either *pins* a number, so that a service's
revision always means the same bytes and a rollback brings the old ones back, or it follows the newest
(number 0) and is reloaded in place. Former data are kept as long as a stored revision pins them.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Collection, Iterable, Iterator
from itertools import pairwise
from posixpath import join, normpath
from typing import Final, NamedTuple

from msgspec.structs import replace

from swarmpy.errors import InvalidArgument
from swarmpy.limits import FILE_VERSIONS_BYTES_MAX, FILE_VERSIONS_MAX
from swarmpy.model.ids import Timestamp
from swarmpy.model.objects import Config, FileVersion, Kind, Secret
from swarmpy.model.specs import ConfigReference, ContainerSpec, Driver, SecretReference, ServiceSpec

File = Secret | Config
Reference = SecretReference | ConfigReference

NEWEST: Final = 0
TEMPLATE_DRIVER: Final = "golang"
SECRETS_FOLDER: Final = "/run/secrets"

_ACCOUNT_MAX: Final = 2**32 - 2
"""The kernel's last number means 'unchanged'."""
_DIGITS: Final = 10

_REAL_TIME_SIGNAL = re.compile(r"SIGRTM(IN\+|AX-)([0-9]{1,2})")


class Pin(NamedTuple):
    """One version of the data of a secret or config."""

    kind: Kind
    id: str
    number: int


def kind_of(item: File) -> Kind:
    return Kind.SECRET if isinstance(item, Secret) else Kind.CONFIG


def data_number(item: File) -> int:
    """The number of the newest data; what was stored before there were numbers has the first."""
    return item.number or 1


def numbers_of(item: File) -> tuple[int, ...]:
    """Of all data that are kept, oldest first."""
    return (*(each.number for each in item.older), data_number(item))


def data_of(item: File, number: int) -> bytes | None:
    """The data of that number, ``NEWEST`` for the newest; None if they are not kept."""
    if number in (NEWEST, data_number(item)):
        return item.spec.data
    return next((each.data for each in item.older if each.number == number), None)


def target_of(reference: Reference) -> tuple[Kind, str]:
    """What a reference refers to."""
    if isinstance(reference, SecretReference):
        return Kind.SECRET, reference.secret_id
    return Kind.CONFIG, reference.config_id


def name_in(reference: Reference) -> str:
    return reference.secret_name if isinstance(reference, SecretReference) else reference.config_name


def place_of(reference: Reference) -> str:
    """Where the file is in the task: absolute, without ``..``. It is decided here, and nowhere later."""
    name = (reference.file.name if reference.file is not None else "") or name_in(reference)
    folder = SECRETS_FOLDER if isinstance(reference, SecretReference) else "/"
    return "/" + normpath(join(folder, name)).lstrip("/")


def references_of(spec: ServiceSpec) -> Iterator[Reference]:
    container = spec.task_template.container_spec
    if container is not None:
        yield from references_in(container)


def references_in(container: ContainerSpec) -> Iterator[Reference]:
    yield from container.secrets
    yield from container.configs


def pins_of(spec: ServiceSpec) -> frozenset[Pin]:
    return frozenset(
        Pin(*target_of(each), each.version) for each in references_of(spec) if each.version != NEWEST
    )


# --- changes


def with_data(item: File, data: bytes, *, now: Timestamp, pinned: Collection[int]) -> File:
    """The item with newer data. Of the former those in ``pinned`` are kept.

    Raises InvalidArgument if more would have to be kept than one object may hold.
    """
    put_at = item.data_at or item.created_at
    former = FileVersion(number=data_number(item), data=item.spec.data, created_at=put_at)
    older = tuple(each for each in (*item.older, former) if each.number in pinned)
    size = len(data) + sum(len(each.data) for each in older)
    if len(older) > FILE_VERSIONS_MAX or size > FILE_VERSIONS_BYTES_MAX:
        raise InvalidArgument(
            f"{kind_of(item)} {item.spec.name} cannot take newer data: with the {len(older)} versions that "
            f"services may still be rolled back to it would have {size} bytes, and at most "
            f"{FILE_VERSIONS_MAX} versions and {FILE_VERSIONS_BYTES_MAX} bytes are kept; create another "
            f"{kind_of(item)} and move the services to it"
        )
    number = former.number + 1
    if isinstance(item, Secret):
        spec = replace(item.spec, data=data)
        return replace(item, spec=spec, number=number, older=older, data_at=now)
    return replace(item, spec=replace(item.spec, data=data), number=number, older=older, data_at=now)


def without_unpinned(item: File, pinned: Collection[int]) -> File:
    """The item without former data that nothing can go back to; the same object if there are none."""
    older = tuple(each for each in item.older if each.number in pinned)
    return item if len(older) == len(item.older) else replace(item, older=older)


def moved_to_newest(spec: ServiceSpec, item: File) -> ServiceSpec:
    """The spec with what it pins of the item at the item's newest data."""
    container = spec.task_template.container_spec
    if container is None:
        return spec
    key, number = (kind_of(item), item.id), data_number(item)

    def is_moved(reference: Reference) -> bool:
        return target_of(reference) == key and reference.version != NEWEST

    container = replace(
        container,
        secrets=tuple(replace(e, version=number) if is_moved(e) else e for e in container.secrets),
        configs=tuple(replace(e, version=number) if is_moved(e) else e for e in container.configs),
    )
    return replace(spec, task_template=replace(spec.task_template, container_spec=container))


# --- rules


def check_reference(reference: Reference) -> None:
    """What is wrong with a reference by itself."""
    what = f"{target_of(reference)[0]} {name_in(reference)}"
    if reference.file is not None:
        account_number(reference.file.uid, "uid", what)
        account_number(reference.file.gid, "gid", what)
        if "\0" in reference.file.name:
            raise InvalidArgument(f"the target of {what} cannot hold the NUL character")
        if ".." in reference.file.name.split("/"):
            raise InvalidArgument(
                f'the target of {what} leaves its folder: "{reference.file.name}"; give a path without ".."'
            )
    if reference.version < 0:
        raise InvalidArgument(f"the version of {what} cannot be negative")
    if not reference.reload_signal:
        return
    if reference.version != NEWEST:
        raise InvalidArgument(
            f"{what} cannot both stay at version {reference.version} and be reloaded: leave one of them out"
        )
    if signal_number(reference.reload_signal) is None:
        raise InvalidArgument(f"invalid reload signal {reference.reload_signal} of {what}: try HUP or USR1")


def check_places(references: Iterable[Reference]) -> None:
    """No file takes the place of another, or of the folder that another is in."""
    places = [(place_of(each), each) for each in references if each.file is not None]
    places.sort(key=lambda each: each[0].split("/"))
    for (upper, first), (lower, second) in pairwise(places):
        if lower == upper or lower.startswith(f"{upper}/"):
            names = " and ".join(f"{target_of(each)[0]} {name_in(each)}" for each in (first, second))
            raise InvalidArgument(
                f"{names} cannot both be in the task: one is to be {upper}, the other {lower}; give one of "
                "them another target"
            )


def account_number(text: str, field: str, what: str) -> int:
    """A uid or gid, which docker's API has as text; nothing stands for 0."""
    if not text:
        return 0
    if not (text.isascii() and text.isdecimal()) or len(text) > _DIGITS or int(text) > _ACCOUNT_MAX:
        raise InvalidArgument(f"invalid {field} {text!r} of {what}: give a number up to {_ACCOUNT_MAX}")
    return int(text)


def check_templating(templating: Driver | None) -> None:
    if templating is not None and templating.name != TEMPLATE_DRIVER:
        raise InvalidArgument(
            f"unrecognized template driver {templating.name!r}: only {TEMPLATE_DRIVER!r} is there"
        )


def signal_number(name: str) -> int | None:
    """``HUP``, ``SIGHUP``, ``1``, ``SIGRTMIN+3``; None for what is no signal."""
    if name.isascii() and name.isdecimal():
        return int(name) if 0 < int(name) < signal.NSIG else None
    upper = name.upper()
    full = upper if upper.startswith("SIG") else f"SIG{upper}"
    if found := _REAL_TIME_SIGNAL.fullmatch(full):
        offset = int(found[2])
        number = signal.SIGRTMIN + offset if found[1] == "IN+" else signal.SIGRTMAX - offset
        return number if signal.SIGRTMIN <= number <= signal.SIGRTMAX else None
    member = signal.Signals.__members__.get(full)
    return None if member is None else int(member)
