"""``swarmpy stack …`` against a node of this process: what is made, what is left alone, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from api_node import FakeCluster
from cli_run import Result, Run

from swarmpy.client import Client
from swarmpy.errors import PermissionDenied
from swarmpy.model.images import Credentials, ManifestFacts
from swarmpy.node.images import Images

FILES = """
services:
  web:
    image: host
    command: sleep 5
    environment: {{LEVEL: {level}}}
    configs: [settings]
    secrets: [{{source: key, target: k}}]
    ports: ["8080:80"]
    depends_on: [db]
  db: {{image: host, command: sleep 5}}
configs: {{settings: {{content: "{settings}"}}}}
secrets: {{key: {{content: "{key}"}}}}
"""
EVERYTHING = ["network st_default", "secret st_key", "config st_settings", "service st_db", "service st_web"]
PLAIN = "services:\n  web: {image: host, command: sleep 5}\n"

Deploy = Callable[..., Result]


@pytest.fixture
def deploy(run: Run, cluster: FakeCluster, tmp_path: Path) -> Deploy:
    """``deploy(text, "--prune")``: without waiting, since nothing runs here."""

    def one(text: str, *words: str, verb: str = "deploy", name: str = "st") -> Result:
        file = tmp_path / "compose.yml"
        file.write_text(text)
        detached = ["-d"] if verb == "deploy" else []
        return run("stack", verb, *detached, "-c", str(file), *words, name)

    return one


def stack(*, level: str = "info", settings: str = "a=1", key: str = "hush") -> str:
    return FILES.format(level=level, settings=settings, key=key)


def versions(run: Run) -> dict[str, int]:
    """Of every object, by name."""
    client = Client(run.address)
    items = [*client.get("/services"), *client.get("/secrets"), *client.get("/configs")]
    return {item["Spec"]["Name"]: item["Version"]["Index"] for item in items}


def test_a_tag_that_has_moved(deploy: Deploy, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only who says so gets what it is now, and that once."""
    old, new = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"
    digests = [old]

    async def look(self: Images, name: str, credentials: Credentials) -> ManifestFacts:
        return ManifestFacts(media_type="", digest=digests[-1], size=1)

    def image() -> str:
        found: str = Client(run.address).get("/services/st_web")["Spec"]["TaskTemplate"]["ContainerSpec"][
            "Image"
        ]
        return found

    monkeypatch.setattr(Images, "look", look)
    text = "services:\n  web: {image: 'box:1', command: sleep 5}\n"
    assert deploy(text).code == 0
    assert image() == f"box:1@{old}"
    digests.append(new)
    assert "nothing to change" in deploy(text).out
    assert image() == f"box:1@{old}"
    assert "Updating service st_web" in deploy(text, "--resolve-image", "always").out
    assert image() == f"box:1@{new}"
    before = versions(run)
    assert deploy(text, "--resolve-image", "always").code == 0
    assert versions(run) == before


def test_everything_is_made_in_order(deploy: Deploy, run: Run) -> None:
    plan = deploy(stack(), "--plan")
    assert plan.code == 3
    assert plan.lines[:5] == [f"create {name}" for name in EVERYTHING]
    assert plan.lines[5] == "5 to create, 0 to update, 0 to remove, 0 unchanged"
    assert versions(run) == {}

    result = deploy(stack())
    assert (result.code, result.err) == (0, "")
    assert result.lines == [f"Creating {name}" for name in EVERYTHING]
    service = Client(run.address).get("/services/st_web")
    assert service["Spec"]["Labels"]["com.docker.stack.namespace"] == "st"
    container = service["Spec"]["TaskTemplate"]["ContainerSpec"]
    assert [(each["SecretName"], each["Version"]) for each in container["Secrets"]] == [("st_key", 1)]


def test_what_has_not_changed_is_not_touched(deploy: Deploy, run: Run) -> None:
    deploy(stack())
    before = versions(run)
    assert deploy(stack(), "--prune").lines == ["Stack st is as its files say: nothing to change"]
    diff = deploy(stack(), verb="diff")
    assert (diff.code, diff.out) == (0, "")
    assert versions(run) == before


