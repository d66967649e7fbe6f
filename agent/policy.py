"""What the policy of an attachment is: of a task, in one network. Pure.

Managers send it with the service's record of the network, in the words that users write. A record that cannot
be read, of a manager that knows more than this agent, closes the endpoint: nobody asked for an open one.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from agent.dataplane.base import Endpoint, Policy
from swarmpy.errors import InvalidArgument
from swarmpy.model import endpoint_policy
from swarmpy.model.discovery import NetworkService
from swarmpy.model.ids import NetworkId


def policy_of(service: NetworkService) -> Policy | None:
    """Of the service's tasks in the record's network; None: they may do anything."""
    try:
        rules = endpoint_policy.parse(service.acl)
    except InvalidArgument:
        rules = endpoint_policy.CLOSED.rules
    policy = Policy(rules=rules, rate_in_bps=service.rate_in_bps, rate_out_bps=service.rate_out_bps)
    return policy if policy != endpoint_policy.UNRESTRICTED else None


def dress(
    endpoint: Endpoint, find: Callable[[NetworkId], NetworkService | None], worn: Endpoint | None
) -> Endpoint:
    """The endpoint with the policies of its legs. What ``find`` knows no record of keeps what it has on
    (``worn``): a service that is being removed must not open its last tasks.
    """
    before = {leg.network.id: leg.policy for leg in worn.legs} if worn is not None else {}
    legs = []
    for leg in endpoint.legs:
        service = find(leg.network.id)
        policy = policy_of(service) if service is not None else before.get(leg.network.id, leg.policy)
        legs.append(leg if policy == leg.policy else replace(leg, policy=policy))
    return endpoint if tuple(legs) == endpoint.legs else replace(endpoint, legs=tuple(legs))
