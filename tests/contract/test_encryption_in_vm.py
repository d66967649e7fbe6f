"""Encrypted networks by IPsec and WireGuard, on Debian's kernel in a virtual machine: what was on the wire.

The machine runs once, for all tests; ``encryption_job`` is what it does.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from kernel_vm import run_job

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to read all of the machine's files"),
    pytest.mark.timeout(900),
]

_JOB_S = 800
_JOB = Path(__file__).resolve().parents[1] / "support" / "encryption_job.py"

ESP_ONLY = {"answers": 3, "kinds": ["ip 50"], "is_clear": False}
WIREGUARD_ONLY = {"answers": 3, "kinds": ["udp 4791"], "is_clear": False}
USERSPACE_ONLY = {"answers": 3, "kinds": ["udp 4792"], "is_clear": False}
SILENCE = {"answers": 0, "kinds": [], "is_clear": False}


@pytest.fixture(scope="module")
def told() -> Mapping[str, Any]:
    return run_job(_JOB, timeout_s=_JOB_S)


def facts(told: Mapping[str, Any], case: str) -> Mapping[str, Any]:
    assert case in told, f"the case did not come about: {told}"
    found: Mapping[str, Any] = told[case]
    assert "failed" not in found, found["failed"]
    return found


def test_esp_only_is_on_the_wire(told: Mapping[str, Any]) -> None:
    found = facts(told, "esp_wire")

    assert found["ways"] == ["esp"]
    assert found["encrypted"] == ESP_ONLY
    assert found["large"] == 1


def test_a_plain_network_is_seen_in_the_clear(told: Mapping[str, Any]) -> None:
    """The control: what is looked for would be found."""
    assert facts(told, "esp_wire")["plain"] == {"kinds": ["udp 4789"], "is_clear": True}


def test_the_kernel_has_256_bit_keys_and_replay_windows(told: Mapping[str, Any]) -> None:
    found = facts(told, "esp_wire")

    assert found["algorithms"] == [["rfc4106(gcm(aes))", 36 * 8, "128"]]
    assert found["esn"] == found["states"] == 8
    assert found["windows"] == ["1024,"] or found["windows"] == ["1024"]


def test_a_restart_of_the_daemon_leaves_the_states(told: Mapping[str, Any]) -> None:
    found = facts(told, "esp_restart")

    assert found["mended_same"]
    assert found["same"]
    assert found["answers_while_down"] == 3
    assert not found["is_clear"]
    assert found["after"] == ESP_ONLY


def test_whatever_is_missing_means_silence(told: Mapping[str, Any]) -> None:
    found = facts(told, "esp_closed")

    assert [found[name] for name in ("no_state", "no_policy", "no_policies")] == [SILENCE] * 3
    assert [found[name] for name in ("state_back", "policy_back", "all_back")] == [ESP_ONLY] * 3


def test_without_lock_and_policies_it_would_be_clear(told: Mapping[str, Any]) -> None:
    """The control of the silence."""
    found = facts(told, "esp_closed")["no_lock"]

    assert found["is_clear"]
    assert found["kinds"] == ["udp 4790"]


def test_a_lost_sending_state_means_another_epoch(told: Mapping[str, Any]) -> None:
    found = facts(told, "esp_closed")

    assert found["epoch_ended"]
    assert found["keys_reused"] == 0


def test_clear_text_is_not_taken(told: Mapping[str, Any]) -> None:
    """Neither with one of the two locks; with none of them all frames arrive."""
    assert facts(told, "esp_injection") == {
        "locked": 0,
        "without_policy": 0,
        "without_lock": 0,
        "without_both": 5,
        "mended": 0,
    }


def test_a_rotation_under_traffic_loses_nothing(told: Mapping[str, Any]) -> None:
    found = facts(told, "esp_rotation")

    assert found["received"] == found["sent"]
    assert found["has_other_key"]


def test_replayed_frames_are_refused(told: Mapping[str, Any]) -> None:
    found = facts(told, "esp_replay")

    assert found["answers"] == found["replayed"] == 3
    assert found["refused"] == 3
    assert found["arrived"] == 0


def test_ipv6_between_the_nodes(told: Mapping[str, Any]) -> None:
    assert facts(told, "ipv6") == ESP_ONLY


def test_wireguard_only_is_on_the_wire(told: Mapping[str, Any]) -> None:
    found = facts(told, "wireguard")

    assert found["ways"] == ["wireguard"]
    assert found["encrypted"] == found["restarted"] == WIREGUARD_ONLY


def test_without_the_device_or_the_peer_there_is_silence(told: Mapping[str, Any]) -> None:
    found = facts(told, "wireguard")

    assert [found[name] for name in ("link_down", "link_gone", "peer_gone")] == [SILENCE] * 3
    assert [found[name] for name in ("link_back", "made_again", "peer_back")] == [WIREGUARD_ONLY] * 3


def test_nodes_that_can_different_things_share_a_network(told: Mapping[str, Any]) -> None:
    found = facts(told, "mixed")

    assert found["esp"] == ESP_ONLY
    assert found["userspace"] == found["back"] == USERSPACE_ONLY
