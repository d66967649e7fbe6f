"""What an image has at an empty volume's place becomes its first content, as with native tasks.

The engine gives the files as an archive, out of a container of the image that is never started: in the task's
own the volume would be in the way. They are unpacked in the task's folder first, and copied by what copies
them for native, with its mark and its lock: a crash in the middle is made good by the next task.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from agent.executor.base import Launch
from agent.executor.engine.body import Around, container_name, copy_body
from agent.executor.engine.client import Engine
from agent.executor.engine.containers import Containers
from agent.executor.native import folders
from agent.executor.native.shim import copy_up
from swarmpy.errors import NotFound, TaskRejected, Unavailable
from swarmpy.limits import IMAGE_BYTES_MAX

_MARK: Final = "copying"
_IGNORED: Final = ("lost+found",)
_KINDS: Final = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE)


def is_to_be_filled(volume: str) -> bool:
    """Blocks. Empty, or a former filling was broken off."""
    try:
        has_files = any(name not in _IGNORED for name in os.listdir(volume))
    except FileNotFoundError:
        return False
    return not has_files or os.path.exists(os.path.join(os.path.dirname(volume), _MARK))


@dataclass(kw_only=True)
class Filler:
    engine: Engine
    containers: Containers
    run: Callable[[Callable[[], Any]], Awaitable[Any]]

    async def fill(self, launch: Launch, around: Around, wanted: list[tuple[str, str]]) -> None:
        """``wanted``: volumes' folders, and where the task has them."""
        name = f"{container_name(launch)}.copy"
        image = launch.image.digest or launch.image.reference
        container = await self.containers.make(name, copy_body(image, launch.task_id, around))
        work = Path(around.folder, "filling")
        try:
            for volume, target in wanted:
                await self.run(partial(_clear, work))
                if not await self._fetch(container, "archive", work / "archive", {"path": target}):
                    continue  # the image has nothing there
                below = os.path.basename(os.path.normpath(target))
                if self.engine.flavour == "podman":  # its archives of a folder have root for every owner
                    await self._fetch(container, "export", work / "archive", {})
                    below = os.path.normpath(target).lstrip("/")
                await self.run(partial(_fill, work, below, volume))
        finally:
            await self.run(partial(folders.remove_tree, work))
            await self.containers.remove(container)

    async def _fetch(self, container: str, what: str, place: Path, params: dict[str, str]) -> bool:
        """False: there is no such thing."""
        size = 0
        try:
            with await self.run(partial(open, place, "wb")) as file:
                async with self.engine.stream(
                    "GET", f"/containers/{container}/{what}", params=params
                ) as answer:
                    async for piece in self.engine.chunks(answer):
                        size += len(piece)
                        if size > IMAGE_BYTES_MAX:
                            raise TaskRejected("what the image has for a volume is too much to be copied")
                        await self.run(partial(file.write, piece))
        except NotFound:
            return False
        except OSError as error:
            raise Unavailable(f"what the image has for a volume cannot be copied: {error.strerror}") from None
        return True


def _clear(work: Path) -> None:
    folders.remove_tree(work)
    work.mkdir(mode=0o700)


def _fill(work: Path, below: str, volume: str) -> None:
    """``below``: the folder's name in the archive. Only a folder is copied; a link could lead anywhere on the
    node. Blocks."""
    files = work / "files"
    files.mkdir()
    try:
        with tarfile.open(work / "archive") as opened:
            wanted = [member for member in opened if _is_below(member.name, below)]
            opened.extractall(files, wanted, filter=_as_it_is, numeric_owner=True)
        top = files
        for name in below.split("/"):
            top = top / name
            if top.is_symlink() or not top.is_dir():
                return
        copy_up.fill(str(top), volume)
    except (OSError, tarfile.TarError) as error:
        raise Unavailable(f"what the image has for a volume cannot be copied: {error}") from None


def _is_below(name: str, folder: str) -> bool:
    name = os.path.normpath(name.lstrip("/"))
    return name == folder or name.startswith(f"{folder}/")


def _as_it_is(member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo | None:
    """Nothing outside of the folder, no device files; owners and modes as they are, set-uid bits too."""
    if member.type not in _KINDS:
        return None
    safe = tarfile.tar_filter(member, folder)
    return safe.replace(mode=member.mode, deep=False)
