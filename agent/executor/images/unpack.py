"""Unpacking one layer's tar into a folder, for use as a lower folder of an overlay.

Decides what a member may do. Refused: a path or hard link that leaves the layer (``..``, absolute links on
the way), a member below something that is not a folder, more bytes or members than allowed. An absolute
member name is taken as relative, as every tar does. Whiteouts become overlayfs's own: ``.wh.x`` a 0:0
character device ``x``, ``.wh..wh..opq`` the mark ``trusted.overlay.opaque`` on its folder.

The folder must be private to the caller: it is not guarded against others writing to it meanwhile.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tarfile
from pathlib import Path
from typing import IO, cast

from agent.executor.images.heads import READ_AHEAD_BYTES, ByteSource, Heads, check, printable
from swarmpy.errors import InvalidArgument
from swarmpy.image_limits import IMAGE_DEPTH_MAX
from swarmpy.limits import IMAGE_BYTES_MAX, IMAGE_LINKS_MAX, IMAGE_MEMBERS_MAX

_WHITEOUT = ".wh."
_RESERVED = ".wh..wh."
_OPAQUE = ".wh..wh..opq"
_OPAQUE_MARK = "trusted.overlay.opaque"
_COPY_BYTES = 1 << 20
_TIME_MAX = 1 << 33
_SHOWN_CHARS = 200
_MALFORMED = (errno.ENAMETOOLONG, errno.EINVAL, errno.ELOOP)
"""What the kernel says to names and attributes that cannot be."""


class Unpacker:
    """One layer being unpacked into ``root``. ``has_whiteouts`` is false for a plain root file system."""

    def __init__(self, root: Path, *, has_whiteouts: bool = True) -> None:
        self._root = str(root)
        self._has_whiteouts = has_whiteouts
        self._known = {""}  # folders below the root known to be real, by relative path
        self._folder_times: list[tuple[str, float]] = []
        self._bytes_left = IMAGE_BYTES_MAX
        self._members_left = IMAGE_MEMBERS_MAX

    def unpack(self, stream: ByteSource) -> None:
        """All members of an uncompressed tar stream."""
        heads = Heads(stream)
        source = cast("IO[bytes]", heads)
        try:
            with tarfile.open(fileobj=source, mode="r|", bufsize=READ_AHEAD_BYTES) as archive:
                for member in archive:
                    check(archive, member)
                    heads.renew(archive.offset - member.offset_data)
                    self._add_or_refuse(archive, member)
        except (tarfile.TarError, EOFError, ValueError, RecursionError) as error:
            raise InvalidArgument(f"the layer is no readable tar archive: {error}") from None
        for path, mtime in reversed(self._folder_times):
            os.utime(path, (mtime, mtime), follow_symlinks=False)

    def _add_or_refuse(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        """InvalidArgument for what is the layer's fault; what is the disk's stays an OSError."""
        try:
            self._add(archive, member)
        except InvalidArgument as error:
            raise InvalidArgument(printable(str(error))) from None
        except (ValueError, OverflowError) as error:
            reason = str(error)
        except OSError as error:
            if error.errno not in _MALFORMED:
                raise
            reason = os.strerror(error.errno)
        else:
            return
        name = printable(member.name[:_SHOWN_CHARS])
        raise InvalidArgument(f'the layer\'s "{name}" cannot be unpacked: {reason}')

    def _add(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        self._members_left -= 1
        self._bytes_left -= member.size
        if self._members_left < 0 or self._bytes_left < 0:
            raise InvalidArgument(
                f"the layer holds more than {IMAGE_MEMBERS_MAX} members or {IMAGE_BYTES_MAX >> 30} GiB"
            )
        parts = _parts(member.name)
        if not parts:
            if member.isdir():
                _set_metadata(self._root, member)
            return
        if len(parts) > IMAGE_DEPTH_MAX:
            raise InvalidArgument(f"the layer has more than {IMAGE_DEPTH_MAX} folders in one another")
        parent = self._resolve(parts[:-1], member.name)
        name = parts[-1]
        if self._has_whiteouts and name.startswith(_WHITEOUT):
            self._add_whiteout(parent, name, member.name)
            return
        self._write(archive, member, parent, name)

    def _add_whiteout(self, parent: str, name: str, shown: str) -> None:
        folder = os.path.join(self._root, parent)
        if name == _OPAQUE:
            os.setxattr(folder, _OPAQUE_MARK, b"y")
            return
        if name.startswith(_RESERVED):
            return  # bookkeeping of file systems of old, no whiteout
        hidden = name.removeprefix(_WHITEOUT)
        if hidden in ("", ".", ".."):
            raise InvalidArgument(f'the layer\'s whiteout "{shown}" names nothing')
        path = os.path.join(folder, hidden)
        # what this same layer adds wins over its own whiteout, which then speaks of the layers below alone
        if _is_folder(path):
            os.setxattr(path, _OPAQUE_MARK, b"y")
        elif not os.path.lexists(path):
            os.mknod(path, stat.S_IFCHR, os.makedev(0, 0))

    def _write(self, archive: tarfile.TarFile, member: tarfile.TarInfo, parent: str, name: str) -> None:
        path = os.path.join(self._root, parent, name)
        relative = f"{parent}/{name}" if parent else name
        if member.isdir():
            if not _is_folder(path):
                self._make_folder(path, relative, 0o700)
            self._known.add(relative)
            self._folder_times.append((path, _time(member)))
        else:
            self._clear(path, relative)
            if not self._write_file(archive, member, path):
                return
        _set_metadata(path, member)

    def _write_file(self, archive: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> bool:
        """Anything but a folder. False if there is nothing left to set on it."""
        if member.islnk():
            target = _parts(member.linkname)
            if not target:
                raise InvalidArgument(f'the layer\'s hard link "{member.name}" points at the root')
            folder = self._resolve(target[:-1], member.name)
            try:
                os.link(os.path.join(self._root, folder, target[-1]), path, follow_symlinks=False)
            except OSError as error:
                raise InvalidArgument(
                    f'the layer\'s hard link "{member.name}" to "{member.linkname}" cannot be made: '
                    f"{error.strerror}"
                ) from None
            return False
        if member.issym():
            os.symlink(member.linkname, path)
        elif member.isfile():
            source = archive.extractfile(member)
            assert source is not None
            with source, open(path, "xb", buffering=0) as file:
                shutil.copyfileobj(source, file, _COPY_BYTES)
        elif member.isfifo():
            os.mkfifo(path, 0o600)
        elif member.ischr() or member.isblk():
            kind = stat.S_IFCHR if member.ischr() else stat.S_IFBLK
            if (member.devmajor, member.devminor) == (0, 0):
                raise InvalidArgument(f'the layer\'s device "{member.name}" would be a whiteout')
            os.mknod(path, kind | 0o600, os.makedev(member.devmajor, member.devminor))
        else:
            raise InvalidArgument(f'the layer\'s member "{member.name}" is of a kind that cannot be unpacked')
        return True

    def _clear(self, path: str, relative: str) -> None:
        """A later member of the same name replaces the earlier."""
        if _is_folder(path):
            shutil.rmtree(path)
            self._known = {known for known in self._known if not f"{known}/".startswith(f"{relative}/")}
        elif os.path.lexists(path):
            os.unlink(path)

    def _make_folder(self, path: str, relative: str, mode: int) -> None:
        """One that comes back in the layer that hides it has none of what was there below."""
        is_anew = _is_whiteout(path)
        self._clear(path, relative)
        os.mkdir(path, mode)
        if is_anew:
            os.setxattr(path, _OPAQUE_MARK, b"y")

    def _resolve(self, parts: list[str], shown: str) -> str:
        """The real folder (relative to the root) for ``parts``, made if missing; links stay inside."""
        joined = "/".join(parts)
        if joined in self._known:
            return joined
        resolved: list[str] = []
        links_left = IMAGE_LINKS_MAX
        todo = list(parts)
        while todo:
            part = todo.pop(0)
            if part == ".":
                continue
            if part == "..":
                if not resolved:
                    raise InvalidArgument(f'the layer\'s member "{shown}" leads out of the image')
                resolved.pop()
                continue
            relative = "/".join([*resolved, part])
            path = os.path.join(self._root, relative)
            if relative in self._known:
                resolved.append(part)
            elif os.path.islink(path):
                links_left -= 1
                target = os.readlink(path)
                if target.startswith("/") or not links_left:
                    raise InvalidArgument(
                        f'the layer\'s member "{shown}" goes through the link "{relative}" to "{target}"'
                    )
                todo = [piece for piece in target.split("/") if piece] + todo
            else:
                self._ensure_folder(path, relative, shown)
                resolved.append(part)
            if len(resolved) > IMAGE_DEPTH_MAX:
                raise InvalidArgument(f"the layer has more than {IMAGE_DEPTH_MAX} folders in one another")
        return "/".join(resolved)

    def _ensure_folder(self, path: str, relative: str, shown: str) -> None:
        if not os.path.lexists(path) or _is_whiteout(path):
            self._make_folder(path, relative, 0o755)
        elif not _is_folder(path):
            raise InvalidArgument(f'the layer\'s "{shown}" lies below "{relative}", which is no folder')
        self._known.add(relative)


def _parts(name: str) -> list[str]:
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts or "\0" in name:
        raise InvalidArgument(f'the layer\'s member "{name}" leads out of the image')
    return parts


def _is_folder(path: str) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False


def _is_whiteout(path: str) -> bool:
    """Ours: a layer's own device files of that number are refused."""
    try:
        found = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == os.makedev(0, 0)


def _set_metadata(path: str, member: tarfile.TarInfo) -> None:
    """Owner first: changing it clears the set-id bits."""
    os.chown(path, member.uid, member.gid, follow_symlinks=False)
    for key, value in member.pax_headers.items():
        if key.startswith("SCHILY.xattr.security.capability"):
            os.setxattr(
                path, "security.capability", value.encode("utf-8", "surrogateescape"), follow_symlinks=False
            )
    if member.issym():
        return
    os.chmod(path, member.mode & 0o7777)
    os.utime(path, (_time(member), _time(member)))


def _time(member: tarfile.TarInfo) -> float:
    """The member's time, kept within what every file system can store."""
    return min(max(float(member.mtime), 0.0), _TIME_MAX)