def test_one_change_updates_one_service(deploy: Deploy, run: Run) -> None:
    deploy(stack())
    before = versions(run)
    plan = deploy(stack(level="debug"), "--plan")
    assert plan.lines == [
        "update service st_web",
        "    ContainerSpec.Env: -LEVEL=info +LEVEL=debug",
        "    -> its tasks are replaced, as its update_config says",
        "0 to create, 1 to update, 0 to remove, 4 unchanged",
    ]
    result = deploy(stack(level="debug"))
    assert result.code == 0
    assert {name for name, version in versions(run).items() if version != before[name]} == {"st_web"}


def test_labels_restart_nothing_and_say_so(deploy: Deploy) -> None:
    deploy(PLAIN)
    plan = deploy(PLAIN.replace("sleep 5", "sleep 5, deploy: {labels: {a: b}}"), "--plan")
    assert plan.lines[:3] == [
        "update service st_web",
        "    Labels.a: none -> b",
        "    -> no task is restarted",
    ]


def test_new_contents_are_new_versions_and_roll_the_services_that_use_them(deploy: Deploy, run: Run) -> None:
    deploy(stack())
    before = versions(run)
    newer = stack(settings="a=2", key="secret")
    diff = deploy(newer, verb="diff")
    assert diff.code == 3
    assert diff.lines == [
        "~ secret st_key",
        "    content: differs",
        "~ config st_settings",
        "    content: differs",
        "~ service st_web",
        "    ContainerSpec.Configs[st_settings].Version: 1 -> 2",
        "    ContainerSpec.Secrets[st_key].Version: 1 -> 2",
    ]
    assert versions(run) == before

    assert deploy(newer).code == 0
    assert {name for name, version in versions(run).items() if version == before[name]} == {"st_db"}
    container = Client(run.address).get("/services/st_web")["Spec"]["TaskTemplate"]["ContainerSpec"]
    assert [each["Version"] for each in (*container["Secrets"], *container["Configs"])] == [2, 2]
    assert deploy(newer).lines == ["Stack st is as its files say: nothing to change"]


def test_newer_contents_and_other_changes_are_one_update(deploy: Deploy, run: Run) -> None:
    deploy(stack())
    assert deploy(stack(level="debug", settings="a=2", key="new")).code == 0
    client = Client(run.address)
    service = client.get("/services/st_web")
    container, before = (service[key]["TaskTemplate"]["ContainerSpec"] for key in ("Spec", "PreviousSpec"))
    assert [each["Version"] for each in (*container["Secrets"], *container["Configs"])] == [2, 2]
    assert [each["Version"] for each in (*before["Secrets"], *before["Configs"])] == [1, 1]
    assert (container["Env"], before["Env"]) == (["LEVEL=debug"], ["LEVEL=info"])


def test_a_service_that_was_put_back_to_older_data_gets_the_newest(deploy: Deploy, run: Run) -> None:
    deploy(stack())
    deploy(stack(settings="a=2"))
    client = Client(run.address)
    service = client.get("/services/st_web")
    service["Spec"]["TaskTemplate"]["ContainerSpec"]["Configs"][0]["Version"] = 1
    client.post("/services/st_web/update", service["Spec"], {"version": service["Version"]["Index"]})
    assert deploy(stack(settings="a=2"), verb="diff").lines == [
        "~ service st_web",
        "    ContainerSpec.Configs[st_settings].Version: 1 -> 2",
    ]


def test_forced_restarts_and_pinned_images_stay(deploy: Deploy, run: Run) -> None:
    deploy(PLAIN)
    client = Client(run.address)
    service = client.get("/services/st_web")
    template = service["Spec"]["TaskTemplate"]
    template["ForceUpdate"] = 3
    template["ContainerSpec"]["Image"] = "host@sha256:" + "a" * 64
    client.post("/services/st_web/update", service["Spec"], {"version": service["Version"]["Index"]})
    assert deploy(PLAIN, verb="diff").code == 0


