"""A real registry server (Debian's ``docker-registry``) on this machine's loopback, with a folder of its own.

With a user and a password it wants them for everything.
"""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from ports import free_port

START_TIMEOUT_S = 20.0
POLL_S = 0.05
USER, PASSWORD = "joe", "secret"
_HTPASSWD = "joe:$2b$05$CPEzdb2YrdjFal5Ik70Rte0CPSfS4HSGB.MpHnJgmO3xho96wBIkC\n"
"""Of that user and password, made by bcrypt with the least work."""

_CONFIG = """
version: 0.1
log:
  level: error
storage:
  filesystem:
    rootdirectory: {data}
http:
  addr: 127.0.0.1:{port}
"""
_AUTH = """
auth:
  htpasswd:
    realm: basic-realm
    path: {folder}/htpasswd
"""


class RegistryServer(NamedTuple):
    """``host`` is what image names begin with."""

    host: str
    folder: Path


def has_registry() -> bool:
    return shutil.which("docker-registry") is not None


@contextmanager
def registry_server(
    *,
    is_locked: bool = False,
    inside: tuple[str, ...] = (),
    port: int = 0,
    data: Path | None = None,
) -> Iterator[RegistryServer]:
    """``inside``: the command that enters another network namespace; then ``port`` is given."""
    with tempfile.TemporaryDirectory(prefix="registry-") as name:
        folder = Path(name)
        port = port or free_port()
        (folder / "htpasswd").write_text(_HTPASSWD)
        config = _CONFIG + (_AUTH if is_locked else "")
        (folder / "config.yml").write_text(
            config.format(folder=folder, port=port, data=data or folder / "data")
        )
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [*inside, "docker-registry", "serve", str(folder / "config.yml")],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "OTEL_TRACES_EXPORTER": "none"},
            )
        try:
            _wait(process, port, inside, folder)
            yield RegistryServer(f"127.0.0.1:{port}", folder)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def _wait(process: subprocess.Popen[bytes], port: int, inside: tuple[str, ...], folder: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not _answers(port, inside):
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"docker-registry did not start: {(folder / 'log').read_text()[-2_000:]}")
        time.sleep(POLL_S)


def _answers(port: int, inside: tuple[str, ...]) -> bool:
    if inside:
        curl = ["curl", "-s", "-o", "/dev/null", f"http://127.0.0.1:{port}/v2/"]
        return subprocess.run([*inside, *curl], check=False).returncode == 0
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
    try:
        connection.request("GET", "/v2/")
        return connection.getresponse().status < 500
    except OSError:
        return False
    finally:
        connection.close()
