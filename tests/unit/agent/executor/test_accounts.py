"""Users and groups as Docker finds them in the root file system's own files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.executor.native.shim import inner
from agent.executor.native.shim.accounts import UnknownAccount, resolve

PASSWD = "root:x:0:0:root:/root:/bin/sh\napp:x:10:20:An app:/home/app:/bin/sh\nbroken\n7:x:70:70::/seven:/x\n"
GROUP = "root:x:0:\nstaff:x:50:app,other\nwheel:x:60:other,app\nbroken\n"


@pytest.mark.parametrize(
    ("user", "extra", "expected"),
    [
        ("", [], (0, 0, [0], "/root")),
        ("root", [], (0, 0, [0], "/root")),
        ("app", [], (10, 20, [20, 50, 60], "/home/app")),
        ("10", [], (10, 20, [20, 50, 60], "/home/app")),
        ("app:staff", [], (10, 50, [50], "/home/app")),
        ("app:1234", [], (10, 1234, [1234], "/home/app")),
        ("4321", [], (4321, 0, [0], "/")),
        ("4321:99", ["wheel", "5"], (4321, 99, [5, 60, 99], "/")),
        ("7", [], (7, 0, [0], "/")),  # a number is an id, whatever names there are
        (":staff", [], (0, 50, [50], "/root")),
    ],
)
def test_lookup(user: str, extra: list[str], expected: tuple[int, int, list[int], str]) -> None:
    found = resolve(user, extra, PASSWD, GROUP)
    assert (found.uid, found.gid, found.groups, found.home) == expected


@pytest.mark.parametrize(
    ("user", "extra", "text"),
    [
        ("ghost", [], "unable to find user ghost: no matching entries in passwd file"),
        ("app:ghosts", [], "unable to find group ghosts: no matching entries in group file"),
        ("app", ["ghosts"], "Unable to find group ghosts: no matching entries in group file"),
        ("broken", [], "unable to find user broken: no matching entries in passwd file"),
        ("-1", [], "uids and gids must be in range 0-2147483647"),
    ],
)
def test_unknown(user: str, extra: list[str], text: str) -> None:
    with pytest.raises(UnknownAccount) as caught:
        resolve(user, extra, PASSWD, GROUP)
    assert str(caught.value) == text


def test_a_root_without_the_files() -> None:
    found = resolve("", [], "", "")
    assert (found.uid, found.gid, found.home) == (0, 0, "/")
    with pytest.raises(UnknownAccount):
        resolve("app", [], "", "")


def test_a_file_of_accounts_may_be_anything(tmp_path: Path) -> None:
    """A task can replace its own; whoever runs a command in it neither waits for it nor reads without end."""
    os.mkfifo(tmp_path / "pipe")
    assert inner.read_accounts(str(tmp_path / "pipe")) == ""
    assert inner.read_accounts("/dev/zero") == ""
    assert inner.read_accounts(str(tmp_path)) == ""
    assert inner.read_accounts(str(tmp_path / "none")) == ""
    (tmp_path / "passwd").write_bytes(b"root:x:0:0:\xff:/root:/bin/sh\n")
    assert inner.read_accounts(str(tmp_path / "passwd")).startswith("root:x:0:0:")
    (tmp_path / "huge").touch()
    os.truncate(tmp_path / "huge", 1 << 40)
    assert len(inner.read_accounts(str(tmp_path / "huge"))) < 1 << 24
