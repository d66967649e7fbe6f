"""One document of many: what extends, includes, replaces and takes away, and the services of profiles."""

from __future__ import annotations

import pytest

from swarmpy.compose import ComposeError, Document, Stack, merged, read_stack, yaml_text
from swarmpy.compose.limits import COMPOSE_CHAIN_MAX, COMPOSE_FILES_MAX
from swarmpy.compose.tree import Mapping, Node, Sequence

HOST = "image: host"


def python_of(node: Node) -> object:
    match node:
        case Mapping(items=items):
            return {key: python_of(item) for key, item in items.items()}
        case Sequence(items=items):
            return [python_of(item) for item in items]
    return node.value


def tree(*texts: str, files: dict[str, str] | None = None, profiles: tuple[str, ...] = ()) -> object:
    documents = [Document(f"{name}.yml", text, "/in") for name, text in zip("abc", texts, strict=False)]
    found, _ = merged(documents, variables={"V": "outer"}, files=files or {}, profiles=profiles)
    return python_of(found)


def service(*texts: str, files: dict[str, str] | None = None) -> object:
    """Service ``a`` of the documents."""
    found = tree(*texts, files=files)
    assert isinstance(found, dict)
    return found["services"]["a"]


def refusal(*texts: str, files: dict[str, str] | None = None) -> str:
    with pytest.raises(ComposeError) as refused:
        tree(*texts, files=files)
    return str(refused.value)


# --- !reset and !override


@pytest.mark.parametrize(
    ("over", "result"),
    [
        ("{ports: !override ['2:2'], tty: !reset null}", {"2"}),
        ("{ports: !reset [], tty: !reset true}", None),
        ("{ports: ['2:2'], tty: !reset null}", {"1", "2"}),
    ],
)
def test_tags_replace_and_take_away(over: str, result: set[str] | None) -> None:
    found = service("services: {a: {tty: true, ports: ['1:1']}}", f"services: {{a: {over}}}")
    assert isinstance(found, dict)
    assert "tty" not in found
    ports = found.get("ports")
    assert (None if ports is None else {str(port["published"]) for port in ports}) == result


def test_tags_reach_whole_services_variables_and_nested_keys() -> None:
    found = tree(
        "services: {a: {image: host, environment: {A: 1, B: 2}, deploy: {labels: {x: 1}, replicas: 3}}, "
        "b: {}}",
        "services: {a: {environment: {A: !reset null}, deploy: !override {replicas: 1}}, b: !reset null}",
    )
    assert found == {
        "services": {"a": {"image": "host", "environment": {"B": "2"}, "deploy": {"replicas": 1}}}
    }


def test_what_was_taken_away_may_be_given_anew() -> None:
    texts = ["{cap_add: [A]}", "{cap_add: !reset []}", "{cap_add: [C]}"]
    assert service(*(f"services: {{a: {text}}}" for text in texts)) == {"cap_add": ["C"]}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "services:\n  a:\n    cap_add: [!reset A]",
            "a.yml:3: !reset can only stand before the value of a key",
        ),
        ("!override {services: {}}", "a.yml:1: !override cannot stand before a whole file"),
        ("services: {a: {x: !what 1}}", "a.yml:1: the tag !what does not suit"),
    ],
)
def test_tags_elsewhere_are_refused(text: str, says: str) -> None:
    assert refusal(text).startswith(says)


# --- extends


def test_a_service_extends_another_and_says_more() -> None:
    found = service(
        """
services:
  base: {image: host, environment: {A: 1, B: 1}, command: [x], cap_add: [A], labels: [base=1]}
  middle: {extends: base, environment: [B=2], tty: true}
  a: {extends: {service: middle}, environment: {C: 3}, command: [y], cap_add: [B]}
"""
    )
    assert found == {
        "image": "host",
        "environment": {"A": "1", "B": "2", "C": "3"},
        "command": ["y"],
        "cap_add": ["A", "B"],
        "labels": {"base": "1"},
        "tty": True,
    }


def test_paths_and_variables_of_an_extended_file_start_there() -> None:
    files = {
        "/in/lib/base.yml": "services: {b: {image: '$V', volumes: ['./x:/x'], env_file: b.env}}",
        "/in/lib/b.env": "E=1",
    }
    found = service("services: {a: {extends: {file: lib/base.yml, service: b}}}", files=files)
    assert found == {
        "image": "outer",
        "environment": {"E": "1"},
        "volumes": [{"type": "bind", "source": "/in/lib/x", "target": "/x"}],
    }


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("services:\n  a: {extends: b}\n  b: {extends: a}", "extends goes around in a circle: a extends b e"),
        ("services:\n  a: {extends: a}", "a.yml:2: services.a.extends goes around in a circle: a extends a"),
        ("services:\n  a: {extends: x}\n  b: {}", 'names a service that a.yml does not have: "x"; it has a,'),
        ("services:\n  a: {extends: {file: x}}", "a.yml:2: services.a.extends.file names /in/x, which is no"),
        ("services:\n  a: {extends: {}}", "a.yml:2: services.a.extends names no service"),
        ("services:\n  a: {extends: {servise: b}}", "Additional property servise is not allowed: did you me"),
        ("services:\n  a: {extends: [b]}", "a.yml:2: services.a.extends must be a string"),
    ],
)  # fmt: skip
def test_what_cannot_be_extended(text: str, says: str) -> None:
    assert says in refusal(text)