# --- what is left over


def test_what_no_file_names_is_kept_or_pruned(deploy: Deploy, run: Run) -> None:
    deploy(stack())
    kept = deploy(PLAIN, "--plan").lines
    assert "keep config st_settings" in kept
    assert kept[kept.index("keep service st_db") + 1] == "    no file names it any more: --prune removes it"
    assert deploy(PLAIN).code == 0
    assert set(versions(run)) == {"st_db", "st_key", "st_settings", "st_web"}

    result = deploy(PLAIN, "--prune")
    assert result.lines == ["Removing service st_db"]
    assert "Left, since tasks may need it still: config st_settings, secret st_key." in result.err
    assert deploy(PLAIN, "--prune").lines == ["Removing config st_settings", "Removing secret st_key"]
    assert set(versions(run)) == {"st_web"}


def test_a_port_changes_hands(deploy: Deploy) -> None:
    pair = "services:\n  a: {image: host, ports: ['%s:80']}\n  b: {image: host, ports: ['%s:80']}\n"
    deploy(pair % (8000, 8001))
    assert deploy(pair % (8001, 8002)).code == 0
    assert deploy(pair.replace("b:", "c:") % (8001, 8002), "--prune").code == 0


def test_rm_removes_all_and_tells_of_nothing(deploy: Deploy, run: Run) -> None:
    deploy(stack())
    result = run("stack", "rm", "st")
    assert result.code == 0
    assert sorted(result.lines) == sorted(f"Removing {name}" for name in EVERYTHING)
    assert versions(run) == {}
    again = run("stack", "rm", "st")
    assert (again.code, again.err) == (0, "Nothing found in stack: st\n")


# --- checks before anything is changed


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("networks: {default: {external: true, name: out}}", 'network "out" is declared as external, but co'),
        ("configs: {c: {external: true}}", 'config "c" is declared as external, but could not be found: cre'),
        ("secrets: {s: {file: ./gone}}", "secrets.s names "),
        ("secrets: {s: {environment: GONE}}", "secrets.s is to be in the variable GONE: set it"),
        ("secrets: {s: {content: ''}}", "secrets.s: secret data must be larger than 0 and less than 512000"),
        ("configs: {c: {content: x, name: n}, d: {content: y, name: n}}", 'config "n" is defined at '),
    ],
)  # fmt: skip
def test_nothing_is_changed_when_something_is_wrong(deploy: Deploy, run: Run, text: str, says: str) -> None:
    result = deploy(PLAIN + text)
    assert (result.code, result.out) == (1, "")
    assert says in result.err
    assert "compose.yml:3: " in result.err
    assert Client(run.address).get("/services") == []


def test_constraints_are_read_before_anything_is_changed(deploy: Deploy, run: Run) -> None:
    text = "services:\n  web:\n    image: host\n    deploy:\n      placement: {constraints: [node.role]}\n"
    result = deploy(text)
    assert (result.code, result.out) == (1, "")
    assert "compose.yml:5: services.web.deploy.placement: " in result.err


def test_external_networks_must_be_the_swarms(deploy: Deploy, run: Run) -> None:
    run("network", "create", "--config-only", "settings")
    result = deploy(PLAIN + "networks: {default: {external: true, name: settings}}")
    assert result.code == 1
    assert 'but it is not in the right scope: "local" instead of "swarm"' in result.err


def test_names_of_others_are_not_taken(deploy: Deploy) -> None:
    deploy(PLAIN + "configs: {c: {content: x, name: shared}}")
    result = deploy(PLAIN + "configs: {c: {content: x, name: shared}}", name="other")
    assert result.code == 1
    assert 'config "shared" exists already and belongs to stack st: rename it, or declare' in result.err
    assert deploy(PLAIN + "configs: {c: {external: true, name: shared}}", name="other").code == 0


