"""What simulated users do: random services, made, read, changed and removed by clients that get in each
other's way, through whichever manager they happen to ask.

Every spec carries a mark of its own, and every call goes into the history, so that what the clients were told
can be held against the store. A client gives up after its own timeout and then knows nothing of the outcome.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from random import Random
from typing import Any

from agent.executor.base import Launch
from agent.executor.fake import Behaviour
from swarmpy.model.ids import SECOND_NS
from swarmpy.sim import ailments, by_hand, files, scaling, steering
from swarmpy.sim.checkers.history import MARK_LABEL, Operation, Outcome, Refused, Seen, Verb
from swarmpy.sim.fleet import Fleet
from swarmpy.sim.host import Disconnected, Host
from swarmpy.sim.http import Answer
from swarmpy.sim.loop import SimLoop
from swarmpy.sim.networks import JOINABLE, NETWORKS, SPARE, attachments, endpoint_mode, endpoint_settings

SERVICES_MIN, SERVICES_MAX = 4, 200
REPLICAS_MEAN = 8
STEADY = "steady"
IMAGES = {
    STEADY: Behaviour(stop_s=0.1),
    "stubborn": Behaviour(stop_s=None),
    "slow-to-stop": Behaviour(stop_s=4.0),
    "crashing": Behaviour(run_s=3.0, exit_code=1),
    "finishing": Behaviour(run_s=6.0, exit_code=0),
    "broken": Behaviour(fails_to_start="exec: no such file"),
}
"""Tasks by the image's name, and how they behave. Any other image is steady."""
WEIGHTS = {"steady": 60, "stubborn": 6, "slow-to-stop": 14, "crashing": 8, "finishing": 6, "broken": 6}
JOB_WEIGHTS = {"finishing": 70, "crashing": 10, "steady": 10, "broken": 10}
GENERIC_WISHES: tuple[list[Any], ...] = (
    *([],) * 8,
    [{"DiscreteResourceSpec": {"Kind": "gpu", "Value": 1}}],
    [{"DiscreteResourceSpec": {"Kind": "slots", "Value": 2}}],
)
ZONE_CONSTRAINTS = (
    "node.labels.zone==a",
    "node.labels.zone in (a, b)",
    "node.labels.zone not in (c)",
    "exists(node.labels.zone)",
    "node.memory > 16g",
)
PORT_FIRST, PORT_LAST = 8000, 8005
"""Few, so that services get in each other's way."""
CALLS = {"create": 30, "update": 30, "read": 20, "remove": 10, "list": 10, "network": 4}
"""How often a client does what."""
STACK_CALLS = {"update": 50, "read": 30, "list": 20}
CHANGES = ("scale", "scale", "image", "image", "placement", "networks", "force", "label")
STACK_CHANGES = ("scale", "scale", "force", "label")
RENEW_PAUSES = 6
"""Of a client, between two renewals of a secret or config."""
STEER_PAUSES = 3
"""Of a client, between two words about updates."""
JOIN_PAUSES = 2
"""Of a client, between two tasks that are joined to networks or taken off."""
CERTAIN = ("does not have a leader", "update out of sequence", "This node is not a swarm manager")
"""Answers with a server's error code that still promise that nothing was done."""


