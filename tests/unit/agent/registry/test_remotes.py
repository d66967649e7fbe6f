"""Where names lead, what registries ask and say, whose image of an index is ours."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from agent.registry import manifests
from agent.registry.manifests import DOCKER_LIST, OCI_INDEX, OCI_MANIFEST, choose, parse, parse_platform
from agent.registry.remotes import (
    DEFAULT_HOST,
    Challenge,
    Remote,
    error_text,
    parse_challenge,
    remote_of,
    server_host,
)
from swarmpy.errors import InvalidArgument, NotFound
from swarmpy.model.images import Credentials, Platform
from swarmpy.model.registry_auth import decode_credentials

A, B, C = (f"sha256:{digit * 64}" for digit in "abc")


@pytest.mark.parametrize(
    ("name", "remote"),
    [
        ("busybox", Remote(DEFAULT_HOST, "library/busybox")),
        ("team/app", Remote(DEFAULT_HOST, "team/app")),
        ("registry.example/app", Remote("registry.example", "app")),
        ("registry.example:5000/a/b", Remote("registry.example:5000", "a/b")),
        ("localhost/app", Remote("localhost", "app", True)),
        ("127.0.0.1:5000/app", Remote("127.0.0.1:5000", "app", True)),
        ("[::1]:5000/app", Remote("[::1]:5000", "app", True)),
        ("lab.example/app", Remote("lab.example", "app", True)),
        ("10.7.1.2:5000/app", Remote("10.7.1.2:5000", "app", True)),
        ("10.8.1.2:5000/app", Remote("10.8.1.2:5000", "app", False)),
    ],
)
def test_where_a_name_leads(name: str, remote: Remote) -> None:
    assert remote_of(name, ("lab.example", "10.7.0.0/16")) == remote


@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("", DEFAULT_HOST),
        ("https://index.docker.io/v1/", DEFAULT_HOST),
        ("registry.example:5000", "registry.example:5000"),
        ("http://user@registry.example/v2/", "registry.example"),
    ],
)
def test_where_a_login_leads(address: str, host: str) -> None:
    assert server_host(address) == host


def test_credentials() -> None:
    def header(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode()

    assert decode_credentials(header({"username": "u", "password": "p"})) == Credentials(
        username="u", password="p"
    )
    joined = base64.b64encode(b"u:p:q").decode()
    assert decode_credentials(header({"auth": joined}).rstrip("=")).password == "p:q"
    assert decode_credentials(header({"identitytoken": "t"})).identity_token == "t"
    assert "p" not in repr(Credentials(username="u", password="p")).removeprefix("Credentials")
    for bad in ("%%%", header([1]), header({"auth": "%"}), "A" * (1 << 17)):
        with pytest.raises(InvalidArgument):
            decode_credentials(bad)


def test_challenges() -> None:
    assert parse_challenge('Bearer realm="https://a/t",service="s",scope="x:y:pull,push"') == Challenge(
        "bearer", {"realm": "https://a/t", "service": "s", "scope": "x:y:pull,push"}
    )
    assert parse_challenge('BASIC realm="a \\"b\\""') == Challenge("basic", {"realm": 'a "b"'})
    assert parse_challenge("Negotiate") is None


def test_errors_in_dockers_words() -> None:
    body = {"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}
    assert error_text(json.dumps(body).encode()) == "manifest unknown: manifest unknown"
    assert error_text(b"<html>") == ""
    assert error_text(b'{"errors": 7}') == ""


def index(*entries: tuple[str, str, str, str]) -> manifests.Manifest:
    rows = [
        {"digest": digest, "size": 7, "platform": {"os": system, "architecture": arch, "variant": variant}}
        for digest, system, arch, variant in entries
    ]
    return parse(json.dumps({"manifests": rows, "mediaType": OCI_INDEX}).encode(), "", A)


def test_whose_image_is_ours() -> None:
    found = index(
        (A, "unknown", "unknown", ""),
        (B, "linux", "arm", "v7"),
        (A, "linux", "arm", "v6"),
        (C, "linux", "x", ""),
    )
    assert choose(found, parse_platform("linux/arm/v6"), "n").digest == A
    assert choose(found, parse_platform("linux/arm"), "n").digest == B
    assert choose(found, Platform(os="linux", architecture="x"), "n").digest == C
    with pytest.raises(NotFound, match="no matching manifest for windows/x in the manifest list entries"):
        choose(found, parse_platform("windows/x"), "n")
    with pytest.raises(NotFound):
        choose(found, parse_platform("unknown/unknown"), "n")


@pytest.mark.parametrize("text", ["a/b/c/d", "li nux", "linux//x"])
def test_platforms_that_are_none(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_platform(text)


@pytest.mark.parametrize(
    "value",
    [
        b"{",
        [],
        {"schemaVersion": 1},
        {"schemaVersion": 2, "config": {"digest": A, "size": 1}, "layers": [{"digest": "../x", "size": 1}]},
        {"schemaVersion": 2, "config": {"digest": A, "size": 1}, "layers": [{"digest": B, "size": -1}]},
        {"schemaVersion": 2, "config": {"digest": A, "size": 1}, "layers": [{"digest": B, "size": 1 << 60}]},
        {"schemaVersion": 2, "config": {"digest": A, "size": 1}, "layers": [{"digest": B, "size": 1}] * 129},
        {"mediaType": DOCKER_LIST, "manifests": 7},
    ],
)
def test_manifests_that_are_none(value: Any) -> None:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    with pytest.raises(InvalidArgument):
        parse(raw, OCI_MANIFEST, C)
