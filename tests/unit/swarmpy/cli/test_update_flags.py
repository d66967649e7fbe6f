"""``service update``: every flag and ``-add``/``-rm`` pair that docker has, and what it does to a spec."""

from __future__ import annotations

from typing import Any

import pytest

from swarmpy.cli.flags import UsageError, parse
from swarmpy.cli.service_change import COMMANDS, change_spec, new_spec
from swarmpy.cli.spec_diff import differences, in_one_line
from swarmpy.cli.spec_edits import take
from swarmpy.client import Json

DOCKERS_PAIRS = """
config constraint container-label dns dns-option dns-search env generic-resource group host label
mount network placement-pref publish secret sysctl ulimit
"""
DOCKERS_FLAGS = """
args cap-add cap-drop credential-spec detach endpoint-mode entrypoint force health-cmd
health-interval health-retries health-start-interval health-start-period health-timeout hostname
image init isolation limit-cpu limit-memory limit-pids log-driver log-opt max-concurrent memory-swap
memory-swappiness no-healthcheck no-resolve-image oom-score-adj quiet read-only replicas
replicas-max-per-node reserve-cpu reserve-memory restart-condition restart-delay
restart-max-attempts restart-window rollback rollback-delay rollback-failure-action
rollback-max-failure-ratio rollback-monitor rollback-order rollback-parallelism stop-grace-period
stop-signal tty update-delay update-failure-action update-max-failure-ratio update-monitor
update-order update-parallelism user with-registry-auth workdir
"""


def create(*argv: str) -> Json:
    arguments, options = parse(COMMANDS["create"], list(argv))
    return new_spec(arguments[0], arguments[1:], options, {})


def update(spec: Json, *argv: str) -> Json:
    _, options = parse(COMMANDS["update"], [*argv, "web"])
    change_spec(spec, options, {})
    return spec


def test_docker_has_no_flag_that_is_missing() -> None:
    have = {flag.name for flag in COMMANDS["update"].flags}
    pairs = {f"{name}-{end}" for name in DOCKERS_PAIRS.split() for end in ("add", "rm")}
    assert {*DOCKERS_FLAGS.split(), *pairs} - have == set()
    made = {flag.name for flag in COMMANDS["create"].flags}
    whole = {*DOCKERS_FLAGS.split(), *DOCKERS_PAIRS.split()} - {"args", "force", "image", "rollback"}
    assert whole - made == set()


C = "TaskTemplate.ContainerSpec."


@pytest.mark.parametrize(
    ("made", "changed", "path", "expected"),
    [
        ("--env A=1 --env B=2", "--env-rm A --env-add C=3", C + "Env", ["B=2", "C=3"]),
        ("--label a=1", "--label-rm a --label-add b=2", "Labels", {"b": "2"}),
        ("--container-label a=1", "--container-label-rm a", C + "Labels", {}),
        ("--dns 1.1.1.1", "--dns-rm 1.1.1.1 --dns-add 9.9.9.9", C + "DNSConfig.Nameservers", ["9.9.9.9"]),
        ("--dns-option ndots:1", "--dns-option-rm ndots:1", C + "DNSConfig.Options", []),
        ("--dns-search a.b", "--dns-search-add c.d", C + "DNSConfig.Search", ["a.b", "c.d"]),
        ("--host a:1.1.1.1 --host a:2.2.2.2", "--host-rm a", C + "Hosts", []),
        ("--host a:1.1.1.1 --host a:2.2.2.2", "--host-rm a:1.1.1.1", C + "Hosts", ["2.2.2.2 a"]),
        ("--host a:1.1.1.1", "--host-add b:::1", C + "Hosts", ["1.1.1.1 a", "::1 b"]),
        ("--group a --group b", "--group-rm a", C + "Groups", ["b"]),
        ("--sysctl a=1 --sysctl b=2", "--sysctl-rm a", C + "Sysctls", {"b": "2"}),
        (
            "--ulimit nofile=1:2 --ulimit nproc=3",
            "--ulimit-rm nofile --ulimit-add nproc=4",
            C + "Ulimits",
            [{"Name": "nproc", "Soft": 4, "Hard": 4}],
        ),
        ("--constraint a==b", "--constraint-rm a==b", "TaskTemplate.Placement.Constraints", []),
        (
            "--placement-pref spread=node.labels.a",
            "--placement-pref-rm spread=node.labels.a",
            "TaskTemplate.Placement.Preferences",
            [],
        ),
        (
            "--generic-resource gpu=2",
            "--generic-resource-rm gpu",
            "TaskTemplate.Resources.Reservations.GenericResources",
            [],
        ),
        ("--mount type=tmpfs,dst=/t", "--mount-rm /t", C + "Mounts", []),
        ("-p 80:80 -p 81:81/udp", "--publish-rm 81/udp", "EndpointSpec.Ports", ["80"]),
        ("--health-cmd true", "--no-healthcheck", C + "Healthcheck.Test", ["NONE"]),
        ("--no-healthcheck", "--health-cmd true", C + "Healthcheck.Test", ["CMD-SHELL", "true"]),
        ("--no-healthcheck", "--health-retries 3", C + "Healthcheck", {"Test": [], "Retries": 3}),
        ("", "--health-start-interval 2s", C + "Healthcheck.StartInterval", 2 * 10**9),
        ("", "--memory-swap -1", "TaskTemplate.Resources.SwapBytes", -1),
        ("", "--memory-swap 1g", "TaskTemplate.Resources.SwapBytes", 1 << 30),
        ("", "--memory-swappiness 10", "TaskTemplate.Resources.MemorySwappiness", 10),
        ("", "--isolation process", C + "Isolation", "process"),
        ("", "--entrypoint sh --args -c", C + "Command", ["sh"]),
        (
            "--log-driver a --log-opt x=1",
            "--log-driver b",
            "TaskTemplate.LogDriver",
            {"Name": "b", "Options": {}},
        ),
        ("--log-opt x=1", "--log-opt y=2", "TaskTemplate.LogDriver.Options", {"x": "1", "y": "2"}),
        ("", "--update-delay 1s", "UpdateConfig", {"Parallelism": 1, "Delay": 10**9}),
        ("", "--rollback-parallelism 0", "RollbackConfig", {"Parallelism": 0}),
        (
            "--update-parallelism 3",
            "--update-pause-after 1",
            "UpdateConfig",
            {"Parallelism": 3, "PauseAfter": 1},
        ),
        ("", "--update-progress-deadline 2m", "UpdateConfig.ProgressDeadline", 120 * 10**9),
        ("", "--rollback-progress-deadline 1s", "RollbackConfig.ProgressDeadline", 10**9),
        ("--cap-add net_admin", "", C + "CapabilityAdd", ["CAP_NET_ADMIN"]),
        ("--cap-drop net_admin", "--cap-add net_admin", C + "CapabilityDrop", []),
        ("--cap-drop net_admin", "--cap-add net_admin", C + "CapabilityAdd", []),
        ("--cap-add net_admin", "--cap-drop CAP_NET_ADMIN", C + "CapabilityAdd", []),
        ("--cap-add net_admin", "--cap-add chown", C + "CapabilityAdd", ["CAP_CHOWN", "CAP_NET_ADMIN"]),
        ("--cap-add all", "--cap-add reset", C + "CapabilityAdd", []),
    ],
)
def test_an_update_changes(made: str, changed: str, path: str, expected: Any) -> None:
    spec = update(create(*made.split(), "host"), *changed.split())
    found = take(spec, path)
    if path == "EndpointSpec.Ports":
        found = [str(port["TargetPort"]) for port in found]
    assert found == expected


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("--generic-resource-rm gpu", "could not find generic-resource `gpu` to remove it"),
        ("--no-healthcheck --health-retries 3", "--no-healthcheck conflicts with --health-* options"),
        ("--update-progress-deadline 5", 'invalid duration "5"'),
        ("--placement-pref-rm node.labels.a", "unsupported placement preference node.labels.a"),
    ],
)
def test_bad_updates(argv: str, words: str) -> None:
    with pytest.raises(UsageError, match=words.replace("*", ".")):
        update(create("host"), *argv.split())


