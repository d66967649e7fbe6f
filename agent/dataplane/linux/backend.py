"""``LinuxBackend``: the node-local network. One bridge, NAT to the outside, host-mode published ports.

A task's endpoint is: a record on disk, a namespace kept at ``<run_dir>/netns/<task>``, a veth pair made
straight into it, an address, and the files for its /etc. The record is written first and removed last, so
whatever a crash leaves is either recorded, and then mended or taken down, or carries our name without a
record, and is then removed at start.

All kernel work runs in one thread, in order, so no two endpoints ever race for an address or a port. The
overlay's parts come beside this one, not into it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path
from typing import TypeVar

import msgspec

from agent.dataplane.base import BackendCapabilities, Endpoint, NodeState
from agent.dataplane.linux import namespaces, netlink, plan, preflight
from agent.dataplane.linux.netlink import Netlink
from agent.dataplane.linux.nftables import Nftables, NftError
from agent.dataplane.linux.ports import PortReservations
from agent.executor.base import Sandbox
from swarmpy.errors import InvalidArgument, SwarmError, TaskRejected, Unavailable
from swarmpy.model.ids import NetworkId, TaskId

T = TypeVar("T")

_LOOPBACK_INDEX = 1
_GONE = frozenset({errno.ENODEV})
_THERE = frozenset({errno.EEXIST})
_RESOLVER_FILES = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))


class EndpointRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What was given to a task, as it stands on disk."""

    endpoint: Endpoint
    address: str

    @property
    def ip(self) -> IPv4Address:
        return IPv4Interface(self.address).ip


