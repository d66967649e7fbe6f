"""A stand-in for the daemon, for testing the lab's own mechanics: hosts, cuts, kills, cleaning.

It answers the few requests that the lab makes, in the Engine API's shapes. The first node keeps the list of
nodes in memory; the others join it over the lab's network and pass questions on. No Raft, no tasks.

    python lab_stub.py --data-dir D --socket S --hostname H --listen-addr A:P --advertise-addr A …
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from aiohttp import ClientError, ClientSession, ClientTimeout, web

TOKENS = {"Worker": "SWMTKN-1-stub-worker", "Manager": "SWMTKN-1-stub-manager"}


class Stub:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.nodes: list[dict[str, Any]] = []
        self.remote: str | None = None

    def node(self, role: str, *, leads: bool) -> dict[str, Any]:
        node: dict[str, Any] = {
            "ID": self.options.hostname,
            "Spec": {"Role": role},
            "Description": {"Hostname": socket.gethostname()},
            "Status": {"State": "ready", "Addr": self.options.advertise_addr},
        }
        if role == "manager":
            node["ManagerStatus"] = {"Reachability": "reachable", "Leader": leads}
        return node

    async def init(self, request: web.Request) -> web.Response:
        if self.nodes:
            return web.json_response({"message": "This node is already part of a swarm."}, status=503)
        self.nodes = [self.node("manager", leads=True)]
        return web.json_response(self.options.hostname)

    async def swarm(self, request: web.Request) -> web.Response:
        return web.json_response({"JoinTokens": TOKENS})

    async def join(self, request: web.Request) -> web.Response:
        body = await request.json()
        role = next((role.lower() for role, token in TOKENS.items() if token == body["JoinToken"]), None)
        if role is None:
            return web.json_response({"message": "invalid join token"}, status=400)
        self.remote = body["RemoteAddrs"][0]
        await self.ask("POST", "/stub/nodes", self.node(role, leads=False))
        return web.Response()

    async def add(self, request: web.Request) -> web.Response:
        self.nodes.append(await request.json())
        return web.json_response(None)

    async def list_nodes(self, request: web.Request) -> web.Response:
        if self.remote is None:
            return web.json_response(self.nodes)
        try:
            return web.json_response(await self.ask("GET", "/nodes"))
        except (ClientError, TimeoutError) as error:
            return web.json_response({"message": f"no leader: {error!r}"}, status=503)

    async def tasks(self, request: web.Request) -> web.Response:
        return web.json_response([])

    async def spawn(self, request: web.Request) -> web.Response:
        """Start what a task would be: a process in a pid namespace of its own that outlives the daemon."""
        child = subprocess.Popen(  # noqa: ASYNC220 - returns as soon as it runs
            ["unshare", "--pid", "--fork", "sleep", "1000"], start_new_session=True
        )
        join_cgroup(self.options.cgroup_parent, child.pid)
        return web.json_response({"pid": child.pid})

    async def ask(self, method: str, path: str, body: object = None) -> Any:
        assert self.remote is not None
        timeout = ClientTimeout(total=1.0)
        url = f"http://{self.remote}{path}"
        async with ClientSession(timeout=timeout) as client, client.request(method, url, json=body) as reply:
            return await reply.json()


def join_cgroup(parent: str, pid: int) -> None:
    """Put a process into a cgroup below the host's, in the first hierarchy that lets us."""
    root = Path("/sys/fs/cgroup")
    for hierarchy in (root / "pids", root / "unified", root):
        folder = hierarchy / parent.lstrip("/") / "task"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "cgroup.procs").write_text(str(pid))
        except OSError:
            continue
        return


async def serve(options: argparse.Namespace) -> None:
    stub = Stub(options)
    app = web.Application()
    app.add_routes(
        [
            web.get("/_ping", lambda request: asyncio.sleep(0, web.Response(text="OK"))),
            web.post("/swarm/init", stub.init),
            web.get("/swarm", stub.swarm),
            web.post("/swarm/join", stub.join),
            web.post("/stub/nodes", stub.add),
            web.post("/stub/spawn", stub.spawn),
            web.get("/nodes", stub.list_nodes),
            web.get("/tasks", stub.tasks),
        ]
    )
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.UnixSite(runner, options.socket).start()
    host, _, port = options.listen_addr.rpartition(":")
    await web.TCPSite(runner, host, int(port)).start()
    state = Path(options.data_dir, "starts.json")
    starts = json.loads(state.read_text()) if state.exists() else []
    state.write_text(json.dumps([*starts, os.getpid()]))
    print(f"started on {socket.gethostname()} as {os.getpid()}", flush=True)
    await asyncio.Event().wait()


def main() -> int:
    parser = argparse.ArgumentParser()
    for name in ("data-dir", "socket", "hostname", "listen-addr", "advertise-addr", "cgroup-parent"):
        parser.add_argument(f"--{name}", required=True)
    asyncio.run(serve(parser.parse_args()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
