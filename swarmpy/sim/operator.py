"""What simulated operators do to nodes, one thing at a time: drain, label, promote, demote, remove, replace.
They change the swarm's root, too.

Everything goes through the API, while clients and faults go on, so anything may be refused or take its time;
an operator gives up on what takes too long, and ``tidy`` brings the swarm back to the shape that it had.

A manager's disk is lost only while every other manager is up: a swarm that lost the disks of most of its
managers is gone by right.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

from manager.api.control import LocalState
from manager.reconcile.root_rotation import issuer_of
from swarmpy.model.ids import SECOND_NS, NodeId
from swarmpy.model.states import NodeAvailability, NodeRole
from swarmpy.pki import issuer_in
from swarmpy.sim.fleet import Fleet, Impatient
from swarmpy.sim.host import Disconnected, Host
from swarmpy.sim.http import Answer
from swarmpy.sim.loop import SimLoop
from swarmpy.sim.trace import Trace

MANAGERS_MAX = 7
ZONES = ("a", "b", "c")
LONELY_S = (0, 0, 5, 30)
"""After which a node without managers stops its tasks; 0: never."""
BRIEF_PATIENCE_S = 40.0
"""After which an operator turns to something else."""
TIDY_PATIENCE_S = 120.0


class Operator:
    """``run`` until cancelled, then ``tidy`` once faults are over."""

    def __init__(
        self,
        loop: SimLoop,
        fleet: Fleet,
        trace: Trace,
        *,
        seed: int,
        pause_s: float,
        may_touch: Callable[[Host], bool],
    ) -> None:
        self._loop = loop
        self._fleet = fleet
        self._trace = trace
        self._dice = Random(f"{seed}/operator")
        self._pause_s = pause_s
        self._may_touch = may_touch
        self._wished = len(fleet.founders)
        self._leaves: list[asyncio.Task[Answer]] = []
        """Requests to leave: a daemon goes on with one that nobody waits for any more."""
        self.counts: Counter[str] = Counter()

    async def run(self) -> None:
        works: dict[str, Callable[[Host], Awaitable[None]]] = {
            "drain": lambda host: self._set(host, availability=NodeAvailability.DRAIN),
            "pause node": lambda host: self._set(host, availability=NodeAvailability.PAUSE),
            "activate": lambda host: self._set(host, availability=NodeAvailability.ACTIVE),
            "lonely": lambda host: self._set(host, stop_after_s=self._dice.choice(LONELY_S)),
            "label": lambda host: self._set(host, zone=self._dice.choice(ZONES)),
            "promote": self._promote,
            "demote": self._demote,
            "leave and join": self._leave_and_join,
            "lose disk": self._lose_disk,
            "rotate root": self._rotate_root,
        }
        names = [
            "drain",
            "pause node",
            *["activate"] * 2,
            "lonely",
            "label",
            "promote",
            "demote",
            "leave and join",
            "lose disk",
            "rotate root",
        ]
        while True:
            await asyncio.sleep(self._dice.expovariate(1 / self._pause_s))
            hosts = [host for host in self._fleet.hosts if self._may_touch(host)]
            if not hosts:
                continue
            host, name = self._dice.choice(hosts), self._dice.choice(names)
            self.counts[name] += 1
            self._trace.record(f"operator {name}", host=host.name)
            try:
                async with asyncio.timeout(BRIEF_PATIENCE_S):
                    await works[name](host)
            except (Disconnected, Impatient, TimeoutError) as error:
                self._trace.record("operator gave up", what=name, host=host.name, reason=str(error))

    async def tidy(self) -> None:
        """Every host is in the swarm, active, and as many are managers as at first; no node is left over."""
        try:
            async with asyncio.timeout(TIDY_PATIENCE_S):
                await asyncio.gather(*self._leaves, return_exceptions=True)
                await self._remove_strangers()
                for host in self._fleet.hosts:
                    if host.state is not LocalState.ACTIVE:
                        await self._rejoin(host)
                for host in self._fleet.hosts:
                    await self._settle_role(host)
                await self._remove_strangers()
                await self._fleet.until(self._is_root_settled, "all have certificates of the root in force")
        except TimeoutError:
            raise Impatient(f"the nodes are not in order within {TIDY_PATIENCE_S:.0f} s") from None

    async def _settle_role(self, host: Host) -> None:
        role = self._role_of(host)
        await self._set(host, availability=NodeAvailability.ACTIVE, role=role)
        await self._fleet.until(
            lambda: (host.manager is not None) == (role is NodeRole.MANAGER), f"{host.name} is a {role.value}"
        )

    def _role_of(self, host: Host) -> NodeRole:
        """The one that it had at first."""
        return NodeRole.MANAGER if host in self._fleet.founders else NodeRole.WORKER

    # --- single changes

    async def _set(
        self,
        host: Host,
        *,
        availability: NodeAvailability | None = None,
        role: NodeRole | None = None,
        zone: str | None = None,
        stop_after_s: int | None = None,
    ) -> None:
        """Change a node's spec; a change that came in between is read and kept."""
        while host.node_id:
            found = (await self._fleet.call_any("GET", f"/nodes/{host.node_id}")).json
            spec: dict[str, Any] = {**found["Spec"]}
            if availability is not None:
                spec["Availability"] = availability.value
            if role is not None:
                spec["Role"] = role.value
            if stop_after_s is not None:
                spec["StopAfter"] = stop_after_s * SECOND_NS
            if zone is not None:
                spec["Labels"] = {**(spec.get("Labels") or {}), "zone": zone}
            if spec == found["Spec"] or await self._update(found, spec):
                return
            await asyncio.sleep(self._pause_s / 4)

    async def _update(self, found: Any, spec: dict[str, Any]) -> bool:
        managers = self._fleet.managers()
        if not managers:
            return False
        answer = await self._fleet.ask(
            self._dice.choice(managers),
            "POST",
            f"/nodes/{found['ID']}/update",
            spec,
            query={"version": str(found["Version"]["Index"])},
        )
        return answer.status == 200

    async def _rotate_root(self, host: Host) -> None:
        """Also while it is being changed, but not while somebody who was away has still to find back."""
        leader, managers = self._fleet.leader(), self._fleet.managers()
        cluster = leader.manager.store.cluster() if leader and leader.manager else None
        if cluster is None or cluster.root_ca.retired or not managers:
            return
        found = (await self._fleet.call_any("GET", "/swarm")).json
        config = found["Spec"].get("CAConfig") or {}
        config = {**config, "ForceRotate": config.get("ForceRotate", 0) + 1}
        await self._fleet.ask(
            self._dice.choice(managers),
            "POST",
            "/swarm/update",
            {**found["Spec"], "CAConfig": config},
            query={"version": str(found["Version"]["Index"])},
        )

    def _is_root_settled(self) -> bool:
        """By the leader's word: that connections are made is for other checks to say."""
        leader = self._fleet.leader()
        cluster = leader.manager.store.cluster() if leader and leader.manager else None
        if cluster is None or cluster.root_ca.rotation is not None or cluster.root_ca.retired:
            return False
        assert leader is not None
        assert leader.manager is not None
        authority = issuer_in(cluster.root_ca.ca_cert)
        return all(issuer_of(node) == authority for node in leader.manager.store.nodes())

    async def _promote(self, host: Host) -> None:
        if len(self._fleet.managers()) < MANAGERS_MAX:
            await self._set(host, role=NodeRole.MANAGER)

    async def _demote(self, host: Host) -> None:
        if len(self._fleet.managers()) > self._wished:
            await self._set(host, role=NodeRole.WORKER)

    async def _leave_and_join(self, host: Host) -> None:
        """In good order: demoted, left, removed, and back as another node."""
        node_id = host.node_id
        if not node_id:
            return  # its daemon is down: it may be a manager
        if host.manager is not None and len(self._fleet.managers()) <= self._wished:
            return
        await self._set(host, role=NodeRole.WORKER)
        await self._fleet.until(lambda: self._is_worker(host), "it is a worker", patience_s=BRIEF_PATIENCE_S)
        await self._leave(host)
        await self._remove(node_id)
        await self._rejoin(host)

    async def _leave(self, host: Host) -> None:
        leave = self._loop.create_task(self._fleet.ask(host, "POST", "/swarm/leave", query={"force": "1"}))
        self._leaves.append(leave)
        await asyncio.wait([leave])
        leave.result()

    async def _lose_disk(self, host: Host) -> None:
        """A new disk; the old node is removed, and the host joins as another one."""
        others = [other for other in self._fleet.hosts if other is not host]
        if not self._is_quorum_safe(others):
            return  # whatever it is: one that is down or starts may be a manager
        node_id = host.node_id
        host.wipe()
        host.start()
        await self._fleet.until(lambda: host.daemon is not None, "its daemon starts")
        await self._remove(node_id)
        await self._rejoin(host)

    def _is_worker(self, host: Host) -> bool:
        """By the leader's word too: one that was just promoted may be a member that does not serve yet."""
        leader = self._fleet.leader()
        node = leader.manager.store.node(NodeId(host.node_id)) if leader and leader.manager else None
        return host.manager is None and node is not None and node.role is NodeRole.WORKER

    def _is_quorum_safe(self, others: list[Host]) -> bool:
        """Whether the members that the other hosts are make a majority. A member whose disk was lost before
        and that is not removed yet counts, and is none of them."""
        leader = self._fleet.leader()
        if leader is None or leader.manager is None:
            return False
        members = {member.raft_id for member in leader.manager.raft.status().members}
        left = {other.manager.raft_id for other in others if other.manager is not None}
        return 2 * len(members & left) > len(members)

    async def _remove(self, node_id: str) -> None:
        """Demote and remove a node that is gone, whatever stands of it."""
        while node_id:
            answer = await self._fleet.call_any("GET", "/nodes")
            found = [each for each in answer.json if each["ID"] == node_id]
            if not found:
                return
            if found[0]["Spec"]["Role"] == NodeRole.MANAGER.value:
                await self._update(found[0], {**found[0]["Spec"], "Role": NodeRole.WORKER.value})
            managers = self._fleet.managers()
            if managers:
                host = self._dice.choice(managers)
                await self._fleet.ask(host, "DELETE", f"/nodes/{node_id}", query={"force": "1"})
            await asyncio.sleep(self._pause_s / 4)

    async def _remove_strangers(self) -> None:
        """Nodes that no host is any more."""
        known = {host.node_id for host in self._fleet.hosts}
        answer = await self._fleet.call_any("GET", "/nodes")
        for each in answer.json:
            if each["ID"] not in known:
                await self._remove(each["ID"])

    async def _rejoin(self, host: Host) -> None:
        await self._fleet.join(host, self._role_of(host), patience_s=BRIEF_PATIENCE_S)
