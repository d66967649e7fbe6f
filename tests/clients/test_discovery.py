"""Who finds services by asking the API: Prometheus as it comes; Traefik and Portainer as the requests that
they make, written down from what is known of them, without the programs."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from ipaddress import ip_interface
from typing import Any, Final
from urllib.parse import quote

import pytest
from lab_cli import wait_for, wait_running
from lab_services import lab_of

from swarmpy.lab.cluster import Lab

PROMETHEUS: Final = "Prometheus dockerswarm_sd_configs"
TRAEFIK: Final = "Traefik's swarm provider (its requests, not the program)"
PORTAINER: Final = "Portainer's server (its requests, not the program)"
PORT: Final = "127.0.0.1:39093"
LABELS: Final = {"traefik.enable": "true", "traefik.http.services.web.loadbalancer.server.port": "80"}
works = pytest.mark.works


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """With a service ``web`` of two tasks, on an overlay network and published."""
    with lab_of(managers=1, workers=1) as lab:
        network = lab.call("node-1", "POST", "/networks/create", {"Name": "front", "Driver": "overlay"})["Id"]
        container = {"Image": "host", "Command": ["sleep", "100000"], "Labels": {"part": "web"}}
        spec = {
            "Name": "web",
            "Labels": LABELS,
            "TaskTemplate": {"ContainerSpec": container, "Networks": [{"Target": network, "Aliases": ["w"]}]},
            "Mode": {"Replicated": {"Replicas": 2}},
            "EndpointSpec": {"Ports": [{"TargetPort": 80, "PublishedPort": 31380}]},
        }
        lab.call("node-1", "POST", "/services/create", spec)
        wait_running(lab, "web", 2)
        yield lab


# --- Prometheus


@pytest.fixture(scope="module")
def prometheus(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Prometheus that has a job for each role."""
    program = shutil.which("prometheus")
    assert program is not None, "prometheus is not installed; .ci/run installs it"
    folder = tmp_path_factory.mktemp("prometheus")
    jobs = [
        {
            "job_name": role,
            "dockerswarm_sd_configs": [
                {"host": lab.docker_host("node-1"), "role": role, "refresh_interval": "1s"}
            ],
        }
        for role in ("services", "tasks", "nodes")
    ]
    (folder / "prometheus.yml").write_text(json.dumps({"scrape_configs": jobs}))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                *(program, f"--config.file={folder / 'prometheus.yml'}", f"--web.listen-address={PORT}"),
                f"--storage.tsdb.path={folder / 'data'}",
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        yield f"http://{PORT}"
    finally:
        process.terminate()
        process.wait(10)


def found(prometheus: str, role: str) -> list[dict[str, str]]:
    """The labels that Prometheus knows of each target."""
    try:
        with urllib.request.urlopen(f"{prometheus}/api/v1/targets?scrapePool={role}", timeout=5) as answer:
            targets = json.loads(answer.read())["data"]["activeTargets"]
    except OSError:
        return []
    return [target["discoveredLabels"] for target in targets if target["scrapePool"] == role]


@works(PROMETHEUS, "role `services`", "role `tasks`", "role `nodes`")
def test_prometheus(lab: Lab, prometheus: str) -> None:
    services = wait_for(lambda: found(prometheus, "services"), what="Prometheus should see services")
    meta = "__meta_dockerswarm_"
    assert {labels[f"{meta}service_name"] for labels in services} == {"web"}
    assert {labels[f"{meta}service_label_traefik_enable"] for labels in services} == {"true"}
    assert {labels[f"{meta}network_name"] for labels in services} == {"front", "ingress"}
    assert {labels[f"{meta}service_endpoint_port_publish_mode"] for labels in services} == {"ingress"}

    tasks = wait_for(lambda: found(prometheus, "tasks"), what="Prometheus should see tasks")
    on_front = [labels for labels in tasks if labels.get(f"{meta}network_name") == "front"]
    assert sorted(labels[f"{meta}task_slot"] for labels in on_front) == ["1", "2"]
    assert {labels[f"{meta}task_state"] for labels in on_front} == {"running"}
    assert {labels[f"{meta}container_label_part"] for labels in on_front} == {"web"}
    addresses = {
        str(ip_interface(place["Addresses"][0]).ip)
        for task in lab.tasks({"service": ["web"]})
        for place in task["NetworksAttachments"]
        if place["Network"]["Spec"]["Name"] == "front"
    }
    assert {labels["__address__"].partition(":")[0] for labels in on_front} == addresses

    nodes = wait_for(lambda: found(prometheus, "nodes"), what="Prometheus should see nodes")
    assert {(labels[f"{meta}node_hostname"], labels[f"{meta}node_role"]) for labels in nodes} == {
        ("node-1", "manager"),
        ("node-2", "worker"),
    }
    assert {labels["__address__"] for labels in nodes} == {"10.200.0.11:80", "10.200.0.12:80"}


