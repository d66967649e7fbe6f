"""``/nodes`` and ``/swarm`` over HTTP: roles, removal, init, join, leave, tokens."""

from __future__ import annotations

import re
from typing import Any

import pytest
from api_http import Http
from api_node import FIRST, MANAGER_TOKEN, WORKER_TOKEN, FakeCluster, FakeNode
from msgspec.structs import replace

from manager.api.control import LocalNode, LocalState
from manager.api.nodes import can_spare
from manager.raft.proposer import Member, RaftStatus
from swarmpy.errors import InvalidArgument
from swarmpy.model.ids import NodeId
from swarmpy.model.states import NodeRole, NodeState

SECOND = NodeId("n2bbbbbbbbbbbbbbbbbbbbbbb")
THIRD = NodeId("n3ccccccccccccccccccccccc")


async def inspect(http: Http, name: str) -> dict[str, Any]:
    answer = await http.get(f"/nodes/{name}")
    assert answer.status == 200, answer.body
    found: dict[str, Any] = answer.json
    return found


async def update(http: Http, name: str, **changes: Any) -> Any:
    node = await inspect(http, name)
    return await http.post(
        f"/nodes/{node['ID']}/update", {**node["Spec"], **changes}, version=node["Version"]["Index"]
    )


async def test_a_manager_is_shown_with_what_raft_knows(http: Http, cluster: FakeCluster) -> None:
    cluster.add_node(SECOND, "node-2", role=NodeRole.MANAGER)
    cluster.members = (cluster.members[0], replace_member(cluster.members[1], is_reachable=False))
    cluster.add_node(THIRD, "node-3", state=NodeState.DOWN)
    first, second, third = (await http.get("/nodes")).json
    assert first["ManagerStatus"] == {"Leader": True, "Reachability": "reachable", "Addr": "10.0.0.1:2377"}
    assert second["ManagerStatus"] == {"Reachability": "unreachable", "Addr": "10.0.0.1:2377"}
    assert "ManagerStatus" not in third
    assert third["Status"] == {"State": "down", "Addr": "10.0.0.1"}
    assert first["Description"]["Hostname"] == "node-1"
    assert first["Description"]["Platform"] == {"Architecture": "x86_64", "OS": "linux"}
    assert first["Description"]["Resources"] == {"NanoCPUs": 2_000_000_000, "MemoryBytes": 4 << 30}
    assert first["Spec"] == {"Labels": {}, "Role": "manager", "Availability": "active"}


def replace_member(member: Member, *, is_reachable: bool) -> Member:
    return Member(raft_id=member.raft_id, address=member.address, is_reachable=is_reachable)


async def test_node_filters(http: Http, cluster: FakeCluster) -> None:
    cluster.add_node(SECOND, "node-2")

    async def ids(**filters: list[str]) -> list[str]:
        return [node["ID"] for node in (await http.get("/nodes", filters=filters)).json]

    assert await ids(role=["manager"]) == [FIRST]
    assert await ids(name=["node-2"]) == [SECOND]
    assert await ids(id=["n2"]) == [SECOND]
    assert await ids(membership=["accepted"]) == [FIRST, SECOND]
    await update(http, "node-2", Labels={"zone": "a"})
    assert await ids(**{"node.label": ["zone=a"]}) == [SECOND]


async def test_two_nodes_of_one_hostname_are_ambiguous(http: Http, cluster: FakeCluster) -> None:
    cluster.add_node(SECOND, "node-1")
    answer = await http.get("/nodes/node-1")
    assert (answer.status, answer.message) == (400, "node node-1 is ambiguous (2 matches found)")
    assert (await inspect(http, "self"))["ID"] == FIRST


