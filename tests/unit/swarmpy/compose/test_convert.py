"""Services as specs, errors with file and line, warnings, and what the cluster cannot run yet.

That services are docker's is tests/contract's to show.
"""

from __future__ import annotations

import pytest

from swarmpy.compose import ComposeError, Document, Stack, read_stack, runnable
from swarmpy.compose.limits import COMPOSE_FILES_MAX, COMPOSE_PORTS_MAX, COMPOSE_SERVICES_MAX
from swarmpy.errors import InvalidArgument
from swarmpy.model import endpoint_policy, validate
from swarmpy.model.endpoint_policy import Policy
from swarmpy.model.specs import BindOptions, ContainerSpec, Mount, ServiceSpec
from swarmpy.model.states import MountType, PublishMode, RestartCondition

WEB = "a.yml:4: services.web"
RESOURCES = "deploy:\n      resources:\n        limits: "
RANGE = f"1-{COMPOSE_PORTS_MAX}"


def read(*texts: str, folder: str = "/", **variables: str) -> Stack:
    documents = [Document(f"{name}.yml", text, folder) for name, text in zip("abc", texts, strict=False)]
    return read_stack(documents, name="st", variables=variables)


def service(lines: str, *, top: str = "", **variables: str) -> ServiceSpec:
    """The spec of a service with these lines."""
    text = f"services:\n  web:\n    image: host\n    {lines}\n{top}"
    return read_stack([Document("a.yml", text)], name="st", variables=variables).services[0].spec


def container(lines: str, *, top: str = "", **variables: str) -> ContainerSpec:
    spec = service(lines, top=top, **variables).task_template.container_spec
    assert spec is not None
    return spec


def refusal(lines: str, *, top: str = "") -> str:
    with pytest.raises(ComposeError) as refused:
        service(lines, top=top)
    return str(refused.value)


def test_labels_of_network_policies_mean_the_networks_of_the_file() -> None:
    text = "deploy: {labels: {swarmpy.network.front.acl: deny in, 'swarmpy.network.*.rate-in': 1mbit}}"
    spec = service(text)
    validate.check_service(spec)
    assert endpoint_policy.policy_of(spec.labels, "st_front") == Policy(
        rules=endpoint_policy.parse("deny in"), rate_in_bps=1_000_000
    )
    assert endpoint_policy.policy_of(spec.labels, "other_front") == Policy(rate_in_bps=1_000_000)
    with pytest.raises(InvalidArgument, match="begins with allow or deny"):
        validate.check_service(service("deploy: {labels: {swarmpy.network.front.acl: refuse all}}"))


def test_names_and_labels_carry_the_stack() -> None:
    spec = service("deploy: {labels: {a: b}}")
    assert spec.name == "st_web"
    assert spec.labels == {"a": "b", "com.docker.stack.namespace": "st", "com.docker.stack.image": "host"}


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ("replica: 3", WEB + ": Additional property replica is not allowed"),
        ("enviroment: {}", WEB + ": Additional property enviroment is not allowed: did you mean env"),
        ("deploy: {replica: 3}", WEB + ".deploy: Additional property replica is not allowed: did"),
        (RESOURCES + "{cpu: 1}", "a.yml:6: services.web.deploy.resources.limits: Additional property cpu"),
        ("deploy:\n      replicas: many", 'a.yml:5: services.web.deploy.replicas must be an integer, not "'),
        ("deploy: {replicas: -1}", WEB + ".deploy.replicas must be 0 or more, not -1"),
        ("deploy: {replicas: 100001}", "a.yml:3: services.web: Number of replicas must be at most 100000"),
        ("tty: maybe", WEB + ".tty must be a boolean"),
        ("stop_grace_period: 10", WEB + '.stop_grace_period cannot be read: invalid duration "10"'),
        ("ports:\n      - 80:80\n      - http", "a.yml:6: services.web.ports.1 cannot be read: invalid port"),
        ('ports: ["80:80", "80:81"]', "a.yml:3: services.web: EndpointSpec: duplicate published"),
        ("volumes: [data:/x]", WEB + '.volumes.0.source names an undefined volume "data"'),
        ("networks: [net]", WEB + '.networks names an undefined network "net"'),
        ("secrets: [s]", WEB + '.secrets.0.source names an undefined secret "s"'),
        ("volume_driver: x", WEB + ": volume_driver is not supported: Instead of setting the volume"),
        ("restart: never", WEB + '.restart is no restart policy: "never"'),
        ("env_file: missing.env", WEB + ".env_file names /missing.env, which cannot be read"),
        ("environment: {A: true}", WEB + ".environment.A contains \"true\", which is an invalid type"),
        ("command: sh 'x", WEB + ".command is no command line: No closing quotation"),
        ("deploy: {update_config: {order: both}}", WEB + ".deploy.update_config.order must be one of"),
        ("tmpfs: /x:noexec", WEB + ".tmpfs cannot have the option noexec: write size=64m"),
        ("secrets: [{source: s, mode: 010000}]", WEB + ".secrets.0.mode is no file mode: 4096"),
        (f'ports: ["{RANGE}:{RANGE}", "2000:80"]', WEB + ".ports names more than"),
    ],
)  # fmt: skip
def test_errors_name_file_line_and_key(lines: str, says: str) -> None:
    assert refusal(lines, top="secrets: {s: {external: true}}" if "mode" in says else "").startswith(says)


