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
_COMMENT: Final = re.compile(r'comment "([0-9a-f]+)"')
IFB_PREFIX: Final = "i-"


class Station:
    """``is_own``: the namespace is the endpoint's own, so that its link leads the other way round."""

    def __init__(self, space: Space, *, is_own: bool) -> None:
        self.space = space
        self._family = rules.OWN_FAMILY if is_own else rules.BRIDGE_FAMILY
        self._is_own = is_own
        self._known: dict[str, tuple[Rule, ...] | None] | None = None
        """By port its rules; None: chains of a former life that nobody has claimed yet."""
        self._shown = ""
        self._capped: dict[str, Policy] = {}

    # --- access lists

    def put_rules(self, port: str, wanted: tuple[Rule, ...]) -> None:
        known = self._survey()
        if not wanted:
            if port in known:
                self._run(rules.remove(self._family, port))
                del known[port]
                self._remember()
            return
        if known.get(port) == wanted:
            return
        is_there = port in known
        if is_there and known[port] is None and self._is_of(port, wanted):
            known[port] = wanted
            return
        text = rules.put(self._family, port, wanted, is_there=is_there)
        self._run(text if known else rules.frame(self._family) + text)
        known[port] = wanted
        self._remember()

    def _survey(self) -> dict[str, tuple[Rule, ...] | None]:
        """What there is: from memory, or from the kernel the first time."""
        if self._known is None:
            self._known = {}
            try:
                self._known = dict.fromkeys(_PORT.findall(self._show()))
                self._shown = self._show()
            except NftError:
                self._clear()
        return self._known

    def _is_of(self, port: str, wanted: tuple[Rule, ...]) -> bool:
        """Whether chains of a former life are those of these rules, as far as can be seen."""
        for direction in (IN, OUT):
            shown = self.space.nft.run(f"list chain {self._family} {rules.TABLE} {direction}-{port}")
            found = _COMMENT.search(shown)
            lines = len(rules.chain_rules(wanted, direction)) + _FRAME_LINES
            if found is None or found[1] != rules.digest(wanted) or len(shown.splitlines()) != lines:
                return False
        return True

    def _remember(self) -> None:
        try:
            self._shown = self._show()
        except NftError:
            self._shown = ""  # somebody has broken it in this very moment: to be mended

    def _show(self) -> str:
        """What there is of the known ports, from the kernel."""
        return "".join(map(self.space.nft.run, rules.listing(self._family, self._known or {})))

    def _clear(self) -> None:
        """What is there is not whole: away with it, before it is made anew."""
        self._known = {}
        self._shown = ""
        self._run(f"add table {self._family} {rules.TABLE}\ndelete table {self._family} {rules.TABLE}\n")

    def mend_rules(self) -> None:
        """Damage is made good at once: in one transaction, so that there is no moment without rules."""
        known = self._known
        if not known:
            return
        try:
            if self._show() == self._shown:
                return
        except NftError:
            pass  # something of it is missing
        base = f"{self._family} {rules.TABLE}"
        text = f"add table {base}\ndelete table {base}\n" + rules.frame(self._family)
        for port, wanted in sorted(known.items()):
            if wanted:
                text += rules.put(self._family, port, wanted, is_there=False)
        self._run(text)
        self._known = {port: wanted for port, wanted in known.items() if wanted}
        self._remember()

    def _run(self, commands: str) -> str:
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


_FRAME_LINES: Final = 5
"""Of a listed chain: table, chain, comment, and two brackets."""


def ifb_name(port: str) -> str:
    return IFB_PREFIX + port.removeprefix("p-")