# --- Traefik and Portainer


def filtered(path: str, **filters: Any) -> str:
    return f"{path}?filters={quote(json.dumps(filters))}"


@works(TRAEFIK, "services with labels, virtual addresses, tasks' addresses, the nodes' addresses")
def test_what_traefik_asks(lab: Lab) -> None:
    def get(path: str) -> Any:
        return lab.call("node-1", "GET", f"/v1.24{path}")

    assert get("/version")["ApiVersion"]
    (service,) = get("/services")
    assert service["Spec"]["Labels"] == LABELS
    assert service["Spec"]["EndpointSpec"]["Mode"] == "vip"
    networks = {network["Id"]: network for network in get(filtered("/networks", scope={"swarm": True}))}
    assert {network["Name"] for network in networks.values()} == {"front", "ingress"}
    virtual = {networks[vip["NetworkID"]]["Name"]: vip["Addr"] for vip in service["Endpoint"]["VirtualIPs"]}
    assert set(virtual) == {"front", "ingress"}
    assert ip_interface(virtual["front"]).network.prefixlen == 24

    wanted = {"desired-state": {"running": True}, "service": {service["ID"]: True}}
    tasks = get(filtered("/tasks", **wanted))
    assert [task["Status"]["State"] for task in tasks] == ["running", "running"]
    for task in tasks:
        places = {
            networks[place["Network"]["ID"]]["Name"]: place["Addresses"]
            for place in task["NetworksAttachments"]
        }
        assert ip_interface(places["front"][0]).network == ip_interface(virtual["front"]).network
        assert get(f"/nodes/{task['NodeID']}")["Status"]["Addr"] in ("10.200.0.11", "10.200.0.12")


@works(
    PORTAINER, "the snapshot of an environment: `_ping`, `info`, `version`, `containers`, `images`, `volumes`"
)
@works(PORTAINER, "services, tasks, nodes with resources, networks, secrets, configs; scaling; logs")
def test_what_portainer_asks(lab: Lab) -> None:
    def get(path: str) -> Any:
        return lab.call("node-1", "GET", path)

    assert lab.request("node-1", "GET", "/_ping").status == 200
    info = get("/info")
    assert info["Swarm"]["ControlAvailable"] is True
    assert (info["NCPU"] > 0, info["MemTotal"] > 0, info["Swarm"]["Nodes"]) == (True, True, 2)
    assert get("/version")["ApiVersion"]
    containers = get("/containers/json?all=1")
    assert {each["Labels"]["com.docker.swarm.service.name"] for each in containers} == {"web"}
    assert {each["State"] for each in containers} == {"running"}
    assert isinstance(get("/images/json?all=1"), list)
    assert "Volumes" in get("/volumes")
    assert {network["Name"] for network in get("/networks")} >= {"front", "ingress", "bridge", "host", "none"}
    nodes = get("/nodes")
    assert all(node["Description"]["Resources"]["NanoCPUs"] for node in nodes)
    assert (get("/secrets"), get("/configs")) == ([], [])
    assert [task["Status"]["State"] for task in get(filtered("/tasks", service=["web"]))] == ["running"] * 2

    (service,) = get("/services?status=true")
    assert service["ServiceStatus"] == {"RunningTasks": 2, "DesiredTasks": 2, "CompletedTasks": 0}
    spec = service["Spec"] | {"Mode": {"Replicated": {"Replicas": 3}}}
    target = f"/services/{service['ID']}/update?version={service['Version']['Index']}"
    assert lab.call("node-1", "POST", target, spec) == {"Warnings": None}
    wait_running(lab, "web", 3)
    again = get(f"/services/{service['ID']}")
    target = f"/services/{service['ID']}/update?version={again['Version']['Index']}"
    lab.call("node-1", "POST", target, again["Spec"] | {"Mode": {"Replicated": {"Replicas": 2}}})
    wait_running(lab, "web", 2)
    logs = lab.request("node-1", "GET", f"/services/{service['ID']}/logs?stdout=1&stderr=1&tail=10")
    assert logs.status == 200