def test_a_circle_through_two_files_and_a_long_chain_end() -> None:
    files = {"/in/b.yml": "services: {b: {extends: {file: c.yml, service: c}}}"}
    files["/in/c.yml"] = "services: {c: {extends: {file: b.yml, service: b}}}"
    assert "in a circle" in refusal("services: {a: {extends: {file: b.yml, service: b}}}", files=files)
    chain = "".join(f"  s{n}: {{extends: s{n + 1}}}\n" for n in range(COMPOSE_CHAIN_MAX + 2))
    last = f"  s{COMPOSE_CHAIN_MAX + 2}: {{}}\n"
    assert f"is the {COMPOSE_CHAIN_MAX}th of a chain" in refusal(f"services:\n{chain}{last}")


def test_extending_something_huge_many_times_is_refused() -> None:
    big = ", ".join(f"L{n}" for n in range(2_000))
    many = "".join(f"  s{n}: {{extends: big, cap_add: [A]}}\n" for n in range(120))
    assert "takes over too much" in refusal(f"services:\n  big: {{cap_add: [{big}]}}\n{many}")


# --- include


def test_an_included_file_has_its_own_folder_and_variables() -> None:
    files = {
        "/in/db/compose.yml": "services: {db: {image: '$IMAGE$V', volumes: ['./d:/d']}}\nvolumes: {x: }",
        "/in/db/.env": "IMAGE=pg\nV=ignored",
    }
    found = tree("include: [db/compose.yml]\nservices: {a: {image: host}}", files=files)
    assert found == {
        "services": {
            "a": {"image": "host"},
            "db": {
                "image": "pgouter",
                "volumes": [{"type": "bind", "source": "/in/db/d", "target": "/d"}],
            },
        },
        "volumes": {"x": None},
    }


def test_an_include_may_merge_files_and_name_folder_and_variables() -> None:
    files = {
        "/in/x.yml": "services: {db: {image: '$I', volumes: ['./d:/d']}}",
        "/in/y.yml": "services: {db: {tty: true}}",
        "/in/x.env": "I='it'",
    }
    found = tree(
        "include: [{path: [x.yml, y.yml], project_directory: else, env_file: x.env}]",
        files=files,
    )
    assert found == {
        "services": {
            "db": {
                "image": "it",
                "volumes": [{"type": "bind", "source": "/in/else/d", "target": "/d"}],
                "tty": True,
            }
        }
    }


@pytest.mark.parametrize(
    ("text", "files", "says"),
    [
        ("include: x.yml", {}, "a.yml:1: include must be a list of paths"),
        ("include: [x.yml]", {}, "a.yml:1: include.0.path names /in/x.yml, which is not there"),
        ("include: [{}]", {}, "include.0.path is missing"),
        ("include: [a.yml]", {"/in/a.yml": ""}, "goes around in a circle: /in/a.yml"),
        ("include: [x]", {"/in/x": "include: [y]", "/in/y": "include: [x]"}, "/in/y:1: include.0.path goes "),
        (
            "include: [x]\nservices:\n  b: {image: host}",
            {"/in/x": "services: {b: {image: other}}"},
            "a.yml:3: services.b is in an included file, too (/in/x:1), and differs",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_included(text: str, files: dict[str, str], says: str) -> None:
    assert says in refusal(text, files=files)


def test_files_are_counted() -> None:
    names = [f"f{n}" for n in range(COMPOSE_FILES_MAX)]
    files = {f"/in/{name}": "x-a: 1" for name in names}
    assert f"more than {COMPOSE_FILES_MAX} files" in refusal(f"include: [{', '.join(names)}]", files=files)


def test_what_is_included_twice_and_alike_is_no_conflict() -> None:
    files = {"/in/x": "include: [z]", "/in/y": "include: [z]", "/in/z": "services: {db: {image: host}}"}
    assert tree("include: [x, y]", files=files) == {"services": {"db": {"image": "host"}}}


# --- profiles

PROFILES = "services: {a: {image: host}, b: {image: host, profiles: [dev, test]}, c: {profiles: [x]}}"


@pytest.mark.parametrize(
    ("chosen", "names"), [((), "a"), (("dev",), "ab"), (("x", "test"), "abc"), (("*",), "abc")]
)
def test_services_of_profiles_are_there_when_asked_for(chosen: tuple[str, ...], names: str) -> None:
    found = tree(PROFILES, profiles=chosen)
    assert isinstance(found, dict)
    assert sorted(found["services"]) == list(names)


def test_waiting_for_a_service_that_is_left_out_says_how_to_have_it() -> None:
    wait = "services: {a: {image: host, depends_on: {b: {required: %s}}}, b: {image: host, profiles: [dev]}}"
    assert 'names "b", which is only there with --profile dev' in refusal(wait % "true")
    assert tree(wait % "false")


# --- writing it out again


def test_what_is_written_out_reads_the_same() -> None:
    text = """
x-note: "${KEPT}"
services:
  a:
    image: host
    command: sh -c "echo $$HOME $V"
    environment: {A: "$$x", N: }
    ports: ["8080:80/udp", 90]
    volumes: ["data:/d:ro", ./x:/x]
    depends_on: [b]
    deploy: {replicas: 2, labels: [x=1]}
    devices: [/dev/null:/dev/n:r]
  b: {image: host, healthcheck: {test: exit 0}}
volumes: {data: }
"""

    def read(text: str) -> Stack:
        return read_stack([Document("a.yml", text, "/in")], name="st", variables={"V": "v"})

    document, _ = merged([Document("a.yml", text, "/in")], variables={"V": "v"})
    again = yaml_text(document)
    assert [each.spec for each in read(again).services] == [each.spec for each in read(text).services]
    assert "x-note: ${KEPT}" in again
