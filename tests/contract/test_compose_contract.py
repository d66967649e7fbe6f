"""Our reading of Compose files against docker's: the services that ``docker stack deploy`` creates of them.

docker's answers are kept in compose/docker.json, so that no docker is needed to compare with them. Where
there is a docker CLI of that version, it is asked again: the record must be what it says. To record anew
after adding a case: python tests/contract/test_compose_contract.py
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

sys.path[:0] = [str(Path(__file__).parents[1] / "support"), str(Path(__file__).parents[2])]

from docker_stack import STACK, config, deploy  # noqa: E402

from swarmpy.compose import ComposeError, Document, merged, read_stack, yaml_text  # noqa: E402
from swarmpy.compose.tree import Mapping, Node, Sequence  # noqa: E402
from swarmpy.model.specs import ContainerSpec, ServiceSpec  # noqa: E402

FOLDER = Path(__file__).parent / "compose"
RECORD = FOLDER / "docker.json"
CASES = {
    "full": ["full.yml"],
    "variables": ["variables.yml"],
    "merged": ["merged.yml", "merged.over.yml"],
    "merged the other way": ["merged.over.yml", "merged.yml"],
    "long": ["long.yml"],
    "three": ["merged.yml", "merged.over.yml", "third.yml"],
}
VARIABLES = {"TAG": "1.25", "N": "4", "EMPTY": "", "TRUE": "true", "HOME": "/home/user"}
LINES = (FOLDER / "refused.txt").read_text().splitlines()
"""Lines of a service, most of them wrong."""
OURS = {
    "tty: yes": "there is only one thing that it can mean",
    "command: 3": "a number where text is wanted is text",
    "mem_limit: 5m": "the same as deploy.resources.limits.memory",
    "scale: 3": "the same as deploy.replicas",
    "cpus: 0.5": "the same as deploy.resources.limits.cpus",
    "gpus: all": "the same as deploy.resources.reservations.devices",
    "user: 1000": "a number where text is wanted is text",
    'deploy: {placement: {constraints: "x"}}': "one string is a list of one",
    "depends_on: [web]": "docker does not look at it",
    "ports: [{target: 80, mode: sideways}]": "docker leaves it to the engine to refuse",
    "ports: [{published: 80}]": "docker leaves it to the engine to refuse",
    "cap_add: NET_ADMIN": "one string is a list of one",
    "deploy: {restart_policy: {condition: sometimes}}": "docker leaves it to the engine to refuse",
    "extra_hosts: [x]": "docker drops the entry and says nothing",
    'volumes: ["a:b:c:d"]': "docker takes all of it for a path of a Windows host",
    'volumes: ["data:rel"]': "docker leaves it to the engine to refuse",
}
"""Lines on which we differ from docker on purpose, and why."""

DOCKER = shutil.which("docker")
PLACE = "/stack"
"""Stands in the record for the folder of the cases."""


def docker_version() -> str:
    said = subprocess.run([str(DOCKER), "--version"], capture_output=True, text=True, check=True, timeout=30)
    return said.stdout.split()[2].rstrip(",")


def line_document(line: str) -> str:
    return f"services:\n  a:\n    image: host\n    {line}\nvolumes: {{data: }}\n"


def ask_docker(folder: Path) -> dict[str, Any]:
    """What docker says of every case and every line."""
    services = {
        case: deploy(str(DOCKER), files, folder=FOLDER, variables=VARIABLES) for case, files in CASES.items()
    }
    configs = {
        case: config(str(DOCKER), files, folder=FOLDER, variables=VARIABLES) for case, files in CASES.items()
    }
    lines: dict[str, str | None] = {}
    for line in LINES:
        (folder / "line.yml").write_text(line_document(line))
        try:
            deploy(str(DOCKER), ["line.yml"], folder=folder, variables=VARIABLES)
            lines[line] = None
        except ValueError as error:
            lines[line] = str(error).replace(str(folder), PLACE)
    found = {"version": docker_version(), "services": services, "configs": configs, "lines": lines}
    text = json.dumps(found, indent=1)
    result = json.loads(text.replace(str(FOLDER), PLACE))
    assert isinstance(result, dict)
    return result


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    result = json.loads(RECORD.read_text())
    assert isinstance(result, dict)
    return result


def ours(files: list[str]) -> dict[str, ServiceSpec]:
    return specs([Document(file, (FOLDER / file).read_text(), PLACE) for file in files])


def specs(documents: list[Document]) -> dict[str, ServiceSpec]:
    texts = {f"{PLACE}/{path.name}": path.read_text() for path in FOLDER.iterdir()}
    stack = read_stack(documents, name=STACK, variables=VARIABLES, files=texts)
    return {service.spec.name: plain(service.spec) for service in stack.services}


def theirs(record: dict[str, Any], case: str) -> dict[str, ServiceSpec]:
    return {
        name: plain(msgspec.convert(_filled(spec), ServiceSpec))
        for name, spec in record["services"][case].items()
    }


def _filled(spec: Any) -> Any:
    """Without the nulls of Go; a field that is there and null is one that is not there."""
    if isinstance(spec, dict):
        return {key: _filled(value) for key, value in spec.items() if value is not None}
    return [_filled(value) for value in spec] if isinstance(spec, list) else spec


def plain(spec: ServiceSpec) -> ServiceSpec:
    """Without what differs on purpose: ids, the tag that docker adds to images, empty privileges, and the
    addresses of ports and the dependencies, which docker drops. It does not keep to one order of mounts, nor
    of a secret that is used twice."""
    template = spec.task_template
    container = template.container_spec or ContainerSpec()
    has_privileges = container.privileges is not None and container.privileges.credential_spec is not None
    container = replace(
        container,
        image=container.image.removesuffix(":latest"),
        privileges=container.privileges if has_privileges else None,
        secrets=tuple(sorted((replace(each, secret_id="") for each in container.secrets), key=str)),
        configs=tuple(sorted((replace(each, config_id="") for each in container.configs), key=str)),
        mounts=tuple(sorted(container.mounts, key=lambda mount: mount.target)),
    )
    endpoint = spec.endpoint_spec
    if endpoint is not None:
        endpoint = replace(endpoint, ports=tuple(replace(port, host_ip="") for port in endpoint.ports))
    return replace(
        spec,
        task_template=replace(template, container_spec=container),
        endpoint_spec=endpoint,
        depends_on=(),
    )


@pytest.mark.parametrize("case", CASES)
def test_services_are_the_ones_that_docker_makes(record: dict[str, Any], case: str) -> None:
    mine, wanted = ours(CASES[case]), theirs(record, case)
    assert set(mine) == set(wanted)
    for name in mine:
        assert msgspec.to_builtins(mine[name]) == msgspec.to_builtins(wanted[name])


@pytest.mark.parametrize("case", CASES)
def test_what_docker_merges_gives_the_same_services(record: dict[str, Any], case: str) -> None:
    """``docker stack config`` writes everything out; a dollar sign of its output is no variable."""
    text = record["configs"][case].replace("$", "$$")
    mine, wanted = specs([Document("config.yml", text, PLACE)]), theirs(record, case)
    assert {name: msgspec.to_builtins(spec) for name, spec in mine.items()} == {
        name: msgspec.to_builtins(spec) for name, spec in wanted.items()
    }


@pytest.mark.skipif(DOCKER is None, reason="there is no docker CLI here")
@pytest.mark.parametrize("case", CASES)
def test_what_we_merge_gives_docker_the_same_services(case: str, tmp_path: Path) -> None:
    documents = [Document(file, (FOLDER / file).read_text(), str(FOLDER)) for file in CASES[case]]
    texts = {str(path): path.read_text() for path in FOLDER.iterdir()}
    tree, _ = merged(documents, variables=VARIABLES, files=texts)
    (tmp_path / "config.yml").write_text(yaml_text(for_docker(tree)))
    again = deploy(str(DOCKER), ["config.yml"], folder=tmp_path, variables=VARIABLES)
    first = deploy(str(DOCKER), CASES[case], folder=FOLDER, variables=VARIABLES)
    assert theirs({"services": {case: again}}, case) == theirs({"services": {case: first}}, case)


def for_docker(tree: Mapping) -> Mapping:
    """Without keys that docker's stacks do not know."""

    def one(node: Node) -> Node:
        match node:
            case Sequence(items=items):
                return Sequence(tuple(map(one, items)), node.place)
            case Mapping(items=items):
                kept = {key: one(item) for key, item in items.items() if key not in ("host_ip", "depends_on")}
                return node.with_items(kept)
        return node

    found = one(tree)
    assert isinstance(found, Mapping)
    return found


