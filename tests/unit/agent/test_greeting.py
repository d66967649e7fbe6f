"""What changes while an agent greets a manager: the session is not to be of what the node was before."""

from __future__ import annotations

from agent_rig import in_virtual_time
from fake_link import FakeLink

from tests.unit.agent.test_session import THREE, Site, wait


@in_virtual_time
async def test_a_certificate_that_is_renewed_meanwhile_is_shown_at_once() -> None:
    site = Site(FakeLink(THREE, leader="m1:2377", welcome_delay_s=1))
    async with site.running() as agent:
        await wait(lambda: bool(site.link.sessions))
        site.hostname = "renewed"
        agent.reconnect("the certificate was renewed")
        await wait(lambda: agent.manager_addr == "m1:2377")
        first, second = site.link.sessions
        assert first.is_closed
        assert second.heard[0].hello.description.hostname == "renewed"
