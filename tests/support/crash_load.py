"""A load of writes and reads on a lab, with a history of what was answered, and what must hold of it.

Each writer owns the services that it creates, so it knows of each what it may be: an acknowledged write has
taken effect once and for all, a refused one never does, and one whose outcome is open did or did not. Reads
go to any manager and must show every write acknowledged before they began.
"""

from __future__ import annotations

import itertools
import random
import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

from swarmpy.errors import SwarmError
from swarmpy.lab import hosts
from swarmpy.lab.cluster import Lab
from swarmpy.lab.engine_http import Reply
from swarmpy.lab.limits import LAB_POLL_S

REQUEST_TIMEOUT_S: Final = 5.0
SERVICES_MAX: Final = 100
"""Above this many services of its own a writer removes rather than creates."""
SAMPLE_S: Final = 0.3
NO_LEADER: Final = "does not have a leader"
_LABEL: Final = "n"
_numbers = itertools.count(1)


def spec(name: str, replicas: int, mark: str, label: int = 0) -> dict[str, Any]:
    container = {"Image": "host", "Command": ["sleep", mark], "StopGracePeriod": 1_000_000_000}
    return {
        "Name": name,
        "Labels": {_LABEL: str(label)},
        "TaskTemplate": {"ContainerSpec": container},
        "Mode": {"Replicated": {"Replicas": replicas}},
    }


@dataclass
class Owned:
    """One service: every state that it may be in. ``labels`` holds one unless an update's outcome is open."""

    name: str
    id_: str
    replicas: int
    labels: set[int] = field(default_factory=lambda: {0})
    is_open: bool = False
    """It may not be there: its creation's, or removal's, outcome is open."""


@dataclass
class History:
    """What was asked for and what was answered."""

    services: dict[str, Owned] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    """Removed, or refused for want of a leader."""
    counts: Counter[str] = field(default_factory=Counter)
    defects: list[str] = field(default_factory=list)


class Writer(threading.Thread):
    """Creates, updates, removes and reads services at random managers. Each call has a timeout."""

    def __init__(self, lab: Lab, *, seed: int, until: float, mark: str) -> None:
        super().__init__()
        self.lab, self.until, self.mark = lab, until, mark
        self.random = random.Random(seed)
        self.history = History()

    def run(self) -> None:
        while time.monotonic() < self.until:
            living = [host.name for host in self.lab.layout.managers if hosts.daemon(host) is not None]
            if not living or not is_listening(self.lab, at := self.random.choice(living)):
                time.sleep(LAB_POLL_S)
                continue
            self._step(at)

    def _step(self, at: str) -> None:
        known = [name for name, owned in sorted(self.history.services.items()) if not owned.is_open]
        dice = self.random.random()
        if not known or (dice < 0.4 and len(known) < SERVICES_MAX):
            self._create(at)
            return
        owned = self.history.services[self.random.choice(known)]
        if dice < 0.55:
            self._remove(at, owned)
        elif dice < 0.8:
            self._update(at, owned)
        else:
            self._read(at, owned)

    def _ask(self, what: str, at: str, target: tuple[str, str], body: Any = None) -> Reply | None:
        """None: no answer, so the outcome is open."""
        try:
            reply = self.lab.request(at, *target, body, timeout_s=REQUEST_TIMEOUT_S)
        except SwarmError:
            reply = None
        if reply is None or (reply.status == 503 and NO_LEADER not in reply.message):
            outcome = "open"
        elif reply.is_ok:
            outcome = "acknowledged"
        else:
            outcome = "refused"
        self.history.counts[f"{what} {outcome}"] += 1
        return None if outcome == "open" else reply

    def _create(self, at: str) -> None:
        owned = Owned(f"s{next(_numbers)}", "", 1 if self.random.random() < 0.1 else 0)
        body = spec(owned.name, owned.replicas, self.mark)
        reply = self._ask("create", at, ("POST", "/services/create"), body)
        if reply is None:
            owned.is_open = True
        elif reply.is_ok:
            owned.id_ = reply.body["ID"]
        else:
            self.history.gone.add(owned.name)
            self._expect_no_leader(reply, f"create {owned.name} at {at}")
            return
        self.history.services[owned.name] = owned

    def _remove(self, at: str, owned: Owned) -> None:
        reply = self._ask("remove", at, ("DELETE", f"/services/{owned.id_}"))
        if reply is None:
            owned.is_open = True
        elif reply.is_ok:
            del self.history.services[owned.name]
            self.history.gone.add(owned.name)
        else:
            self._expect_no_leader(reply, f"remove {owned.name} at {at}")

    def _update(self, at: str, owned: Owned) -> None:
        found = self._read(at, owned)
        if found is None:
            return
        label = next(_numbers)
        body = spec(owned.name, owned.replicas, self.mark, label)
        target = f"/services/{owned.id_}/update?version={found['Version']['Index']}"
        reply = self._ask("update", at, ("POST", target), body)
        if reply is None:
            owned.labels.add(label)
        elif reply.is_ok:
            owned.labels = {label}
        elif "out of sequence" in reply.message and len(owned.labels) > 1:
            pass  # an update whose outcome was open came between
        else:
            self._expect_no_leader(reply, f"update {owned.name} at {at}")

    def _read(self, at: str, owned: Owned) -> dict[str, Any] | None:
        """The service as it is now, which must be a state that it may be in."""
        reply = self._ask("read", at, ("GET", f"/services/{owned.id_}"))
        if reply is None:
            return None
        if not reply.is_ok:
            self._expect_no_leader(reply, f"read {owned.name} at {at}, acknowledged before,")
            return None
        found: dict[str, Any] = reply.body
        label = label_of(found)
        if label not in owned.labels:
            self.history.defects.append(f"{owned.name} has label {label} at {at}, not one of {owned.labels}")
        return found

    def _expect_no_leader(self, reply: Reply, what: str) -> None:
        if reply.status != 503:
            self.history.defects.append(f"{what}: {reply}")


class Sampler(threading.Thread):
    """Compares the managers' stores while they change: equal place in the log, equal digest."""

    def __init__(self, lab: Lab, *, until: float) -> None:
        super().__init__()
        self.lab, self.until = lab, until
        self.digests: dict[int, tuple[str, str]] = {}
        self.compared = 0
        self.defects: list[str] = []

    def run(self) -> None:
        while time.monotonic() < self.until:
            for host in self.lab.layout.managers:
                if hosts.daemon(host) is not None and is_listening(self.lab, host.name):
                    self.sample(host.name)
            time.sleep(SAMPLE_S)  # the pace of the samples, not a condition

    def sample(self, name: str) -> dict[str, Any] | None:
        try:
            reply = self.lab.request(name, "GET", "/swarmpy/store", timeout_s=REQUEST_TIMEOUT_S)
        except SwarmError:
            return None
        if not reply.is_ok:
            return None
        shown: dict[str, Any] = reply.body
        digest, first = self.digests.setdefault(shown["Applied"], (shown["Digest"], name))
        self.compared += first != name
        if digest != shown["Digest"]:
            self.defects.append(f"the stores of {first} and {name} differ after entry {shown['Applied']}")
        return shown


def label_of(service: dict[str, Any]) -> int:
    return int(service["Spec"]["Labels"][_LABEL])


def is_listening(lab: Lab, name: str) -> bool:
    """Whether a request could be sent at all; what could not is no uncertain write."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(REQUEST_TIMEOUT_S)
        return probe.connect_ex(str(lab.host(name).socket)) == 0