class LinuxBackend:
    """One per node. ``run_dir`` must not outlive a boot: /run is where it belongs."""

    name = "linux"

    def __init__(self, *, run_dir: Path = Path("/run/swarmpy"), subnet: str = "") -> None:
        self._netns_dir = run_dir / "netns"
        self._records_dir = run_dir / "network"
        try:
            self._wanted_subnet = str(IPv4Network(subnet)) if subnet else ""
        except ValueError as error:
            raise InvalidArgument(f'"{subnet}" is no subnet for the node\'s tasks: {error}') from None
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="dataplane")
        self._records: dict[TaskId, EndpointRecord] = {}
        self._reserved = PortReservations()
        self._ports: Netlink | None = None
        """A socket in the bridge's namespace, where the host's ends of all legs are."""
        self._nft: Nftables | None = None
        self._subnet = IPv4Network("0.0.0.0/0")
        self._addresses = plan.AddressPool(self._subnet)
        self._doomed: deque[TaskId] = deque()
        self._doomed_failed: set[TaskId] = set()

    @property
    def netns_dir(self) -> Path:
        """Where namespaces are kept; an executor hides it from its tasks."""
        return self._netns_dir

    # --- life

    async def start_up(self) -> None:
        await self._run(self._start_up)

    async def shut_down(self) -> None:
        await self._run(self._let_go)
        self._pool.shutdown(wait=True)

    async def probe(self) -> BackendCapabilities:
        missing = await self._run(preflight.find_missing)
        return BackendCapabilities(name=self.name, is_usable=not missing, missing=missing)

    async def destroy(self) -> None:
        await self._run(self._destroy)

    def _start_up(self) -> None:
        if self._nft is None:
            self._nft = Nftables()
        self._records_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
        namespaces.prepare_folder(self._netns_dir)
        self._let_go_of_ports()
        with Netlink() as node:
            try:
                self._ports = self._make_gateway(node)
            except OSError as error:
                raise Unavailable(f"cannot make the node's gateway for tasks: {error}") from None
        self._read_records()
        self._collect_leftovers(self._ports)
        self._load_rules()
        for task_id, record in sorted(self._records.items()):
            self._reserved.take_back(task_id, record.endpoint.host_ports)

    def _let_go(self) -> None:
        self._reserved.close()
        self._let_go_of_ports()
        if self._nft is not None:
            self._nft.close()
            self._nft = None

    def _let_go_of_ports(self) -> None:
        if self._ports is not None:
            self._ports.close()
            self._ports = None

    def _destroy(self) -> None:
        """Everything with our names, whether recorded or not."""
        self._start_up()
        self._detach(list(self._records))
        with Netlink() as node:
            node.do(netlink.delete_link(plan.GATEWAY_LINK), accept=_GONE)
        self._let_go_of_ports()
        namespaces.remove(self._netns_dir / plan.GATEWAY_NETNS)
        self._rules(f"add table ip {plan.TABLE}\ndelete table ip {plan.TABLE}\n")
        namespaces.remove_folder(self._netns_dir)
        shutil.rmtree(self._records_dir, ignore_errors=True)

    # --- endpoints

    async def apply(self, state: NodeState) -> None:
        surplus = sorted(set(self._records) - set(state.endpoints))
        await self._run(partial(self._detach, surplus))
        for endpoint in state.endpoints.values():
            await self.attach(endpoint)

    async def cut(self, addresses: Mapping[NetworkId, tuple[str, ...]]) -> None:
        pass  # tasks have no connections to other nodes' tasks but through published ports

    async def attach(self, endpoint: Endpoint) -> Sandbox:
        return await self._run(partial(self._attach, endpoint))

    async def detach(self, task_id: TaskId) -> None:
        """Calls that come while the kernel is busy with one are carried out together after it."""
        self._doomed.append(task_id)
        await self._run(self._detach_doomed)
        if task_id in self._doomed_failed:
            self._doomed_failed.discard(task_id)
            raise Unavailable(f"the network of task {task_id} could not be removed yet")

    def _detach_doomed(self) -> None:
        doomed: list[TaskId] = []
        while self._doomed:
            doomed.append(self._doomed.popleft())
        self._doomed_failed.difference_update(doomed)
        try:
            self._detach(doomed)
        except SwarmError:
            self._doomed_failed.update(doomed)
            raise

    async def list(self) -> tuple[TaskId, ...]:
        return tuple(sorted(self._records))

    def _attach(self, endpoint: Endpoint) -> Sandbox:
        task_id = endpoint.task_id
        if not task_id or "/" in task_id or task_id.startswith("."):
            raise TaskRejected(f"{task_id!r} is no task id")
        former = self._records.get(task_id)
        if former is not None and former.endpoint.host_ports == endpoint.host_ports and self._stands(former):
            if former.endpoint != endpoint:
                self._write_record(EndpointRecord(endpoint=endpoint, address=former.address))
            return self._sandbox(self._records[task_id])
        if former is not None:
            self._unplug([former])
            self._reserved.release(task_id)
        self._reserved.reserve(task_id, endpoint.host_ports)
        try:
            ip = former.ip if former is not None else self._addresses.take()
            self._addresses.claim(ip)
            record = EndpointRecord(endpoint=endpoint, address=f"{ip}/{self._subnet.prefixlen}")
            self._write_record(record)
            self._build(record)
        except (OSError, SwarmError, NftError) as error:
            self._detach([task_id])
            if isinstance(error, SwarmError):
                raise
            raise Unavailable(f"cannot make the network of task {task_id}: {error}") from error
        return self._sandbox(record)

    def _build(self, record: EndpointRecord) -> None:
        """Namespace, pair, address, ports. A namespace that stands is kept: a task may be running in it."""
        task_id = record.endpoint.task_id
        path, name = self._netns_dir / task_id, plan.port_name(task_id)
        if not namespaces.is_live(path):
            path.unlink(missing_ok=True)
        with namespaces.enter(path) if namespaces.is_live(path) else namespaces.make(path) as inside:
            with open(path, "rb") as netns:
                mac = plan.endpoint_mac(record.ip)
                peer = netlink.Peer(plan.TASK_LINK, mac, netns.fileno())
                pair = netlink.add_veth(name, master=plan.BRIDGE_INDEX, peer=peer)
                outside = self._links()
                if outside.batch([pair])[0] == errno.EEXIST:
                    inside.do(netlink.delete_link(plan.TASK_LINK), accept=_GONE)
                    outside.do(netlink.delete_link(name), pair, accept=_GONE)
                elif outside.link(name) is None:
                    outside.do(pair)  # again, for its error
            leg = inside.link(plan.TASK_LINK)
            assert leg is not None, "the pair was made a moment ago"
            inside.do(
                netlink.set_up(_LOOPBACK_INDEX),
                netlink.add_address(leg.index, IPv4Interface(record.address)),
                netlink.set_up(leg.index),
                netlink.add_default_route(leg.index, plan.gateway_of(self._subnet).ip),
            )
            outside.do(netlink.tune_port(name), netlink.set_up_by_name(name))
        ports = [port for port in record.endpoint.host_ports if plan.is_port_forwardable(port)]
        if ports:
            self._rules("".join(plan.add_port(record.ip, port) for port in ports))

    def _detach(self, task_ids: Iterable[TaskId]) -> None:
        records = [self._records[task_id] for task_id in dict.fromkeys(task_ids) if task_id in self._records]
        self._unplug(records)
        for record in records:
            task_id = record.endpoint.task_id
            namespaces.remove(self._netns_dir / task_id)
            self._reserved.release(task_id)
            shutil.rmtree(self._records_dir / task_id, ignore_errors=True)
            self._addresses.release(record.ip)
            del self._records[task_id]

    def _unplug(self, records: Sequence[EndpointRecord]) -> None:
        """Ports and legs; those that are not there are fine. Namespaces stay."""
        for port in (port for record in records for port in record.endpoint.host_ports):
            with contextlib.suppress(NftError):  # it had not come so far
                self._nft_context().run(plan.delete_port(port))
        names = [plan.port_name(record.endpoint.task_id) for record in records]
        marks = [netlink.mark_group(name, plan.DOOMED_GROUP) for name in names]
        try:
            self._links().do(*marks, netlink.delete_group(plan.DOOMED_GROUP), accept=_GONE)
        except OSError as error:
            raise Unavailable(f"cannot take down networks of tasks: {error}") from None

    def _stands(self, record: EndpointRecord) -> bool:
        """Whether the kernel still has all of it, as far as an outsider can break it."""
        task_id = record.endpoint.task_id
        link = self._links().link(plan.port_name(task_id))
        return (
            link is not None
            and link.is_up
            and link.master == plan.BRIDGE_INDEX
            and namespaces.is_live(self._netns_dir / task_id)
        )

    def _sandbox(self, record: EndpointRecord) -> Sandbox:
        task_id = record.endpoint.task_id
        folder = self._records_dir / task_id
        return Sandbox(
            netns=str(self._netns_dir / task_id),
            addresses=(record.address,),
            resolv_conf=str(folder / "resolv.conf"),
            hosts=str(folder / "hosts"),
        )

    # --- records

    def _write_record(self, record: EndpointRecord) -> None:
        """The files first and in place (a running task has them mounted), the record as the seal.

        A record that was cut off in the middle does not read, and counts as none.
        """
        endpoint = record.endpoint
        folder = self._records_dir / endpoint.task_id
        folder.mkdir(mode=0o755, exist_ok=True)
        _write(f"{folder}/hosts", plan.hosts_file(endpoint, record.ip).encode())
        _write(f"{folder}/resolv.conf", plan.resolv_conf(endpoint, _resolver_texts()).encode())
        _write(f"{folder}/endpoint.json", msgspec.json.encode(record))
        self._records[endpoint.task_id] = record

    def _read_records(self) -> None:
        """Those with a living namespace; the others' tasks are gone with it."""
        self._records = {}
        self._addresses = plan.AddressPool(self._subnet)
        for folder in sorted(self._records_dir.iterdir()):
            try:
                raw = (folder / "endpoint.json").read_bytes()
                record = msgspec.json.decode(raw, type=EndpointRecord)
            except (FileNotFoundError, msgspec.DecodeError):
                shutil.rmtree(folder)
                continue
            if namespaces.is_live(self._netns_dir / folder.name) and record.ip in self._subnet:
                self._records[record.endpoint.task_id] = record
                self._addresses.claim(record.ip)
            else:
                shutil.rmtree(folder)

    def _collect_leftovers(self, links: Netlink) -> None:
        for path in list(self._netns_dir.iterdir()):
            if path.name not in self._records and path.name != plan.GATEWAY_NETNS:
                namespaces.remove(path)
        known = {plan.port_name(task_id) for task_id in self._records}
        stray = [
            link.name
            for link in links.links()
            if link.name.startswith(plan.PORT_PREFIX) and link.name not in known
        ]
        links.do(*(netlink.delete_link(name) for name in stray), accept=_GONE)

    # --- the node-wide parts

    def _make_gateway(self, node: Netlink) -> Netlink:
        """The bridge's namespace, the bridge, and the cable to the node. A socket in that namespace.

        A gateway that stands keeps its subnet: tasks are using it.
        """
        path = self._netns_dir / plan.GATEWAY_NETNS
        gateway = self._choose_gateway(node)
        self._subnet = gateway.network
        if namespaces.is_live(path) and node.link(plan.GATEWAY_LINK) is not None:
            ports = namespaces.enter(path)
        else:
            # whatever a crash left of it: made anew, and the tasks' legs with it
            node.do(netlink.delete_link(plan.GATEWAY_LINK), accept=_GONE)
            namespaces.remove(path)
            ports = namespaces.make(path)
        mac = plan.endpoint_mac(gateway.ip)
        bridge = netlink.add_bridge(plan.BRIDGE, number=plan.BRIDGE_INDEX)
        ports.do(bridge, netlink.set_up(plan.BRIDGE_INDEX), accept=_THERE)
        with open(path, "rb") as netns:
            peer = netlink.Peer(plan.UPLINK, "", netns.fileno())
            node.do(netlink.add_veth(plan.GATEWAY_LINK, peer=peer, mac=mac), accept=_THERE)
        ports.do(netlink.set_master(plan.UPLINK, plan.BRIDGE_INDEX), netlink.set_up_by_name(plan.UPLINK))
        link = node.link(plan.GATEWAY_LINK)
        assert link is not None, "the link was made a moment ago"
        node.do(
            netlink.no_link_local(plan.GATEWAY_LINK),
            netlink.add_address(link.index, gateway),
            netlink.set_up(link.index),
        )
        _set("net/ipv4/ip_forward", "1")
        _set(f"net/ipv4/conf/{plan.GATEWAY_LINK}/route_localnet", "1")
        return ports

    def _choose_gateway(self, node: Netlink) -> IPv4Interface:
        link = node.link(plan.GATEWAY_LINK)
        present = node.addresses()
        own = [address for index, address in present if link is not None and index == link.index]
        if own and self._wanted_subnet in ("", str(own[0].network)):
            return own[0]
        taken = [address.network for _, address in present] + [network for _, network in node.routes()]
        if link is not None:
            node.do(netlink.delete_link(plan.GATEWAY_LINK), accept=_GONE)
        return plan.gateway_of(plan.choose_subnet(self._wanted_subnet, taken))

    def _load_rules(self) -> None:
        ports = [
            (record.ip, port)
            for record in self._records.values()
            for port in record.endpoint.host_ports
            if plan.is_port_forwardable(port)
        ]
        self._rules(plan.ruleset(self._subnet, ports))

    # --- small things

    def _links(self) -> Netlink:
        assert self._ports is not None, "the backend was not started"
        return self._ports

    def _nft_context(self) -> Nftables:
        assert self._nft is not None, "the backend was not started"
        return self._nft

    def _rules(self, commands: str) -> None:
        try:
            self._nft_context().run(commands)
        except NftError as error:
            raise Unavailable(f"nftables refused the node's rules: {error}") from None

    async def _run(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)


def _write(path: str, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)


def _resolver_texts() -> list[str]:
    found = []
    for path in _RESOLVER_FILES:
        with contextlib.suppress(OSError):
            found.append(path.read_text(errors="replace"))
    return found


def _set(name: str, value: str) -> None:
    path = Path("/proc/sys") / name
    try:
        if path.read_text().strip() != value:
            path.write_text(value)
    except OSError as error:
        raise Unavailable(f"cannot set {path} to {value}: {error.strerror}") from None
