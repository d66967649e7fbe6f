"""What a task finds around it: names, labels, templates, signals, ports."""

from __future__ import annotations

import signal

import pytest
from agent_rig import NODE, id_of, make_revision, make_task
from msgspec.structs import replace

from agent import environment
from agent.executor.base import ImageConfig, Sandbox
from swarmpy.errors import TaskRejected
from swarmpy.limits import HOST_PORT_MAX, HOST_PORT_MIN
from swarmpy.model.ids import Duration, TaskId
from swarmpy.model.objects import NodeDescription
from swarmpy.model.specs import (
    ContainerSpec,
    DNSConfig,
    EndpointSpec,
    Limits,
    Mount,
    Platform,
    PortConfig,
    ResourceRequirements,
    TaskSpec,
)
from swarmpy.model.states import PublishMode

WEB = make_revision()
TASK = make_task(3, WEB)
NODE_X = replace(
    NODE,
    description=NodeDescription(hostname="host1", platform=Platform(os="linux", architecture="x86_64")),
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("{{.Service.Name}}-{{ .Task.Slot }}", "web-3"),
        ("{{.Task.Name}}", f"web.3.{TASK.id}"),
        ("{{.Node.ID}}@{{.Node.Hostname}}", "node1@host1"),
        ("{{.Node.Platform.OS}}/{{.Node.Platform.Architecture}}", "linux/x86_64"),
        ('{{.Service.Labels.tier}}{{index .Service.Labels "a.b"}}{{.Service.Labels.none}}', "frontx"),
        ("{ {.Service.Name}}", "{ {.Service.Name}}"),
    ],
)
def test_templates(text: str, expected: str) -> None:
    spec = replace(WEB.spec, labels={"tier": "front", "a.b": "x"})
    assert environment.expand(text, TASK, replace(WEB, spec=spec), NODE_X) == expected


@pytest.mark.parametrize("text", ["{{.Bogus}}", '{{bogus "x"}}', "{{ }}", "{{.Service.Owner}}"])
def test_unknown_templates_reject(text: str) -> None:
    with pytest.raises(TaskRejected, match="is not known"):
        environment.expand(text, TASK, WEB, NODE_X)


@pytest.mark.parametrize(
    ("spec", "image", "number"),
    [
        ("", "", signal.SIGTERM),
        ("", "SIGQUIT", signal.SIGQUIT),
        ("INT", "SIGQUIT", signal.SIGINT),
        ("sigusr1", "", signal.SIGUSR1),
        ("9", "", 9),
        ("SIGRTMIN+3", "", signal.SIGRTMIN + 3),
    ],
)
def test_stop_signals(spec: str, image: str, number: int) -> None:
    config = ImageConfig(reference="i", stop_signal=image)
    assert environment.stop_signal(ContainerSpec(stop_signal=spec), config) == number


@pytest.mark.parametrize("name", ["SIGNOPE", "0", "999", "SIGTERM+1", "SIG_IGN"])
def test_bad_signals_reject(name: str) -> None:
    with pytest.raises(TaskRejected, match="Invalid signal"):
        environment.stop_signal(ContainerSpec(stop_signal=name), None)


def test_grace() -> None:
    assert environment.stop_grace_s(ContainerSpec()) == 10.0
    assert environment.stop_grace_s(ContainerSpec(stop_grace_period=Duration(0))) == 0.0
    assert environment.stop_grace_s(ContainerSpec(stop_grace_period=Duration(2_500_000_000))) == 2.5


def test_launch_and_endpoint() -> None:
    spec = ContainerSpec(
        image="host",
        hostname="{{.Service.Name}}{{.Task.Slot}}",
        env=("A={{.Node.Hostname}}",),
        labels={"mine": "1"},
        mounts=(Mount(source="/data/{{.Task.Slot}}", target="/data"),),
        dns_config=DNSConfig(nameservers=("1.1.1.1",), search=("lan",), options=("ndots:1",)),
        hosts=("10.0.0.9 db",),
    )
    template = TaskSpec(container_spec=spec, resources=ResourceRequirements(limits=Limits(pids=50)))
    revision = make_revision(port=8080)
    revision = replace(revision, spec=replace(revision.spec, task_template=template))
    launch = environment.make_launch(
        TASK, revision, NODE_X, image=ImageConfig(reference="host"), sandbox=Sandbox(netns="/n")
    )
    assert launch.hostname == "web3"
    assert launch.spec.env == ("A=host1",)
    assert launch.spec.mounts[0].source == "/data/3"
    assert launch.limits == Limits(pids=50)
    assert launch.labels["mine"] == "1"
    assert launch.labels["com.docker.swarm.task.name"] == f"web.3.{TASK.id}"
    endpoint = environment.make_endpoint(TASK, revision, NODE_X)
    assert endpoint.hostname == "web3"
    assert (endpoint.dns, endpoint.dns_search, endpoint.dns_options) == (("1.1.1.1",), ("lan",), ("ndots:1",))
    assert endpoint.extra_hosts == ("10.0.0.9 db",)
    (port,) = endpoint.host_ports
    assert (port.protocol, port.published_port, port.target_port) == ("tcp", 8080, 80)


def test_names_of_global_tasks_use_the_node() -> None:
    task = make_task(4, WEB, slot=0)
    assert environment.task_name(task, WEB) == f"web.node1.{task.id}"
    assert environment.expand("{{.Task.Slot}}", task, WEB, NODE_X) == "node1"


def test_a_port_that_is_left_to_the_node_follows_from_the_task() -> None:
    open_port = PortConfig(target_port=80, publish_mode=PublishMode.HOST)
    ports = (open_port, replace(open_port, target_port=81), replace(open_port, published_port=8080))
    revision = replace(WEB, spec=replace(WEB.spec, endpoint_spec=EndpointSpec(ports=ports)))
    assert environment.refusal(revision) == ""
    seen = set()
    for number in range(200):
        found = environment.published_ports(revision, TaskId(id_of(number)))
        assert found == environment.published_ports(revision, TaskId(id_of(number)))
        first, second, given = (port.published_port for port in found)
        assert given == 8080
        assert first != second
        assert {first, second} <= set(range(HOST_PORT_MIN, HOST_PORT_MAX + 1))
        seen |= {first, second}
    assert len(seen) > 390, "tasks of one node hardly ever meet"
    assert [port.published_port for port in environment.host_ports(revision, TaskId(id_of(199)))] == [
        port.published_port for port in found
    ]
