"""Ansible's community.docker: a swarm described in a playbook. Run again, nothing has changed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from docker_cli import DockerCli, docker_programs
from lab_services import lab_of

from swarmpy.lab.cluster import Lab

ANSIBLE: Final = "Ansible community.docker"
RUN_TIMEOUT_S: Final = 120.0
works = pytest.mark.works

PLAY: Final = """
- hosts: localhost
  gather_facts: false
  module_defaults:
    group/community.docker.docker: {docker_host: "HOST"}
  tasks:
    - {name: swarm, community.docker.docker_swarm: {state: present, task_history_retention_limit: 4}}
    - name: node
      community.docker.docker_node: {hostname: node-1, labels: {zone: a}, labels_state: replace}
    - name: network
      community.docker.docker_network: {name: ansible, driver: overlay, attachable: true, labels: {a: b}}
    - {name: secret, community.docker.docker_secret: {name: word, data: hidden}}
    - {name: config, community.docker.docker_config: {name: settings, data: "a = b"}}
    - name: service
      community.docker.docker_swarm_service:
        name: web
        image: box:1
        resolve_image: false
        command: [sleep, "100000"]
        replicas: 2
        env: {A: b}
        labels: {tier: front}
        container_labels: {c: d}
        hostname: web
        networks: [ansible]
        secrets: [{secret_name: word, filename: /run/secrets/word}]
        configs: [{config_name: settings, filename: /settings}]
        mounts: [{source: data, target: /data, type: volume}]
        publish: [{published_port: 31280, target_port: 80}]
        limits: {cpus: 0.5, memory: 64M}
        reservations: {memory: 16M}
        placement: {constraints: [node.role == manager]}
        restart_config: {condition: on-failure, delay: 1s, max_attempts: 3}
        update_config: {parallelism: 2, delay: 1s, order: start-first, failure_action: rollback, monitor: 1s}
        rollback_config: {parallelism: 2}
        healthcheck: {test: [CMD, "true"], interval: 1s, retries: 5}
        stop_grace_period: 1s
        user: "0"
        init: true
"""

FACTS: Final = """
- hosts: localhost
  gather_facts: false
  module_defaults:
    group/community.docker.docker: {docker_host: "HOST"}
  tasks:
    - {name: host, community.docker.docker_host_info: {networks: true, volumes: true}}
    - {name: swarm, community.docker.docker_swarm_info: {nodes: true, services: true, tasks: true}}
    - {name: nodes, community.docker.docker_node_info: {name: node-1}}
    - {name: service, community.docker.docker_swarm_service_info: {name: web}}
    - {name: absent, community.docker.docker_swarm_service: {name: web, state: absent}}
"""

STACK_PLAY: Final = """
- hosts: localhost
  gather_facts: false
  tasks:
    - name: stack
      community.docker.docker_stack:
        docker_cli: "DOCKER"
        docker_host: "HOST"
        name: st
        resolve_image: never
        compose:
          - version: "3.8"
            services: {web: {image: "box:1", command: sleep 100000, stop_grace_period: 1s}}
"""


@pytest.fixture(scope="module")
def lab(image_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with lab_of(managers=1, workers=0) as lab:
        docker = DockerCli(_docker(), lab.docker_host("node-1"), tmp_path_factory.mktemp("docker"))
        docker.good("load", "-q", "-i", str(image_file))
        yield lab


def _docker() -> str:
    return next(iter(docker_programs().values()))


class Ansible:
    def __init__(self, lab: Lab, folder: Path) -> None:
        self._host = lab.docker_host("node-1")
        self._folder = folder

    def play(self, text: str, *options: str) -> dict[str, Any]:
        """What each task of the play came to, by its name; none may fail."""
        file = self._folder / "play.yml"
        file.write_text(text.replace("HOST", self._host).replace("DOCKER", _docker()))
        done = subprocess.run(
            [
                *(str(Path(sys.executable).parent / "ansible-playbook"), "-i", "localhost,", "-c", "local"),
                *("-e", f"ansible_python_interpreter={sys.executable}", *options, str(file)),
            ],
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self._folder),
                "LC_ALL": "C.UTF-8",
                "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
                "ANSIBLE_LOCALHOST_WARNING": "False",
                "ANSIBLE_PIPELINING": "True",
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=RUN_TIMEOUT_S,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        (play,) = json.loads(done.stdout)["plays"]
        return {task["task"]["name"]: task["hosts"]["localhost"] for task in play["tasks"]}


@pytest.fixture
def ansible(lab: Lab, tmp_path: Path) -> Ansible:
    return Ansible(lab, tmp_path)


def changed(results: dict[str, Any]) -> set[str]:
    return {name for name, result in results.items() if result["changed"]}


MODULES: Final = (
    *("`docker_swarm`", "`docker_node`", "`docker_network`", "`docker_secret`", "`docker_config`"),
    "`docker_swarm_service`",
)


@works(ANSIBLE, *(f"{module}: a second run, and `--check`, change nothing" for module in MODULES))
def test_a_second_run_changes_nothing(ansible: Ansible, lab: Lab) -> None:
    names = {"swarm", "node", "network", "secret", "config", "service"}
    first = ansible.play(PLAY)
    assert set(first) == names
    assert names - changed(first) == set(), {name: first[name] for name in names - changed(first)}
    version = lab.call("node-1", "GET", "/services/web")["Version"]["Index"]
    again = ansible.play(PLAY)
    assert changed(again) == set(), {name: again[name] for name in changed(again)}
    more = PLAY.replace("replicas: 2", "replicas: 3")
    checked = ansible.play(more, "--check", "--start-at-task", "service")
    assert changed(checked) == {"service"}
    assert lab.call("node-1", "GET", "/services/web")["Version"]["Index"] == version


@works(ANSIBLE, "`docker_host_info`, `docker_swarm_info`, `docker_node_info`, `docker_swarm_service_info`")
def test_facts(ansible: Ansible) -> None:
    found = ansible.play(FACTS)
    assert found["host"]["host_info"]["Swarm"]["ControlAvailable"] is True
    assert [node["Hostname"] for node in found["swarm"]["nodes"]] == ["node-1"]
    assert [service["Name"] for service in found["swarm"]["services"]] == ["web"]
    assert found["nodes"]["nodes"][0]["Spec"]["Labels"] == {"zone": "a"}
    assert found["service"]["service"]["Spec"]["Labels"] == {"tier": "front"}
    assert found["absent"]["changed"] is True


@works(ANSIBLE, "`docker_stack`: a second run changes nothing")
def test_a_stack(ansible: Ansible) -> None:
    assert changed(ansible.play(STACK_PLAY)) == {"stack"}
    assert changed(ansible.play(STACK_PLAY)) == set()
