"""``swarmpy dev demo``: the main job on real processes, told step by step, with times.

Five hosts; a replicated web service; its replicas asked one by one; scaled; the leader killed; a worker's
plug pulled; both brought back. It uses the Engine API alone, as any client would. Every step is a condition
with a deadline: a step that does not come true ends the demo with a sentence and exit code 1, and whatever
happens the lab is taken away (unless ``keep`` asks for it to stay).
"""

from __future__ import annotations

import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

import msgspec

from swarmpy.errors import AlreadyExists, SwarmError, Unavailable
from swarmpy.lab.cluster import Lab
from swarmpy.lab.limits import LAB_POLL_S, LAB_READY_TIMEOUT_S

NAME: Final = "demo"
SERVICE: Final = "web"
PORT: Final = 8000
STEP_TIMEOUT_S: Final = 30.0
WRITE_TIMEOUT_S: Final = 20.0
ATTEMPT_TIMEOUT_S: Final = 5.0
ASK_TIMEOUT_S: Final = 10.0

# What a replica runs, from the node's own root filesystem: it answers with its hostname.
SERVER: Final = f"""
import http.server, socket
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = (socket.gethostname() + "\\n").encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
http.server.ThreadingHTTPServer(("", {PORT}), Answer).serve_forever()
"""

# Asks from within a replica's node; a server that is only just starting is asked again.
CLIENT: Final = """
import sys, time, urllib.request
deadline = time.monotonic() + float(sys.argv[2])
while True:
    try:
        print(urllib.request.urlopen(sys.argv[1], timeout=1).read().decode().strip())
        break
    except OSError as error:
        if time.monotonic() > deadline:
            sys.exit(f"{sys.argv[1]}: {error}")
        time.sleep(0.05)
"""


class Step(msgspec.Struct, frozen=True):
    what: str
    result: str
    took_s: float


