"""System call filters in the OCI's words say what native's programs do."""

from __future__ import annotations

import json
from typing import Any

from msgspec.structs import replace

from agent.executor.oci.filters import plan_filter
from swarmpy.model.specs import ContainerSpec, Privileges, SeccompOptions

SPEC = ContainerSpec(image="box:1")


def rules_for(found: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return [rule for rule in found["syscalls"] if name in rule["names"]]


def test_the_default() -> None:
    found = plan_filter(SPEC, frozenset(), "x86_64")
    assert found is not None
    assert (found["defaultAction"], found["defaultErrnoRet"]) == ("SCMP_ACT_ERRNO", 1)
    assert found["architectures"][0] == "SCMP_ARCH_X86_64"
    assert [rule["action"] for rule in rules_for(found, "read")] == ["SCMP_ACT_ALLOW"]
    assert rules_for(found, "mount") == []
    assert rules_for(found, "clone3")[0]["errnoRet"] == 38
    clone = rules_for(found, "clone")[0]["args"]
    assert clone == [{"index": 0, "value": 0x7E020000, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]
    assert len(rules_for(found, "personality")) == 5


def test_a_capability_brings_its_calls() -> None:
    found = plan_filter(SPEC, frozenset({"SYS_ADMIN"}), "x86_64")
    assert found is not None
    assert rules_for(found, "mount")[0]["action"] == "SCMP_ACT_ALLOW"


def test_no_filter() -> None:
    assert plan_filter(replace(SPEC, privileged=True), frozenset(), "x86_64") is None
    unconfined = Privileges(seccomp=SeccompOptions(mode="unconfined"))
    assert plan_filter(replace(SPEC, privileges=unconfined), frozenset(), "x86_64") is None
    assert plan_filter(SPEC, frozenset(), "pdp11") is None


def test_a_profile_of_the_users() -> None:
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [
            {"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13},
            {"names": ["chmod"], "action": "SCMP_ACT_ALLOW"},
        ],
    }
    custom = Privileges(seccomp=SeccompOptions(mode="custom", profile=json.dumps(profile).encode()))
    found = plan_filter(replace(SPEC, privileges=custom), frozenset(), "x86_64")
    assert found is not None
    assert found["defaultAction"] == "SCMP_ACT_ALLOW"
    assert found["syscalls"] == [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13}]
