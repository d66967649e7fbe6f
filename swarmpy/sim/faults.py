"""Faults: what befalls hosts, disks, clocks and the network, each for a while, from one generator.

A fault is a function that begins it and returns what ends it for good (or None, if it ends by itself). The
table ``FAULTS`` names them all; ``Nemesis`` lets chosen ones happen at random, several at a time, and undoes
them all when it is told to. Faults act on the hosts that ``victims`` names, so that a healthy majority can be
left alone.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from swarmpy.errors import TaskRejected, Unavailable
from swarmpy.sim import ailments
from swarmpy.sim.fleet import Fleet
from swarmpy.sim.host import Host
from swarmpy.sim.loop import SimLoop
from swarmpy.sim.network import SimNetwork
from swarmpy.sim.trace import Trace

Undo = Callable[[], None]
DAY_S = 86_400.0
SWIZZLED_MAX = 40
"""Hosts that one swizzle cuts off: it is to be over in about a minute."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What a fault may act on."""

    loop: SimLoop
    network: SimNetwork
    fleet: Fleet
    trace: Trace
    dice: Random
    victims: Callable[[], Sequence[Host]]
    """Hosts that faults may befall now."""

    def victim(self) -> Host | None:
        found = list(self.victims())
        return self.dice.choice(found) if found else None

    def manager(self) -> Host | None:
        """A manager among the victims, the leader more often than another."""
        found = [host for host in self.victims() if host.manager is not None]
        leader = self.fleet.leader()
        if leader in found and self.dice.random() < 0.4:
            return leader
        return self.dice.choice(found) if found else None

    def anyone(self) -> Host | None:
        """A manager as often as a worker, few as managers are."""
        return (self.manager() if self.dice.random() < 0.5 else None) or self.victim()

    def later(self, low_s: float, high_s: float, callback: Callable[[], None]) -> None:
        self.loop.call_later(self.dice.uniform(low_s, high_s), callback)


Fault = Callable[[Scene], Undo | None]


# --- daemons and machines


def kill(scene: Scene) -> Undo | None:
    """kill -9 a daemon; its tasks run on. The supervisor starts it again."""
    host = scene.anyone()
    if host is None or not host.is_up:
        return None
    host.kill()
    scene.later(0.05, 8.0, host.start)
    return host.start


def kill_several(scene: Scene) -> Undo | None:
    """kill -9 of many daemons at the same moment."""
    hosts = [host for host in scene.victims() if host.is_up and scene.dice.random() < 0.3]
    for host in hosts:
        host.kill()
        scene.later(0.05, 8.0, host.start)
    return lambda: _start_all(hosts)


def power(scene: Scene) -> Undo | None:
    """Pull a machine's plug: tasks die, unsynced writes may be lost."""
    host = scene.anyone()
    if host is None or not host.is_up:
        return None
    host.power_off()
    scene.later(0.5, 20.0, host.start)
    return host.start


def disk_crash(scene: Scene) -> Undo | None:
    """A manager's machine goes down at one of its next disk operations, before it takes effect or after."""
    host = scene.manager()
    if host is None:
        return None
    host.disk.crash_after(scene.dice.randint(1, 60))
    return lambda: host.disk.crash_after(None)


def pause(scene: Scene) -> Undo | None:
    """Stop a daemon for a while (SIGSTOP), and let it go on as if nothing had been."""
    host = scene.anyone()
    process = host.process if host is not None else None
    if process is None or process.is_dead or process.is_paused:
        return None
    process.pause()
    scene.later(0.3, 30.0, process.resume)
    return process.resume


def restart(scene: Scene) -> Undo | None:
    """A planned restart: the daemon says goodbye."""
    host = scene.anyone()
    if host is None or not host.is_up:
        return None

    async def go() -> None:
        try:
            await host.stop()
        except Exception as error:  # noqa: BLE001 - the daemon may go otherwise meanwhile
            scene.trace.record("stop_broken_off", host=host.name, reason=str(error))
        host.start()

    scene.loop.create_task(go())
    return host.start