def plan(launch: Launch) -> Behaviour:
    """How a simulated task behaves."""
    return IMAGES.get(launch.image.reference.partition(":")[0], IMAGES[STEADY])


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How large the workload is."""

    services: int = 12
    """Names in use; at most that many services."""
    tasks: int = 100
    """Replicas of all services together, on the average."""
    clients: int = 4
    pause_s: float = 0.5
    """Between two calls of one client, on the average."""


def tasks_of(nodes: int) -> int:
    """How many tasks a swarm of so many nodes gets, where nobody says."""
    return 2 * nodes


def shape_of(tasks: int, *, clients: int = Shape.clients) -> Shape:
    """A workload of about so many replicas, in services of eight, within bounds."""
    services = max(SERVICES_MIN, min(SERVICES_MAX, tasks // REPLICAS_MEAN))
    return Shape(tasks=tasks, services=services, clients=clients)


class Workload:
    """``run`` until ``stop`` and until the calls under way have ended; ``note`` takes each outcome."""

    def __init__(
        self,
        loop: SimLoop,
        fleet: Fleet,
        shape: Shape,
        *,
        seed: int,
        note: Callable[[Operation], None],
        stack: Sequence[dict[str, Any]] = (),
    ) -> None:
        """``stack``: service specs that the clients then only scale, force and relabel."""
        self._loop = loop
        self._stack = tuple(stack)
        self._fleet = fleet
        self._shape = shape
        self._note = note
        self._seed = seed
        self._random = Random(f"{seed}/workload")
        self._marks = 0
        self._is_over = False
        self._files: dict[str, str] = {}
        """Ids of secrets and configs, by name."""
        self.names = [f"web-{number}" for number in range(shape.services)]  # the start of no id
        if stack:
            self.names = [spec["Name"] for spec in stack]

    async def deploy(self, host: Host) -> None:
        """Create the networks and the services of the stack, patiently."""
        for name, body in {} if self._stack else NETWORKS.items():
            answer = await self._fleet.call(host, "POST", "/networks/create", {"Name": name, **body})
            assert answer.status == HTTPStatus.CREATED, answer
        for kind, name in () if self._stack else files.FILES:
            answer = await self._fleet.call(host, "POST", f"/{kind}s/create", files.new(name))
            assert answer.status == HTTPStatus.CREATED, answer
            self._files[name] = answer.json["ID"]
        for spec in self._stack:
            marked = {**spec, "Labels": {**spec.get("Labels", {}), MARK_LABEL: self._mark()}}
            while not await self.create(host, spec["Name"], marked, client="deployer"):
                await asyncio.sleep(self._shape.pause_s)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as clients:
            for number in range(self._shape.clients):
                clients.create_task(self._client(f"c{number}", Random(f"{self._seed}/client/{number}")))
            if not self._stack:
                clients.create_task(self._join_and_leave(Random(f"{self._seed}/joiner")))
                clients.create_task(self._steer(Random(f"{self._seed}/steerer")))
                clients.create_task(self._renew_files(Random(f"{self._seed}/renewer")))
                clients.create_task(by_hand.live(self._fleet, self._seed, lambda: self._is_over))

    def stop(self) -> None:
        """No more calls. Those under way are waited for: one that is broken off would have no outcome."""
        self._is_over = True

    async def _client(self, client: str, dice: Random) -> None:
        while not self._is_over:
            await asyncio.sleep(dice.expovariate(1 / self._shape.pause_s))
            managers = self._fleet.managers()
            if managers and not self._is_over:
                await self.act(client, dice.choice(managers), dice)

    async def _join_and_leave(self, dice: Random) -> None:
        """Join tasks that run to networks, and take them off again; with dice of its own."""
        while not self._is_over:
            await asyncio.sleep(dice.expovariate(1 / (JOIN_PAUSES * self._shape.pause_s)))
            managers = self._fleet.managers()
            if managers and not self._is_over:
                await self.join_or_leave(dice.choice(managers), dice)

    async def _steer(self, dice: Random) -> None:
        """Let updates go on, or take them back; with dice of its own."""
        while not self._is_over:
            await asyncio.sleep(dice.expovariate(1 / (STEER_PAUSES * self._shape.pause_s)))
            managers = self._fleet.managers()
            if managers and not self._is_over:
                await steering.steer(self._fleet, dice.choice(managers), dice)

    async def _renew_files(self, dice: Random) -> None:
        """Newer data of secrets and configs, whatever becomes of it; with dice of its own."""
        number = 1
        while not self._is_over:
            await asyncio.sleep(dice.expovariate(1 / (RENEW_PAUSES * self._shape.pause_s)))
            managers = self._fleet.managers()
            if not managers or self._is_over:
                continue
            host, (kind, name) = dice.choice(managers), dice.choice(files.FILES)
            number += 1
            found = await self._ask(host, "GET", f"/{kind}s/{name}")
            if found is not None and found.status == HTTPStatus.OK:
                query = {"version": str(found.json["Version"]["Index"])}
                path = f"/swarmpy/{kind}s/{name}/versions"
                await self._ask(host, "POST", path, files.data(name, number), query=query)

    async def join_or_leave(self, host: Host, dice: Random) -> None:
        """Whatever becomes of it."""
        query = {"filters": '{"desired-state": ["running"]}'}
        answer = await self._ask(host, "GET", "/tasks", query=query)
        tasks = answer.json if answer is not None and answer.status == HTTPStatus.OK else []
        running = [task for task in tasks if task["Status"]["State"] == "running"]
        if not running:
            return
        task, network = dice.choice(running), dice.choice(JOINABLE)
        joined = [task for task in running if _is_on(task, network)]
        settings = endpoint_settings(dice)
        if joined and dice.random() < 0.5:
            body: dict[str, Any] = {"Container": dice.choice(joined)["ID"], "Force": dice.random() < 0.3}
            await self._ask(host, "POST", f"/networks/{network}/disconnect", body)
        else:
            body = {"Container": task["ID"], "EndpointConfig": settings}
            await self._ask(host, "POST", f"/networks/{network}/connect", body)

    async def act(self, client: str, host: Host, dice: Random) -> None:
        """One thing that a user may do."""
        name = dice.choice(self.names)
        weights = STACK_CALLS if self._stack else CALLS
        match dice.choices(list(weights), list(weights.values()))[0]:
            case "create":
                await self.create(host, name, self.random_spec(name, dice), client=client)
            case "update":
                await self.change(host, name, dice, client=client)
            case "read":
                await self.read(host, name, client=client)
            case "remove":
                await self.remove(host, name, client=client)
            case "network":
                await self.replace_network(host)
            case _:
                await self.list(host, client=client)

    # --- calls

    async def create(self, host: Host, name: str, spec: dict[str, Any], *, client: str) -> bool:
        """Whether the service is there now, or was before."""
        began = self._loop.now
        answer = await self._ask(host, "POST", "/services/create", spec)
        told = answer.json["ID"] if answer is not None and answer.status == 201 else ""
        self._tell(Verb.CREATE, name, began, answer, client=client, id=told, mark=mark_in(spec))
        return answer is not None and answer.status in (201, 409)

    async def read(self, host: Host, name: str, *, client: str) -> Seen | None:
        found = await self.inspect(host, name, client=client)
        return None if found is None else _seen(found)

    async def inspect(self, host: Host, name: str, *, client: str) -> Any:
        began = self._loop.now
        answer = await self._ask(host, "GET", f"/services/{name}")
        if answer is None or answer.status not in (200, 404):
            return None  # a read that was not answered says nothing
        found = answer.json if answer.status == 200 else None
        seen = () if found is None else (_seen(found),)
        self._note(self._operation(Verb.READ, name, began, Outcome.OK, client=client, seen=seen))
        return found

    async def list(self, host: Host, *, client: str) -> None:
        began = self._loop.now
        answer = await self._ask(host, "GET", "/services")
        if answer is not None and answer.status == 200:
            seen = tuple(_seen(each) for each in answer.json)
            self._note(self._operation(Verb.LIST, "", began, Outcome.OK, client=client, seen=seen))

    async def change(self, host: Host, name: str, dice: Random, *, client: str) -> None:
        """Read, then update from what was read, as every client does."""
        found = await self.inspect(host, name, client=client)
        if found is not None:
            await self.update(host, found, self.altered(found["Spec"], dice), client=client)

    async def update(self, host: Host, found: Any, spec: dict[str, Any], *, client: str) -> bool:
        began = self._loop.now
        version = found["Version"]["Index"]
        path = f"/services/{found['ID']}/update"
        answer = await self._ask(host, "POST", path, spec, query={"version": str(version)})
        name = found["Spec"]["Name"]
        facts: dict[str, Any] = {"id": found["ID"], "version": version, "mark": mark_in(spec)}
        self._tell(Verb.UPDATE, name, began, answer, client=client, **facts)
        return answer is not None and answer.status == 200

    async def remove(self, host: Host, name: str, *, client: str) -> bool:
        """Whether the service is gone."""
        began = self._loop.now
        answer = await self._ask(host, "DELETE", f"/services/{name}")
        self._tell(Verb.REMOVE, name, began, answer, client=client)
        return answer is not None and answer.status in (200, 404)

    async def replace_network(self, host: Host) -> None:
        """Remove the network that nobody is on, and make it again; whatever becomes of either."""
        await self._ask(host, "DELETE", f"/networks/{SPARE['Name']}")
        await self._ask(host, "POST", "/networks/create", SPARE)

    async def _ask(
        self, host: Host, method: str, path: str, body: object = None, *, query: dict[str, str] | None = None
    ) -> Answer | None:
        try:
            return await self._fleet.ask(host, method, path, body, query=query)
        except Disconnected:
            return None

    def _tell(
        self, verb: Verb, name: str, began: float, answer: Answer | None, *, client: str, **facts: Any
    ) -> None:
        outcome, refused = outcome_of(answer)
        self._note(self._operation(verb, name, began, outcome, refused=refused, client=client, **facts))

    def _operation(self, verb: Verb, name: str, began: float, outcome: Outcome, **facts: Any) -> Operation:
        return Operation(
            verb=verb, name=name, called_at=began, returned_at=self._loop.now, outcome=outcome, **facts
        )

    async def calm(self, name: str) -> None:
        """Give a service, if it exists, an image that keeps running, or ends if it should; patiently."""
        while True:
            found = await self._fleet.call_any("GET", "/services")
            known = [each for each in found.json if each["Spec"]["Name"] == name]
            if not known:
                return
            spec = {**known[0]["Spec"], "Labels": {MARK_LABEL: self._mark()}}
            template = spec["TaskTemplate"]
            kind = "finishing" if _is_job(spec) else STEADY
            if template["ContainerSpec"]["Image"].startswith(kind) and "CronJob" not in spec["Mode"]:
                await steering.let_go_on(self._fleet, known[0]["ID"])
                return
            steering.turn_to(spec, f"{kind}:0")
            if "CronJob" in spec["Mode"]:
                spec["Mode"] = {"CronJob": {**spec["Mode"]["CronJob"], "Suspended": True}}
            managers = self._fleet.managers()
            if managers and await self.update(managers[0], known[0], spec, client="calm"):
                return
            await asyncio.sleep(self._shape.pause_s)

    # --- specs

    def random_spec(self, name: str, dice: Random) -> dict[str, Any]:
        spec: dict[str, Any] = {
            "Name": name,
            "Labels": {MARK_LABEL: self._mark()},
            "TaskTemplate": {
                "ContainerSpec": {
                    "Image": self._image(dice),
                    "StopGracePeriod": 2 * SECOND_NS,
                    **files.references(name, self._files),
                    **ailments.checks(dice),
                },
                "RestartPolicy": {
                    "Condition": dice.choice(["any", "any", "any", "on-failure", "none"]),
                    "Delay": dice.choice([0, SECOND_NS, 5 * SECOND_NS]),
                    "MaxAttempts": dice.choice([0, 0, 3]),
                },
                "Resources": {
                    "Reservations": {
                        "NanoCPUs": dice.choice([0, 0, 10**8]),
                        "MemoryBytes": dice.choice([0, 1 << 26]),
                        "GenericResources": dice.choice(GENERIC_WISHES),
                    }
                },
                "Placement": self._placement(dice),
            },
            "Mode": self._mode(dice),
            "UpdateConfig": steering.update_config(dice),
        }
        spec["TaskTemplate"]["Networks"] = self._attachments(name, dice)
        spec["EndpointSpec"] = {"Mode": endpoint_mode(dice)}
        is_packed = "Strategy" in spec["TaskTemplate"]["Placement"]
        spec["Rebalance"] = "Replicated" in spec["Mode"] and not is_packed and dice.random() < 0.4
        spec["Autoscale"] = scaling.autoscale(dice) if "Replicated" in spec["Mode"] else None
        if _is_job(spec):  # one that ends, mostly; jobs know no rolling update
            del spec["UpdateConfig"]
            kind = dice.choices(list(JOB_WEIGHTS), list(JOB_WEIGHTS.values()))[0]
            spec["TaskTemplate"]["ContainerSpec"]["Image"] = f"{kind}:1"
        if dice.random() < 0.15:
            port = dice.randint(PORT_FIRST, PORT_LAST)
            spec["EndpointSpec"] = {
                "Ports": [
                    {
                        "Protocol": "tcp",
                        "TargetPort": 80,
                        "PublishedPort": port,
                        "PublishMode": dice.choice(["host", "ingress"]),
                    }
                ]
            }
        return spec

    def altered(self, spec: dict[str, Any], dice: Random) -> dict[str, Any]:
        """The same service, another wish."""
        changed = {**spec, "Labels": {**spec.get("Labels", {}), MARK_LABEL: self._mark()}}
        template = {**spec["TaskTemplate"]}
        match dice.choice(STACK_CHANGES if self._stack else CHANGES):
            case "scale" if "Replicated" in spec["Mode"] and self._stack:
                replicas = spec["Mode"]["Replicated"].get("Replicas", 1)
                changed["Mode"] = {"Replicated": {"Replicas": dice.randint(1, max(2, 2 * replicas))}}
            case "scale" if "Replicated" in spec["Mode"]:
                changed["Mode"] = {"Replicated": {"Replicas": self._replicas(dice)}}
                changed["Autoscale"] = scaling.autoscale(dice)
            case "image":
                container = {**template["ContainerSpec"], "Image": self._image(dice)}
                changed["TaskTemplate"] = {**template, "ContainerSpec": container}
            case "networks":
                name = spec["Name"]
                changed["TaskTemplate"] = {**template, "Networks": self._attachments(name, dice)}
            case "placement":
                changed["TaskTemplate"] = {**template, "Placement": self._placement(dice)}
            case "force":
                changed["TaskTemplate"] = {**template, "ForceUpdate": template.get("ForceUpdate", 0) + 1}
            case _:
                pass  # only the label
        return changed

    def _mode(self, dice: Random) -> dict[str, Any]:
        lot = dice.random()
        if lot < 0.15:
            return {"Global": {}}
        if lot < 0.3:
            return self._job(dice)
        return {"Replicated": {"Replicas": self._replicas(dice)}}

    def _job(self, dice: Random) -> dict[str, Any]:
        size = {"TotalCompletions": self._replicas(dice), "MaxConcurrent": dice.choice([1, 2, 5])}
        match dice.choice(["replicated", "cron", "cron", "global"]):
            case "replicated":
                return {"ReplicatedJob": size}
            case "global":
                return {"GlobalJob": {}}
        policy = dice.choice(["allow", "forbid", "replace"])
        settings = {
            "ConcurrencyPolicy": policy,
            "StartingDeadline": dice.choice([0, 10 * SECOND_NS]),
            "SuccessfulHistory": dice.choice([0, 1, 3]),
        }
        return {"CronJob": {"Schedule": "* * * * *", **size, **settings}}

    def _replicas(self, dice: Random) -> int:
        mean = max(1, self._shape.tasks // self._shape.services)
        return dice.choice([0, 1, 1, mean, mean, dice.randint(0, 3 * mean)])

    def _attachments(self, name: str, dice: Random) -> Sequence[dict[str, Any]]:
        return [] if self._stack else attachments(f"{name[-1]}-alias", dice)

    @staticmethod
    def _image(dice: Random) -> str:
        kind = dice.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        return f"{kind}:{dice.randint(1, 3)}"

    @staticmethod
    def _placement(dice: Random) -> dict[str, Any]:
        match dice.randrange(9):
            case 0:
                return {"Constraints": ["node.role==worker"]}
            case 1:
                return {"Constraints": [dice.choice(ZONE_CONSTRAINTS)]}
            case 4:
                return {"Strategy": "binpack"}
            case 2:
                return {"MaxReplicas": dice.randint(1, 3)}
            case 3:
                return {"Preferences": [{"Spread": {"SpreadDescriptor": "node.labels.zone"}}]}
            case _:
                return {}

    def _mark(self) -> str:
        self._marks += 1
        return f"k{self._marks}"


def _is_job(spec: dict[str, Any]) -> bool:
    return not spec["Mode"].keys().isdisjoint(("ReplicatedJob", "GlobalJob", "CronJob"))


def mark_in(spec: dict[str, Any]) -> str:
    mark: str = spec["Labels"][MARK_LABEL]
    return mark


def outcome_of(answer: Answer | None) -> tuple[Outcome, Refused]:
    """What the answer to a change tells of its effect."""
    if answer is None:
        return Outcome.UNKNOWN, Refused.OTHERWISE
    if answer.status < 400:
        return Outcome.OK, Refused.OTHERWISE
    if answer.status == 404:
        return Outcome.REFUSED, Refused.MISSING
    if answer.status == 409:
        return Outcome.REFUSED, Refused.EXISTS
    if answer.status >= 500 and not any(text in answer.message for text in CERTAIN):
        return Outcome.UNKNOWN, Refused.OTHERWISE
    return Outcome.REFUSED, Refused.OTHERWISE


def _is_on(task: Any, network: str) -> bool:
    return any(place["Network"]["Spec"]["Name"] == network for place in task.get("NetworksAttachments", ()))


def _seen(service: Any) -> Seen:
    return Seen(
        name=service["Spec"]["Name"],
        id=service["ID"],
        version=service["Version"]["Index"],
        mark=service["Spec"].get("Labels", {}).get(MARK_LABEL, ""),
    )