def test_a_line_of_the_second_file_is_named_with_that_file() -> None:
    with pytest.raises(ComposeError, match=r"^b\.yml:3: services.web.deploy.replicas must be an integer"):
        read("services: {web: {image: host}}", "services:\n  web:\n    deploy: {replicas: x}")


@pytest.mark.parametrize("texts", [("",), ("services:",), ("services: {}",), ("x-a: 1", "")])
def test_a_stack_needs_services(texts: tuple[str, ...]) -> None:
    with pytest.raises(ComposeError, match=r"^a.yml:1: no services"):
        read(*texts)


def test_bounds_of_files_services_and_names() -> None:
    with pytest.raises(InvalidArgument, match="Compose files, not 0"):
        read()
    with pytest.raises(InvalidArgument, match="Compose files, not"):
        read_stack([Document("a", "")] * (COMPOSE_FILES_MAX + 1), name="st", variables={})
    many = "services:\n" + "".join(f"  s{n}: {{image: host}}\n" for n in range(COMPOSE_SERVICES_MAX + 1))
    with pytest.raises(ComposeError, match=rf"^a\.yml:2: more than {COMPOSE_SERVICES_MAX} services"):
        read(many)
    with pytest.raises(InvalidArgument, match=r'^invalid stack name "a b"'):
        read_stack([Document("a", "services: {a: {image: host}}")], name="a b", variables={})


def test_types_are_looked_at_after_variables() -> None:
    spec = service(
        "deploy: {replicas: '${N}'}\n    tty: ${T}\n    ports: ['$P:80']", N="7", T="yes", P="8080"
    )
    assert spec.mode.replicated is not None
    assert spec.mode.replicated.replicas == 7
    assert spec.endpoint_spec is not None
    assert spec.endpoint_spec.ports[0].published_port == 8080


def test_environment_files_come_before_the_environment() -> None:
    document = Document(
        "a.yml", "services: {a: {image: host, env_file: [x.env, /y], environment: [A=3, C]}}", "/in"
    )
    files = {"/in/x.env": "A=1\n# no\nB=1\n", "/y": "B=2\nD\nE\n"}
    stack = read_stack([document], name="st", variables={"C": "c", "D": "d"}, files=files)
    spec = stack.services[0].spec.task_template.container_spec
    assert spec is not None
    assert spec.env == ("A=3", "B=2", "C=c", "D=d")


def test_mounts() -> None:
    spec = container("volumes: [./x:/x, '/a:/b:ro,rshared']\n    tmpfs: [/t]")
    assert spec.mounts == (
        Mount(type=MountType.BIND, source="/x", target="/x"),
        Mount(
            type=MountType.BIND,
            source="/a",
            target="/b",
            read_only=True,
            bind_options=BindOptions(propagation="rshared"),
        ),
        Mount(type=MountType.TMPFS, target="/t"),
    )


