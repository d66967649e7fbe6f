"""Values of flags, tables, and the specs that flags make."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from swarmpy.cli import values
from swarmpy.cli.flags import UsageError, parse
from swarmpy.cli.render import age, binary_size, duration, quoted_error, size, table
from swarmpy.cli.service_change import COMMANDS, change_spec, new_spec
from swarmpy.client import Json


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("10s", 10**10),
        ("1m30s", 9 * 10**10),
        ("500ms", 5 * 10**8),
        ("0", 0),
        ("1.5h", 54 * 10**11),
        ("2us", 2000),
    ],
)
def test_durations(given: str, expected: int) -> None:
    assert values.duration_ns(given) == expected


@pytest.mark.parametrize("given", ["", "10", "s", "10 s", "1x", "1s!", "--1s"])
def test_bad_durations(given: str) -> None:
    with pytest.raises(UsageError):
        values.duration_ns(given)


@pytest.mark.parametrize(
    ("given", "expected"),
    [("64m", 64 << 20), ("1g", 1 << 30), ("1.5KiB", 1536), ("12", 12), ("2 GB", 2 << 30)],
)
def test_memory(given: str, expected: int) -> None:
    assert values.memory_bytes(given) == expected


@pytest.mark.parametrize("given", ["", "x", "-1m", "1z"])
def test_bad_memory(given: str) -> None:
    with pytest.raises(UsageError):
        values.memory_bytes(given)


@pytest.mark.parametrize("given", ["nan", "inf", "-1", "x", ""])
def test_bad_cpus(given: str) -> None:
    with pytest.raises(UsageError):
        values.nano_cpus(given)


def test_ports_of_one_address() -> None:
    (port,) = values.ports("10.0.0.1:8080:80/udp")
    assert (port["HostIP"], port["PublishedPort"], port["TargetPort"]) == ("10.0.0.1", 8080, 80)
    (port,) = values.ports("[fd00::1]:8080:80")
    assert port["HostIP"] == "fd00::1"
    (port,) = values.ports("eth0::80")
    assert port == {"Protocol": "tcp", "TargetPort": 80, "PublishMode": "ingress", "HostIP": "eth0"}
    (port,) = values.ports("published=8080,target=80,mode=snat,host_ip=eth0")
    assert port == {
        "Protocol": "tcp",
        "TargetPort": 80,
        "PublishedPort": 8080,
        "PublishMode": "ingress",
        "SourceNAT": True,
        "HostIP": "eth0",
    }


def test_networks() -> None:
    assert values.network("front") == {"Target": "front"}
    assert values.network(
        "name=front,alias=www,alias=web,driver-opt=a=b=c,ip=10.0.1.9,ip6=fd00::9,mac=02:42:0a:00:01:09"
    ) == {
        "Target": "front",
        "Aliases": ["www", "web"],
        "DriverOpts": {
            "a": "b=c",
            "ipv4_address": "10.0.1.9",
            "ipv6_address": "fd00::9",
            "mac_address": "02:42:0a:00:01:09",
        },
    }


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("foo=front,alias=x", "invalid field key foo"),
        ("alias=x", "network name/id is not specified"),
        ("name=front,driver-opt=x", "invalid key value pair format in driver options"),
        ("name=front,x", "invalid field x"),
    ],
)
def test_networks_that_are_none(given: str, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        values.network(given)


def test_ports() -> None:
    assert values.ports("8080:80") == [
        {"Protocol": "tcp", "TargetPort": 80, "PublishMode": "ingress", "PublishedPort": 8080}
    ]
    assert values.ports("80/udp") == [{"Protocol": "udp", "TargetPort": 80, "PublishMode": "ingress"}]
    assert [p["PublishedPort"] for p in values.ports("8000-8002:80-82")] == [8000, 8001, 8002]
    assert values.ports("published=1,target=2,mode=host,protocol=udp") == [
        {"Protocol": "udp", "PublishMode": "host", "PublishedPort": 1, "TargetPort": 2}
    ]


@pytest.mark.parametrize(
    "given",
    [
        "",
        "x",
        "0:80",
        "70000:1",
        "fd00::1:80:80",
        "[fd00::1:80:80",
        "80-70:1",
        "1-3:1-2",
        "80/icmp",
        "mode=x,target=1",
        "published=1",
        "target=1,what=2",
        "1-65535:1-65535",
    ],
)
def test_bad_ports(given: str) -> None:
    with pytest.raises(UsageError):
        values.ports(given)


def test_mounts() -> None:
    assert values.mount("type=bind,source=/a,target=/b,readonly") == {
        "Type": "bind",
        "Source": "/a",
        "Target": "/b",
        "ReadOnly": True,
    }
    assert values.mount("type=tmpfs,dst=/t,tmpfs-size=64m,tmpfs-mode=1777") == {
        "Type": "tmpfs",
        "Target": "/t",
        "TmpfsOptions": {"SizeBytes": 64 << 20, "Mode": 0o1777},
    }
    for bad in ("type=bind", "source", "target=/b,what=ever", "target=/b,tmpfs-mode=9"):
        with pytest.raises(UsageError):
            values.mount(bad)


def test_file_references() -> None:
    assert values.file_reference("s1") == ("s1", {"Name": "s1", "UID": "0", "GID": "0", "Mode": 0o444}, {})
    name, target, _ = values.file_reference("source=s1,target=/x,uid=5,mode=0400")
    assert values.file_reference("source=s1,reload=HUP")[2] == {"ReloadSignal": "HUP"}
    assert values.file_reference("src=s1,version=3")[2] == {"Version": 3}
    assert (name, target["Name"], target["UID"], target["Mode"]) == ("s1", "/x", "5", 0o400)
    for bad in ("target=x", "source=a,bogus=1", "source=a,mode=rw"):
        with pytest.raises(UsageError):
            values.file_reference(bad)


def test_environment(tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_text("# comment\n\nA=1\n  B=two words\nHOME\n")
    entries = values.read_env_file(str(file))
    assert values.environment(entries, {"HOME": "/root"}) == ["A=1", "B=two words", "HOME=/root"]
    assert values.environment(["GONE"], {}) == []
    file.write_text("A B=1\n")
    with pytest.raises(UsageError, match="contains whitespaces"):
        values.read_env_file(str(file))


# --- looks


def test_tables_look_like_dockers() -> None:
    assert table([("ID", "NAME", "X"), ("abcdefghijkl", "web", "")]) == (
        "ID             NAME      X\nabcdefghijkl   web       "
    )


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.2, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (61, "About a minute"),
        (119, "About a minute"),
        (120, "2 minutes"),
        (3600, "About an hour"),
        (47 * 3600, "47 hours"),
        (49 * 3600, "2 days"),
        (15 * 86400, "2 weeks"),
        (90 * 86400, "3 months"),
        (800 * 86400, "2 years"),
    ],
)
def test_durations_in_words(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected


def test_ages_and_sizes() -> None:
    now = datetime(2023, 11, 14, 22, 14, 20, tzinfo=UTC)
    assert age("2023-11-14T22:13:20.123456789Z", now) == "59 seconds ago"
    assert age("0001-01-01T00:00:00Z", now) == ""
    assert (size(999), size(12_345_678), binary_size(4 << 30)) == ("999B", "12.35MB", "4GiB")
    assert quoted_error("x" * 100, is_whole=False) == '"' + "x" * 59 + '…"'
    assert quoted_error("", is_whole=False) == ""


# --- specs


def create(*argv: str, environment: dict[str, str] | None = None) -> Json:
    arguments, options = parse(COMMANDS["create"], list(argv))
    return new_spec(arguments[0], arguments[1:], options, environment or {})


def update(spec: Json, *argv: str) -> Json:
    _, options = parse(COMMANDS["update"], [*argv, "web"])
    change_spec(spec, options, {})
    return spec


def container(spec: Json) -> Json:
    found: Json = spec["TaskTemplate"]["ContainerSpec"]
    return found


def test_the_smallest_create() -> None:
    assert create("host") == {
        "Labels": {},
        "TaskTemplate": {"ContainerSpec": {"Image": "host"}},
        "Mode": {"Replicated": {"Replicas": 1}},
    }


def test_a_full_container() -> None:
    flags = (
        "-e A=b -e HOME -l x=y --container-label p=q --stop-grace-period 5s --stop-signal SIGINT "
        "--mount type=bind,src=/a,dst=/b -w /tmp -u 1000:1000 --hostname h --read-only --init -t "
        "--health-cmd true --health-retries 2 --host db:10.0.0.9 --ulimit nofile=10:20"
    )
    words = [*flags.split(), "--entrypoint", "sh -c", "host", "echo", "-n", "hi"]
    spec = create("--name=web", *words, environment={"HOME": "/home/me"})
    assert spec["Labels"] == {"x": "y"}
    assert container(spec) == {
        "Image": "host",
        "Args": ["echo", "-n", "hi"],
        "Command": ["sh", "-c"],
        "Env": ["A=b", "HOME=/home/me"],
        "Labels": {"p": "q"},
        "Hosts": ["10.0.0.9 db"],
        "Healthcheck": {"Test": ["CMD-SHELL", "true"], "Retries": 2},
        "StopGracePeriod": 5 * 10**9,
        "StopSignal": "SIGINT",
        "Mounts": [{"Type": "bind", "Source": "/a", "Target": "/b"}],
        "Dir": "/tmp",
        "User": "1000:1000",
        "Hostname": "h",
        "ReadOnly": True,
        "Init": True,
        "TTY": True,
        "Ulimits": [{"Name": "nofile", "Soft": 10, "Hard": 20}],
    }


def test_a_full_create() -> None:
    flags = (
        "--replicas=3 --constraint node.role==worker --constraint node.labels.a!=b "
        "--placement-pref spread=node.labels.zone --replicas-max-per-node 2 --limit-memory 64m "
        "--limit-cpu .5 --limit-pids 10 --reserve-memory 32m --reserve-cpu 0.1 --generic-resource gpu=2 "
        "--restart-condition on-failure --restart-delay 2s --restart-max-attempts 3 --restart-window 1m "
        "--update-parallelism 2 --update-order start-first -p 8080:80 --endpoint-mode dnsrr host"
    )
    spec = create("--name=web", *flags.split())
    assert spec["Mode"] == {"Replicated": {"Replicas": 3}}
    template = spec["TaskTemplate"]
    assert template["Placement"] == {
        "MaxReplicas": 2,
        "Constraints": ["node.role==worker", "node.labels.a!=b"],
        "Preferences": [{"Spread": {"SpreadDescriptor": "node.labels.zone"}}],
    }
    assert template["Resources"] == {
        "Limits": {"NanoCPUs": 500_000_000, "MemoryBytes": 64 << 20, "Pids": 10},
        "Reservations": {
            "NanoCPUs": 100_000_000,
            "MemoryBytes": 32 << 20,
            "GenericResources": [{"DiscreteResourceSpec": {"Kind": "gpu", "Value": 2}}],
        },
    }
    assert template["RestartPolicy"] == {
        "Condition": "on-failure",
        "Delay": 2 * 10**9,
        "MaxAttempts": 3,
        "Window": 60 * 10**9,
    }
    assert spec["UpdateConfig"] == {"Order": "start-first", "Parallelism": 2}
    assert spec["EndpointSpec"]["Mode"] == "dnsrr"
    assert spec["EndpointSpec"]["Ports"][0]["PublishedPort"] == 8080


@pytest.mark.parametrize(
    "argv",
    [
        ("--mode", "global", "--replicas", "2", "host"),
        ("--mode", "sideways", "host"),
        ("--replicas", "-1", "host"),
        ("--restart-condition", "sometimes", "host"),
        ("--limit-memory", "lots", "host"),
        ("--no-healthcheck", "--health-cmd", "x", "host"),
        ("--max-concurrent", "2", "host"),
        ("--placement-pref", "pack=x", "host"),
    ],
)
def test_bad_creates(argv: tuple[str, ...]) -> None:
    with pytest.raises(UsageError):
        create(*argv)


def test_what_flags_make_decodes_as_a_spec() -> None:
    import json

    from manager.api.requests import parse as decode
    from swarmpy.model.specs import ServiceSpec

    spec = create(
        "--name", "web", "-p", "80", "--mount", "type=tmpfs,dst=/t", "--cap-add", "NET_ADMIN", "host"
    )
    assert decode(json.dumps(spec).encode(), ServiceSpec).name == "web"


def test_updates_add_replace_and_remove() -> None:
    spec = create(
        "-e",
        "A=1",
        "-e",
        "B=2",
        "-l",
        "x=1",
        "-l",
        "y=2",
        "--constraint",
        "a==b",
        "-p",
        "8080:80",
        "-p",
        "81",
        "--mount",
        "type=tmpfs,dst=/t",
        "--group",
        "g1",
        "host",
    )
    update(
        spec,
        "--env-add",
        "A=9",
        "--env-add",
        "C=3",
        "--env-rm",
        "B",
        "--label-rm",
        "x",
        "--label-add",
        "z=3",
        "--constraint-rm",
        "a==b",
        "--constraint-add",
        "c==d",
        "--publish-rm",
        "80",
        "--publish-add",
        "90:90",
        "--mount-rm",
        "/t",
        "--mount-add",
        "type=tmpfs,dst=/u",
        "--image",
        "other:2",
        "--args",
        "run 'a b'",
        "--replicas",
        "5",
        "--force",
        "--group-add",
        "g2",
        "--limit-memory",
        "8m",
    )
    assert container(spec)["Env"] == ["A=9", "C=3"]
    assert spec["Labels"] == {"y": "2", "z": "3"}
    assert spec["TaskTemplate"]["Placement"]["Constraints"] == ["c==d"]
    assert [p["TargetPort"] for p in spec["EndpointSpec"]["Ports"]] == [81, 90]
    assert [m["Target"] for m in container(spec)["Mounts"]] == ["/u"]
    assert container(spec)["Image"] == "other:2"
    assert container(spec)["Args"] == ["run", "a b"]
    assert container(spec)["Groups"] == ["g1", "g2"]
    assert spec["Mode"] == {"Replicated": {"Replicas": 5}}
    assert spec["TaskTemplate"]["ForceUpdate"] == 1
    assert spec["TaskTemplate"]["Resources"]["Limits"]["MemoryBytes"] == 8 << 20


def test_an_update_of_nothing_changes_nothing() -> None:
    spec = create("-e", "A=1", "host")
    before: Any = repr(spec)
    assert repr(update(spec)) == before


def test_a_dns_server_is_an_address() -> None:
    assert values.name_server("10.0.0.53") == "10.0.0.53"
    assert values.name_server("FD00::53") == "fd00::53"
    with pytest.raises(UsageError, match="nope is not an ip address"):
        values.name_server("nope")
