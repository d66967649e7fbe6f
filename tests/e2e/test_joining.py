"""Who gets into a swarm, who does not, and what is said: one swarm, hosts without one, and a foreign swarm.

node-1 manages, node-2 is its worker, node-3 and node-4 are in no swarm; every test leaves it so.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Final

import pytest
from lab_cli import Cli, error, wait_for, wait_node
from lab_services import lab_of

from swarmpy.lab.cluster import Lab

MANAGER: Final = "10.200.0.11:2377"
IN_A_SWARM: Final = (
    'This node is already part of a swarm. Use "swarmpy leave" to leave this swarm and join another one.'
)
NEEDS_TOKEN: Final = "A valid join token is necessary to join this cluster"
LISTEN: Final = """
import socket, sys
with socket.create_server(("0.0.0.0", 2377)):
    print("bound", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with lab_of(managers=1, workers=3, has_swarm=False) as lab:
        cli = Cli(lab)
        cli.good("init")
        cli.good("join", "--token", token(cli), MANAGER, at="node-2")
        wait_for(lambda: len(lab.nodes()) == 2, what="two nodes")
        yield lab


@pytest.fixture(scope="module")
def foreign_token() -> str:
    """Of another swarm, which is gone by the time that the token is used."""
    with lab_of(managers=1, workers=0) as other:
        return token(Cli(other))


@pytest.fixture
def cli(lab: Lab) -> Cli:
    return Cli(lab)


def token(cli: Cli, role: str = "worker") -> str:
    return cli.good("join-token", "--quiet", role).strip()


def swarm_state(cli: Cli, node: str) -> str:
    return cli.good("info", "--format", "{{.Swarm.LocalNodeState}}", at=node).strip()


def refused(cli: Cli, token: str, *, address: str = MANAGER) -> str:
    """What joining says; the node and the swarm are as before."""
    said = cli.bad("join", "--token", token, address, at="node-3")
    assert swarm_state(cli, "node-3") == "inactive"
    assert len(cli.lab.nodes()) == 2
    return said


def leave(cli: Cli, node: str, *, is_known: bool = True) -> None:
    """Out of the swarm, and out of its list of nodes."""
    cli.good("leave", "--force", at=node)
    if is_known:
        wait_node(cli.lab, node, "down")
        cli.good("node", "rm", "--force", node)


# --- tokens


def test_a_wrong_secret_is_refused(cli: Cli) -> None:
    right = token(cli)
    wrong = right[:-1] + ("0" if right[-1] != "0" else "1")

    assert refused(cli, wrong) == error(NEEDS_TOKEN)


def test_a_truncated_token_is_refused_without_a_word_to_the_manager(cli: Cli) -> None:
    said = refused(cli, token(cli)[:-1], address="10.200.0.99:2377")

    assert said == error("invalid join token: it is not complete; copy the whole of it")


@pytest.mark.parametrize("text", ["hello", "SWMTKN-1-", "SWMTKN-1-abc-def", "SWMTKN-3-x-y"])
def test_what_is_no_token_is_refused(cli: Cli, text: str) -> None:
    assert refused(cli, text).startswith(error("invalid join token: "))


def test_a_token_of_a_foreign_swarm_is_refused_before_the_secret_is_used(
    cli: Cli, foreign_token: str
) -> None:
    said = refused(cli, foreign_token)

    assert said.startswith(error("remote CA does not match fingerprint. Expected: "))
    assert foreign_token.split("-")[2] in said
    assert foreign_token.split("-")[3] not in said


def test_an_old_token_is_refused_after_rotation_and_the_new_one_works(cli: Cli) -> None:
    old, other = token(cli), token(cli, "manager")
    shown = cli.good("join-token", "--rotate", "worker")
    new = token(cli)

    assert "Successfully rotated worker join token." in shown
    assert new in shown
    assert new != old
    assert token(cli, "manager") == other
    assert refused(cli, old) == error(NEEDS_TOKEN)
    assert cli.good("join", "--token", new, MANAGER, at="node-3") == "This node joined a swarm as a worker.\n"
    leave(cli, "node-3")


def test_the_token_decides_the_role(cli: Cli) -> None:
    said = cli.good("join", "--token", token(cli, "manager"), MANAGER, at="node-3")

    assert said == "This node joined a swarm as a manager.\n"
    role = "{{.Spec.Role}} {{.ManagerStatus.Reachability}}"
    wait_for(
        lambda: cli.good("node", "inspect", "--format", role, "node-3").strip(),
        lambda shown: shown == "manager reachable",
    )
    cli.good("node", "demote", "node-3")
    wait_for(lambda: cli("node", "ls", at="node-3").code == 1, what="node-3 should be a worker")
    leave(cli, "node-3")


def test_no_token_is_a_mistake_on_the_command_line(cli: Cli) -> None:
    said = cli.bad("join", MANAGER, at="node-3", code=2)
    assert said.startswith("a join token is needed: --token SWMTKN-1-… (see 'swarmpy join-token worker')")


# --- addresses


def test_joining_at_a_worker_says_that_it_is_no_manager(cli: Cli) -> None:
    said = refused(cli, token(cli), address="10.200.0.12:2377")

    assert said == error("no manager can be reached at 10.200.0.12:2377: Connection refused")


@pytest.mark.parametrize("address", ["", "10.200.0.11:port", "10.200.0.11:70000", "not a host"])
def test_what_is_no_address_is_refused(cli: Cli, address: str) -> None:
    assert refused(cli, token(cli), address=address).startswith("Error response from daemon: ")


def test_the_port_may_be_left_out(cli: Cli) -> None:
    cli.good("join", "--token", token(cli), "10.200.0.11", at="node-3")
    leave(cli, "node-3")


# --- twice


def test_init_twice(cli: Cli) -> None:
    before = cli.good("node", "ls", "-q")

    assert cli.bad("init") == error(IN_A_SWARM)
    assert cli.bad("init", at="node-2") == error(IN_A_SWARM)
    assert cli.good("node", "ls", "-q") == before


def test_join_twice(cli: Cli) -> None:
    assert cli.bad("join", "--token", token(cli), MANAGER) == error(IN_A_SWARM)
    assert cli.bad("join", "--token", token(cli), MANAGER, at="node-2") == error(IN_A_SWARM)


def test_a_node_without_a_swarm_says_what_to_do(cli: Cli) -> None:
    told = (
        'This node is not a swarm manager. Use "swarmpy init" or "swarmpy join" to connect this '
        "node to swarm and try again."
    )
    assert cli.bad("node", "ls", at="node-3") == error(told)
    assert cli.bad("service", "create", "host", "true", at="node-3") == error(told)
    assert cli.bad("leave", at="node-3") == error("This node is not part of a swarm")


# --- the port


@pytest.fixture
def taken_port(lab: Lab) -> Iterator[None]:
    """Something else listens on node-3's swarm port."""
    argv = lab.exec_argv("node-3", [sys.executable, "-c", LISTEN])
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "bound\n"
        yield
        other.communicate("")


@pytest.mark.usefixtures("taken_port")
def test_a_port_in_use_is_told_and_nothing_has_happened(cli: Cli) -> None:
    told = "failed to listen on remote API address: listen tcp 10.200.0.13:2377: bind: address already in use"
    assert cli.bad("init", at="node-3") == error(told)
    assert swarm_state(cli, "node-3") == "inactive"
    assert cli.bad("join", "--token", token(cli, "manager"), MANAGER, at="node-3") == error(told)
    assert swarm_state(cli, "node-3") == "inactive"

    # the swarm had let it in before it found out: it is known as a node that is down, and can be removed
    wait_node(cli.lab, "node-3", "down")
    cli.good("node", "rm", "--force", "node-3")
    assert len(cli.lab.nodes()) == 2


def test_the_node_founds_a_swarm_once_the_port_is_free(cli: Cli) -> None:
    assert "Swarm initialized: current node" in cli.good("init", at="node-3")
    assert swarm_state(cli, "node-3") == "active"
    leave(cli, "node-3", is_known=False)
    assert swarm_state(cli, "node-3") == "inactive"
