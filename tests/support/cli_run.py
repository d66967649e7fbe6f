"""The CLI as a user has it: one command line in, exit code and both outputs out."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from swarmpy.cli.app import main


@dataclass
class Result:
    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


class Run:
    """``run("service", "ls")``"""

    def __init__(self, address: str, capsys: pytest.CaptureFixture[str]) -> None:
        self.address = address
        self._capsys = capsys

    def __call__(self, *argv: str, address: str = "") -> Result:
        self._capsys.readouterr()
        code = main(argv, {"SWARMPY_HOST": address or self.address, "HOME": "/root"})
        out, err = self._capsys.readouterr()
        return Result(code, out, err)
