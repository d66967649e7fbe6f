"""What runs in the virtual machine: encrypted networks on a kernel that has IPsec and WireGuard.

Every case is a function that returns facts; the tests judge them. A case that fails says so in its facts.
"""

from __future__ import annotations

import select
import socket
import struct
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from encryption_rig import (
    PATTERN,
    SECURE_PORT,
    VNI,
    SecureHost,
    SecureRig,
    add_vxlan,
    inner_address,
    mac,
    node_id,
    ping,
    ring,
    secure_hosts,
)
from kernel_vm import report
from net_hosts import UPLINK, Capture, Frame, Host, Rig, run_in, send_frames, start_in, wait_until

from agent.dataplane.linux.encryption import lock
from agent.dataplane.linux.encryption.ways import ESP, USERSPACE, WIREGUARD
from agent.dataplane.linux.encryption.xfrm import Xfrm
from agent.dataplane.linux.part import Carriage

Facts = dict[str, Any]
_PLAIN_PORT = 4789
_SETTLE_S = 0.5
_INJECTIONS = 5
_ETH_P_ALL = 3
_FRAMES_BETWEEN = 20


# --- looking


def _kinds(frames: list[Frame]) -> list[str]:
    """What was on the wire between hosts, without neighbour discovery."""
    found = set()
    for frame in frames:
        if frame.protocol == socket.IPPROTO_UDP:
            found.add(f"udp {frame.ports[1]}")
        elif frame.ether_type in (0x0800, 0x86DD) and frame.protocol not in (0, 2, 58):
            found.add(f"ip {frame.protocol}")
    return sorted(found)


def _exchange(rig: Rig, source: SecureHost, target: SecureHost, *, count: int = 3) -> Facts:
    """Ping, and what was seen of it on the wire."""
    with rig.capture() as capture:
        answers = ping(source, target, count=count)
        return {
            "answers": answers,
            "kinds": _kinds(capture.frames()),
            "is_clear": capture.has(PATTERN),
        }


@contextmanager
def _counting(host: Host, link: str) -> Iterator[Callable[[], int]]:
    """How many frames with the pattern came in by a link."""
    tap = run_in(
        host.path, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
    )
    tap.bind((link, _ETH_P_ALL))
    tap.setblocking(False)
    seen: list[bytes] = []

    def count() -> int:
        """Once nothing more comes."""
        while select.select([tap], [], [], _SETTLE_S)[0]:
            data, sender = tap.recvfrom(65_536)
            if PATTERN in data and sender[2] != socket.PACKET_OUTGOING:
                seen.append(data)
        return len(seen)

    with tap:
        yield count


def _inject(source: Host, target: SecureHost, claimed: SecureHost) -> None:
    """VXLAN in the clear to the secure port, with the network's number and MACs."""
    packet = _ipv4(inner_address(claimed.host), inner_address(target.host), PATTERN)
    macs = bytes.fromhex((mac(target.host) + mac(claimed.host)).replace(":", ""))
    frame = struct.pack("!BxxxI", 8, VNI << 8) + macs + b"\x08\x00" + packet

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as raw:
            for _ in range(_INJECTIONS):
                raw.sendto(frame, (target.addr, SECURE_PORT))

    run_in(source.path, send)


def _ipv4(source: str, target: str, payload: bytes) -> bytes:
    ends = socket.inet_aton(source) + socket.inet_aton(target)
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0, 64, 253, 0) + ends
    total = sum(struct.unpack("!10H", head))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return head[:10] + struct.pack("!H", ~total & 0xFFFF) + head[12:] + payload


def _states(each: SecureHost) -> set[tuple[str, str, int, bytes]]:
    with each.host.inside(), Xfrm() as xfrm:
        return {(state.source, state.target, state.spi, state.key) for state in xfrm.states()}


def _sending(each: SecureHost) -> set[bytes]:
    return {key for source, _, _, key in _states(each) if source == each.addr}


def _statistic(each: SecureHost, name: str) -> int:
    for line in each.host.command("cat", "/proc/net/xfrm_stat").splitlines():
        if line.split()[0] == name:
            return int(line.split()[1])
    return -1


# --- IPsec