async def test_drain_and_label(http: Http, cluster: FakeCluster) -> None:
    answer = await update(http, "node-1", Availability="drain", Labels={"a": "b"})
    assert answer.status == 200
    assert (await inspect(http, "node-1"))["Spec"] == {
        "Labels": {"a": "b"},
        "Role": "manager",
        "Availability": "drain",
    }


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"Availability": "asleep"}, 'invalid Availability: "asleep"'),
        ({"Role": "boss"}, 'invalid Role: "boss"'),
        ({"Role": ""}, "invalid Role"),
        ({"Availability": None}, "invalid Availability"),
    ],
)
async def test_bad_node_specs(http: Http, cluster: FakeCluster, change: dict[str, Any], words: str) -> None:
    answer = await update(http, "node-1", **change)
    assert answer.status == 400
    assert words in answer.message


async def test_a_stale_node_version_is_out_of_sequence(http: Http, cluster: FakeCluster) -> None:
    node = await inspect(http, "node-1")
    await update(http, "node-1", Availability="pause")
    path = f"/nodes/{FIRST}/update"
    answer = await http.post(path, node["Spec"], version=node["Version"]["Index"])
    assert (answer.status, answer.message) == (500, "rpc error: code = Unknown desc = update out of sequence")


async def test_the_last_manager_stays(http: Http, cluster: FakeCluster) -> None:
    cluster.add_node(SECOND, "node-2")
    answer = await update(http, "node-1", Role="worker")
    assert answer.status == 400
    assert "attempting to demote the last manager of the swarm" in answer.message
    node = cluster.store.node(FIRST)
    assert node is not None
    assert node.spec.role is NodeRole.MANAGER


async def test_promote_and_demote_record_the_wish(http: Http, cluster: FakeCluster) -> None:
    cluster.add_node(SECOND, "node-2")
    assert (await update(http, "node-2", Role="manager")).status == 200
    node = cluster.store.node(SECOND)
    assert node is not None
    assert (node.spec.role, node.role) == (NodeRole.MANAGER, NodeRole.WORKER)
    assert (await update(http, "node-2", Role="worker")).status == 200


async def test_a_demotion_must_not_cost_the_quorum(http: Http, cluster: FakeCluster) -> None:
    cluster.add_node(SECOND, "node-2", role=NodeRole.MANAGER)
    cluster.add_node(THIRD, "node-3", role=NodeRole.MANAGER)
    first, second, third = cluster.members
    cluster.members = (first, second, replace_member(third, is_reachable=False))
    answer = await update(http, "node-2", Role="worker")
    assert answer.status == 400
    assert "this would result in a loss of quorum" in answer.message
    assert (await update(http, "node-3", Role="worker")).status == 200


@pytest.mark.parametrize(
    ("reachable", "spared", "expected"),
    [
        ("111", 0, True),
        ("110", 2, True),
        ("110", 1, False),
        ("1", 0, False),
        ("11", 1, True),
        ("10100", 0, False),
    ],
)
def test_who_can_be_spared(reachable: str, spared: int, expected: bool) -> None:
    members = tuple(
        Member(raft_id=str(n), address="", is_reachable=up == "1") for n, up in enumerate(reachable)
    )
    status = RaftStatus(
        raft_id="none",
        term=1,
        leader=None,
        is_leader=False,
        is_ready_leader=False,
        commit=0,
        applied=0,
        members=members,
    )
    assert can_spare(str(spared), status) is expected


async def test_removal_rules(http: Http, cluster: FakeCluster) -> None:
    cluster.add_node(SECOND, "node-2")
    answer = await http.delete("/nodes/node-1", force="1")
    assert answer.status == 400
    assert "is a cluster manager and is a member of the raft cluster. It must be demoted" in answer.message
    answer = await http.delete("/nodes/node-2")
    assert answer.status == 400
    assert f"node {SECOND} is not down and can't be removed" in answer.message
    assert (await http.delete("/nodes/node-2", force="true")).status == 200
    assert cluster.store.node(SECOND) is None
    stored = cluster.store.cluster()
    assert stored is not None
    assert [removed.node_id for removed in stored.removed_nodes] == [SECOND]
    assert (await http.delete("/nodes/node-2", force="true")).status == 404


async def test_a_node_that_is_down_goes_without_force(http: Http, cluster: FakeCluster) -> None:
    cluster.add_node(SECOND, "node-2", state=NodeState.DOWN)
    assert (await http.delete("/nodes/node-2")).status == 200


