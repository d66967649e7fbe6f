"""What serves Podman for us: what was kept of a former trial, and a disk that takes no more."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import cast

import pytest

from agent.executor.engine.client import Engine
from agent.executor.engine.service import PodmanService
from swarmpy.errors import Unavailable


@pytest.mark.parametrize("kept", [b"\0\0\0\0", b"\xff\xfe", b"/usr/bin/no-such-runtime", b""])
def test_a_choice_that_says_nothing_any_more(tmp_path: Path, kept: bytes) -> None:
    """A power failure tore it, or the program was removed: Podman's own is taken."""
    (tmp_path / "podman.runtime").write_bytes(kept)
    assert PodmanService(tmp_path)._read_choice() == ""


def test_a_choice_is_kept(tmp_path: Path) -> None:
    service = PodmanService(tmp_path)
    service._keep_choice(sys.executable)
    assert PodmanService(tmp_path)._read_choice() == sys.executable


def test_a_wrapper_appears_whole(tmp_path: Path) -> None:
    """A monitor may be reading the former one."""
    service = PodmanService(tmp_path)
    place = Path(service._wrap("/usr/bin/crun"))
    with place.open("rb") as former:
        inode = os.fstat(former.fileno()).st_ino
        assert service._wrap("/usr/bin/crun") == str(place)
        assert place.stat().st_ino != inode
        assert former.read() == place.read_bytes()
    assert os.access(place, os.X_OK)


async def test_where_nothing_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told as an engine that is not there, and a trial that passed has passed."""
    gone = tmp_path / "gone"
    service = PodmanService(gone)
    service._keep_choice("/usr/bin/runc")
    assert service._wrap("/usr/bin/crun") == ""
    monkeypatch.setattr("agent.executor.engine.service.shutil.which", lambda name: f"/usr/bin/{name}")
    with pytest.raises(Unavailable, match="service cannot be started"):
        await service.ensure(cast("Engine", None))