class Demo:
    """The story. ``steps`` is what happened so far."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.entry = lab.layout.managers[0].name
        self.steps: list[Step] = []

    def run(self) -> None:
        self._create(replicas=3)
        self._ask_replicas(3)
        self._scale(10)
        leader = self.lab.leader()
        self._kill_leader(leader)
        self._say(f"Wait until 10 replicas run without {leader}.")
        self._wait_settled(10, away_from=[leader], what=f"10 replicas run without {leader}")
        worker = self._busiest_worker()
        self._power_off(worker, away_from=[leader, worker])
        self._ask_replicas(10)
        self._bring_back([leader, worker])

    # --- the steps

    def _create(self, *, replicas: int) -> None:
        self._say(f"Create the service {SERVICE} with {replicas} replicas of a small web server.")
        begin = time.monotonic()
        self._call("POST", "/services/create", service_spec(replicas))
        self._wait_running(replicas)
        self._done(f"create {SERVICE} with {replicas} replicas", "all are running", begin)

    def _ask_replicas(self, count: int) -> None:
        self._say("Ask each replica over HTTP, from its node.")
        begin = time.monotonic()
        names = self._node_names()
        answers = set()
        for task in self._running():
            node = names[task["NodeID"]]
            answer = self._ask(node, f"http://{task_address(task)}:{PORT}/")
            answers.add(answer)
            print(f"    {SERVICE}.{task['Slot']} on {node} says: {answer}")
        if len(answers) != count:
            raise Unavailable(
                f"{count} replicas should answer, each with its own name, but {len(answers)} did."
            )
        self._done(f"ask {count} replicas", f"{len(answers)} different answers", begin)

    def _scale(self, replicas: int) -> None:
        self._say(f"Scale {SERVICE} to {replicas}.")
        begin = time.monotonic()
        service = self._call("GET", f"/services/{SERVICE}")
        spec = service["Spec"] | {"Mode": {"Replicated": {"Replicas": replicas}}}
        version = service["Version"]["Index"]
        self._call("POST", f"/services/{service['ID']}/update?version={version}", spec)
        self._wait_running(replicas)
        self._done(f"scale {SERVICE} to {replicas}", "all are running", begin)

    def _kill_leader(self, leader: str) -> None:
        self._say(f"kill -9 the daemon of the leader, {leader}, and write through another manager.")
        self.entry = next(host.name for host in self.lab.layout.managers if host.name != leader)
        begin = time.monotonic()
        self.lab.kill(leader)
        self._write_until_accepted()
        self._done(f"kill -9 the leader {leader}", f"a write through {self.entry} is accepted", begin)
        print(f"    The leader now is {self.lab.leader()}.")

    def _write_until_accepted(self) -> None:
        """Create a service without replicas. Asked again after an answer was lost, it may exist already."""
        deadline = time.monotonic() + WRITE_TIMEOUT_S
        spec = service_spec(0) | {"Name": "after-the-leader"}
        while True:
            try:
                reply = self.lab.request(
                    self.entry, "POST", "/services/create", spec, timeout_s=ATTEMPT_TIMEOUT_S
                )
                if reply.is_ok or reply.status == AlreadyExists.http_status:
                    return
                problem = reply.message
            except Unavailable as error:
                problem = str(error)
            if time.monotonic() > deadline:
                raise Unavailable(f"No write was accepted within {WRITE_TIMEOUT_S:.0f} s: {problem}")
            time.sleep(LAB_POLL_S)

    def _busiest_worker(self) -> str:
        names = self._node_names()
        nodes = [names[task["NodeID"]] for task in self._running()]
        workers = [host.name for host in self.lab.layout.workers]
        return max(workers, key=nodes.count)

    def _power_off(self, worker: str, *, away_from: list[str]) -> None:
        names = self._node_names()
        lost = [task for task in self._running() if names[task["NodeID"]] == worker]
        self._say(f"Pull the plug of {worker}, which runs {len(lost)} replicas.")
        begin = time.monotonic()
        self.lab.kill(worker, host=True)
        self._wait_settled(10, away_from=away_from, what=f"power failure of {worker}", begin=begin)

    def _bring_back(self, names: list[str]) -> None:
        self._say(f"Bring back {' and '.join(names)}.")
        begin = time.monotonic()
        for name in names:
            self.lab.start(name)
        self.lab.wait_ready(timeout_s=LAB_READY_TIMEOUT_S)
        self._wait_running(10)
        self._done(f"bring back {' and '.join(names)}", "all nodes are ready, 10 replicas run", begin)

    # --- asking and waiting

    def _wait_settled(
        self, replicas: int, *, away_from: list[str], what: str, begin: float | None = None
    ) -> None:
        begin = time.monotonic() if begin is None else begin
        self._wait_running(replicas, away_from=away_from)
        self._done(what, f"{replicas} replicas run on the other nodes", begin)

    def _wait_running(self, replicas: int, *, away_from: list[str] | None = None) -> None:
        def is_so() -> bool:
            try:
                names = self._node_names() if away_from else {}
                tasks = self._running()
            except SwarmError:  # a new leader is being elected: ask again
                return False
            return len(tasks) == replicas and not any(
                names.get(task["NodeID"]) in (away_from or []) for task in tasks
            )

        self.lab.wait(
            is_so,
            timeout_s=STEP_TIMEOUT_S,
            explain=lambda: f"{replicas} replicas should be running. Tasks: {self._task_summary()}",
        )

    def _running(self) -> list[dict[str, Any]]:
        """The tasks that should run and do, by slot."""
        filters = {"service": [SERVICE], "desired-state": ["running"]}
        tasks = [task for task in self.lab.tasks(filters) if task["Status"]["State"] == "running"]
        return sorted(tasks, key=lambda task: int(task["Slot"]))

    def _task_summary(self) -> str:
        try:
            tasks = self.lab.tasks({"service": [SERVICE]})
        except SwarmError as error:
            return str(error)
        lines = {
            f"{task['DesiredState']}/{task['Status']['State']} {task['Status'].get('Err', '')}".strip()
            for task in tasks
        }
        return "; ".join(sorted(lines)) or "none"

    def _node_names(self) -> dict[str, str]:
        return {node["ID"]: node["Description"]["Hostname"] for node in self.lab.nodes()}

    def _ask(self, node: str, url: str) -> str:
        done = self.lab.exec(node, [sys.executable, "-c", CLIENT, url, str(ASK_TIMEOUT_S)])
        if done.returncode != 0:
            raise Unavailable(f"A replica on {node} does not answer: {done.stderr.strip()}")
        return done.stdout.strip()

    def _call(self, method: str, target: str, body: Any = None) -> Any:
        return self.lab.call(self.entry, method, target, body)

    def _say(self, line: str) -> None:
        print(f"\n{len(self.steps) + 1}. {line}", flush=True)

    def _done(self, what: str, result: str, begin: float) -> None:
        took_s = time.monotonic() - begin
        self.steps.append(Step(what, result, took_s))
        print(f"    {result} after {took_s:.2f} s", flush=True)


def service_spec(replicas: int) -> dict[str, Any]:
    """What a client sends to create the demo's service."""
    return {
        "Name": SERVICE,
        "TaskTemplate": {
            "ContainerSpec": {
                "Image": "host",
                "Command": [sys.executable, "-c", SERVER],
                "StopGracePeriod": 1_000_000_000,
            },
        },
        "Mode": {"Replicated": {"Replicas": replicas}},
    }


