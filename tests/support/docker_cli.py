"""The docker CLI as it comes: every version of it that this machine has, against any API on a unix socket."""

from __future__ import annotations

import json
import os
import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any, Final

from lab_cli import DEADLINE_S, Said

_PLACES: Final = ("/usr/local/bin/docker", "/usr/bin/docker")


@cache
def docker_programs() -> dict[str, str]:
    """Paths of the docker CLIs, by version."""
    found: dict[str, str] = {}
    for place in _PLACES:
        if Path(place).exists():
            said = subprocess.run([place, "--version"], capture_output=True, text=True, check=True).stdout
            version = re.search(r"version (\d+\.\d+\.\d+)", said)
            assert version is not None, said
            found.setdefault(version[1], place)
    return found


class DockerCli:
    """``docker("node", "ls")``; its settings lie in a folder of its own."""

    def __init__(self, program: str, host: str, folder: Path) -> None:
        self._program = program
        self._folder = folder
        self.host = host

    def at(self, host: str) -> DockerCli:
        return DockerCli(self._program, host, self._folder)

    @property
    def environment(self) -> dict[str, str]:
        folder = str(self._folder)
        return {
            "PATH": f"{Path(self._program).parent}:{os.environ['PATH']}",
            "HOME": folder,
            "DOCKER_CONFIG": folder,
            "DOCKER_HOST": self.host,
        }

    def __call__(
        self, *words: str, text: str = "", timeout_s: float = DEADLINE_S, **environment: str
    ) -> Said:
        done = subprocess.run(
            [self._program, *words],
            env=self.environment | environment,
            input=text,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
        )
        return Said(done.returncode, done.stdout, done.stderr)

    def good(self, *words: str, text: str = "") -> str:
        """Its output; it must succeed."""
        said = self(*words, text=text)
        assert said.code == 0, f"docker {' '.join(words)}: {said}"
        return said.out

    def bad(self, *words: str) -> str:
        """Its error output; it must fail."""
        said = self(*words)
        assert said.code == 1, f"docker {' '.join(words)}: {said}"
        return said.err

    def rows(self, *words: str) -> list[str]:
        """The lines of its output, in order of the alphabet."""
        return sorted(line.strip() for line in self.good(*words).splitlines())

    def json(self, *words: str) -> Any:
        return json.loads(self.good(*words))

    def follow(self, *words: str) -> subprocess.Popen[str]:
        """A command that goes on until it is ended, writing to a pipe."""
        return subprocess.Popen(
            [self._program, *words],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
