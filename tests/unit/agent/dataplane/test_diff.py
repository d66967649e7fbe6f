"""Whatever is found in a network's namespace, the operations lead to the plan, then nothing is left.

The model below is as strict as the kernel: a port needs its bridge, an entry its tunnel, and nothing is made
twice.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.dataplane import diff
from agent.dataplane.diff import ObservedLink, ObservedSandbox
from agent.dataplane.plan import SandboxPlan, Tunnel

TUNNELS = [
    Tunnel(4096, 4789, "192.0.2.1"),
    Tunnel(4097, 4789, "192.0.2.1"),
    Tunnel(4096, 4790, "2001:db8::1"),
]
PORTS = ["p-a", "p-b", "p-c"]
OTHERS = ["ing", "lo"]

tables = st.dictionaries(st.sampled_from("abcd"), st.sampled_from("xy"))
plans = st.builds(
    SandboxPlan,
    mtu=st.sampled_from([1450, 8950]),
    tunnel=st.sampled_from([None, *TUNNELS]),
    ports=st.frozensets(st.sampled_from(PORTS)),
    forwarding=tables,
    neighbours=tables,
)
links = st.builds(
    ObservedLink,
    mtu=st.sampled_from([1450, 1500, 8950]),
    is_up=st.booleans(),
    is_attached=st.booleans(),
    is_sound=st.booleans(),
    tunnel=st.sampled_from([None, *TUNNELS]),
)


@st.composite
def damaged(draw: st.DrawFn) -> ObservedSandbox:
    """Anything; but nothing is attached to a bridge that is not there, nor an entry of such a tunnel."""
    found = draw(st.dictionaries(st.sampled_from([diff.BRIDGE, diff.TUNNEL, *PORTS, *OTHERS]), links))
    bridge = found.get(diff.BRIDGE)
    has_bridge = bridge is not None and bridge.is_sound
    found = {
        name: replace(
            link,
            is_attached=link.is_attached and has_bridge and name != diff.BRIDGE,
            tunnel=link.tunnel if name == diff.TUNNEL else None,
        )
        for name, link in found.items()
    }
    has_tunnel = diff.TUNNEL in found and found[diff.TUNNEL].tunnel is not None
    return ObservedSandbox(found, draw(tables) if has_tunnel else {}, draw(tables) if has_tunnel else {})


@dataclass
class Model:
    links: dict[str, ObservedLink] = field(default_factory=dict)
    forwarding: dict[str, str] = field(default_factory=dict)
    neighbours: dict[str, str] = field(default_factory=dict)

    def execute(self, op: diff.Op) -> None:
        match op:
            case diff.DeleteLink(name):
                self._delete(name)
            case diff.AddBridge(mtu):
                self._add(diff.BRIDGE, ObservedLink(mtu, is_up=False))
            case diff.AddTunnel(tunnel, mtu):
                self._add(diff.TUNNEL, ObservedLink(mtu, is_up=False, tunnel=tunnel))
            case diff.AddPort(name, mtu):
                assert diff.BRIDGE in self.links
                self._add(name, ObservedLink(mtu, is_up=True, is_attached=True))
            case diff.SetLink(name, mtu):
                assert name == diff.BRIDGE or diff.BRIDGE in self.links
                is_attached = name != diff.BRIDGE
                self.links[name] = replace(self.links[name], mtu=mtu, is_up=True, is_attached=is_attached)
            case diff.SetEntries(change):
                assert self.links[diff.TUNNEL].tunnel is not None
                for mac in change.stale_forwarding:
                    del self.forwarding[mac]
                for address in change.stale_neighbours:
                    del self.neighbours[address]
                self.forwarding.update(change.forwarding)
                self.neighbours.update(change.neighbours)

    def _add(self, name: str, link: ObservedLink) -> None:
        assert name not in self.links
        self.links[name] = link

    def _delete(self, name: str) -> None:
        del self.links[name]
        if name == diff.TUNNEL:
            self.forwarding, self.neighbours = {}, {}
        if name == diff.BRIDGE:
            self.links = {each: replace(link, is_attached=False) for each, link in self.links.items()}

    def observe(self) -> ObservedSandbox:
        return ObservedSandbox(dict(self.links), dict(self.forwarding), dict(self.neighbours))


def model_of(observed: ObservedSandbox) -> Model:
    return Model(dict(observed.links), dict(observed.forwarding), dict(observed.neighbours))


@given(plans, damaged())
@settings(max_examples=500)
def test_whatever_is_found_converges(plan: SandboxPlan, observed: ObservedSandbox) -> None:
    model = model_of(observed)
    for op in diff.diff(plan, observed):
        model.execute(op)
    assert diff.diff(plan, model.observe()) == ()
    assert {name for name in model.links if diff.is_port(name)} == plan.ports
    assert model.links[diff.BRIDGE].is_sound
    if plan.tunnel is not None:
        assert model.links[diff.TUNNEL].tunnel == plan.tunnel
        assert (model.forwarding, model.neighbours) == (plan.forwarding, plan.neighbours)


@given(plans, damaged(), st.integers(0, 12))
def test_a_run_that_is_cut_off_is_finished_by_the_next(
    plan: SandboxPlan, observed: ObservedSandbox, done: int
) -> None:
    model = model_of(observed)
    for op in diff.diff(plan, observed)[:done]:
        model.execute(op)
    for op in diff.diff(plan, model.observe()):
        model.execute(op)
    assert diff.diff(plan, model.observe()) == ()


@given(plans, damaged())
def test_what_belongs_to_others_stays(plan: SandboxPlan, observed: ObservedSandbox) -> None:
    named = {op.name for op in diff.diff(plan, observed) if isinstance(op, diff.DeleteLink | diff.SetLink)}
    assert not named & set(OTHERS)


@given(plans, damaged())
def test_what_is_right_is_left_alone(plan: SandboxPlan, observed: ObservedSandbox) -> None:
    """A port that carries packets is not deleted for what is wrong elsewhere."""
    kept = {name for name in plan.ports if name in observed.links and observed.links[name].is_sound}
    deleted = {op.name for op in diff.diff(plan, observed) if isinstance(op, diff.DeleteLink)}
    assert not kept & deleted


def test_tables_are_filled_before_the_tunnel_is_up() -> None:
    plan = SandboxPlan(1450, TUNNELS[0], frozenset({"p-a"}), {"m": "n"}, {"i": "m"})
    kinds = [type(op) for op in diff.diff(plan, ObservedSandbox())]
    assert kinds == [
        diff.AddBridge, diff.SetLink, diff.AddTunnel, diff.SetEntries, diff.SetLink, diff.AddPort,
    ]  # fmt: skip
