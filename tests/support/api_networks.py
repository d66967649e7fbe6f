"""Networks for tests of the API: made over HTTP, allocated and joined as the leader does it."""

from __future__ import annotations

from typing import Any

from api_http import Answer, Http, spec
from api_node import FIRST, FakeCluster
from msgspec.structs import replace

from swarmpy.model.changes import Create, Update
from swarmpy.model.cluster_specs import IPAMConfig, IPAMOptions
from swarmpy.model.ids import NetworkId, NodeId, RevisionId, ServiceId, TaskId
from swarmpy.model.objects import NetworkAttachment, Task, TaskStatus
from swarmpy.model.specs import Driver
from swarmpy.model.states import Owner, TaskState

VXLAN_IDS = "com.docker.network.driver.overlay.vxlanid_list"
INVALID = "rpc error: code = InvalidArgument desc = "


async def created(http: Http, name: str, **body: Any) -> str:
    answer = await http.post("/networks/create", {"Name": name, "Driver": "overlay", **body})
    assert answer.status == 201, answer.body
    assert answer.json["Warning"] == ""
    id_: str = answer.json["Id"]
    return id_


async def names(http: Http, **filters: Any) -> list[str]:
    answer = await http.get("/networks", filters=filters)
    assert answer.status == 200, answer.body
    return sorted(item["Name"] for item in answer.json)


async def on(http: Http, *networks: object, name: str = "web", **more: Any) -> Answer:
    places = [{"Target": network} if isinstance(network, str) else network for network in networks]
    return await http.post("/services/create", spec(name, template={"Networks": places}, **more))


def allocated(cluster: FakeCluster, id_: str, subnet: str, *, vni: int = 4097) -> None:
    """What the leader does with a network that was made."""
    network = cluster.store.network(NetworkId(id_))
    assert network is not None
    gateway = subnet.rpartition(".")[0] + ".1"
    options = {**(network.spec.driver_configuration or Driver()).options, VXLAN_IDS: str(vni)}
    changed = replace(
        network,
        ipam_options=IPAMOptions(
            driver=Driver(name="default"), configs=(IPAMConfig(subnet=subnet, gateway=gateway),)
        ),
        driver_state=Driver(name="overlay", options=options),
    )
    cluster.change(Update(object=changed), owner=Owner.ORCHESTRATOR)


def add_member(
    cluster: FakeCluster, id_: str, service_id: str, address: str, *, network_id: str, node_id: NodeId = FIRST
) -> None:
    service = cluster.store.service(ServiceId(service_id))
    assert service is not None
    task = Task(
        id=TaskId(id_),
        service_id=service.id,
        slot=1,
        node_id=node_id,
        revision_id=RevisionId(service.template_id),
        status=TaskStatus(state=TaskState.ASSIGNED),
        networks=(NetworkAttachment(network_id=NetworkId(network_id), addresses=(address,)),),
    )
    cluster.change(Create(object=task), owner=Owner.ORCHESTRATOR)
    cluster.report(id_, TaskState.RUNNING)
