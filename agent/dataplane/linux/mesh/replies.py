"""The way back: what the namespace of a task needs so that its answers leave by the right node.

Before the task's first packet come tables, settings and the rule; routes need links that are up, and come
after. All of it is made again by each call, unless it stands.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from ipaddress import ip_address, ip_interface

from agent.dataplane.base import Endpoint, Leg
from agent.dataplane.linux import plan
from agent.dataplane.linux.mesh import messages, task_rules
from agent.dataplane.linux.mesh.messages import Address
from agent.dataplane.linux.mesh.names import (
    HOP4,
    HOP6,
    LAST_RESORT_METRIC,
    MARK,
    MARK_MASK,
    ROUTES,
    TABLE,
    version_of,
)
from agent.dataplane.linux.mesh.task_rules import TaskLeg
from agent.dataplane.linux.neighbours import set_neighbour
from agent.dataplane.linux.nftables import NftError
from agent.dataplane.linux.part import Space
from agent.dataplane.linux.tables import NETDEV, Outline, Table
from swarmpy.errors import Unavailable

_TABLE = Table(TABLE, ())
_THERE = frozenset({errno.EEXIST})
_HOPS: dict[int, Address] = {4: HOP4, 6: HOP6}
_MAIN_TABLE = 254


def ingress_leg(endpoint: Endpoint) -> Leg | None:
    return next((leg for leg in endpoint.legs if leg.network.is_ingress), None)


class Replies:
    """Of one task. ``gateways``: MAC to mark; must not change afterwards."""

    def __init__(self, endpoint: Endpoint, leg: Leg, space: Space) -> None:
        self._endpoint, self._leg, self._space = endpoint, leg, space
        self._gateways: Mapping[str, int] = {}
        self._loaded: TaskLeg | None = None
        self._outline: Outline = ()

    def is_for(self, endpoint: Endpoint, space: Space) -> bool:
        """Whether what depends on the task's legs holds for these."""
        return (
            self._space is space
            and self._leg == ingress_leg(endpoint)
            and plan.node_link(self._endpoint) == plan.node_link(endpoint)
        )

    def prepare(self, gateways: Mapping[str, int], *, has_egress: bool) -> None:
        """Everything but routes. What stands as it should is left alone, so that no packet meets a gap."""
        space, wished = self._space, self._describe()
        try:
            if self._loaded != wished or self._outline != self._read_outline():
                self._load(wished, gateways, has_egress=has_egress)
            else:
                self.follow(gateways, has_egress=has_egress)
            for version in self._versions():
                rule = messages.add_mark_rule(version, MARK, MARK_MASK, table=ROUTES)
                space.netlink.do(rule, accept=_THERE)
        except (NftError, OSError) as error:
            raise Unavailable(
                f"cannot prepare task {self._endpoint.task_id} for published ports: {error}"
            ) from None

    def _load(self, wished: TaskLeg, gateways: Mapping[str, int], *, has_egress: bool) -> None:
        for name, value in (
            (f"ipv4/conf/{wished.link}/rp_filter", "2"),
            ("ipv4/conf/all/src_valid_mark", "1"),
            ("ipv4/tcp_fwmark_accept", "1"),
        ):
            self._space.set(name, value)
        self._space.nft.run(task_rules.ruleset(wished, gateways, has_egress=has_egress))
        self._loaded, self._gateways = wished, gateways
        self._outline = self._read_outline()

    def settle(self, gateways: Mapping[str, int], *, has_egress: bool) -> None:
        """Routes, and what follows from addresses that were not there before."""
        if self._loaded != self._describe():
            self.prepare(gateways, has_egress=has_egress)
        space, mac = self._space, f"02:42:{ip_address(self._address()).packed[-4]:02x}:00:00:00"
        try:
            link = space.netlink.link(self._leg.link)
            if link is None or not link.is_up:
                raise Unavailable(
                    f"the leg of task {self._endpoint.task_id} in the ingress network is not up"
                )
            for version in self._versions():
                hop = _HOPS[version]
                space.netlink.do(
                    set_neighbour(link.index, str(hop), mac),
                    messages.add_default_route(link.index, hop, table=ROUTES),
                )
            if 6 in self._versions():
                last_resort = messages.add_default_route(
                    link.index, HOP6, table=_MAIN_TABLE, metric=LAST_RESORT_METRIC
                )
                space.netlink.do(last_resort)
        except OSError as error:
            raise Unavailable(f"cannot route answers of task {self._endpoint.task_id}: {error}") from None

    def follow(self, gateways: Mapping[str, int], *, has_egress: bool) -> None:
        """Nodes have come or gone."""
        commands = task_rules.change(self._gateways, gateways, has_egress=has_egress)
        if commands:
            try:
                self._space.nft.run(commands)
            except NftError:
                self._loaded = None  # somebody was here: all anew
                self.prepare(gateways, has_egress=has_egress)
        self._gateways = gateways

    def _describe(self) -> TaskLeg:
        way_out = plan.node_link(self._endpoint)
        outward = self._space.netlink.link(way_out)
        found = [
            str(address.ip)
            for index, address in self._space.netlink.addresses()
            if outward is not None and index == outward.index
        ]
        inward = [str(ip_interface(each).network) for each in self._leg.addresses]
        return TaskLeg(self._leg.link, tuple(inward), way_out, found[0] if found else "")

    def _read_outline(self) -> Outline:
        wire = self._space.wire
        return _TABLE.outline(wire) + _TABLE.outline(wire, family=NETDEV)

    def _address(self) -> str:
        return self._leg.addresses[0].partition("/")[0]

    def _versions(self) -> tuple[int, ...]:
        return tuple(sorted({version_of(address) for address in self._leg.addresses}))
