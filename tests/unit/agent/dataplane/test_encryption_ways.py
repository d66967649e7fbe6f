"""Which way two nodes take, what keys follow from, and a node's epoch."""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.dataplane.base import NodeState, Peer
from agent.dataplane.linux.encryption import ways
from agent.dataplane.linux.encryption.epoch import Epoch
from agent.dataplane.linux.encryption.keys import Party, derive, sending_key, spi
from agent.dataplane.linux.encryption.wireguard import load_key, public_key_of
from swarmpy.errors import Unavailable
from swarmpy.model.ids import NodeId, Timestamp
from swarmpy.model.objects import NetworkKey

SECRET = bytes(32)
ONE, TWO = Party("one", 1, "a"), Party("two", 2, "b")

abilities = st.lists(st.sampled_from([*ways.WAYS, ways.USERSPACE_LARGE, "unheard-of"]), unique=True)


@given(abilities, abilities)
def test_both_ends_choose_the_same_way(one: list[str], two: list[str]) -> None:
    way = ways.choose(one, two)

    assert way == ways.choose(reversed(two), reversed(one))
    assert (way in one and way in two and way in ways.WAYS) or not set(one) & set(two) & set(ways.WAYS)


def test_the_best_that_both_have() -> None:
    assert ways.choose(ways.WAYS, ways.WAYS) == ways.ESP
    assert ways.choose((ways.ESP, ways.USERSPACE), (ways.WIREGUARD, ways.USERSPACE)) == ways.USERSPACE
    assert ways.choose((ways.ESP,), (ways.USERSPACE,)) == ""


def peer(name: str, addr: str, *encryption: str) -> Peer:
    return Peer(node_id=NodeId(name), addr=addr, encryption=encryption)


def test_peers_by_way() -> None:
    own = peer("own", "192.0.2.1", ways.ESP)
    peers = [
        own,
        peer("a", "192.0.2.2", ways.ESP, ways.USERSPACE),
        peer("b", "192.0.2.3", ways.USERSPACE),
        peer("mute", "192.0.2.4"),
        peer("far", "2001:db8::1", ways.ESP),
        peer("nowhere", "", ways.ESP),
        peer("twin", "192.0.2.1", ways.ESP),
    ]
    pairs = ways.pair_up(own, {each.node_id: each for each in peers}, (ways.ESP, ways.USERSPACE))

    assert {way: [each.node_id for each in found] for way, found in pairs.items()} == {
        ways.ESP: ["a"],
        ways.WIREGUARD: [],
        ways.USERSPACE: ["b"],
    }


def test_ports_follow_the_data_path_port() -> None:
    assert ways.ports_of(NodeState()) == ways.Ports(secure=4790, wireguard=4791, userspace=4792)
    assert ways.ports_of(NodeState(data_path_port=7000)).secure == 7001


# --- keys


def test_a_key_is_hkdf_of_all_that_it_depends_on() -> None:
    """Computed here by RFC 5869, with nothing but HMAC."""
    parts = [b"swarmpy network key 1", b"esp", b"one", b"a", b"two", b"b"]
    info = b"".join(len(part).to_bytes(2, "big") + part for part in parts)
    pseudo = hmac.new(bytes(32), SECRET, hashlib.sha256).digest()
    first = hmac.new(pseudo, info + b"\1", hashlib.sha256).digest()
    second = hmac.new(pseudo, first + info + b"\2", hashlib.sha256).digest()

    assert derive(SECRET, ONE, TWO, purpose="esp", size=36) == (first + second)[:36]


@pytest.mark.parametrize(
    ("secret", "sender", "receiver", "purpose"),
    [
        (b"x" * 32, ONE, TWO, "esp"),
        (SECRET, TWO, ONE, "esp"),
        (SECRET, ONE._replace(epoch="z"), TWO, "esp"),
        (SECRET, ONE, TWO._replace(epoch="z"), "esp"),
        (SECRET, ONE, TWO._replace(node_id="other"), "esp"),
        (SECRET, ONE._replace(node_id="onea", epoch=""), TWO, "esp"),
        (SECRET, ONE, TWO, "userspace"),
    ],
)
def test_every_part_makes_another_key(secret: bytes, sender: Party, receiver: Party, purpose: str) -> None:
    usual = derive(SECRET, ONE, TWO, purpose="esp", size=36)

    assert derive(secret, sender, receiver, purpose=purpose, size=36) != usual