def test_a_mode_cannot_change(deploy: Deploy) -> None:
    deploy(PLAIN)
    result = deploy("services:\n  web:\n    image: host\n    deploy:\n      mode: global\n")
    assert result.code == 1
    assert "compose.yml:5: service st_web cannot change its mode from replicated to global" in result.err


def test_networks_cannot_change_and_it_is_told(deploy: Deploy) -> None:
    deploy(PLAIN)
    result = deploy(
        PLAIN + "networks:\n  default: {attachable: true, ipam: {config: [{subnet: 10.9.0.0/24}]}}"
    )
    assert result.code == 0
    assert "compose.yml:4: network st_default stays as it is, since networks cannot be changed" in result.err
    assert "(Attachable: False -> True; IPAM: " in result.err


def test_a_failure_half_way_says_what_was_done_and_is_safe_to_repeat(
    deploy: Deploy, run: Run, cluster: FakeCluster
) -> None:
    steps = iter([None, None, None, PermissionDenied("not now")])

    def before() -> None:
        error = next(steps, None)
        cluster.before_propose = before
        if error is not None:
            cluster.fail_next = [error] * 100

    cluster.before_propose = before
    result = deploy(stack())
    assert result.code == 1
    assert (
        "Done before: create network st_default, create secret st_key, create config st_settings."
        in result.err
    )
    assert "Not done: create service st_db, create service st_web. The same command goes on" in result.err
    cluster.fail_next = []
    assert deploy(stack()).lines == ["Creating service st_db", "Creating service st_web"]


# --- showing


def test_lists(deploy: Deploy, run: Run) -> None:
    deploy(stack())
    deploy(PLAIN, name="b")
    assert run("stack", "ls").lines == ["NAME      SERVICES", "b         1", "st        2"]
    assert run("stack", "ls", "--format", "{{.Name}}={{.Services}}").lines == ["b=1", "st=2"]
    assert run("stack", "ls", "-q").lines == ["b", "st"]
    shown = run("stack", "services", "st").lines
    assert [line.split()[1] for line in shown] == ["NAME", "st_db", "st_web"]
    assert run("stack", "services", "--filter", "name=st_w", "--format", "{{.Name}}", "st").out == "st_web\n"
    assert run("stack", "ps", "st").code == 0
    for verb, code in (("ps", 1), ("services", 0)):
        result = run("stack", verb, "none")
        assert result.code == code
        assert "othing found in stack: none" in result.err


def test_config_shows_what_would_be_deployed(run: Run, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("N=3\n")
    (tmp_path / "x.env").write_text("N=4\nCOMPOSE_PROFILES=p\n")
    file = tmp_path / "a.yml"
    file.write_text("services: {a: {image: host, scale: $N}, b: {image: host, profiles: [p]}}")
    words = ("stack", "config", "-c", str(file))
    assert run(*words).out == "services:\n  a:\n    image: host\n    scale: 3\n"
    assert "scale: 4" in run(*words, "--env-file", str(tmp_path / "x.env")).out
    assert "  b:" in run(*words, "--env-file", str(tmp_path / "x.env")).out
    assert "  b:" in run(*words, "--profile", "*").out


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("deploy", "st"), 2, "Please specify a Compose file (with --compose-file)"),
        (("deploy", "-c", "/nowhere.yml", "st"), 1, "/nowhere.yml cannot be read: No such file or directory"),
        (("deploy", "-c", "-", "-c", "-", "st"), 1, "standard input can be read only once"),
        (("deploy", "-c", "/dev/zero", "st"), 1, "/dev/zero is larger than "),
        (("config", "-c", "/dev/null"), 1, "/dev/null:1: no services: write 'services:' with"),
        (("config", "-c", "/etc/hostname", "--env-file", "/nowhere"), 1, "/nowhere cannot be read"),
        (("deploy", "-c", "x", "--resolve-image", "no", "st"), 2, "Invalid option no for flag --resolve-ima"),
    ],
)  # fmt: skip
def test_wrong_command_lines(run: Run, words: tuple[str, ...], code: int, says: str) -> None:
    result = run("stack", *words)
    assert result.code == code
    assert says in result.err
