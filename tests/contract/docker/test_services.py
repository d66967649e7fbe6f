"""Services and their tasks: specs of every kind read back, lists, updates, what is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from oracle import Both, Side

from swarmpy.model.ids import SECOND_NS

NOWHERE = {"Placement": {"Constraints": ["node.labels.x==y"]}}
Spec = dict[str, Any]


def spec(name: str = "web", *, replicas: int = 0, **more: Any) -> Spec:
    container = {"Image": "box", "Args": ["sleep", "1000"], **more.pop("container", {})}
    template = {"ContainerSpec": container, **more.pop("template", {})}
    return {"Name": name, "TaskTemplate": template, "Mode": {"Replicated": {"Replicas": replicas}}, **more}


@pytest.fixture(autouse=True)
def clean(sides: tuple[Side, Side]) -> Iterator[None]:
    yield
    for side in sides:
        for service in side.send("GET", "/v1.41/services").json:
            side.send("DELETE", f"/v1.41/services/{service['ID']}")


def create(both: Both, body: Spec, name: str = "web") -> None:
    both.name(name, both("POST", "/services/create", body))


FULL = spec(
    "full",
    Labels={"l": "1", "e": ""},
    container={
        "Command": ["sleep"],
        "Hostname": "h{{.Task.Slot}}",
        "Env": ["A=b", "C", "D="],
        "Dir": "/",
        "User": "0",
        "Groups": ["1", "2"],
        "Init": True,
        "StopSignal": "SIGINT",
        "TTY": True,
        "OpenStdin": True,
        "ReadOnly": True,
        "Mounts": [
            {
                "Type": "volume",
                "Source": "v",
                "Target": "/v",
                "ReadOnly": True,
                "Consistency": "default",
                "VolumeOptions": {
                    "NoCopy": True,
                    "Labels": {"a": "b"},
                    "DriverConfig": {"Name": "local", "Options": {"x": "y"}},
                },
            },
            {
                "Type": "bind",
                "Source": "/tmp",
                "Target": "/t",
                "BindOptions": {"Propagation": "rprivate", "NonRecursive": True},
            },
            {"Type": "tmpfs", "Target": "/x", "TmpfsOptions": {"SizeBytes": 1 << 20, "Mode": 448}},
            {"Type": "volume", "Target": "/anon"},
        ],
        "StopGracePeriod": 5 * SECOND_NS,
        "Healthcheck": {"Test": ["CMD", "true"], "Interval": SECOND_NS, "Timeout": SECOND_NS, "Retries": 3},
        "Hosts": ["1.2.3.4 foo"],
        "DNSConfig": {"Nameservers": ["8.8.8.8"], "Search": ["x.org"], "Options": ["ndots:1"]},
        "Sysctls": {"net.core.somaxconn": "1000"},
        "CapabilityAdd": ["CAP_NET_ADMIN"],
        "CapabilityDrop": ["CAP_CHOWN"],
        "Ulimits": [{"Name": "nofile", "Hard": 10, "Soft": 5}],
    },
    template={
        "Resources": {
            "Limits": {"NanoCPUs": 10**9, "MemoryBytes": 10**8, "Pids": 100},
            "Reservations": {
                "NanoCPUs": 10**8,
                "MemoryBytes": 10**7,
                "GenericResources": [{"DiscreteResourceSpec": {"Kind": "ssd", "Value": 2}}],
            },
        },
        "RestartPolicy": {"Condition": "on-failure", "Delay": SECOND_NS, "MaxAttempts": 3, "Window": 7},
        "Placement": {
            "Constraints": ["node.role==manager"],
            "Preferences": [{"Spread": {"SpreadDescriptor": "node.labels.dc"}}],
            "MaxReplicas": 3,
            "Platforms": [{"Architecture": "amd64", "OS": "linux"}],
        },
        "LogDriver": {"Name": "json-file", "Options": {"max-size": "1m"}},
        "ForceUpdate": 4,
        "Runtime": "container",
    },
    UpdateConfig={
        "Parallelism": 2,
        "Delay": SECOND_NS,
        "FailureAction": "rollback",
        "Monitor": SECOND_NS,
        "MaxFailureRatio": 0.25,
        "Order": "start-first",
    },
    RollbackConfig={
        "Parallelism": 0,
        "FailureAction": "continue",
        "MaxFailureRatio": 1,
        "Order": "stop-first",
    },
    EndpointSpec={
        "Mode": "vip",
        "Ports": [
            {"Protocol": "udp", "TargetPort": 53, "PublishedPort": 5353, "PublishMode": "host"},
        ],
    },
)
EMPTY_CONTAINER: Spec = {
    **{name: {} for name in ("Labels", "DNSConfig", "Sysctls")},
    **{name: [] for name in ("Env", "Mounts", "Hosts", "Secrets", "Configs", "Groups", "Command", "Ulimits")},
}
NULL_CONTAINER: Spec = dict.fromkeys(
    ("Labels", "Env", "Mounts", "Hosts", "DNSConfig", "Privileges", "Init", "StopGracePeriod", "Healthcheck")
)
EMPTY_TEMPLATE: Spec = {"Networks": [], "Resources": {}, "RestartPolicy": {}, "Placement": {}}
TOP = ("EndpointSpec", "UpdateConfig", "RollbackConfig")
EMPTY_TOP: Spec = {name: {} for name in TOP}
NULL_TOP: Spec = dict.fromkeys(TOP)

KINDS: dict[str, Spec] = {
    "bare": {"Name": "bare", "TaskTemplate": {"ContainerSpec": {"Image": "box"}, **NOWHERE}},
    "minimal": spec(),
    "no mode": spec(Mode={}, template=NOWHERE),
    "no replicas": spec(Mode={"Replicated": {}}, template=NOWHERE),
    "global": spec(Mode={"Global": {}}, template=NOWHERE),
    "job": spec(Mode={"ReplicatedJob": {}}, template=NOWHERE),
    "job of some": spec(Mode={"ReplicatedJob": {"MaxConcurrent": 2}}, template=NOWHERE),
    "job of many": spec(
        Mode={"ReplicatedJob": {"MaxConcurrent": 2, "TotalCompletions": 5}},
        template={**NOWHERE, "RestartPolicy": {"Condition": "none"}},
    ),
    "global job": spec(Mode={"GlobalJob": {}}, template=NOWHERE),
    "labels": spec(Labels={"a": "b", "c": ""}, container={"Labels": {"x": "y"}}),
    "empty": spec(Labels={}, container=EMPTY_CONTAINER, template=EMPTY_TEMPLATE, **EMPTY_TOP),
    "null": spec(
        Labels=None,
        container=NULL_CONTAINER,
        template=dict.fromkeys(EMPTY_TEMPLATE),
        **NULL_TOP,
    ),
    "nested": spec(
        template={
            "Resources": {"Limits": {}, "Reservations": {}},
            "Placement": {"Constraints": [], "Preferences": [], "Platforms": []},
        },
        EndpointSpec={"Ports": []},
    ),
    "full": FULL,
    "dnsrr": spec(EndpointSpec={"Mode": "dnsrr"}),
    "host port": spec(EndpointSpec={"Mode": "dnsrr", "Ports": [{"TargetPort": 80, "PublishMode": "host"}]}),
    "port": spec(EndpointSpec={"Ports": [{"TargetPort": 80, "PublishedPort": 8080}]}),
    "privileges": spec(
        container={
            "Privileges": {"CredentialSpec": {"File": "x"}, "SELinuxContext": {"Disable": True, "Level": "a"}}
        }
    ),
    "no privileges": spec(container={"Privileges": {}}),
    "no health check": spec(container={"Healthcheck": {"Test": ["NONE"]}}),
    "an empty health check": spec(container={"Healthcheck": {}}),
    "no init": spec(container={"Init": False}),
    "zero policies": spec(
        template={"RestartPolicy": {"Condition": "any", "Delay": 0, "MaxAttempts": 0, "Window": 0}},
        UpdateConfig={"Parallelism": 0},
        RollbackConfig={"Parallelism": 3},
    ),
    "zero resources": spec(
        template={
            "Resources": {
                "Limits": {"NanoCPUs": 0, "MemoryBytes": 0},
                "Reservations": {"NanoCPUs": 0, "GenericResources": []},
            }
        }
    ),
    "keys in any case": {
        "name": "web",
        "tasktemplate": {"CONTAINERSPEC": {"image": "box", "Tty": True}},
        "mode": {"replicated": {"replicas": 0}},
    },
    "unknown keys": spec(Foo=1, container={"Bar": {}}),
    "nulls in lists": spec(Labels={"a": None}, container={"Args": ["a", None]}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_spec_is_read_back_alike(both: Both, kind: str) -> None:
    create(both, KINDS[kind])
    if kind == "port":
        both.wait("/services/$web", lambda service: "VirtualIPs" in service["Endpoint"])
    both("GET", "/services/$web")
    both("GET", "/services/$web", insertDefaults="true")
    both("GET", "/services", status="true")
    both("DELETE", "/services/$web")


REFUSED: dict[str, Spec] = {
    "no template": {"Name": "k"},
    "no image": {"Name": "k", "TaskTemplate": {"ContainerSpec": {}}},
    "image": spec(container={"Image": "A B"}),
    "upper case": spec(container={"Image": "Box"}),
    "long image": spec(container={"Image": "x" * 300}),
    "name": spec("a b"),
    "long name": spec("a" * 64),
    "name with a dot": spec("a.b"),
    "two modes": spec(Mode={"Replicated": {}, "Global": {}}),
    "updates of jobs": spec(Mode={"ReplicatedJob": {}}, UpdateConfig={"Parallelism": 1}),
    "replicas": spec(replicas=-1),
    "text for a number": spec(Mode={"Replicated": {"Replicas": "1"}}),
    "restart": spec(template={"RestartPolicy": {"Condition": "sometimes"}}),
    "delay": spec(template={"RestartPolicy": {"Delay": -1}}),
    "window": spec(template={"RestartPolicy": {"Window": -1}}),
    "attempts": spec(template={"RestartPolicy": {"MaxAttempts": -1}}),
    "cpu": spec(template={"Resources": {"Limits": {"NanoCPUs": 10}}}),
    "memory": spec(template={"Resources": {"Reservations": {"MemoryBytes": 10}}}),
    "constraint": spec(template={"Placement": {"Constraints": ["node.role=manager"]}}),
    "mount type": spec(container={"Mounts": [{"Type": "foo", "Target": "/a"}]}),
    "mounts": spec(container={"Mounts": [{"Type": "volume", "Target": "/a"}] * 2}),
    "propagation": spec(
        container={
            "Mounts": [
                {"Type": "bind", "Source": "/tmp", "Target": "/a", "BindOptions": {"Propagation": "foo"}}
            ]
        }
    ),
    "relative mount": spec(container={"Mounts": [{"Type": "volume", "Target": "a"}]}),
    "variable": spec(container={"Env": ["=x"]}),
    "grace": spec(container={"StopGracePeriod": -1}),
    "health": spec(container={"Healthcheck": {"Interval": -5}}),
    "two credentials": spec(container={"Privileges": {"CredentialSpec": {"File": "x", "Registry": "y"}}}),
    "no credentials": spec(container={"Privileges": {"CredentialSpec": {}}}),
    "secret": spec(
        container={"Secrets": [{"File": {"Name": "a"}, "SecretID": "nope", "SecretName": "nope"}]}
    ),
    "secret without a file": spec(container={"Secrets": [{"SecretID": "nope", "SecretName": "nope"}]}),
    "config": spec(
        container={"Configs": [{"File": {"Name": "a"}, "ConfigID": "nope", "ConfigName": "nope"}]}
    ),
    "config without a file": spec(container={"Configs": [{"ConfigID": "nope", "ConfigName": "nope"}]}),
    "network": spec(template={"Networks": [{"Target": "nope"}]}),
    "ingress": spec(template={"Networks": [{"Target": "ingress"}]}),
    "update delay": spec(UpdateConfig={"Delay": -1}),
    "update ratio": spec(UpdateConfig={"MaxFailureRatio": 2}),
    "update action": spec(UpdateConfig={"FailureAction": "foo"}),
    "update order": spec(UpdateConfig={"Order": "foo"}),
    "endpoint mode": spec(EndpointSpec={"Mode": "foo"}),
    "dnsrr": spec(EndpointSpec={"Mode": "dnsrr", "Ports": [{"TargetPort": 80, "PublishedPort": 1}]}),
    "ports": spec(EndpointSpec={"Ports": [{"TargetPort": 80, "PublishedPort": 1}] * 2}),
    "runtime": spec(template={"Runtime": "foo"}),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_spec_is_refused_alike(both: Both, kind: str) -> None:
    both("POST", "/services/create", REFUSED[kind])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"  ",
        b"foo",
        b"[]",
        b'"x"',
        b"null",
        b'{"Name":"k"',
        b'{"Name":"k",}',
        b'{"Name":1}',
        b'{"TaskTemplate":{"ContainerSpec":{"Args":"x"}}}',
        b'{"Labels":{"a":1}}',
        b'{"TaskTemplate":{"ForceUpdate":-1}}',
        b'{"TaskTemplate":{"ForceUpdate":99999999999999999999}}',
        b'{"EndpointSpec":{"Ports":[1]}}',
        b'{"Name":"a\nb"}',
        b'{"Name":"\xff"}',
    ],
)
def test_a_body_is_refused_alike(both: Both, body: bytes) -> None:
    both("POST", "/services/create", raw=body)
    both("POST", "/services/create", raw=body, headers={"Content-Type": "text/plain"})


def test_names_that_are_taken(both: Both) -> None:
    create(both, spec())
    both("POST", "/services/create", spec())
    published: Spec = {"EndpointSpec": {"Ports": [{"TargetPort": 80, "PublishedPort": 999}]}}
    create(both, spec("port", **published), "port")
    both("POST", "/services/create", spec("port2", **published))


def test_services_that_are_not_there(both: Both) -> None:
    for path in ("/services/nope", "/services/", "/tasks/nope"):
        both("GET", path)
    both("DELETE", "/services/nope")
    both("POST", "/services/nope/update", spec(), version="1")
    create(both, spec())
    both("DELETE", "/services/$web")
    both("DELETE", "/services/$web")
    both("GET", "/services/$web")


def test_lists_of_services(both: Both) -> None:
    for name in ("web", "web2", "other"):
        create(both, spec(name, Labels={"a": name, "b": ""}), name)
    create(both, spec("job", Mode={"ReplicatedJob": {}}, template=NOWHERE), "job")
    wanted: tuple[dict[str, Any], ...] = (
        {"name": ["web"]},
        {"name": {"web": True}},
        {"name": {"web": False}},
        {"name": ["eb"]},
        {"name": []},
        {"name": None},
        {"label": ["a=web"]},
        {"label": ["a", "b="]},
        {"mode": ["replicated"]},
        {"mode": ["replicated-job"]},
        {"mode": ["other"]},
        {"runtime": ["container"]},
        {"runtime": ["other"]},
        {"id": ["zz"]},
        {"other": ["x"]},
        {"name": "web"},
        {"name": {"web": 1}},
    )
    for filters in wanted:
        both("GET", "/services", filters=filters)
    for text in ("foo", "[]", "null", "{}"):
        both("GET", "/services", filters=text)
    for text in ("1", "t", "foo"):
        both("GET", "/services", status=text)
        both("GET", "/services/$web", insertDefaults=text)


def update(both: Both, body: Spec, **query: Any) -> None:
    both.read_version("version", "/services/$web")
    both("POST", "/services/$web/update", body, **{"version": "$version", **query})


def test_updates(both: Both) -> None:
    create(both, spec())
    for version in ("", "x", "-1", "1.5", "999999999", "18446744073709551616"):
        both("POST", "/services/$web/update", spec(), version=version)
    update(both, spec("other"))
    update(both, spec(""))
    update(both, spec(Mode={"Global": {}}))
    update(both, spec(), rollback="other")
    update(both, spec(), rollback="previous")
    update(both, spec(), registryAuthFrom="other")
    for number in range(3):
        update(both, spec(Labels={"n": str(number)}), registryAuthFrom="spec")
        both("GET", "/services/$web")
    update(both, spec(), rollback="previous")
    both.wait("/services/$web", lambda service: service["UpdateStatus"]["State"] == "rollback_completed")
    both("GET", "/services/$web")


def counted(state: str, number: int) -> Callable[[Any], bool]:
    return lambda tasks: sum(task["Status"]["State"] == state for task in tasks) == number


def test_tasks(both: Both) -> None:
    # a signal that a first process cannot ignore: nobody waits for the end of a grace period
    container = {"Labels": {"cl": "1"}, "StopSignal": "SIGKILL"}
    create(both, spec(replicas=2, Labels={"sl": "1"}, container=container))
    create(both, spec("pending", replicas=1, template=NOWHERE), "pending")
    job = spec("job", Mode={"ReplicatedJob": {"MaxConcurrent": 1, "TotalCompletions": 2}})
    create(both, job | {"TaskTemplate": {"ContainerSpec": {"Image": "box", "Args": ["true"]}}}, "job")
    both.wait("/tasks", counted("running", 2), filters={"service": ["$web"]})
    both.wait("/tasks", counted("complete", 2), filters={"service": ["$job"]})
    both.wait(
        "/tasks",
        lambda tasks: any("no suitable" in task["Status"].get("Err", "") for task in tasks),
        filters={"service": ["$pending"]},
    )
    for name in ("$web", "$pending", "$job"):
        both("GET", "/tasks", filters={"service": [name]})
        both("GET", "/services/" + name)
    both("GET", "/services", status="true")
    for filters in (
        {"desired-state": ["running"]},
        {"desired-state": ["RUNNING"]},
        {"desired-state": ["accepted"]},
        {"desired-state": ["other"]},
        {"name": ["web.1"]},
        {"name": ["1"]},
        {"label": ["sl=1"]},
        {"label": ["cl"]},
        {"_up-to-date": ["true"]},
        {"_up-to-date": ["false"]},
        {"runtime": ["container"]},
        {"runtime": ["other"]},
        {"id": ["zz"]},
        {"node": ["nope"]},
        {"service": ["nope"]},
        {"other": ["x"]},
    ):
        both("GET", "/tasks", filters={"service": ["$web"], **filters})


@pytest.mark.parametrize("api", ["1.24", "1.39", "1.40", "1.41"])
def test_clients_of_older_versions(both: Both, api: str) -> None:
    both.name("web", both("POST", "/services/create", FULL, api=api))
    both("GET", "/services/$web", api=api)
    both("GET", "/services", status="true", api=api)
    job = spec("job", Mode={"ReplicatedJob": {}}, template=NOWHERE)
    both.name("job", both("POST", "/services/create", job, api=api))
    both("GET", "/services/$job", api=api)


def test_clients_whose_images_the_daemon_resolves(both: Both) -> None:
    """There is no registry, so what each says of that is the same."""
    both.name("web", both("POST", "/services/create", spec(), api="1.29"))
    both("GET", "/services/$web", api="1.29")
    both.read_version("version", "/services/$web")
    both("POST", "/services/$web/update", spec(Labels={"a": "b"}), api="1.29", version="$version")
    both("GET", "/services/$web", api="1.29")
    for name, image in (
        ("long", "docker.io/library/box@sha256:" + "a" * 64),
        ("tagged", "docker.io/joe/box:1@sha256:" + "a" * 64),
    ):
        both.name(name, both("POST", "/services/create", spec(name, container={"Image": image}), api="1.29"))
        both("GET", f"/services/${name}", api="1.29")
