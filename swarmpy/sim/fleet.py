"""``Fleet``: all simulated hosts, and how an operator makes a swarm of them through their APIs.

Calls here are patient: what is refused for the moment is tried again until its deadline, in virtual time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from http import HTTPStatus
from random import Random
from typing import Any

from manager.api.control import LocalState
from swarmpy.model.states import NodeRole
from swarmpy.sim.host import Disconnected, Host, Seams
from swarmpy.sim.http import Answer
from swarmpy.sim.machine import description

PORT = 2377
REQUEST_TIMEOUT_S = 60.0
"""Of a client: longer than any bound on the daemon's side."""
RETRY_S = 0.5
JOINS_PARALLEL = 64
PATIENCE_S = 300.0
"""For what an operator wants done while faults go on."""


class Impatient(Exception):
    """Something that had to work did not within its time."""


class Fleet:
    """Hosts named m1 … (founding managers) and w1 … (workers), in a swarm once ``found`` has returned."""

    def __init__(self, seams: Seams, *, managers: int, nodes: int) -> None:
        self._seams = seams
        self._random = Random(f"{seams.seed}/fleet")
        self.hosts: list[Host] = []
        for number in range(nodes):
            name = f"m{number + 1}" if number < managers else f"w{number + 1 - managers}"
            self.hosts.append(Host(seams, _address(number), description(name)))
        self._by_ip = {host.ip: (number, host) for number, host in enumerate(self.hosts)}
        self.founders = self.hosts[:managers]
        self.tokens: dict[NodeRole, str] = {}

    # --- looking

    def managers(self) -> list[Host]:
        """Hosts whose daemon serves as a manager now."""
        serving = sorted(self._by_ip[ip] for ip in self._seams.network.serving())  # few, of thousands
        return [host for _, host in serving if host.manager is not None]

    def leader(self) -> Host | None:
        leading = [host for host in self.managers() if host.manager and host.manager.raft.status().is_leader]
        return leading[0] if len(leading) == 1 else None

    # --- making a swarm

    async def found(self) -> None:
        """The first host founds the swarm, the other managers join one by one, then everybody else."""
        for host in self.hosts:
            host.start()
        first, *others = self.founders
        await self.until(lambda: first.daemon is not None, "the first daemon starts")
        await self.call(
            first, "POST", "/swarm/init", {"ListenAddr": first.address, "AdvertiseAddr": first.address}
        )
        await self.learn_tokens(first)
        for host in others:
            await self.join(host, NodeRole.MANAGER)
        waiting = list(self.hosts[len(self.founders) :])
        waiting.reverse()

        async def join_some() -> None:
            while waiting:
                await self.join(waiting.pop(), NodeRole.WORKER)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(JOINS_PARALLEL):
                tasks.create_task(join_some())

    async def learn_tokens(self, host: Host) -> None:
        self._keep_tokens(await self.call(host, "GET", "/swarm"))

    async def _learn_tokens_anew(self) -> None:
        """They have changed with the root."""
        managers = self.managers()
        if managers:
            answer = await self.ask(self._random.choice(managers), "GET", "/swarm")
            if answer.status == HTTPStatus.OK:
                self._keep_tokens(answer)

    def _keep_tokens(self, answer: Answer) -> None:
        self.tokens = {
            NodeRole.WORKER: answer.json["JoinTokens"]["Worker"],
            NodeRole.MANAGER: answer.json["JoinTokens"]["Manager"],
        }

    async def join(self, host: Host, role: NodeRole, *, patience_s: float = PATIENCE_S) -> None:
        """Until the host is in the swarm; whoever is a manager then is asked."""
        deadline = self._seams.loop.time() + patience_s
        while not _is_active(host):
            remotes = [manager.address for manager in self.managers() if manager is not host]
            self._random.shuffle(remotes)
            wish = {
                "ListenAddr": host.address,
                "AdvertiseAddr": host.address,
                "RemoteAddrs": remotes,
                "JoinToken": self.tokens[role],
            }
            reason = f"it is {host.state.value}, and {len(remotes)} managers are up"
            if host.state is LocalState.ERROR:  # it was removed, and knows it
                await self._leave(host)
            if remotes and host.state is LocalState.INACTIVE:
                try:
                    answer = await self.ask(host, "POST", "/swarm/join", wish)
                    reason = answer.message
                    if answer.status == HTTPStatus.BAD_REQUEST:
                        await self._learn_tokens_anew()
                except Disconnected as error:
                    reason = str(error)
            if self._seams.loop.time() > deadline:
                raise Impatient(f"{host.name} could not join within {patience_s:.0f} s: {reason}")
            if not _is_active(host):
                await asyncio.sleep(RETRY_S)

    async def _leave(self, host: Host) -> None:
        with suppress(Disconnected):
            await self.ask(host, "POST", "/swarm/leave", query={"force": "1"})

    # --- asking

    async def ask(
        self,
        host: Host,
        method: str,
        path: str,
        body: object = None,
        *,
        query: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request of one host. ``Disconnected`` if its daemon goes, or does not answer in time."""
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                return await host.request(method, path, body=body, query=query)
        except TimeoutError:
            raise Disconnected(f"{host.name} does not answer") from None

    async def call(self, host: Host, method: str, path: str, body: object = None, **options: Any) -> Answer:
        """The same, which has to succeed within ``PATIENCE_S``."""
        return await self._insist(lambda: [host], method, path, body, **options)

    async def call_any(self, method: str, path: str, body: object = None, **options: Any) -> Answer:
        """Ask managers in turn until one has done it, within ``PATIENCE_S``."""
        return await self._insist(lambda: self._shuffled(self.managers()), method, path, body, **options)

    async def _insist(
        self, hosts: Callable[[], list[Host]], method: str, path: str, body: object, **options: Any
    ) -> Answer:
        deadline = self._seams.loop.time() + PATIENCE_S
        reason = "no manager is up"
        while True:
            for host in hosts():
                try:
                    answer = await self.ask(host, method, path, body, **options)
                except Disconnected as error:
                    reason = str(error)
                    continue
                if answer.status < 400:
                    return answer
                reason = f"{host.name}: {answer.status} {answer.message}"
            if self._seams.loop.time() > deadline:
                raise Impatient(f"{method} {path}: {reason}")
            await asyncio.sleep(RETRY_S)

    def _shuffled(self, hosts: Iterable[Host]) -> list[Host]:
        found = list(hosts)
        self._random.shuffle(found)
        return found

    async def until(
        self,
        condition: Callable[[], bool],
        what: str,
        *,
        patience_s: float = PATIENCE_S,
        period_s: float = 0.1,
    ) -> None:
        deadline = self._seams.loop.time() + patience_s
        while not condition():
            if self._seams.loop.time() > deadline:
                raise Impatient(f"not within {patience_s:.0f} s: {what}")
            await asyncio.sleep(period_s)

    def dispose(self) -> None:
        for host in self.hosts:
            host.dispose()


def _is_active(host: Host) -> bool:
    return host.state is LocalState.ACTIVE


def _address(number: int) -> str:
    """10.1.0.1, 10.1.0.2, …, 10.1.1.1, …"""
    high, low = divmod(number, 250)
    return f"10.1.{high}.{low + 1}:{PORT}"
