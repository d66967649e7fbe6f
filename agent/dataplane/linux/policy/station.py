"""One namespace in which endpoints have their policies enforced: its table, and the caps on its links.

What stands is asked for once, when it first matters; then it is remembered, until ``mend`` asks again.
"""

from __future__ import annotations

import errno
import re
from typing import Final

from agent.dataplane.base import Policy
from agent.dataplane.linux import netlink
from agent.dataplane.linux.nftables import NftError
from agent.dataplane.linux.part import Space
from agent.dataplane.linux.policy import rules, shaping
from swarmpy.errors import Unavailable
from swarmpy.model.endpoint_policy import IN, OUT, Rule

_ABSENT: Final = frozenset({errno.ENOENT, errno.EINVAL, errno.ENODEV, errno.EOPNOTSUPP})
_THERE: Final = frozenset({errno.EEXIST})
_PORT: Final = re.compile(r'"([^"]+)" : goto')
IFB_PREFIX: Final = "i-"


class Station:
    """``is_own``: the namespace is the endpoint's own, so that its link leads the other way round."""

    def __init__(self, space: Space, *, is_own: bool) -> None:
        self.space = space
        self._family = rules.OWN_FAMILY if is_own else rules.BRIDGE_FAMILY
        self._is_own = is_own
        self._known: dict[str, tuple[Rule, ...]] | None = None
        """By port its rules; None: nobody has looked yet what there is."""
        self._left: set[str] = set()
        """Ports whose chains a former life has made, and that nobody has claimed yet."""
        self._shown: tuple[str, ...] = ()
        """How the kernel showed the whole when it was found sound last; empty after a change."""
        self._capped: dict[str, Policy] = {}

    # --- access lists

    def put_rules(self, port: str, wanted: tuple[Rule, ...]) -> None:
        known = self._survey()
        is_there = port in known or port in self._left
        if known.get(port, ()) == wanted and port not in self._left:
            return
        if not wanted:
            self._run(rules.remove(self._family, port))
            known.pop(port, None)
        elif port in self._left and self._is_as(port, wanted):
            known[port] = wanted
        else:
            text = rules.put(self._family, port, wanted, is_there=is_there)
            self._run(text if known or self._left else rules.frame(self._family) + text)
            known[port] = wanted
        self._left.discard(port)

    def _survey(self) -> dict[str, tuple[Rule, ...]]:
        """What there is: from memory, or from the kernel the first time."""
        if self._known is None:
            self._known = {}
            try:
                _, *maps = self._show()
                ports = [set(_PORT.findall(shown)) for shown in maps]
                is_whole = ports[0] == ports[1]
            except NftError:
                is_whole = False
            if is_whole:
                self._left = ports[0]
            else:
                self._clear()
        return self._known

    def _is_as(self, port: str, wanted: tuple[Rule, ...]) -> bool:
        """Whether chains of a former life are those of these rules, as far as can be seen."""
        return rules.is_sound_at(rules.chains_of(self._show()[0]), port, wanted)

    def _show(self) -> tuple[str, ...]:
        """The table without its notes, and the two maps of ports."""
        base = f"{self._family} {rules.TABLE}"
        maps = (self.space.nft.run(f"list map {base} ports_{direction}") for direction in (IN, OUT))
        return self.space.nft.show(f"list table {base}"), *maps

    def _clear(self) -> None:
        """What is there is not whole: away with it, before it is made anew."""
        self._known, self._left = {}, set()
        self._run(f"add table {self._family} {rules.TABLE}\ndelete table {self._family} {rules.TABLE}\n")

    def mend_rules(self) -> None:
        """Damage is made good at once: in one transaction, so that there is no moment without rules."""
        known = self._known
        if not known or self._is_sound(known):
            return
        base = f"{self._family} {rules.TABLE}"
        text = f"add table {base}\ndelete table {base}\n" + rules.frame(self._family)
        for port, wanted in sorted(known.items()):
            text += rules.put(self._family, port, wanted, is_there=False)
        self._left = set()
        self._run(text)

    def _is_sound(self, known: dict[str, tuple[Rule, ...]]) -> bool:
        try:
            shown = self._show()
        except NftError:
            return False  # something of it is missing
        if shown == self._shown:
            return True
        if self._shown:
            return False  # it was sound, and nobody here has changed it since
        table, *maps = shown
        if not rules.is_sound(rules.chains_of(table), known):
            return False
        if any(not known.keys() <= set(_PORT.findall(each)) for each in maps):
            return False
        self._shown = shown
        return True

    def _run(self, commands: str) -> str:
        self._shown = ()
        try:
            return self.space.nft.run(commands)
        except NftError as error:
            self._known = None
            raise Unavailable(f"nftables refused rules of a network policy: {error}") from None

    # --- caps

    def put_caps(self, port: str, policy: Policy, *, is_new: bool) -> None:
        """``is_new``: nothing is known of what is on the port."""
        former = self._capped.get(port)
        if former is None and not is_new and not (policy.rate_in_bps or policy.rate_out_bps):
            return
        leaving, arriving = policy.rate_in_bps, policy.rate_out_bps
        if self._is_own:
            leaving, arriving = arriving, leaving
        links = self.space.netlink
        link = links.link(port)
        if link is None:
            raise OSError(errno.ENODEV, f"{port} of a task is gone")
        if leaving:
            links.do(shaping.set_bucket(link.index, rate_bps=leaving, mtu=link.mtu))
        else:
            links.do(shaping.delete_bucket(link.index), accept=_ABSENT)
        if arriving:
            self._cap_arrivals(link, arriving)
        else:
            self._uncap_arrivals(link)
        if leaving or arriving:
            self._capped[port] = policy
        else:
            self._capped.pop(port, None)

    def _cap_arrivals(self, link: netlink.Link, rate_bps: int) -> None:
        links, name = self.space.netlink, ifb_name(link.name)
        if links.link(name) is None:
            # a filter that leads to one that is gone would drop all
            links.do(shaping.delete_entrance(link.index), accept=_ABSENT)
            links.do(shaping.add_ifb(name), netlink.no_link_local(name))
        device = links.link(name)
        assert device is not None, "it was made a moment ago"
        links.do(shaping.set_bucket(device.index, rate_bps=rate_bps, mtu=link.mtu))
        links.do(netlink.set_up(device.index))
        links.do(
            shaping.add_entrance(link.index),
            shaping.lead_through(link.index, target=device.index),
            accept=_THERE,
        )

    def _uncap_arrivals(self, link: netlink.Link) -> None:
        links = self.space.netlink
        links.do(shaping.delete_entrance(link.index), accept=_ABSENT)
        links.do(netlink.delete_link(ifb_name(link.name)), accept=_ABSENT)

    def mend_caps(self) -> None:
        """Set again: what stands is changed into itself."""
        for port, policy in sorted(self._capped.items()):
            if self.space.netlink.link(port) is not None:  # else its task is attached anew, with all this
                self.put_caps(port, policy, is_new=False)

    def forget(self, port: str) -> None:
        """The port is about to go, and what hangs on it with it."""
        if self._known and port in self._known:
            self.put_rules(port, ())
        if self._capped.pop(port, None) is not None:
            self.space.netlink.do(netlink.delete_link(ifb_name(port)), accept=_ABSENT)


def ifb_name(port: str) -> str:
    return IFB_PREFIX + port.removeprefix("p-")
