"""What ``network inspect --verbose`` says that devices and tables are called is what they are called."""

from __future__ import annotations

from pathlib import Path

from api_http import Http
from api_networks import allocated
from api_node import FakeNode

from agent.dataplane import diff
from agent.dataplane import plan as overlay_plan
from agent.dataplane.base import NodeState
from agent.dataplane.linux import guard, names, plan
from agent.dataplane.linux.balancing import rules as balancing
from agent.dataplane.linux.encryption import lock
from agent.dataplane.linux.mesh import names as mesh
from agent.dataplane.linux.overlays import spoofing
from manager.api.server import ApiServer
from swarmpy.model import network_rules
from swarmpy.model.changes import Create
from swarmpy.model.ids import NetworkId
from swarmpy.model.objects import Network
from swarmpy.model.specs import Driver, NetworkSpec
from swarmpy.runtime import Env

ID = NetworkId("n1aaaaaaaaaaaaaaaaaaaaaaa")


async def test_names_of_devices_and_tables(tmp_path: Path) -> None:
    node = FakeNode()
    cluster = node.become_manager()
    spec = NetworkSpec(
        name="mesh", ingress=True, driver_configuration=Driver(name="overlay", options={"encrypted": ""})
    )
    cluster.change(Create(object=Network(id=ID, spec=spec)))
    allocated(cluster, ID, "10.0.0.0/24")
    server = ApiServer(node, Env())
    await server.start(tmp_path / "api.sock")
    try:
        async with Http(tmp_path / "api.sock") as http:
            shown = (await http.get("/networks/mesh", verbose="true")).json["Dataplane"]
    finally:
        await server.stop()
    assert shown["Network"] == {
        "Namespace": plan.sandbox_path(Path(), ID).name,
        "Bridge": diff.BRIDGE,
        "Tunnel": diff.TUNNEL,
        "Table": f"bridge {spoofing.TABLE}",
    }
    assert shown["NodeTables"] == [f"inet {guard.TABLE}", f"inet {lock.TABLE}"]
    assert shown["Mesh"]["Device"] == mesh.LINK
    assert shown["Mesh"]["Table"] == f"inet {mesh.TABLE}"
    tables = (balancing.TABLE, names.TABLE, mesh.TABLE)
    assert shown["TaskTables"] == [f"inet {table}" for table in tables]
    assert shown["DataPathPort"] == overlay_plan.data_ports(NodeState())[1]
    assert network_rules.MTU_OPTION == overlay_plan.MTU_OPTION
