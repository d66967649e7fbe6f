"""``swarmpy secret`` and ``swarmpy config``, and what services say of them."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
from api_node import FakeCluster
from cli_run import Run


@pytest.fixture
def word(tmp_path: Path) -> Path:
    path = tmp_path / "word"
    path.write_bytes(b"hunter2\xff")
    return path


@pytest.mark.parametrize("kind", ["secret", "config"])
def test_create_list_inspect_and_remove(run: Run, cluster: FakeCluster, word: Path, kind: str) -> None:
    made = run(kind, "create", "-l", "team=red", "--template-driver", "golang", "key", str(word))
    assert (made.code, made.err) == (0, "")
    id_ = made.out.strip()

    table = run(kind, "ls").lines
    assert table[0].split() == ["ID", "NAME", *(["DRIVER"] if kind == "secret" else []), "CREATED", "UPDATED"]
    assert table[1].split()[:2] == [id_, "key"]
    assert run(kind, "ls", "-q", "--filter", "label=team=red").out.strip() == id_
    assert run(kind, "ls", "-q", "--filter", "name=other").out.strip() == ""
    assert run(kind, "ls", "--format", "{{.Name}} {{.Labels}}").out.strip() == "key team=red"

    shown = json.loads(run(kind, "inspect", "key").out)[0]
    assert shown["Spec"].get("Data") == (None if kind == "secret" else "aHVudGVyMv8=")
    pretty = run(kind, "inspect", "--pretty", id_).out
    assert "Name:\t\t\tkey" in pretty
    assert ("hunter2" in pretty) == (kind == "config")

    assert run(kind, "rm", "key", "gone").code == 1
    assert run(kind, "ls", "-q").out.strip() == ""


def test_data_come_from_standard_input_too(
    run: Run, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"typed")))
    assert run("config", "create", "key", "-").code == 0
    assert json.loads(run("config", "inspect", "key").out)[0]["Spec"]["Data"] == "dHlwZWQ="


def test_newer_data_and_what_becomes_of_services(run: Run, cluster: FakeCluster, word: Path) -> None:
    run("secret", "create", "key", str(word))
    for name, how in (("web", "key"), ("live", "source=key,reload=HUP"), ("kept", "source=key,version=1")):
        made = run("service", "create", "--detach", "--name", name, "--secret", how, "host", "true")
        assert made.code == 0, made.err
    word.write_bytes(b"hunter3")
    done = run("secret", "update", "key", str(word))
    assert done.out == "key version 2\n"
    assert done.err == "Rolling to it: kept, web\nReloaded in place: live\n"
    history = run("secret", "history", "key").lines
    assert history[0].split() == ["VERSION", "CREATED", "SIZE", "SERVICES"]
    assert [line.split()[0] for line in history[1:]] == ["2", "1"]
    assert history[1].endswith("kept, live, web")

    # what a service pins may be named, also older data
    assert run("service", "update", "--detach", "--secret-add", "source=key,version=1", "web").code == 0
    assert [line.split()[-1] for line in run("secret", "history", "key").lines[1:]] == ["live", "web"]
    assert run("service", "update", "--detach", "--secret-add", "key", "web").code == 0
    assert run("secret", "history", "key").lines[1].endswith("kept, live, web")


@pytest.mark.parametrize(
    ("argv", "sentence", "code"),
    [
        (["secret", "create", "key"], "give the file with the secret's data", 2),
        (["config", "create", "key", "/no/such/file"], "/no/such/file cannot be read: No such file", 2),
        (["config", "update", "gone", "-"], "config gone not found", 1),
        (["secret", "create", "--driver", "vault", "key"], "secret drivers are not supported", 1),
        (["secret", "create", "--driver", "vault", "key", "-"], "takes no data from here", 2),
        (["secret", "inspect", "--pretty", "--format", "x", "y"], "--format is incompatible", 2),
        (["service", "create", "--secret", "gone", "host", "true"], "secret not found: gone", 2),
        (["service", "create", "--secret", "source=a,reload", "host"], "reload needs the signal", 2),
    ],
)
def test_what_is_wrong_is_said(
    run: Run, cluster: FakeCluster, argv: list[str], sentence: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"typed")))
    result = run(*argv)
    assert (result.code, sentence in result.err) == (code, True), result.err