def task_address(task: dict[str, Any]) -> str:
    """Where a task is reached from its own node, by what its agent reported."""
    attachments = task.get("NetworksAttachments") or []
    addresses = [address for one in attachments for address in one.get("Addresses") or []]
    addresses += task["Status"].get("Addresses") or []
    if not addresses:
        raise Unavailable(f"The task {task['ID']} has no address.")
    return str(addresses[0]).partition("/")[0]


def run_demo(*, keep: bool = False) -> int:
    """Set up, tell the story, clean up. The exit code."""
    steps: list[Step] = []
    try:
        with _only_demo(), _terminated_as_interrupted():
            begin = time.monotonic()
            Lab.remove(NAME)  # of a demo that was killed; none can be under way now
            print("Setting up three managers and two workers, each a host of its own on this machine …")
            lab = Lab.up(managers=3, workers=2, name=NAME)
            try:
                print(f"    five nodes are ready after {time.monotonic() - begin:.1f} s")
                demo = Demo(lab)
                steps = demo.steps
                demo.run()
            finally:
                _clean_up(lab, keep=keep)
    except SwarmError as error:
        _print_steps(steps)
        print(f"\nError: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        return 130
    _print_steps(steps)
    return 0


def _clean_up(lab: Lab, *, keep: bool) -> None:
    if keep:
        print(
            f'\nThe lab stays: "swarmpy dev status --name {NAME}"; "swarmpy dev down --name {NAME}" ends it.'
        )
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # an impatient second Ctrl-C must not leave a half
    try:
        lab.down()
    finally:
        signal.signal(signal.SIGINT, before)


def _print_steps(steps: list[Step]) -> None:
    if not steps:
        return
    what = max(len(step.what) for step in steps)
    result = max(len(step.result) for step in steps)
    print(f"\n{'WHAT HAPPENED'.ljust(what)}  {'RESULT'.ljust(result)}  TIME")
    for step in steps:
        print(f"{step.what.ljust(what)}  {step.result.ljust(result)}  {step.took_s:.2f} s")
    print(f"{'in all'.ljust(what)}  {''.ljust(result)}  {sum(step.took_s for step in steps):.1f} s")


@contextmanager
def _only_demo() -> Iterator[None]:
    """One demo at a time. The lock is a name in the kernel and goes with this process, however it ends."""
    with socket.socket(socket.AF_UNIX) as lock:
        try:
            lock.bind("\0swarmpy-demo")
        except OSError:
            raise AlreadyExists("A demo is running on this machine already.") from None
        yield


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM cleans up as Ctrl-C does."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before: Callable[[int, FrameType | None], Any] | int | None = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