def esp_wire(rig: SecureRig) -> Facts:
    one, two, *_ = rig.hosts
    facts: Facts = {"ways": one.part.ways, "encrypted": _exchange(rig.rig, one, two)}
    for each in (one, two):
        plain = Carriage(each.addr, _PLAIN_PORT, {node_id(o.host): o.addr for o in rig.hosts}, 50)
        add_vxlan(each.host, "vxplain", plain, f"10.2.0.{each.host.number}", rig.hosts, VNI + 1)
    with rig.rig.capture() as capture:
        one.host.command("ping", "-c", "2", "-i", "0.1", "-W", "2", "-p", PATTERN.hex(), "10.2.0.2")
        facts["plain"] = {"kinds": _kinds(capture.frames()), "is_clear": capture.has(PATTERN)}
    listed = one.host.command("ip", "xfrm", "state")
    aead = [line.split() for line in listed.splitlines() if "aead" in line]
    facts["algorithms"] = sorted({(words[1], (len(words[2]) - 2) * 4, words[3]) for words in aead})
    facts["states"] = len(aead)
    facts["windows"] = sorted({line.split()[1] for line in listed.splitlines() if "replay_window" in line})
    facts["esn"] = listed.count("flag esn")
    room = str(1500 - one.carry().overhead_bytes - 28)
    facts["large"] = one.host.command(
        "ping", "-c", "1", "-W", "2", "-M", "do", "-s", room, inner_address(two.host)
    ).count("1 received")
    return facts


def esp_restart(rig: SecureRig) -> Facts:
    one, two, *_ = rig.hosts
    before, epoch = _states(one), one.part.epoch
    one.mend()
    mended = _states(one) == before
    one.stop()
    with rig.rig.capture() as capture:
        down = ping(one, two)
        is_clear = capture.has(PATTERN)
    one.start()
    rig.meet()
    return {
        "mended_same": mended,
        "same": _states(one) == before and one.part.epoch == epoch,
        "answers_while_down": down,
        "is_clear": is_clear,
        "after": _exchange(rig.rig, one, two),
    }


def esp_closed(rig: SecureRig) -> Facts:
    """Whatever is missing means silence; and what is missing comes back."""
    one, two, *_ = rig.hosts
    facts: Facts = {}
    epoch, former = one.part.epoch, _sending(one)
    for source, target, spi, _ in _states(one):
        if source == one.addr:
            words = f"xfrm state delete src {source} dst {target} proto esp spi {spi:#x}"
            one.host.command("ip", *words.split())
    facts["no_state"] = _exchange(rig.rig, one, two)
    one.mend()
    rig.meet()
    facts["epoch_ended"] = one.part.epoch != epoch
    facts["keys_reused"] = len(former & _sending(one))
    facts["state_back"] = _exchange(rig.rig, one, two)
    words = f"xfrm policy delete src {one.addr} dst {two.addr} proto udp dport {SECURE_PORT} dir out"
    one.host.command("ip", *words.split())
    facts["no_policy"] = _exchange(rig.rig, one, two)
    one.mend()
    facts["policy_back"] = _exchange(rig.rig, one, two)
    one.host.command("ip", "xfrm", "policy", "flush")
    facts["no_policies"] = _exchange(rig.rig, one, two)
    one.host.command("nft", "delete", "table", "inet", lock.TABLE)
    facts["no_lock"] = _exchange(rig.rig, one, two)
    one.mend()
    facts["all_back"] = _exchange(rig.rig, one, two)
    return facts


def esp_injection(rig: SecureRig) -> Facts:
    one, two, three = rig.hosts
    facts: Facts = {}

    def arrived() -> int:
        with _counting(two.host, "vx") as count:
            _inject(three.host, two, one)
            return count()

    three.host.command("ip", "xfrm", "policy", "flush")
    three.host.command("nft", "delete", "table", "inet", lock.TABLE)
    three.host.command("ip", "rule", "del", "pref", "5090")
    facts["locked"] = arrived()
    drop = f"xfrm policy delete src 0.0.0.0/0 dst 0.0.0.0/0 proto udp dport {SECURE_PORT} dir in"
    two.host.command("ip", *drop.split())
    facts["without_policy"] = arrived()
    two.mend()
    two.host.command("nft", "delete", "table", "inet", lock.TABLE)
    facts["without_lock"] = arrived()
    two.host.command("ip", *drop.split())
    facts["without_both"] = arrived()
    two.mend()
    facts["mended"] = arrived()
    three.mend()
    return facts