def flap(scene: Scene) -> Undo | None:
    """A daemon that does not live long, several times in a row."""
    host = scene.anyone()
    if host is None:
        return None
    at = 0.0
    steps = []
    for _ in range(scene.dice.randint(3, 8)):
        at += scene.dice.uniform(0.2, 3.0)
        steps.append(scene.loop.call_later(at, host.kill))
        at += scene.dice.uniform(0.05, 1.5)
        steps.append(scene.loop.call_later(at, host.start))

    def stay_up() -> None:
        _call_off(steps)
        host.start()

    return stay_up


# --- disks


def slow_disk(scene: Scene) -> Undo | None:
    """Each operation on a manager's disk holds the whole daemon up for a while."""
    host = scene.manager()
    if host is None:
        return None
    longest_s = scene.dice.choice([0.01, 0.05, 0.4])

    def stall() -> None:
        if host.process is not None:
            host.process.stall(scene.dice.uniform(0.0, longest_s))

    def speed_up() -> None:
        host.on_disk_operation = None

    host.on_disk_operation = stall
    return speed_up


def full_disk(scene: Scene) -> Undo | None:
    """A disk that takes only so many bytes more."""
    host = scene.manager()
    if host is None:
        return None
    host.disk.fill_up(scene.dice.randint(0, 5_000))
    return lambda: host.disk.fill_up(None)


# --- clocks


def clock_jump(scene: Scene) -> Undo | None:
    """A machine's wall clock is set, forwards or back; later it is right again."""
    host = scene.anyone()
    if host is None:
        return None
    host.clock.jump_s = scene.dice.choice([-DAY_S, -3600.0, -30.0, -3.0, 3.0, 30.0, 3600.0, DAY_S])

    def set_right() -> None:
        host.clock.jump_s = 0.0

    return set_right


def clock_drift(scene: Scene) -> Undo | None:
    """A machine's clocks run fast or slow."""
    host = scene.anyone()
    process = host.process if host is not None else None
    if process is None:
        return None
    process.set_rate(scene.dice.uniform(0.9, 1.1))
    return lambda: process.set_rate(1.0)


# --- the network


def isolate(scene: Scene) -> Undo | None:
    """A host reaches nobody."""
    host = scene.anyone()
    if host is None:
        return None
    scene.network.isolate(host.ip)
    return lambda: scene.network.rejoin(host.ip)


def partition(scene: Scene) -> Undo | None:
    """Two groups of hosts that don't reach each other; the managers are torn apart as well."""
    group = [host.ip for host in scene.victims() if scene.dice.random() < 0.3]
    return scene.network.split(group) if group else None


def one_way(scene: Scene) -> Undo | None:
    """What a host sends to some others is lost; what they send arrives."""
    host = scene.anyone()
    if host is None:
        return None
    others = [other for other in scene.fleet.hosts if other is not host and scene.dice.random() < 0.5]
    is_out = scene.dice.random() < 0.5
    paths = [(host.ip, other.ip) if is_out else (other.ip, host.ip) for other in others]
    scene.network.cut_one_way(paths)
    return lambda: scene.network.heal_paths(paths)


def swizzle(scene: Scene) -> Undo | None:
    """Hosts are cut off one by one, and come back one by one in another order."""
    hosts = [host for host in scene.victims() if scene.dice.random() < 0.2]
    if len(hosts) > SWIZZLED_MAX:
        hosts = scene.dice.sample(hosts, SWIZZLED_MAX)
    at = 0.0
    steps = []
    for host in scene.dice.sample(hosts, len(hosts)):
        at += scene.dice.uniform(0.0, 1.0)
        steps.append(scene.loop.call_later(at, scene.network.isolate, host.ip))
    for host in scene.dice.sample(hosts, len(hosts)):
        at += scene.dice.uniform(0.0, 2.0)
        steps.append(scene.loop.call_later(at, scene.network.rejoin, host.ip))

    def rejoin() -> None:
        _call_off(steps)
        for host in hosts:
            scene.network.rejoin(host.ip)

    return rejoin


def slow_link(scene: Scene) -> Undo | None:
    """What passes between one host and the others is late."""
    host = scene.anyone()
    if host is None:
        return None
    others = [other for other in scene.fleet.hosts if other is not host and scene.dice.random() < 0.5]
    seconds = scene.dice.choice([0.05, 0.3, 1.5])
    for other in others:
        scene.network.slow(host.ip, other.ip, seconds)

    def speed_up() -> None:
        for other in others:
            scene.network.slow(host.ip, other.ip, 0.0)

    return speed_up


