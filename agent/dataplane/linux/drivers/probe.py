"""Which network drivers work on this node: tried in a scratch namespace."""

from __future__ import annotations

from agent.dataplane.linux import namespaces, netlink
from agent.dataplane.linux.drivers import links
from agent.dataplane.linux.netlink import Netlink

ALWAYS = ("bridge", "host", "nat", "none")
ON_MACVLAN = ("l2bridge", "l2tunnel", "macvlan", "transparent")
ON_IPVLAN = ("ipvlan",)


def find_drivers() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Those that work, sorted, but for overlay; and sentences for what the others lack. Call it in a thread
    that may change its namespace, of a node that has what all networks need.
    """
    found, lacking = list(ALWAYS), []
    with namespaces.scratch(), Netlink() as own, open("/proc/thread-self/ns/net", "rb") as netns:
        own.do(netlink.add_veth("parent", peer=netlink.Peer("far", "", netns.fileno())))
        parent = own.link("parent")
        assert parent is not None, "it was made a moment ago"
        fd = netns.fileno()
        macvlan = links.add_macvlan("tried", parent=parent.index, mode="bridge", mac="", netns_fd=fd)
        ipvlan = links.add_ipvlan("tried", parent=parent.index, netns_fd=fd)
        for name, message, drivers in (("macvlan", macvlan, ON_MACVLAN), ("ipvlan", ipvlan, ON_IPVLAN)):
            error = own.batch([message])[0]
            if error:
                lacking.append(
                    f"The kernel makes no {name} devices (load the module {name}), so networks of the driver"
                    f"{'s' if len(drivers) > 1 else ''} {', '.join(drivers)} are not for this node."
                )
            else:
                found += drivers
                own.do(netlink.delete_link("tried"))  # a parent is of one kind at a time
    return tuple(sorted(found)), tuple(lacking)