@given(st.integers(0, 10**6), st.integers(1, (1 << 24) - 1))
def test_indexes_are_32_bit_and_not_reserved(tag: int, number: int) -> None:
    assert 256 <= spi(tag, number) < 1 << 32
    assert spi(tag, number) != spi(tag + 1, number)


def test_the_second_newest_is_sent_with() -> None:
    keys = tuple(NetworkKey(tag=tag, secret=SECRET, created_at=Timestamp(0)) for tag in (5, 4, 3))

    assert sending_key(keys) == keys[1]
    assert sending_key(keys[:1]) == keys[0]
    assert sending_key(()) is None


# --- epochs


def fresh_epoch(path: Path) -> Epoch:
    epoch = Epoch(path)
    epoch.load()
    return epoch


def test_an_epoch_outlives_the_daemon(tmp_path: Path) -> None:
    first = fresh_epoch(tmp_path / "epoch.json")
    first.use([(3, b"key")])
    second = fresh_epoch(tmp_path / "epoch.json")

    assert second.name == first.name
    assert second.was_used([(3, b"key")])
    assert not second.was_used([(3, b"other"), (4, b"key")])


def test_another_epoch_knows_no_keys(tmp_path: Path) -> None:
    epoch = fresh_epoch(tmp_path / "epoch.json")
    epoch.use([(3, b"key")])
    name = epoch.name
    epoch.end()

    assert epoch.name != name
    assert not epoch.was_used([(3, b"key")])


def test_another_boot_is_another_epoch(tmp_path: Path) -> None:
    path = tmp_path / "epoch.json"
    name = fresh_epoch(path).name
    ledger = json.loads(path.read_bytes())
    path.write_text(json.dumps({**ledger, "Place": "another"}))
    assert "Place" in ledger

    assert fresh_epoch(path).name != name


@pytest.mark.parametrize("content", [b"", b"{", b'{"used": 3}', b"\xff"])
def test_a_spoilt_ledger_is_another_epoch(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "epoch.json"
    name = fresh_epoch(path).name
    path.write_bytes(content)

    assert fresh_epoch(path).name not in ("", name)


def test_keys_of_secrets_that_are_gone_are_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "epoch.json"
    epoch = fresh_epoch(path)
    epoch.use([(3, b"key"), (4, b"key")])
    epoch.forget_before(4)

    assert not fresh_epoch(path).was_used([(3, b"key")])
    assert fresh_epoch(path).was_used([(4, b"key")])


def test_no_key_is_written_down(tmp_path: Path) -> None:
    epoch = fresh_epoch(tmp_path / "epoch.json")
    epoch.use([(3, b"KEYKEYKEY")])

    written = (tmp_path / "epoch.json").read_bytes()
    assert b"KEYKEYKEY" not in written
    assert b"KEYKEYKEY".hex().encode() not in written


def test_what_cannot_be_written_down_is_not_used(tmp_path: Path) -> None:
    epoch = fresh_epoch(tmp_path / "folder" / "epoch.json")
    for each in (tmp_path / "folder").iterdir():
        each.unlink()
    (tmp_path / "folder").rmdir()
    (tmp_path / "folder").write_text("in the way")

    with pytest.raises(Unavailable, match="free some space"):
        epoch.use([(3, b"key")])
    assert not epoch.was_used([(3, b"key")])


# --- WireGuard's own key


def test_a_nodes_key_is_made_once_and_is_secret(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "wireguard.key"
    key = load_key(path)

    assert load_key(path) == key
    assert path.stat().st_mode & 0o777 == 0o600
    assert public_key_of(key) != key