def drop(scene: Scene) -> Undo | None:
    """Connections are reset, at random."""
    scene.network.lose_connections(scene.dice.uniform(0.05, 0.5))
    scene.network.reset_probability = scene.dice.choice([0.0, 0.0005, 0.01])

    def calm() -> None:
        scene.network.reset_probability = 0.0

    return calm


def duplicate(scene: Scene) -> Undo | None:
    """Calls are served twice, as when a client repeats what it got no answer to."""
    scene.network.duplicate_probability = 0.3

    def once() -> None:
        scene.network.duplicate_probability = 0.0

    return once


# --- what runs tasks


def bad_executor(scene: Scene) -> Undo | None:
    """A machine on which bringing tasks and networks up and down fails, or takes its time."""
    host = scene.victim()
    if host is None:
        return None
    dice = scene.dice

    def trouble(verb: str, subject: str) -> float:
        match dice.randrange(10):
            case 0:
                raise Unavailable(f"simulated: {verb} failed")
            case 1 if verb in ("create", "start", "ensure_image"):
                raise TaskRejected(f"simulated: {verb} was refused")
            case 2:
                return dice.uniform(5.0, 20.0)
            case _:
                return dice.uniform(0.0, 0.5)

    host.machine.script = trouble
    host.network.script = trouble
    return host.reset_machine


def dying_tasks(scene: Scene) -> Undo | None:
    """Processes of tasks end by themselves."""
    host = scene.victim()
    if host is None:
        return None
    for task_id in list(host.machine.tasks):
        if scene.dice.random() < 0.5:
            host.machine.end(task_id, scene.dice.choice([0, 1, 137]))
    return None


def ailing_tasks(scene: Scene) -> Undo | None:
    """Checks of some tasks fail, hang or are late: of health, which ends them, or of readiness."""
    host = scene.victim()
    if host is None:
        return None
    host.machine.answer = ailments.ailing(scene.dice)
    return host.reset_machine


FAULTS: dict[str, Fault] = {
    "kill": kill,
    "kill-several": kill_several,
    "power": power,
    "disk-crash": disk_crash,
    "pause": pause,
    "restart": restart,
    "flap": flap,
    "slow-disk": slow_disk,
    "full-disk": full_disk,
    "clock-jump": clock_jump,
    "clock-drift": clock_drift,
    "isolate": isolate,
    "partition": partition,
    "one-way": one_way,
    "swizzle": swizzle,
    "slow-link": slow_link,
    "drop": drop,
    "duplicate": duplicate,
    "executor": bad_executor,
    "dying-tasks": dying_tasks,
    "ailing-tasks": ailing_tasks,
}
"""Every fault by the name that the command line knows; the docstring says what it is."""


class Nemesis:
    """Lets faults happen. ``run`` until cancelled, then ``undo_all``."""

    def __init__(self, scene: Scene, names: Sequence[str], *, gap_s: float) -> None:
        self._scene = scene
        self._names = tuple(names)
        self._gap_s = gap_s
        self._undos: dict[int, Undo] = {}
        self._number = 0
        self.counts: Counter[str] = Counter()
        """How often each fault was injected."""

    async def run(self) -> None:
        dice = self._scene.dice
        while self._names:
            await asyncio.sleep(dice.expovariate(1 / self._gap_s))
            self.strike(dice.choice(self._names))

    def strike(self, name: str) -> None:
        scene = self._scene
        undo = FAULTS[name](scene)
        self.counts[name] += 1
        scene.trace.record(f"fault {name}")
        if undo is not None:
            self._number += 1
            self._undos[self._number] = undo
            scene.later(0.5, 25.0, lambda number=self._number: self._undo(number))  # type: ignore[misc]

    def _undo(self, number: int) -> None:
        undo = self._undos.pop(number, None)
        if undo is not None:
            undo()

    def undo_all(self) -> None:
        """Everything is as it should be; what was to come back later comes back now."""
        for number in list(self._undos):
            self._undo(number)
        self._scene.network.heal_all()


def _call_off(steps: Sequence[asyncio.TimerHandle]) -> None:
    for step in steps:
        step.cancel()


def _start_all(hosts: Sequence[Host]) -> None:
    for host in hosts:
        host.start()
