"""The DHCP client, message by message, in virtual time."""

from __future__ import annotations

from ipaddress import IPv4Address

from hypothesis import given
from hypothesis import strategies as st

from agent.dataplane.linux.drivers import dhcp
from agent.dataplane.linux.drivers.dhcp import Bind, Client, Message, Send, Unbind
from swarmpy.limits import DHCP_RETRY_MAX_S

MAC = "02:53:00:00:00:01"


def reply(kind: int, yours: str = "192.0.2.9", *, lease_s: int = 100, mac: str = MAC, xid: int = 7) -> bytes:
    options = (
        (1, IPv4Address("255.255.255.0").packed),
        (3, IPv4Address("192.0.2.1").packed),
        (51, lease_s.to_bytes(4)),
        (54, IPv4Address("192.0.2.2").packed),
    )
    return dhcp.encode(Message(kind=kind, xid=xid, mac=mac, yours=yours, is_reply=True, options=options))


def sent(actions: list[dhcp.Action]) -> tuple[int, str]:
    """The kind of the only message, and to whom it goes."""
    (action,) = actions
    assert isinstance(action, Send)
    message = dhcp.decode(action.payload)
    assert message is not None
    return message.kind, action.to


def bound(client: Client, now: float = 0.0) -> None:
    assert sent(client.start(now)) == (dhcp.DISCOVER, dhcp.ANYBODY)
    assert sent(client.take(reply(dhcp.OFFER), now)) == (dhcp.REQUEST, dhcp.ANYBODY)
    (action,) = client.take(reply(dhcp.ACK), now)
    assert isinstance(action, Bind)
    assert (str(action.grant.address), action.grant.router) == ("192.0.2.9/24", "192.0.2.1")


def test_it_asks_takes_and_renews() -> None:
    client = Client(MAC, xid=7)
    bound(client)
    assert client.wake_at == 50
    assert sent(client.wake(50)) == (dhcp.REQUEST, "192.0.2.2")
    (action,) = client.take(reply(dhcp.ACK), 51)
    assert isinstance(action, Bind)
    assert client.wake_at == 101


def test_who_is_not_answered_asks_on_and_gives_up_in_time() -> None:
    """Anybody at the end; then the address goes, and all begins anew."""
    client = Client(MAC, xid=7)
    bound(client)
    asked = []
    while client.wake_at < 100:
        asked.append(sent(client.wake(client.wake_at)))
    assert asked[0] == (dhcp.REQUEST, "192.0.2.2")
    assert asked[-1] == (dhcp.REQUEST, dhcp.ANYBODY)
    gone, again = client.wake(client.wake_at)
    assert isinstance(gone, Unbind)
    assert sent([again]) == (dhcp.DISCOVER, dhcp.ANYBODY)
    assert client.grant is None


def test_silence_is_met_with_patience() -> None:
    client = Client(MAC, xid=7)
    client.start(0)
    gaps = []
    for _ in range(10):
        before = client.wake_at
        assert sent(client.wake(before)) == (dhcp.DISCOVER, dhcp.ANYBODY)
        gaps.append(client.wake_at - before)
    assert gaps == sorted(gaps)
    assert gaps[-1] == DHCP_RETRY_MAX_S


def test_a_refusal_takes_the_address_away() -> None:
    client = Client(MAC, xid=7)
    bound(client)
    client.wake(50)
    gone, again = client.take(reply(dhcp.NAK), 51)
    assert isinstance(gone, Unbind)
    assert sent([again])[0] == dhcp.DISCOVER


def test_another_address_replaces_the_one_before() -> None:
    client = Client(MAC, xid=7)
    bound(client)
    client.wake(50)
    gone, come = client.take(reply(dhcp.ACK, "192.0.2.10"), 51)
    assert isinstance(gone, Unbind)
    assert isinstance(come, Bind)
    assert str(come.grant.address.ip) == "192.0.2.10"


def test_others_conversations_are_not_ours() -> None:
    client = Client(MAC, xid=7)
    client.start(0)
    assert client.take(reply(dhcp.OFFER, xid=8), 0) == []
    assert client.take(reply(dhcp.OFFER, mac="02:53:00:00:00:02"), 0) == []
    assert client.take(reply(dhcp.ACK), 0) == [], "nothing was asked for yet"


def test_what_is_bound_is_given_back() -> None:
    client = Client(MAC, xid=7)
    assert client.release() == []
    bound(client)
    assert sent(client.release()) == (dhcp.RELEASE, "192.0.2.2")


@given(st.binary(max_size=400), st.integers(0, 300))
def test_no_bytes_harm_it(junk: bytes, at: int) -> None:
    client = Client(MAC, xid=7)
    client.start(0)
    whole = reply(dhcp.OFFER)
    for data in (junk, whole[:at], whole[:at] + junk, whole[:240] + junk):
        client.take(data, 1.0)
