"""``swarmpy network`` and the networks of services: what is sent, what is printed, and the exit code."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from api_networks import add_member, allocated
from api_node import INGRESS, FakeCluster
from cli_run import Run
from msgspec.structs import replace

from manager.api import network_joins
from swarmpy.cli.flags import UsageError, parse
from swarmpy.cli.networks import COMMANDS, new_network
from swarmpy.model.changes import Update
from swarmpy.model.ids import NetworkId, ServiceId
from swarmpy.model.objects import NetworkAttachment, VirtualIP
from swarmpy.model.states import Owner


def body(*argv: str) -> dict[str, Any]:
    arguments, options = parse(COMMANDS["create"], [*argv, "front"])
    return new_network(arguments[0], options)


def create(run: Run, name: str, *argv: str) -> str:
    result = run("network", "create", *argv, name)
    assert result.code == 0, result.err
    return result.out.strip()


# --- create


def test_a_plain_network_says_only_its_name() -> None:
    assert body() == {
        "Name": "front",
        "Driver": "overlay",
        "Scope": "",
        "EnableIPv6": False,
        "Internal": False,
        "Attachable": False,
        "Ingress": False,
        "ConfigOnly": False,
        "Options": {},
        "Labels": {},
    }


def test_addresses_find_their_subnets() -> None:
    made = body(
        *("--subnet", "10.1.0.0/24", "--subnet", "fd00::/64", "--gateway", "fd00::1,10.1.0.254"),
        *("--ip-range", "10.1.0.128/25", "--aux-address", "a=10.1.0.9", "--aux-address", "b=fd00::9"),
        *("--ipv6", "--opt", "encrypted", "-o", "com.docker.network.driver.mtu=1400", "--label", "k=v"),
        *("--attachable", "--internal"),
    )
    assert made["IPAM"]["Config"] == [
        {
            "Subnet": "10.1.0.0/24",
            "IPRange": "10.1.0.128/25",
            "Gateway": "10.1.0.254",
            "AuxiliaryAddresses": {"a": "10.1.0.9"},
        },
        {"Subnet": "fd00::/64", "Gateway": "fd00::1", "AuxiliaryAddresses": {"b": "fd00::9"}},
    ]
    assert made["Options"] == {"encrypted": "", "com.docker.network.driver.mtu": "1400"}
    assert (made["EnableIPv6"], made["Attachable"], made["Internal"]) == (True, True, True)


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (
            ["--subnet", "10.9.0.0/24", "--subnet", "10.9.0.0/25"],
            "multiple overlapping subnet configuration is not supported",
        ),
        (["--gateway", "10.9.0.1"], "every ip-range or gateway must have a corresponding subnet"),
        (
            ["--subnet", "10.9.0.0/24", "--ip-range", "10.10.0.0/25"],
            "no matching subnet for range 10.10.0.0/25",
        ),
        (["--subnet", "10.9.0.0/24", "--gateway", "10.10.0.1"], "no matching subnet for gateway 10.10.0.1"),
        (
            ["--subnet", "10.9.0.0/24", "--aux-address", "x=10.10.0.1"],
            "no matching subnet for aux-address 10.10.0.1",
        ),
        (
            [
                *("--subnet", "10.9.0.0/24", "--subnet", "10.8.0.0/24"),
                *("--gateway", "10.9.0.1", "--gateway", "10.9.0.2"),
            ],
            r"cannot configure multiple gateways \(10.9.0.2, 10.9.0.1\) on the same subnet \(10.9.0.0/24\)",
        ),
    ],
)
def test_addresses_without_a_subnet_are_refused_in_dockers_words(argv: list[str], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        body(*argv)


def test_settings_for_others(run: Run, cluster: FakeCluster) -> None:
    create(run, "lan", "--config-only", "--subnet", "10.70.0.0/24", "-o", "parent=eth1")
    create(run, "mv", "-d", "macvlan", "--scope", "swarm", "--config-from", "lan")
    shown = json.loads(run("network", "inspect", "mv").out)[0]
    assert (shown["Driver"], shown["Options"]) == ("macvlan", {"parent": "eth1"})
    assert shown["ConfigFrom"] == {"Network": "lan"}


# --- ls, inspect, rm, prune


def test_lists(run: Run, cluster: FakeCluster) -> None:
    id_ = create(run, "front", "--label", "k=v")
    assert [line.split() for line in run("network", "ls").lines] == [
        ["NETWORK", "ID", "NAME", "DRIVER", "SCOPE"],
        [run("network", "ls", "-q", "--filter", "name=bridge").out.strip(), "bridge", "bridge", "local"],
        [id_[:12], "front", "overlay", "swarm"],
        [run("network", "ls", "-q", "--filter", "name=host").out.strip(), "host", "host", "local"],
        [INGRESS[:12], "ingress", "overlay", "swarm"],
        [run("network", "ls", "-q", "--filter", "name=none").out.strip(), "none", "null", "local"],
    ]
    assert run("network", "list", "-q", "--no-trunc", "-f", "driver=overlay").out == f"{id_}\n{INGRESS}\n"
    line = run("network", "ls", "-f", "label=k", "--format", "{{.Name}} {{.Labels}} {{.IPv6}}").out
    assert line == "front k=v false\n"


def test_a_networks_page_says_what_is_where(run: Run, cluster: FakeCluster) -> None:
    id_ = create(run, "front", "--opt", "encrypted", "--attachable")
    allocated(cluster, id_, "10.0.1.0/24")
    made = run("service", "create", "--detach", "--name", "web", "--network", "front", "host", "sleep", "1")
    service = cluster.store.service(ServiceId(made.out.strip()))
    assert service is not None
    vip = VirtualIP(network_id=NetworkId(id_), addr="10.0.1.2/24")
    changed = replace(service, endpoint=replace(service.endpoint, virtual_ips=(vip,)))
    cluster.change(Update(object=changed), owner=Owner.ORCHESTRATOR)
    add_member(cluster, "t1", service.id, "10.0.1.3/24", network_id=id_)

    page = run("network", "inspect", "--pretty", "front")
    assert page.code == 0
    lines = [" ".join(line.split()) for line in page.lines]
    for line in (
        f"Network: front ({id_})",
        "Kind: attachable",
        "VNI: 4097",
        "Data path port: 4790/udp, encrypted",
        "10.0.1.0/24 10.0.1.1",
        "node-1 10.0.0.1",
        "web 10.0.1.2",
        "web 10.0.1.3 running node-1 web.1.t1",
    ):
        assert line in lines, page.out
    assert f"netns/.net-{id_[:12]}" in page.out
    assert "swarmpy_vip" in page.out

    (shown,) = json.loads(run("network", "inspect", "-v", "front").out)
    assert shown["Services"]["web"]["VIP"] == "10.0.1.2"
    assert run("network", "inspect", "--format", "{{.Name}} {{.Scope}}", "front").out == "front swarm\n"
    assert run("network", "inspect", "--pretty", "--format", "x", "front").code == 2
    missing = run("network", "inspect", "nosuch")
    assert (missing.code, missing.out) == (1, "[]\n")
    assert missing.err == "Error response from daemon: network nosuch not found\n"


def test_the_page_of_the_mesh_tells_where_it_enters(run: Run, cluster: FakeCluster) -> None:
    (node,) = cluster.store.nodes()
    place = NetworkAttachment(network_id=INGRESS, addresses=("10.0.0.2/24",))
    cluster.change(Update(object=replace(node, attachments=(place,))), owner=Owner.ORCHESTRATOR)
    run("service", "create", "--detach", "--name", "web", "-p", "10.0.0.1:8080:80", "host", "sleep", "1")
    page = run("network", "inspect", "--pretty", "ingress")
    lines = [" ".join(line.split()) for line in page.lines]
    assert "web none Target: 80, Publish: 8080" in lines
    assert "nft table inet swarmpy_mesh and device sw-ing" in page.out
    assert "node-1 10.0.0.2" in lines
    assert "10.0.0.1:8080->80/tcp" in run("service", "ls").out


def test_removal(run: Run, cluster: FakeCluster) -> None:
    create(run, "a")
    create(run, "b")
    result = run("network", "rm", "a", "nosuch", "b", "host")
    assert (result.code, result.out) == (1, "a\nb\n")
    assert result.err == (
        "Error response from daemon: network nosuch not found\n"
        "Error response from daemon: host is a pre-defined network and cannot be removed\n"
    )
    assert run("network", "rm", "-f", "nosuch").code == 0


def test_what_others_depend_on_is_asked_for(
    run: Run, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(run, "idle")
    for answer in ("", "n\n"):
        monkeypatch.setattr("sys.stdin", io.StringIO(answer))
        result = run("network", "rm", "ingress")
        assert (result.code, cluster.store.ingress_network() is None) == (0, False)
        assert result.err.startswith("WARNING! Before removing the routing-mesh network")
        assert run("network", "prune").code == 1
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert run("network", "rm", "ingress").out.endswith("ingress\n")
    assert cluster.store.ingress_network() is None
    assert run("network", "prune", "--force").out == "Deleted Networks:\nidle\n\n"
    assert run("network", "prune", "--force").out == ""


def test_a_running_task_joins_a_network_or_is_told_why_not(
    run: Run, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network_joins, "NETWORK_JOIN_S", 0.1)  # no leader here gives out addresses
    create(run, "side", "--attachable")
    made = run("service", "create", "--detach", "--name", "web", "host", "sleep", "1").out.strip()
    cluster.add_task("t1", made)

    def said(verb: str, *words: str) -> str:
        result = run("network", verb, *words)
        assert (result.code, result.out) == (1, "")
        return result.err.removeprefix("Error response from daemon: ").strip()

    assert said("connect", "side", "nosuch") == "No such container: nosuch"
    assert said("connect", "--ip", "nowhere", "side", "t1") == "invalid IPv4 address: nowhere"
    assert said("connect", "--ip6", "nowhere", "side", "t1") == "invalid IPv6 address: nowhere"
    mac = ("--driver-opt", "mac_address=nothing")
    assert "invalid mac_address nothing" in said("connect", *mac, "side", "t1")
    assert said("connect", "--alias", "x", "--ip", "10.0.1.9", "side", "web.1.t1") == (
        "attaching to network failed, make sure your network options are correct and check manager logs: "
        "network side has no subnet yet"
    )
    assert said("disconnect", "--force", "side", "t1") == "container t1 is not connected to network side"


# --- networks of services


def targets(cluster: FakeCluster) -> list[str]:
    (service,) = cluster.store.services()
    return [place.target for place in service.spec.task_template.networks]


def test_a_services_networks_change_by_name(run: Run, cluster: FakeCluster) -> None:
    front, back = create(run, "front"), create(run, "back")
    argv = ("service", "create", "--detach", "--name", "web", "--network", "name=front,alias=www")
    assert run(*argv, "--endpoint-mode", "dnsrr", "host", "sleep", "1").code == 0
    assert targets(cluster) == [front]

    def update(*flags: str) -> tuple[int, str]:
        result = run("service", "update", "--detach", *flags, "web")
        return result.code, result.err

    assert update("--network-add", "back") == (0, "")
    assert targets(cluster) == [front, back]
    code, err = update("--network-add", "front")
    assert code == 2
    assert err.startswith("service is already attached to network front")
    assert update("--network-rm", "front", "--network-add", "name=front,ip=10.0.1.9")[0] == 0
    (service,) = cluster.store.services()
    assert service.spec.task_template.networks[1].driver_opts == {"ipv4_address": "10.0.1.9"}
    assert update("--network-rm", front, "--network-rm", "back", "--network-add", "host")[0] == 0
    assert targets(cluster) == ["host"]
    assert update("--network-rm", "nosuch") == (1, "Error response from daemon: network nosuch not found\n")
    assert run("service", "create", "--network", "x=y", "host").code == 2


def test_a_cluster_is_made_with_pools(run: Run) -> None:
    for argv, text in (
        (["--default-addr-pool", "x"], "invalid base pool x: invalid CIDR address: x"),
        (["--default-addr-pool-mask-length", "30"], "subnet size is out of range: 30"),
        (["--data-path-port", "80"], "Datapath port number is not in valid range (1024-49151) : 80"),
        (
            ["--default-addr-pool", "10.1.0.0/16", "--default-addr-pool", "10.1.1.0/24"],
            "invalid base pool 10.1.1.0/24: it overlaps 10.1.0.0/16",
        ),
    ):
        result = run("init", *argv)
        assert (result.code, result.err) == (1, f"Error response from daemon: {text}\n")
    assert run("init", "--default-addr-pool", "10.1.0.0/16", "--data-path-port", "5000").code == 0
