"""What is made of another swarm's contents: what goes along, under which names, and what stays behind."""

from __future__ import annotations

from typing import Any

import pytest

from swarmpy.cli.migrate_plan import Action, Kind, Picture, Step, Wish, plan, with_ids

Json = dict[str, Any]


def node(name: str, id_: str, **spec: Any) -> Json:
    return {
        "ID": id_,
        "Spec": {"Labels": {}, "Role": "worker", "Availability": "active", **spec},
        "Description": {"Hostname": name},
        "Version": {"Index": 1},
    }


def service(
    name: str = "web", *, mode: Json | None = None, container: Json | None = None, **template: Any
) -> Json:
    return {
        "ID": f"id-{name}",
        "Spec": {
            "Name": name,
            "Labels": {"com.docker.stack.namespace": "shop"},
            "TaskTemplate": {
                "ContainerSpec": {"Image": "box:1@sha256:aa", **(container or {})},
                "ForceUpdate": 3,
                **template,
            },
            "Mode": mode or {"Replicated": {"Replicas": 4}},
            "EndpointSpec": {"Ports": [{"TargetPort": 80, "PublishedPort": 8080}]},
        },
    }


def secret(name: str) -> Json:
    return {"ID": f"id-{name}", "Spec": {"Name": name, "Labels": {}}}


def network(name: str = "back", **more: Any) -> Json:
    return {
        "Name": name,
        "Id": f"id-{name}",
        "Driver": "overlay",
        "Scope": "swarm",
        "Options": {"com.docker.network.driver.overlay.vxlanid_list": "4097", "encrypted": ""},
        "IPAM": {"Driver": "default", "Options": None, "Config": [{"Subnet": "10.0.1.0/24"}]},
        **more,
    }


def step(found: tuple[Step, ...], kind: Kind, name: str) -> Step:
    [one] = [each for each in found if (each.kind, each.name) == (kind, name)]
    return one


def of_service(source: Picture, target: Picture | None = None, wish: Wish | None = None) -> Step:
    found = plan(source, target or Picture(), wish or Wish())
    return step(found.steps, Kind.SERVICE, "web")


def test_a_service_goes_as_it_is_with_networks_by_their_names() -> None:
    source = Picture(
        services=(service(Networks=[{"Target": "id-back", "Aliases": ["zz"]}]),), networks=(network(),)
    )
    made = of_service(source)
    assert made.action is Action.CREATE
    assert made.body["TaskTemplate"]["Networks"] == [{"Target": "back", "Aliases": ["zz"]}]
    assert "ForceUpdate" not in made.body["TaskTemplate"]
    assert made.body["Mode"] == {"Replicated": {"Replicas": 4}}
    assert source.services[0]["Spec"]["TaskTemplate"]["ForceUpdate"] == 3, "the source's own stays as it was"


def test_networks_of_the_old_place_in_the_spec_are_taken_along() -> None:
    old = service()
    old["Spec"]["Networks"] = [{"Target": "id-back"}]
    made = of_service(Picture(services=(old,), networks=(network(),)))
    assert made.body["TaskTemplate"]["Networks"] == [{"Target": "back"}]
    assert "Networks" not in made.body


def test_a_service_on_a_network_that_is_gone_stays_behind() -> None:
    made = of_service(Picture(services=(service(Networks=[{"Target": "x"}]),)))
    assert (made.action, made.why) == (Action.LEAVE, "its network x is not there any more")


def test_what_this_swarm_has_under_a_name_is_left_as_it_is() -> None:
    everything = Picture(
        services=(service(),),
        networks=(network(),),
        secrets=(secret("pw"),),
        configs=(secret("cf"),),
    )
    found = plan(everything, everything, Wish())
    assert {each.action for each in found.steps} == {Action.KEEP}
    assert not found.changes
    assert not found.missing


def test_a_network_is_made_with_its_subnet_and_without_what_the_engine_gave_it() -> None:
    source = Picture(networks=(network(), network("ingress", Ingress=True), network("host", Scope="local")))
    found = plan(source, Picture(), Wish())
    made = step(found.steps, Kind.NETWORK, "back").body
    assert made["Options"] == {"encrypted": ""}
    assert made["IPAM"] == {"Driver": "default", "Config": [{"Subnet": "10.0.1.0/24"}]}
    assert [each.name for each in found.changes] == ["back"]
    anew = plan(source, Picture(), Wish(has_subnets=False))
    assert "IPAM" not in step(anew.steps, Kind.NETWORK, "back").body


def test_a_service_whose_secret_nobody_supplies_stays_behind_and_the_secret_is_asked_for() -> None:
    needy = service(container={"Secrets": [{"SecretName": "pw", "SecretID": "old", "File": {"Name": "pw"}}]})
    source = Picture(services=(needy,), secrets=(secret("pw"), secret("unused")))
    found = plan(source, Picture(), Wish())
    assert found.missing == ("pw",), "a secret that nobody uses is not asked for"
    assert step(found.steps, Kind.SERVICE, "web").why == "it needs the secret pw"
    supplied = plan(source, Picture(), Wish(secrets={"pw": b"x"}))
    assert supplied.missing == ()
    made = step(supplied.steps, Kind.SERVICE, "web").body
    [reference] = with_ids(made, {"pw": "new"}, {})["TaskTemplate"]["ContainerSpec"]["Secrets"]
    assert reference == {"SecretName": "pw", "SecretID": "new", "File": {"Name": "pw"}}


