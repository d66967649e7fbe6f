"""The self-test's own logic, on a fake HNS: it has never seen a real one."""

from __future__ import annotations

import json

import pytest
from fake_hns import FakeHns

from agent.dataplane.windows import errors, selftest


def report(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    said = capsys.readouterr().out
    found = json.loads(said[said.index("{\n") :])
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("version", [(7, 2), (9, 3), (15, 5)])
def test_all_is_well(version: tuple[int, int], capsys: pytest.CaptureFixture[str]) -> None:
    hns = FakeHns(version=version)
    assert selftest.main(lambda: hns) == 0
    found = report(capsys)
    assert found["is_good"]
    assert str(found["hns"]).startswith(f"{version[0]}.{version[1]} ")
    assert isinstance(found["steps"], list)
    assert len(found["steps"]) == 7
    assert isinstance(found["calls"], list)
    assert any("sw-net.selftest" in each["request"] for each in found["calls"])
    assert (hns.networks, hns.endpoints, hns.balancers, hns.namespaces) == ({}, {}, {}, {})


def test_what_fails_is_told_and_cleaned_up(capsys: pytest.CaptureFixture[str]) -> None:
    def script(verb: str, subject: str) -> None:
        if (verb, subject.split()[0]) == ("create", "LoadBalancer"):
            raise errors.failure(errors.BAD_POLICY, "")

    hns = FakeHns(script=script)
    assert selftest.main(lambda: hns) == 1
    found = report(capsys)
    assert not found["is_good"]
    assert isinstance(found["steps"], list)
    failed = [each["step"] for each in found["steps"] if each["result"] == "failed"]
    assert "network, remote endpoint, balancers" in failed
    assert "nothing is left" not in failed
    assert (hns.networks, hns.endpoints, hns.namespaces) == ({}, {}, {})


def test_a_node_of_a_swarm_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    hns = FakeHns()
    hns.call("POST", "/networks/", '{"Name": "sw-net.somebodys", "Type": "transparent"}')
    before = len(hns.requests)
    assert selftest.main(lambda: hns) == 1
    assert "leave the swarm" in json.dumps(report(capsys))
    assert all(name == "QUERY_2" for name, _ in hns.requests[before:]), "it only looked"
    assert len(hns.networks) == 1


def test_here_is_no_hns(capsys: pytest.CaptureFixture[str]) -> None:
    assert selftest.main() == 2
    assert "part of Windows" in capsys.readouterr().err