def esp_rotation(rig: SecureRig) -> Facts:
    """Two turns of the ring while packets flow; each node hears of it at its own time."""
    one, two, *_ = rig.hosts
    count = 200
    former = _sending(one)
    running = start_in(
        one.host.path, "ping", "-q", "-i", "0.03", "-c", str(count), "-W", "2", inner_address(two.host)
    )
    with rig.rig.capture(one.host, two.host) as capture:
        for newest in (4, 5):
            for each in (one, two):
                each.apply([other.peer for other in rig.hosts], ring(newest))
                enough = len(capture.frames()) + _FRAMES_BETWEEN
                wait_until(partial(_has_seen, capture, enough), "packets flow with these keys")
    said = running.communicate(timeout=60)[0].decode()
    received = next(line for line in said.splitlines() if "received" in line)
    return {
        "sent": count,
        "received": int(received.split(",")[1].split()[0]),
        "has_other_key": not former & _sending(one),
        "states": len(_states(one)),
    }


def _has_seen(capture: Capture, count: int) -> bool:
    return len(capture.frames()) >= count


def esp_replay(rig: SecureRig) -> Facts:
    """Frames of the wire, sent once more as they are."""
    one, two, *_ = rig.hosts
    with rig.rig.capture(one.host) as capture:
        answers = ping(one, two)
        frames = [frame.raw for frame in capture.frames() if frame.protocol == socket.IPPROTO_ESP]
    before = _statistic(two, "XfrmInStateSeqError")
    with _counting(two.host, "vx") as count:
        send_frames(one.host.path, UPLINK, frames)
        arrived = count()
    return {
        "answers": answers,
        "replayed": len(frames),
        "refused": _statistic(two, "XfrmInStateSeqError") - before,
        "arrived": arrived,
    }


# --- other ways


def wireguard(rig: SecureRig) -> Facts:
    one, two = rig.hosts
    facts: Facts = {"ways": one.part.ways, "encrypted": _exchange(rig.rig, one, two)}
    one.stop()
    one.start()
    rig.meet()
    facts["restarted"] = _exchange(rig.rig, one, two)
    one.host.command("ip", "link", "set", lock.WIREGUARD_LINK, "down")
    facts["link_down"] = _exchange(rig.rig, one, two)
    one.mend()
    facts["link_back"] = _exchange(rig.rig, one, two)
    one.host.command("ip", "link", "del", lock.WIREGUARD_LINK)
    facts["link_gone"] = _exchange(rig.rig, one, two)
    one.mend()
    facts["made_again"] = _exchange(rig.rig, one, two)
    one.apply([one.peer], ring())
    facts["peer_gone"] = _exchange(rig.rig, one, two)
    rig.meet()
    facts["peer_back"] = _exchange(rig.rig, one, two)
    return facts


def mixed(rig: SecureRig) -> Facts:
    """Nodes that can different things, on one network."""
    every, some, least = rig.hosts
    return {
        "esp": _exchange(rig.rig, every, some),
        "userspace": _exchange(rig.rig, every, least),
        "back": _exchange(rig.rig, least, some),
    }


def ipv6(rig: SecureRig) -> Facts:
    one, two = rig.hosts
    return _exchange(rig.rig, one, two)


_GROUPS: tuple[tuple[tuple[tuple[str, ...], ...], bool, tuple[Callable[[SecureRig], Facts], ...]], ...] = (
    (
        ((ESP,), (ESP,), (ESP,)),
        False,
        (esp_wire, esp_restart, esp_replay, esp_closed, esp_injection, esp_rotation),
    ),
    (((WIREGUARD,), (WIREGUARD,)), False, (wireguard,)),
    (((ESP, USERSPACE), (ESP, WIREGUARD, USERSPACE), (USERSPACE,)), False, (mixed,)),
    (((ESP,), (ESP,)), True, (ipv6,)),
)


def main() -> None:
    told: Facts = {}
    for ways, is_ipv6, cases in _GROUPS:
        try:
            with (
                tempfile.TemporaryDirectory() as folder,
                secure_hosts(Path(folder), *ways, is_ipv6=is_ipv6) as rig,
            ):
                for case in cases:
                    told[case.__name__] = _facts(case, rig)
        except Exception:  # noqa: BLE001 - the next group has its turn; the tests see what is missing
            told["+".join(case.__name__ for case in cases)] = {"failed": traceback.format_exc()}
    told["uptime"] = Path("/proc/uptime").read_text().split()[0]
    report(told)


def _facts(case: Callable[[SecureRig], Facts], rig: SecureRig) -> Facts:
    try:
        return case(rig)
    except Exception:  # noqa: BLE001 - told to the tests, which fail with it
        return {"failed": traceback.format_exc()}


if __name__ == "__main__":
    main()