def test_a_secret_that_is_here_already_needs_no_data() -> None:
    needy = service(container={"Secrets": [{"SecretName": "pw", "SecretID": "old"}]})
    found = plan(
        Picture(services=(needy,), secrets=(secret("pw"),)), Picture(secrets=(secret("pw"),)), Wish()
    )
    assert found.missing == ()
    assert step(found.steps, Kind.SERVICE, "web").action is Action.CREATE


@pytest.mark.parametrize("operator", ["==", "!="])
def test_a_constraint_on_a_node_is_said_of_the_node_of_the_same_name(operator: str) -> None:
    source = Picture(
        services=(service(Placement={"Constraints": ["node.role==worker", f"node.id {operator} old"]}),),
        nodes=(node("h1", "old"),),
    )
    made = of_service(source, Picture(nodes=(node("h1", "new"),)))
    assert made.body["TaskTemplate"]["Placement"]["Constraints"] == [
        "node.role==worker",
        f"node.id{operator}new",
    ]
    named = of_service(source, Picture(nodes=(node("other", "new"),)), Wish(nodes={"h1": "other"}))
    assert named.body == made.body
    assert of_service(source, Picture()).action is Action.LEAVE
    twice = Picture(nodes=(node("h1", "a"), node("h1", "b")))
    assert of_service(source, twice).action is Action.LEAVE, "two nodes of one name: which?"


def test_nodes_get_their_labels_and_availability_and_keep_their_own() -> None:
    source = Picture(nodes=(node("h1", "old", Labels={"zone": "a"}, Availability="drain"), node("h2", "o2")))
    target = Picture(nodes=(node("h1", "new", Labels={"own": "1"}),))
    found = plan(source, target, Wish())
    [made] = [each for each in found.steps if each.kind is Kind.NODE]
    assert made.action is Action.UPDATE
    assert made.target["ID"] == "new"
    assert made.body == {"Labels": {"own": "1", "zone": "a"}, "Role": "worker", "Availability": "drain"}
    after = Picture(nodes=({**target.nodes[0], "Spec": made.body},))
    [again] = plan(source, after, Wish()).steps
    assert again.action is Action.KEEP


def test_jobs_are_taken_along_only_if_that_is_asked_for() -> None:
    source = Picture(services=(service(mode={"ReplicatedJob": {"TotalCompletions": 1}}),))
    assert of_service(source).action is Action.SKIP
    assert of_service(source, wish=Wish(has_jobs=True)).action is Action.CREATE


def test_services_can_be_held_back_and_say_how_they_are_started() -> None:
    made = of_service(Picture(services=(service(),)), wish=Wish(is_started=False))
    assert made.body["Mode"] == {"Replicated": {"Replicas": 0}}
    assert made.why == "to start it: swarmpy service scale web=4"
    everywhere = of_service(Picture(services=(service(mode={"Global": {}}),)), wish=Wish(is_started=False))
    assert everywhere.why == "starts at once: only replicated services can wait"


def test_what_the_user_has_to_see_to_is_listed() -> None:
    mounts = [
        {"Type": "volume", "Source": "data", "Target": "/d"},
        {"Type": "bind", "Source": "/x", "Target": "/y"},
    ]
    source = Picture(services=(service(container={"Mounts": mounts}),))
    found = plan(source, Picture(), Wish())
    assert (found.images, found.volumes, found.ports) == (("box:1@sha256:aa",), ("data",), (8080,))
    assert plan(source, Picture(), Wish(is_unpinned=True)).images == ("box:1",)


@pytest.mark.parametrize(
    "spec",
    [
        service(PluginSpec={"Name": "p"}),
        service(Runtime="plugin"),
        service(container={"Mounts": [{"Type": "cluster", "Source": "v", "Target": "/v"}]}),
    ],
)
def test_what_this_swarm_cannot_run_stays_behind(spec: Json) -> None:
    assert of_service(Picture(services=(spec,))).action is Action.LEAVE


def test_the_swarms_settings_that_differ_from_what_holds_here_are_taken_along() -> None:
    there = {
        "Spec": {"Orchestration": {"TaskHistoryRetentionLimit": 9}, "Dispatcher": {"HeartbeatPeriod": 5}}
    }
    here = {"Spec": {"Name": "default", "Dispatcher": {"HeartbeatPeriod": 1}}, "Version": {"Index": 7}}
    [made] = plan(Picture(swarm=there), Picture(swarm=here), Wish()).steps
    assert made.body["Orchestration"] == {"TaskHistoryRetentionLimit": 9}
    assert made.body["Dispatcher"] == {"HeartbeatPeriod": 1}, "how often nodes report is each swarm's own"
    same = {"Spec": {"Orchestration": {"TaskHistoryRetentionLimit": 5}, "Labels": None}}
    [kept] = plan(Picture(swarm=same), Picture(swarm=here), Wish()).steps
    assert kept.action is Action.KEEP