# --- the swarm


async def test_init_once(http: Http, node: FakeNode) -> None:
    answer = await http.post("/swarm/init", {"ListenAddr": "0.0.0.0:2377", "Spec": {"Labels": None}})
    assert (answer.status, answer.json) == (200, FIRST)
    answer = await http.post("/swarm/init", {"ListenAddr": "0.0.0.0:2377"})
    assert answer.status == 503
    assert answer.message.startswith("This node is already part of a swarm.")


@pytest.mark.parametrize(
    "body",
    [
        {"DataPathPort": 80},
        {"Spec": {"Name": "other"}},
        {"Spec": {"CAConfig": {"NodeCertExpiry": 1}}},
        {"Availability": "asleep"},
    ],
)
async def test_bad_inits(http: Http, node: FakeNode, body: dict[str, Any]) -> None:
    assert (await http.post("/swarm/init", body)).status == 400
    assert node.state.state is LocalState.INACTIVE


async def test_join_passes_the_request_on(http: Http, node: FakeNode) -> None:
    answer = await http.post("/swarm/join", {"RemoteAddrs": ["10.0.0.1:2377"], "JoinToken": WORKER_TOKEN})
    assert answer.status == 200
    (asked,) = node.joined
    assert (asked.remote_addrs, asked.join_token) == (("10.0.0.1:2377",), WORKER_TOKEN)
    answer = await http.post("/swarm/join", {"RemoteAddrs": ["10.0.0.1:2377"], "JoinToken": WORKER_TOKEN})
    assert answer.status == 503


async def test_bad_joins(http: Http, node: FakeNode) -> None:
    answer = await http.post("/swarm/join", {"JoinToken": "x"})
    assert (answer.status, answer.message) == (400, "at least 1 RemoteAddr is required to join")
    answer = await http.post("/swarm/join", {"RemoteAddrs": ["a:1"], "JoinToken": "x" * 1_000_000})
    assert answer.status == 400
    node.join_error = InvalidArgument("invalid join token")
    answer = await http.post("/swarm/join", {"RemoteAddrs": ["a:1"], "JoinToken": "x"})
    assert (answer.status, answer.message) == (400, "invalid join token")
    assert node.state.state is LocalState.INACTIVE


async def test_tokens_are_in_swarm_alone(http: Http, cluster: FakeCluster) -> None:
    swarm = (await http.get("/swarm")).json
    assert swarm["JoinTokens"] == {"Worker": WORKER_TOKEN, "Manager": MANAGER_TOKEN}
    info = await http.get("/info")
    assert info.json["Swarm"]["Cluster"]["ID"] == swarm["ID"]
    assert WORKER_TOKEN.encode() not in info.body