@pytest.mark.parametrize("line", LINES)
def test_what_docker_refuses_is_refused(record: dict[str, Any], line: str) -> None:
    try:
        read_stack([Document("a.yml", line_document(line))], name=STACK, variables=VARIABLES)
        refusal = None
    except ComposeError as error:
        refusal = str(error)
    theirs = record["lines"][line]
    assert (refusal is None) == (theirs is None) or line in OURS, f"ours: {refusal}\ndocker's: {theirs}"
    if refusal is not None:
        assert refusal.startswith("a.yml:")


def test_differences_are_real(record: dict[str, Any]) -> None:
    """A line that is no difference any more must leave the list."""
    for line in OURS:
        try:
            read_stack([Document("a.yml", line_document(line))], name=STACK, variables=VARIABLES)
            is_refused = False
        except ComposeError:
            is_refused = True
        assert is_refused != (record["lines"][line] is not None), line


@pytest.mark.skipif(
    DOCKER is None or docker_version() != json.loads(RECORD.read_text())["version"],
    reason="there is no docker CLI of the recorded version here",
)
def test_the_record_is_what_docker_says(record: dict[str, Any], tmp_path: Path) -> None:
    said = ask_docker(tmp_path)
    assert said["lines"] == record["lines"]
    for case in CASES:
        assert theirs(said, case) == theirs(record, case)


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        RECORD.write_text(json.dumps(ask_docker(Path(scratch)), indent=1, sort_keys=True) + "\n")
