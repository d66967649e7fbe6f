"""What runtimes say, as docker says it; which programs serve as an init; what is mounted where."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from agent.executor.oci import roots
from agent.executor.oci.roots import mounts_below
from agent.executor.oci.runtimes import Failure, failure_of, is_hybrid_refusal, is_static

RUNC = "runc create failed: unable to start container process: "


@pytest.mark.parametrize(
    ("said", "name", "expected"),
    [
        (
            RUNC + 'exec: "web": executable file not found in $PATH\n',
            "web",
            Failure("failed", 127, 'exec: "web": executable file not found in $PATH'),
        ),
        (
            RUNC + 'exec: "/web": stat /web: no such file or directory',
            "/web",
            Failure("failed", 127, 'exec: "/web": stat /web: no such file or directory'),
        ),
        (
            RUNC + 'exec: "/bin": permission denied',
            "/bin",
            Failure("failed", 126, 'exec: "/bin": permission denied'),
        ),
        (
            "executable file `web` not found in $PATH: No such file or directory\n",
            "web",
            Failure("failed", 127, 'exec: "web": executable file not found in $PATH'),
        ),
        (
            "executable file `/web` not found in $PATH: No such file or directory\n",
            "/web",
            Failure("failed", 127, 'exec: "/web": stat /web: no such file or directory'),
        ),
        (
            "open executable: Operation not permitted\n",
            "/bin",
            Failure("failed", 126, 'exec: "/bin": permission denied'),
        ),
        (
            'chdir to cwd ("/none") failed: no such file or directory',
            "web",
            Failure("failed", 127, 'chdir to cwd ("/none") failed: no such file or directory'),
        ),
        (
            RUNC + "error mounting proc: operation not permitted",
            "web",
            Failure("rejected", 128, "error mounting proc: operation not permitted"),
        ),
        ("", "web", Failure("rejected", 128, "the runtime ended without a word")),
    ],
)
def test_failures(said: str, name: str, expected: Failure) -> None:
    assert failure_of(said, [name]) == expected


def test_crun_and_both_kinds_of_control_groups() -> None:
    assert is_hybrid_refusal("cgroups in hybrid mode not supported, drop all controllers from cgroupv2\n")
    assert not is_hybrid_refusal("executable file not found")


def test_a_program_that_needs_no_library(tmp_path: Path) -> None:
    assert not is_static(sys.executable)
    assert not is_static(str(tmp_path / "none"))
    text = tmp_path / "script"
    text.write_text("#!/bin/sh\n")
    assert not is_static(str(text))
    head = bytearray(64)
    head[:5] = b"\x7fELF\x02"
    head[32:40] = (64).to_bytes(8, "little")
    head[54:58] = (56).to_bytes(2, "little") + (1).to_bytes(2, "little")
    program = tmp_path / "program"
    program.write_bytes(bytes(head) + (1).to_bytes(4, "little") + bytes(52))
    assert is_static(str(program))
    program.write_bytes(bytes(head) + (3).to_bytes(4, "little") + bytes(52))
    assert not is_static(str(program))


def test_what_is_mounted_below_a_folder() -> None:
    table = (
        b"1 0 8:1 / / rw - ext4 /dev/sda rw\n"
        b"2 1 0:5 / /data/tasks/one/root rw - overlay overlay rw\n"
        b"3 1 0:6 / /data/tasks/one\\040more/root rw - overlay overlay rw\n"
        b"4 1 0:7 / /data/tasks/one/foreign/0 rw - tmpfs tmpfs rw\n"
    )
    assert mounts_below(Path("/data/tasks/one"), table) == [
        "/data/tasks/one/root",
        "/data/tasks/one/foreign/0",
    ]
    assert mounts_below(Path("/data/tasks/one more"), table) == ["/data/tasks/one more/root"]


def test_what_fails_in_a_folder_is_not_lost() -> None:
    def fail() -> None:
        raise ValueError("not of the disk")

    with pytest.raises(ValueError, match="not of the disk"):
        roots._in_folder("/", fail)