async def test_other_ids_are_told(http: Http, node: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = ["name=seccomp,profile=builtin"]
    assert (await http.get("/info")).json["SecurityOptions"] == plain
    info = replace(node.system(), has_other_ids=True)
    monkeypatch.setattr(node, "system", lambda: info)
    assert (await http.get("/info")).json["SecurityOptions"] == [*plain, "name=userns"]


async def test_rotation_changes_one_token(http: Http, cluster: FakeCluster) -> None:
    swarm = (await http.get("/swarm")).json
    answer = await http.post(
        "/swarm/update", swarm["Spec"], version=swarm["Version"]["Index"], rotateWorkerToken="true"
    )
    assert answer.status == 200, answer.body
    tokens = (await http.get("/swarm")).json["JoinTokens"]
    assert tokens["Worker"] != WORKER_TOKEN
    assert tokens["Worker"].startswith("SWMTKN-1-")
    assert tokens["Manager"] == MANAGER_TOKEN


async def test_swarm_update(http: Http, cluster: FakeCluster) -> None:
    swarm = (await http.get("/swarm")).json
    index = swarm["Version"]["Index"]
    spec = {**swarm["Spec"], "Orchestration": {"TaskHistoryRetentionLimit": 2}}
    assert (await http.post("/swarm/update", spec, version=index)).status == 200
    answer = await http.post("/swarm/update", swarm["Spec"], version=index)
    assert (answer.status, answer.message) == (500, "rpc error: code = Unknown desc = update out of sequence")
    assert (await http.get("/swarm")).json["Spec"]["Orchestration"] == {"TaskHistoryRetentionLimit": 2}
    assert (await http.post("/swarm/update", spec)).status == 400


async def test_leaving(http: Http, node: FakeNode) -> None:
    answer = await http.post("/swarm/leave")
    assert (answer.status, answer.message) == (503, "This node is not part of a swarm")
    cluster = node.become_manager()
    answer = await http.post("/swarm/leave")
    assert answer.status == 503
    assert "Removing the last manager erases all current state of the swarm. Use `--force`" in answer.message
    cluster.add_node(SECOND, "node-2", role=NodeRole.MANAGER)
    answer = await http.post("/swarm/leave")
    assert "Removing this node leaves 1 managers out of 2. Without a Raft quorum" in answer.message
    assert (await http.post("/swarm/leave", force="1")).status == 200
    assert node.state.state is LocalState.INACTIVE
    node.become_worker()
    assert (await http.post("/swarm/leave")).status == 200


async def test_unlocking(http: Http, node: FakeNode) -> None:
    body = {"UnlockKey": "SWMKEY-1-x"}
    for verb, path in (("POST", "/swarm/unlock"), ("GET", "/swarm/unlockkey")):
        answer = await http.call(verb, path, body=body if verb == "POST" else None)
        assert (answer.status, answer.message[:45]) == (503, 'This node is not a swarm manager. Use "docker')
    node.become_manager()
    answer = await http.post("/swarm/unlock", body)
    assert (answer.status, answer.message) == (409, "swarm is not locked")
    assert (await http.get("/swarm/unlockkey")).json == {"UnlockKey": ""}
    node.state = replace(node.state, state=LocalState.LOCKED)
    answer = await http.get("/services")
    assert answer.status == 503
    assert answer.message.startswith("Swarm is encrypted and needs to be unlocked")
    assert (await http.post("/swarm/leave")).status == 503
    assert (await http.post("/swarm/unlock", body)).status == 200
    assert (await http.get("/services")).status == 200


async def test_the_unlock_key_comes_and_goes_with_autolock(http: Http, node: FakeNode) -> None:
    node.become_manager()

    async def update(*, is_locking: bool, **query: str) -> str:
        swarm = (await http.get("/swarm")).json
        spec = swarm["Spec"] | {"EncryptionConfig": {"AutoLockManagers": is_locking}}
        answer = await http.post("/swarm/update", spec, version=str(swarm["Version"]["Index"]), **query)
        assert answer.status == 200, answer.message
        key: str = (await http.get("/swarm/unlockkey")).json["UnlockKey"]
        return key

    first = await update(is_locking=True)
    assert re.fullmatch(r"SWMKEY-1-[A-Za-z0-9+/]{43}", first)
    assert await update(is_locking=True) == first
    second = await update(is_locking=True, rotateManagerUnlockKey="true")
    assert second not in ("", first)
    assert await update(is_locking=False, rotateManagerUnlockKey="true") == ""
    assert "UnlockKey" not in (await http.get("/swarm")).json
    assert await update(is_locking=True) not in ("", first, second)


async def test_two_managers_get_a_warning(http: Http, cluster: FakeCluster) -> None:
    cluster.add_node(SECOND, "node-2", role=NodeRole.MANAGER)
    swarm = (await http.get("/info")).json["Swarm"]
    assert (swarm["Managers"], swarm["Nodes"]) == (2, 2)
    assert "two-manager configuration" in swarm["Warnings"][0]


async def test_an_error_of_the_node_is_said(http: Http, node: FakeNode) -> None:
    node.state = LocalNode(state=LocalState.ERROR, error="certificate expired")
    answer = await http.get("/nodes")
    assert answer.status == 503
    assert "certificate expired" in answer.message
