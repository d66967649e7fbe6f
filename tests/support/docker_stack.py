"""What ``docker stack deploy`` makes of Compose files: the services that it would create.

A stand-in engine on a unix socket takes the docker CLI's calls and writes them down.
"""

from __future__ import annotations

import json
import os
import socketserver
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

TIMEOUT_S = 30.0
STACK = "st"
_API_VERSION = "1.50"


class _Engine(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, path: str) -> None:
        super().__init__(path, _Calls)
        self.created: list[tuple[str, Any]] = []

    def get_request(self) -> tuple[Any, Any]:
        request, _ = super().get_request()
        return request, ("local", 0)


class _Calls(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Engine

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer("OK")

    def do_GET(self) -> None:
        path = self._noun()
        one = self.path.partition("?")[0].rpartition(f"/{path}/")[2]
        if path == "networks" and one.startswith("outside"):
            self._answer({"Name": one, "Scope": "swarm", "Driver": "overlay"})
        elif path in ("secrets", "configs", "networks") and not one.startswith("/"):
            self._answer({"message": f"{one} not found"}, status=404)
        elif path in ("secrets", "configs"):
            found = [spec for noun, spec in self.server.created if noun == path]
            self._answer([{"ID": "id-" + spec["Name"], "Spec": spec} for spec in found])
        elif path == "info":
            self._answer({"OSType": "linux", "Swarm": {"LocalNodeState": "active", "ControlAvailable": True}})
        elif path in ("services", "networks", "tasks"):
            self._answer([])
        elif path == "_ping":
            self._answer("OK")
        else:
            self._answer({"message": f"no such page: {self.path}"}, status=404)

    def do_POST(self) -> None:
        spec = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        self.server.created.append((self._noun(), spec))
        self._answer({"ID": "id-" + spec["Name"]}, status=201)

    def _noun(self) -> str:
        first, _, rest = self.path.partition("?")[0].lstrip("/").partition("/")
        return (rest if first.startswith("v1.") else first).partition("/")[0]

    def _answer(self, value: Any, *, status: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Api-Version", _API_VERSION)
        self.send_header("Ostype", "linux")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def config(docker: str, files: list[str], *, folder: Path, variables: Mapping[str, str]) -> str:
    """What ``docker stack config`` makes of the files."""
    done = subprocess.run(
        [docker, "stack", "config", *(word for file in files for word in ("-c", file))],
        env={"PATH": os.environ["PATH"], **variables},
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
        timeout=TIMEOUT_S,
    )
    return done.stdout


def deploy(docker: str, files: list[str], *, folder: Path, variables: Mapping[str, str]) -> dict[str, Any]:
    """The services that are created, by name; raises ``ValueError`` with what the CLI says if it refuses."""
    with tempfile.TemporaryDirectory() as home:
        engine = _Engine(f"{home}/engine.sock")
        thread = threading.Thread(target=engine.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            done = subprocess.run(
                [
                    *(docker, "stack", "deploy", "--detach=true", "--resolve-image=never"),
                    *(word for file in files for word in ("-c", file)),
                    STACK,
                ],
                env={
                    "PATH": os.environ["PATH"],
                    "HOME": home,
                    "DOCKER_HOST": f"unix://{home}/engine.sock",
                    **variables,
                },
                cwd=folder,
                capture_output=True,
                text=True,
                check=False,
                timeout=TIMEOUT_S,
            )
        finally:
            engine.shutdown()
            engine.server_close()
            thread.join(TIMEOUT_S)
    if done.returncode != 0:
        raise ValueError(done.stderr.strip())
    return {spec["Name"]: spec for noun, spec in engine.created if noun == "services"}
