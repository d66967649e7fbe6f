"""deploy/bootstrap.sh: quick and silent when nothing is to do, asks apt for exactly what is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "deploy" / "bootstrap.sh"
BASICS = ("sh", "dirname", "id", "find", "env", "touch", "rm", "sed")
TOOLS = ("ip", "nft", "unshare", "mount", "ps", "ping")


class Checkout:
    """A checkout in a folder of its own, with a PATH that holds only what the test puts there."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.bin = root / "bin"
        self.calls = root / "calls"
        for folder in (root / "deploy", self.bin, root / ".venv" / "bin"):
            folder.mkdir(parents=True)
        # The system's own folders would bring tools that the test wants to be missing.
        text = SCRIPT.read_text().replace(":/usr/local/sbin:/usr/sbin:/sbin", "")
        (root / "deploy" / "bootstrap.sh").write_text(text)
        for name in ("pyproject.toml", "uv.lock"):
            (root / name).touch()
        for name in BASICS:
            found = shutil.which(name)
            assert found is not None
            (self.bin / name).symlink_to(found)

    def add(self, path: str, script: str = "exit 0") -> None:
        target = self.root / path
        target.write_text(f"#!/bin/sh\n{script}\n")
        target.chmod(0o755)

    def add_tools(self, *names: str) -> None:
        for name in names:
            self.add(f"bin/{name}")

    def run(self) -> subprocess.CompletedProcess[str]:
        argv = ["sh", str(self.root / "deploy" / "bootstrap.sh")]
        environment = {"PATH": str(self.bin), "CALLS": str(self.calls), "BIN": str(self.bin)}
        return subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)

    def called(self) -> list[str]:
        return self.calls.read_text().splitlines() if self.calls.exists() else []


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    made = Checkout(tmp_path)
    made.add("bin/apt-get", 'echo "$@" >>"$CALLS"')
    made.add("bin/sudo", '"$@"')
    made.add(".venv/bin/python")
    made.add(".venv/bin/uv", 'echo "uv $*" >>"$CALLS"')
    return made


def make_current(checkout: Checkout) -> None:
    stamp = checkout.root / ".venv" / ".bootstrapped"
    stamp.touch()
    later = max(path.stat().st_mtime for path in checkout.root.rglob("*")) + 10
    os.utime(stamp, (later, later))


def test_nothing_to_do_is_silent(checkout: Checkout) -> None:
    checkout.add_tools(*TOOLS)
    make_current(checkout)

    done = checkout.run()

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert checkout.called() == []


def test_exactly_the_missing_packages_are_installed(checkout: Checkout) -> None:
    checkout.add_tools("ip", "unshare", "mount", "ping")
    make_current(checkout)

    assert checkout.run().returncode == 0

    update, install = checkout.called()
    assert update.split()[-1] == "update"
    assert install.split()[-3:] == ["install", "nftables", "procps"]


def test_python_is_installed_when_there_is_none_and_uv_takes_what_is_locked(checkout: Checkout) -> None:
    checkout.add_tools(*TOOLS)
    python = 'printf \'#!/bin/sh\\nexit 0\\n\' >"$BIN/python3"; /bin/chmod +x "$BIN/python3"'
    checkout.add("bin/apt-get", f'echo "$@" >>"$CALLS"; case "$*" in *python3-venv*) {python};; esac')

    done = checkout.run()

    assert done.returncode == 0, done.stderr
    assert [call.split()[-2:] for call in checkout.called()[1:2]] == [["python3", "python3-venv"]]
    assert checkout.called()[-1].startswith("uv sync -q --frozen")
    assert (checkout.root / ".venv" / ".bootstrapped").exists()


def test_a_changed_lock_is_installed_again(checkout: Checkout) -> None:
    checkout.add_tools(*TOOLS, "python3")
    make_current(checkout)
    stamp = (checkout.root / ".venv" / ".bootstrapped").stat().st_mtime
    os.utime(checkout.root / "uv.lock", (stamp + 10, stamp + 10))

    assert checkout.run().returncode == 0

    assert [call.split()[:2] for call in checkout.called()] == [["uv", "sync"]]


def test_without_apt_it_says_what_to_install(checkout: Checkout) -> None:
    checkout.add_tools("ip", "unshare", "mount", "ps", "ping")
    (checkout.root / "bin" / "apt-get").unlink()
    make_current(checkout)

    done = checkout.run()

    assert done.returncode == 1
    assert "Please install nftables" in done.stderr
