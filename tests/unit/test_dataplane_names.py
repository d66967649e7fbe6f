"""What ``network inspect --verbose`` says that devices and tables are called is what they are called."""

from __future__ import annotations

from pathlib import Path

from api_http import Http
from api_networks import allocated
from api_node import INGRESS, FakeNode
from msgspec.structs import replace

from agent.dataplane import diff
from agent.dataplane import plan as overlay_plan
from agent.dataplane.base import NodeState
from agent.dataplane.linux import guard, names, plan
from agent.dataplane.linux.balancing import rules as balancing
from agent.dataplane.linux.encryption import lock
from agent.dataplane.linux.mesh import names as mesh
from agent.dataplane.linux.overlays import spoofing
from manager.api.server import ApiServer
from swarmpy.model.changes import Update
from swarmpy.model.specs import Driver
from swarmpy.runtime import Env


async def test_names_of_devices_and_tables(tmp_path: Path) -> None:
    node = FakeNode()
    cluster = node.become_manager()
    ingress = cluster.store.ingress_network()
    assert ingress is not None
    driver = Driver(name="overlay", options={"encrypted": ""})
    cluster.change(Update(object=replace(ingress, spec=replace(ingress.spec, driver_configuration=driver))))
    allocated(cluster, INGRESS, "10.0.0.0/24")
    server = ApiServer(node, Env())
    await server.start(tmp_path / "api.sock")
    try:
        async with Http(tmp_path / "api.sock") as http:
            shown = (await http.get("/networks/ingress", verbose="true")).json["Dataplane"]
    finally:
        await server.stop()
    assert shown["Network"] == {
        "Namespace": plan.sandbox_path(Path(), INGRESS).name,
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