def test_the_swarms_restart_policy_goes_before_restart() -> None:
    policy = service(
        "restart: always\n    deploy: {restart_policy: {condition: none}}"
    ).task_template.restart_policy
    assert policy is not None
    assert policy.condition is RestartCondition.NONE


def test_ignored_keys_are_warned_of_with_their_line() -> None:
    stack = read("services:\n  web:\n    image: host\n    build: .\n    links: [x]\n    ipc: host\n")
    assert [str(warning) for warning in stack.warnings] == [
        "a.yml:4: Ignoring unsupported option: services.web.build: the image must exist already",
        "a.yml:5: Ignoring unsupported option: services.web.links",
        "a.yml:6: Ignoring unsupported option: services.web.ipc",
    ]


def test_unset_variables_are_warned_of() -> None:
    stack = read("services:\n  web:\n    image: host\n    hostname: $H\n")
    assert [str(warning) for warning in stack.warnings] == [
        'a.yml:4: The "H" variable is not set. Defaulting to a blank string.',
    ]


def test_ports_may_be_of_one_address_and_hide_the_client() -> None:
    ports = ["'127.0.0.1:1:1'", "'[fd00::1]:2:2/udp'", "{published: 3, target: 3, host_ip: eth0, mode: snat}"]
    spec = service(f"ports: [{', '.join(ports)}]")
    assert spec.endpoint_spec is not None
    assert [(port.host_ip, port.publish_mode, port.source_nat) for port in spec.endpoint_spec.ports] == [
        ("127.0.0.1", PublishMode.INGRESS, False),
        ("fd00::1", PublishMode.INGRESS, False),
        ("eth0", PublishMode.INGRESS, True),
    ]


def test_places_on_networks_may_have_addresses_of_their_own() -> None:
    stack = read(
        """
services:
  web:
    image: host
    networks:
      front:
        aliases: [www]
        ipv4_address: 10.5.0.9
        ipv6_address: fd00:5::9
        mac_address: "02:42:0a:05:00:09"
        driver_opts: {a: b}
networks:
  front:
    name: lan
    driver: macvlan
    driver_opts: {parent: eth1}
    enable_ipv6: true
    internal: true
    ipam: {config: [{subnet: 10.5.0.0/24, gateway: 10.5.0.1, ip_range: 10.5.0.0/25}]}
"""
    )
    (place,) = stack.services[0].spec.task_template.networks
    assert (place.target, place.aliases) == ("lan", ("www", "web"))
    assert place.driver_opts == {
        "a": "b",
        "ipv4_address": "10.5.0.9",
        "ipv6_address": "fd00:5::9",
        "mac_address": "02:42:0a:05:00:09",
    }
    (network,) = runnable(stack).networks
    assert network.request() == {
        "Name": "lan",
        "Driver": "macvlan",
        "Scope": "swarm",
        "EnableIPv6": True,
        "Internal": True,
        "Attachable": False,
        "Options": {"parent": "eth1"},
        "Labels": {"com.docker.stack.namespace": "st"},
        "IPAM": {
            "Driver": "",
            "Options": {},
            "Config": [{"Subnet": "10.5.0.0/24", "Gateway": "10.5.0.1", "IPRange": "10.5.0.0/25"}],
        },
    }


def test_networks_that_every_node_has_are_not_made() -> None:
    stack = read(
        "services: {a: {image: host, networks: [out]}}\nnetworks: {out: {external: true, name: host}}\n"
    )
    assert [(network.spec.name, network.is_predefined) for network in stack.networks] == [("host", True)]
    (place,) = stack.services[0].spec.task_template.networks
    assert (place.target, place.aliases) == ("host", ())


