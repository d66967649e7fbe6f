"""What a user gets wrong on the command line: each answer is a sentence, with the right exit code.

One manager alone, shared. Nothing that is refused leaves a trace.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import pytest
from lab_cli import Cli, error, tasks_of, wait_for, wait_running
from lab_services import lab_of

from swarmpy.lab.cluster import Lab
from swarmpy.lab.engine_http import Reply

OUT_OF_SEQUENCE: Final = "rpc error: code = Unknown desc = update out of sequence"
INVALID: Final = "rpc error: code = InvalidArgument desc = "


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with lab_of(managers=1, workers=0) as lab:
        yield lab


@pytest.fixture
def cli(lab: Lab) -> Iterator[Cli]:
    """What is refused may not be there: a test removes all that it means to make."""
    cli = Cli(lab)
    yield cli
    assert cli.remove_all() == []


def spec(name: str, **container: Any) -> dict[str, Any]:
    return {
        "Name": name,
        "TaskTemplate": {"ContainerSpec": {"Image": "host", "Command": ["sleep", "100000"], **container}},
        "Mode": {"Replicated": {"Replicas": 0}},
    }


# --- the command line itself: exit code 2


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["service", "create", "--nmae", "web", "host"], "unknown flag: --nmae"),
        (["service", "ls", "-z"], "unknown shorthand flag: 'z' in -z"),
        (["service", "explode"], "unknown command: swarmpy service explode"),
        (["explode"], "'explode' is not a swarmpy command"),
        (["service", "create"], '"swarmpy service create": requires at least 1 argument'),
        (["service", "scale", "web"], "invalid scale specifier 'web'"),
        (["service", "create", "--replicas", "many", "host"], 'invalid argument "many" for "--replicas"'),
        (["service", "create", "--limit-memory", "lots", "host"], "lots"),
        (["service", "create", "--restart-delay", "soon", "host"], "soon"),
        (["join-token", "boss"], "unknown role boss: give worker or manager"),
        (["node", "update", "--label-rm", "nope", "node-1"], "key nope doesn't exist in node's labels"),
    ],
)
def test_a_wrong_command_line(cli: Cli, words: list[str], told: str) -> None:
    said = cli.bad(*words, code=2)

    assert said.splitlines()[0].startswith(told) or told in said.splitlines()[0]
    assert "See '" in said
    assert "Traceback" not in said


# --- names and ids: exit code 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["service", "inspect", "nope"], "service nope not found"),
        (["service", "rm", "nope"], "service nope not found"),
        (["service", "update", "--replicas", "1", "nope"], "service nope not found"),
        (["node", "inspect", "nope"], "node nope not found"),
        (["node", "update", "--availability", "drain", "nope"], "node nope not found"),
        (["node", "rm", "nope"], "node nope not found"),
        (["node", "promote", "nope"], "node nope not found"),
        (["task", "inspect", "nope"], "task nope not found"),
        (["service", "logs", "nope"], "no such task or service: nope"),
        (["service", "scale", "nope=2"], "service nope not found"),
    ],
)
def test_an_unknown_name(cli: Cli, words: list[str], told: str) -> None:
    said = cli(*words)

    assert said.code == 1, said
    assert said.err.strip() == error(told)
    assert said.out.strip() in ("", "[]")


def test_tasks_of_an_unknown_service(cli: Cli) -> None:
    assert cli.bad("service", "ps", "nope") == "no such service: nope"


def test_one_unknown_name_does_not_keep_the_others_from_their_due(cli: Cli) -> None:
    cli.create("one", "--replicas", "0", "host")
    cli.create("two", "--replicas", "0", "host")

    said = cli("service", "rm", "one", "nope", "two")

    assert (said.code, said.out.split(), said.err.strip()) == (
        1,
        ["one", "two"],
        error("service nope not found"),
    )


def test_an_ambiguous_prefix_of_an_id(cli: Cli) -> None:
    ids: list[str] = []
    while len({id_[0] for id_ in ids}) == len(ids):  # 37 of them at the latest begin alike
        ids.append(cli.lab.call("node-1", "POST", "/services/create", spec(f"s{len(ids)}"))["ID"])
    prefix = ids[-1][0]
    matches = sum(id_.startswith(prefix) for id_ in ids)

    told = error(f"service {prefix} is ambiguous ({matches} matches found)")
    assert cli("service", "inspect", prefix).err.strip() == told
    assert cli.bad("service", "rm", prefix) == told
    longer = next(
        ids[-1][:length]
        for length in range(2, 26)
        if sum(id_.startswith(ids[-1][:length]) for id_ in ids) == 1
    )
    assert cli.good("service", "inspect", "--format", "{{.ID}}", longer).strip() == ids[-1]
    cli.good("service", "rm", *ids)


def test_a_name_that_is_taken(cli: Cli) -> None:
    cli.create("web", "--replicas", "0", "host")

    assert cli.bad("service", "create", "--name", "web", "--detach", "host") == error(
        "rpc error: code = AlreadyExists desc = name conflicts with an existing object: "
        "service web already exists"
    )
    cli.good("service", "rm", "web")


# --- specs


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--constraint", "node.role=manager"], "constraint expected one operator from ==, !="),
        (["--constraint", "no de==x"], "key 'no de' is invalid"),
        (["--constraint", "node.role=="], "value '' is invalid"),
        (
            ["--replicas", "1000000000"],
            "Number of replicas must be at most 100000; 1000000000 were asked for. "
            "Split the work over several services if you do need more.",
        ),
        (["--limit-memory", "1m"], "invalid memory value 1048576: Must be at least 4MiB"),
        (["--limit-cpu", "0.0001"], "invalid cpu value 0.0001: Must be at least 0.001"),
        (
            ["--update-max-failure-ratio", "2"],
            "update-maxfailureratio cannot be less than 0 or bigger than 1",
        ),
        (["--name", "not a name"], "name must be valid as a DNS name component"),
        (["--name", "x" * 64], "name must be 63 characters or fewer"),
    ],
)
def test_a_service_that_cannot_be(cli: Cli, words: list[str], told: str) -> None:
    said = cli.bad("service", "create", "--detach", *words, "host", "true")

    assert said.startswith("Error response from daemon: ")
    assert said.endswith(told)


def test_a_negative_number_of_replicas(cli: Cli) -> None:
    said = cli.bad("service", "create", "--detach", "--replicas", "-1", "host", "true", code=2)
    assert said.startswith('invalid argument "-1" for "--replicas" flag: it cannot be negative')

    wish = spec("minus") | {"Mode": {"Replicated": {"Replicas": -1}}}
    reply = cli.lab.request("node-1", "POST", "/services/create", wish)
    assert reply.status == 400
    where = "json: cannot unmarshal number -1 into Go struct field ReplicatedService.Mode.Replicated.Replicas"
    assert reply.message == f"{where} of type uint64"


@pytest.mark.parametrize(
    ("count", "code", "told"),
    [
        ("-1", 2, "web: invalid replicas value -1: give a number that is not negative"),
        ("1000000000", 1, "Number of replicas must be at most 100000; 1000000000 were asked for."),
    ],
)
def test_scaling_out_of_bounds_changes_nothing(cli: Cli, count: str, code: int, told: str) -> None:
    cli.create("web", "--replicas", "1", "host", "sleep", "100000")
    wait_running(cli.lab, "web", 1)

    assert told in cli.bad("service", "scale", "--detach", f"web={count}", code=code)

    shown = cli.good("service", "inspect", "--format", "{{.Spec.Mode.Replicated.Replicas}}", "web")
    assert shown.strip() == "1"
    cli.remove("web")


def test_an_image_that_is_no_name(cli: Cli) -> None:
    said = cli.bad("service", "create", "--detach", "Not/A/Name")
    assert said.startswith(error(INVALID))
    assert '"Not/A/Name" is not a valid repository/tag' in said


def test_an_image_that_does_not_exist(cli: Cli) -> None:
    cli.create("ghost", "no/such/image:7")

    tasks = wait_for(
        lambda: tasks_of(cli.lab, "ghost"),
        lambda tasks: any(task["Status"].get("Err") for task in tasks),
        what="the task should be rejected",
    )
    assert tasks[-1]["Status"]["Err"] == "No such image: no/such/image:7"
    assert '"No such image: no/such/image:7"' in cli.good("service", "ps", "--no-trunc", "ghost")
    cli.remove("ghost")


# --- versions


def test_a_stale_version_is_out_of_sequence(cli: Cli) -> None:
    id_ = cli.create("web", "--replicas", "0", "host")
    old = cli.lab.call("node-1", "GET", f"/services/{id_}")["Version"]["Index"]
    cli.good("service", "update", "--detach", "--label-add", "a=1", "web")

    reply = cli.lab.request("node-1", "POST", f"/services/{id_}/update?version={old}", spec("web"))

    assert (reply.status, reply.message) == (500, OUT_OF_SEQUENCE)
    for bad in ("", "?version=", "?version=x", "?version=-1", "?version=99999999999999999999999"):
        reply = cli.lab.request("node-1", "POST", f"/services/{id_}/update{bad}", spec("web"))
        assert reply.status == 400, (bad, reply)
        assert "version" in reply.message
    labels = cli.lab.call("node-1", "GET", f"/services/{id_}")["Spec"]["Labels"]
    assert labels == {"a": "1"}
    cli.good("service", "rm", "web")


def test_of_two_updates_from_one_version_exactly_one_wins(cli: Cli) -> None:
    id_ = cli.create("web", "--replicas", "0", "host")
    for round_ in range(20):
        version = cli.lab.call("node-1", "GET", f"/services/{id_}")["Version"]["Index"]
        target = f"/services/{id_}/update?version={version}"

        def change(who: int, target: str = target, round_: int = round_) -> Reply:
            return cli.lab.request("node-1", "POST", target, spec("web", Env=[f"ROUND={round_}.{who}"]))

        with ThreadPoolExecutor(2) as pool:
            replies = sorted(pool.map(change, range(2)), key=lambda reply: reply.status)
        assert [reply.status for reply in replies] == [200, 500]
        assert replies[1].message == OUT_OF_SEQUENCE
    cli.good("service", "rm", "web")


def test_a_stale_version_of_a_node(cli: Cli) -> None:
    node = cli.lab.call("node-1", "GET", "/nodes/node-1")
    target = f"/nodes/{node['ID']}/update?version={node['Version']['Index'] - 1}"

    reply = cli.lab.request("node-1", "POST", target, node["Spec"])

    assert (reply.status, reply.message) == (500, OUT_OF_SEQUENCE)


# --- what would end the swarm


def test_the_last_manager_cannot_be_demoted(cli: Cli) -> None:
    said = cli.bad("node", "demote", "node-1")

    assert said == error(
        "rpc error: code = FailedPrecondition desc = attempting to demote the last manager of the swarm"
    )
    assert cli.good("node", "inspect", "--format", "{{.Spec.Role}}", "self").strip() == "manager"


def test_the_last_manager_does_not_leave_without_force(cli: Cli) -> None:
    assert cli.bad("leave") == error(
        "You are attempting to leave the swarm on a node that is participating as a manager. "
        "Removing the last manager erases all current state of the swarm. "
        "Use `--force` to ignore this message."
    )
    assert cli.good("node", "ls", "-q") != ""


# --- raw requests


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/services/create", None, 400),
        ("POST", "/services/create", [], 400),
        ("POST", "/services/create", {"Name": 7}, 400),
        ("POST", "/services/create", {"Name": "x"}, 400),
        ("POST", "/services/create", {"Name": "x", "TaskTemplate": {"ContainerSpec": {"Image": ""}}}, 400),
        ("GET", "/tasks?filters=nonsense", None, 400),
        ("GET", '/tasks?filters={"colour":["red"]}', None, 400),
        ("GET", "/no/such/path", None, 404),
        ("GET", "/v1.99/services", None, 400),
        ("DELETE", "/services/nope", None, 404),
    ],
)
def test_a_request_that_makes_no_sense(cli: Cli, method: str, path: str, body: Any, status: int) -> None:
    reply = cli.lab.request("node-1", method, path, body)

    assert reply.status == status, reply
    assert reply.message
    assert "Traceback" not in reply.message
