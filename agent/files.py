"""What this node knows of secrets and configs, and what a task's files are made of. In memory only.

Managers send what the node's tasks use and take it back when the last of them cannot run any more; nothing
here is written down, so after a restart it comes with the first COMPLETE set. Until then a task that needs
files waits; afterwards what is not there is not there.

Templates in secrets and configs are those of the environment, and three functions: ``env "NAME"`` of the
task's own environment, ``secret "target"`` and ``config "target"`` for other files of the same task.
"""

from __future__ import annotations

from collections.abc import Iterable

from agent import environment, templates
from agent.environment import NodeContext
from agent.events import AssignmentChange
from agent.executor.base import LaunchFile
from swarmpy.errors import InvalidArgument, TaskRejected
from swarmpy.model.file_versions import (
    NEWEST,
    TEMPLATE_DRIVER,
    File,
    Reference,
    account_number,
    check_places,
    data_number,
    data_of,
    kind_of,
    name_in,
    place_of,
    references_in,
    signal_number,
    target_of,
)
from swarmpy.model.objects import Config, Kind, Revision, Secret, Task
from swarmpy.model.specs import FileTarget

DEFAULT_MODE = 0o444
_MODE_BITS = 0o7777

Followed = tuple[tuple[str, str, int], ...]
"""Kind, id and number of the newest data of each file that a task has reloaded."""


class Files:
    def __init__(self) -> None:
        self._items: dict[tuple[Kind, str], File] = {}
        self.is_settled = False
        """Whether a COMPLETE set has come in this life."""

    @property
    def held(self) -> frozenset[tuple[Kind, str]]:
        """Which secrets and configs the node has now: for checkers."""
        return frozenset(self._items)

    def take(self, item: File) -> None:
        self._items[(kind_of(item), item.id)] = item

    def drop(self, kind: Kind, id_: str) -> None:
        self._items.pop((kind, id_), None)

    def take_complete(self, changes: Iterable[AssignmentChange]) -> None:
        """What is not among these is not this node's any more."""
        self._items.clear()
        self.is_settled = True
        for change in changes:
            if isinstance(change, Secret | Config):
                self.take(change)

    def missing(self, revision: Revision | None) -> str:
        """What tasks of the revision need and this node does not have; empty if it has all."""
        for reference in _mounted(revision):
            if self._data(reference) is None:
                return f"{target_of(reference)[0]} not found: {name_in(reference)}"
        return ""

    def followed(self, revision: Revision | None) -> Followed:
        return tuple(
            (kind.value, id_, data_number(item))
            for reference in _mounted(revision)
            if reference.version == NEWEST
            for kind, id_ in (target_of(reference),)
            if (item := self._items.get((kind, id_))) is not None
        )

    def make(self, task: Task, revision: Revision, node: NodeContext) -> tuple[LaunchFile, ...]:
        """The task's files. Raises TaskRejected where one is not there, or its template is wrong."""
        if why := self.missing(revision):
            raise TaskRejected(why)
        try:
            check_places(_mounted(revision))
        except InvalidArgument as error:
            raise TaskRejected(str(error)) from None
        made = _Making(self, task, revision, node)
        return tuple(made.file(reference) for reference in _mounted(revision))

    def _data(self, reference: Reference) -> bytes | None:
        item = self._items.get(target_of(reference))
        return None if item is None else data_of(item, reference.version) or None

    def item(self, reference: Reference) -> tuple[File, bytes]:
        """For references that are not missing."""
        item = self._items[target_of(reference)]
        return item, data_of(item, reference.version) or b""


def uses_files(revision: Revision | None) -> bool:
    return any(True for _ in _mounted(revision))


def _mounted(revision: Revision | None) -> tuple[Reference, ...]:
    """The references that become files: a credential spec is read by the runtime."""
    container = environment.container_spec(revision)
    return tuple(each for each in references_in(container) if each.file is not None)


class _Making:
    """The files of one task."""

    def __init__(self, files: Files, task: Task, revision: Revision, node: NodeContext) -> None:
        self._files = files
        self._revision = revision
        self._fields = environment.template_fields(task, revision, node)
        self._env = dict(
            entry.partition("=")[::2] for entry in environment.expand_spec(task, revision, node).env
        )

    def file(self, reference: Reference) -> LaunchFile:
        what = f"{target_of(reference)[0]} {name_in(reference)}"
        target = reference.file or FileTarget()
        item, data = self._files.item(reference)
        if item.spec.templating is not None:
            data = self._expanded(item, data, what)
        number = 0
        if reference.reload_signal:
            number = signal_number(reference.reload_signal) or 0
            if not number:
                raise TaskRejected(f"invalid reload signal {reference.reload_signal} of {what}")
        return LaunchFile(
            target=_place(reference),
            data=data,
            uid=_account(target.uid, "uid", what),
            gid=_account(target.gid, "gid", what),
            mode=(target.mode & _MODE_BITS) or DEFAULT_MODE,
            reload_signal=number,
        )

    def _expanded(self, item: File, data: bytes, what: str) -> bytes:
        driver = item.spec.templating.name if item.spec.templating is not None else ""
        if driver != TEMPLATE_DRIVER:
            raise TaskRejected(f"unrecognized template driver {driver!r} of {what}")
        has_secrets = isinstance(item, Secret)

        def secret(target: str) -> str:
            nonlocal has_secrets
            found = self._other(Kind.SECRET, target)
            has_secrets = True
            return found

        functions = {
            "env": lambda name: self._env.get(name, ""),
            "secret": secret,
            "config": lambda target: self._other(Kind.CONFIG, target),
        }
        try:
            return templates.expand(_text(data), self._fields, functions).encode("utf-8", "surrogateescape")
        except TaskRejected as error:
            if has_secrets:
                # what is wrong quotes the text that it is wrong in, and is stored and shown
                raise TaskRejected(
                    f"the template in {what} cannot be expanded; why is not told, since that could show what "
                    "is secret: try the same template in a config, without the secret words"
                ) from None
            raise TaskRejected(f"{what}: {error}") from None

    def _other(self, kind: Kind, target: str) -> str:
        """The data of another file of this task, by its target, as they are."""
        for reference in _mounted(self._revision):
            file = reference.file
            if target_of(reference)[0] is kind and file is not None and file.name == target:
                return _text(self._files.item(reference)[1])
        raise LookupError(f"{kind} target {target} not found")


def _text(data: bytes) -> str:
    """Whatever bytes there are: they come out as they were."""
    return data.decode("utf-8", "surrogateescape")


def _place(reference: Reference) -> str:
    place = place_of(reference)
    if "\0" in place:
        raise TaskRejected(f"the target of {name_in(reference)} cannot hold the NUL character")
    return place


def _account(text: str, what: str, whose: str) -> int:
    try:
        return account_number(text, what, whose)
    except InvalidArgument as error:
        raise TaskRejected(str(error)) from None
