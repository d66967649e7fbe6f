"""Services as specs, errors with file and line, warnings, and what the cluster cannot run yet.

That services are docker's is tests/contract's to show.
"""

from __future__ import annotations

import pytest

from swarmpy.compose import ComposeError, Document, Stack, files_named, read_stack, runnable
from swarmpy.errors import InvalidArgument
from swarmpy.limits import COMPOSE_FILES_MAX, COMPOSE_PORTS_MAX, COMPOSE_SERVICES_MAX
from swarmpy.model import validate
from swarmpy.model.specs import BindOptions, ContainerSpec, Mount, ServiceSpec
from swarmpy.model.states import MountType, RestartCondition

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
        ("mem_limit: 5m", WEB + ": mem_limit is not supported: Set resource limits using"),
        ("restart: never", WEB + '.restart is no restart policy: "never"'),
        ("env_file: missing.env", WEB + ".env_file names /missing.env, which cannot be read"),
        ("environment: {A: true}", WEB + ".environment.A contains \"true\", which is an invalid type"),
        ("command: sh 'x", WEB + ".command is no command line: No closing quotation"),
        ("deploy: {update_config: {order: both}}", WEB + ".deploy.update_config.order must be one of"),
        ("tmpfs: /x:size=5", WEB + ".tmpfs cannot have options"),
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
    assert files_named([document], variables={}) == ("/in/x.env", "/y")
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
    stack = read(
        "services:\n  web:\n    image: host\n    build: .\n    links: [x]\n    depends_on:\n    - db\n"
    )
    assert [str(warning) for warning in stack.warnings] == [
        "a.yml:4: Ignoring unsupported option: services.web.build: the image must exist already",
        "a.yml:5: Ignoring unsupported option: services.web.links",
        "a.yml:6: Ignoring unsupported option: services.web.depends_on: "
        "services start in no particular order",
    ]


def test_unset_variables_and_addresses_of_ports_are_warned_of() -> None:
    stack = read("services:\n  web:\n    image: host\n    hostname: $H\n    ports: ['127.0.0.1:1:1']\n")
    assert [str(warning) for warning in stack.warnings] == [
        'a.yml:4: The "H" variable is not set. Defaulting to a blank string.',
        "a.yml:5: ignoring IP-address (127.0.0.1:1:1) service will listen on '0.0.0.0'",
    ]


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
        (5, "services.a", "overlay networks are"),
        (6, "services.a", "secrets are not put "),
        (7, "services.a", "configs are not put "),
        (8, "services.a", "ports in ingress mod"),
        (9, "services.a", "health checks are no"),
        (10, "services.a", "standard input is no"),
        (11, "services.a", "isolation is a setti"),
        (12, "services.a", "credential specs are"),
        (13, "services.a", "log drivers are not "),
        (15, "services.job", "job-mode services ar"),
        (14, "the stack's default network", "overlay networks are"),
    ]
    assert [service.name for service in ready.services] == ["a", "b"]
    for named in ready.services:
        validate.check_service(named.spec)
        template = named.spec.task_template
        assert template.networks == ()
        assert template.container_spec is not None
        assert not template.container_spec.secrets
        assert not template.container_spec.configs


def _halves(message: str) -> tuple[str, str]:
    subject, _, rest = message.partition(": ")
    return subject, rest[:20]


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
