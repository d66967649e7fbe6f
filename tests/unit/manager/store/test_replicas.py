"""Managers that apply the same log hold the same bytes, whatever their processes' hash seeds."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace
from store_values import AT, batch, creates, group, network, node, revision, secret, service, task

from manager.store.store import Store
from swarmpy import codec
from swarmpy.model.changes import Batch, Delete, Order
from swarmpy.model.cluster_specs import NodeSpec
from swarmpy.model.ids import TaskId
from swarmpy.model.objects import Kind
from swarmpy.model.states import TaskState

ROOT = Path(__file__).resolve().parents[4]
WORDS = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta")


def log() -> list[Batch]:
    """Batches with labels, references, indexes of many keys, and refusals whose texts list names."""
    labelled = replace(node("n1"), spec=NodeSpec(labels={word: word for word in WORDS}))
    made = [(service(word, secrets=("x",), networks=("net",)), revision(f"{word}-r", word)) for word in WORDS]
    services = [creates(*pair) for pair in made]
    tasks = [creates(task(f"{word}-t", word, on="n1")) for word in WORDS]
    removals = [group(Delete(kind=Kind.SECRET, id="x")), group(Delete(kind=Kind.NETWORK, id="net"))]
    orders = [group(Order(task_id=TaskId(f"{word}-t"), desired_state=TaskState.REMOVE)) for word in WORDS]
    first = batch(creates(labelled, secret("x"), network("net")))
    return [first, batch(*services), batch(*tasks, *removals, request_id="a"), batch(*orders, epoch=3)]


def digest() -> str:
    store = Store()
    hashed = hashlib.sha256()
    for index, each in enumerate(log()):
        entry = codec.encode(each)
        hashed.update(entry)
        hashed.update(codec.encode(store.apply(entry, index)))
    hashed.update(b"".join(store.encode(store.freeze())))
    return hashed.hexdigest()


@pytest.mark.parametrize("seed", ["0", "4711"])
def test_another_process_comes_to_the_same_bytes(seed: str) -> None:
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "support"), str(Path(__file__).parent)])
    done = subprocess.run(
        [sys.executable, "-c", "import test_replicas; print(test_replicas.digest())"],
        env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.strip() == digest()


def test_the_log_of_this_test_is_accepted_but_for_the_removals() -> None:
    store = Store()
    refused = [refusal.reason for each in log() for refusal in store.apply_batch(each).refused]
    users = ", ".join(sorted(WORDS))
    assert refused == [
        f"secret 'x' is in use by the following services: {users}",
        "network net is in use by service alpha",
    ]
    assert store.task(TaskId("zeta-t")) is not None
    assert store.version == len(WORDS) * 3 + 1
    assert min(each.created_at for each in store.tasks()) == AT