# --- differences


def test_differences_are_in_the_words_of_flags() -> None:
    before = create(
        *[
            "--replicas",
            "3",
            "-e",
            "A=1",
            "-e",
            "B=2",
            "-l",
            "x=1",
            "--limit-memory",
            "64m",
            "--limit-cpu",
            ".5",
            "-p",
            "80:80",
            "--update-delay",
            "5s",
        ],
        *["--mount", "type=bind,src=/a,dst=/b", "--constraint", "a==b"],
        "app:1",
        "run",
        "x",
    )
    after = update(
        create(
            *[
                "--replicas",
                "5",
                "-e",
                "B=2",
                "-e",
                "A=9",
                "--limit-memory",
                "65m",
                "--limit-cpu",
                ".5",
                "-p",
                "81:80",
                "--update-delay",
                "5s",
            ],
            *["--mount", "type=bind,src=/c,dst=/b"],
            "app:2",
            "run",
            "y",
        )
    )
    before["TaskTemplate"]["Networks"] = [{"Target": "n1"}]
    found = differences(before, after, {"n1": "front"})
    assert [(each.field, each.before, each.after) for each in found] == [
        ("args", "run x", "run y"),
        ("constraint a==b", "yes", "(not set)"),
        ("env A", "1", "9"),
        ("image", "app:1", "app:2"),
        ("label x", "1", "(not set)"),
        ("limit-memory", "64MiB", "65MiB"),
        ("mount /b", '{"Source": "/a", "Type": "bind"}', '{"Source": "/c", "Type": "bind"}'),
        ("network front", "yes", "(not set)"),
        ("publish 80/tcp", "80", "81"),
        ("replicas", "3", "5"),
    ]
    assert in_one_line(found) == "args run x → run y, -constraint a==b, env A 1 → 9, and 7 more"
    assert differences(before, before) == []


def test_secrets_are_told_by_name_and_version() -> None:
    def with_secret(version: int) -> Json:
        spec = create("host")
        file = {"Name": "key"}
        reference = {"SecretID": "id1", "SecretName": "key", "File": file, "Version": version}
        spec["TaskTemplate"]["ContainerSpec"]["Secrets"] = [reference]
        return spec

    (found,) = differences(with_secret(1), with_secret(2))
    assert str(found) == "secret key version 1 → version 2"


def test_the_order_of_members_is_no_difference_but_that_of_words_is() -> None:
    assert not differences(create("-e", "A=1", "-e", "B=2", "h"), create("-e", "B=2", "-e", "A=1", "h"))
    assert differences(create("h", "a", "b"), create("h", "b", "a"))