@pytest.mark.parametrize(
    ("networks", "text"),
    [
        (
            "front: {ipam: {config: [{subnet: 10.5.0.1/24}]}}",
            "a.yml:3: networks.front: invalid network config:\n"
            "invalid subnet 10.5.0.1/24: it should be 10.5.0.0/24",
        ),
        (
            "front: {driver_opts: {com.docker.network.driver.mtu: huge}}",
            'a.yml:3: networks.front: invalid value "huge" for com.docker.network.driver.mtu: ',
        ),
    ],
)
def test_networks_that_cannot_be_made_are_refused_with_their_line(networks: str, text: str) -> None:
    with pytest.raises(ComposeError) as refusal:
        read(f"services: {{a: {{image: host, networks: [front]}}}}\nnetworks:\n  {networks}\n")
    assert str(refusal.value).startswith(text)


EVERYTHING = """
services:
  a:
    image: host
    networks: [front]
    secrets: [key]
    configs: [settings]
    ports: ["80:80"]
    healthcheck: {test: "true"}
    stdin_open: true
    isolation: hyperv
    credential_spec: {file: x}
    logging: {driver: syslog}
  b: {image: host}
  job: {image: host, deploy: {mode: replicated-job}}
networks: {front: {attachable: true, labels: [x=y]}, unused: }
secrets: {key: {file: ./key}}
configs: {settings: {content: "a=${A}"}}
"""


def test_what_the_cluster_cannot_run_is_warned_of_and_left_out() -> None:
    stack = read(EVERYTHING, A="1", folder="/in")
    ready = runnable(stack)
    assert [
        (w.place.line, w.message.partition(":")[0], w.message.partition(": ")[2][:20]) for w in ready.warnings
    ] == [
        (11, "services.a", "isolation is a setti"),
        (12, "services.a", "credential specs are"),
        (13, "services.a", "log drivers are not "),
    ]
    assert [service.name for service in ready.services] == ["a", "b", "job"]
    assert [network.spec.name for network in ready.networks] == ["st_default", "st_front"]
    for named in ready.services:
        template = named.spec.task_template
        assert [place.target for place in template.networks] == [
            "st_front" if named.name == "a" else "st_default"
        ]
        assert template.log_driver is None
        assert template.container_spec is not None
        assert not template.container_spec.isolation
        assert template.container_spec.privileges is None


def _halves(message: str) -> tuple[str, str]:
    subject, _, rest = message.partition(": ")
    return subject, rest[:20]


@pytest.mark.parametrize(
    ("one", "other", "is_refused"),
    [
        ("'80:80'", "'80:81'", True),
        ("'80:80'", "{target: 1, published: 80, mode: host}", True),
        ("'80:80'", "'80:80/udp'", False),
        ("{target: 1, published: 80, mode: host}", "{target: 1, published: 80, mode: host}", False),
    ],
)
def test_a_port_of_the_routing_mesh_is_one_services(one: str, other: str, *, is_refused: bool) -> None:
    text = f"services:\n  a: {{image: host, ports: [{one}]}}\n  b:\n    image: host\n    ports: [{other}]\n"
    if not is_refused:
        assert read(text).services
        return
    with pytest.raises(ComposeError, match=r"^a\.yml:5: services.b publishes port 80/tcp, which services.a"):
        read(text)


def test_the_stack_holds_what_its_services_use() -> None:
    stack = read(EVERYTHING, A="1", folder="/in")
    assert [(network.name, network.spec.name, network.is_external) for network in stack.networks] == [
        ("default", "st_default", False),
        ("front", "st_front", False),
    ]
    assert stack.networks[1].spec.attachable
    assert [(file.full_name, file.path, file.content) for file in stack.secrets] == [
        ("st_key", "/in/key", "")
    ]
    assert [(file.full_name, file.path, file.content) for file in stack.configs] == [
        ("st_settings", "", "a=1")
    ]


@pytest.mark.parametrize("body", ["{}", "{external: true, file: x}", "{file: a, content: b}"])
def test_a_secret_has_one_source(body: str) -> None:
    assert "secrets.s needs exactly one of file" in refusal("tty: true", top=f"secrets: {{s: {body}}}")
