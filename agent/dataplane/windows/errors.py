"""HNS's error codes as our errors: what each means, and what to do about it.

Codes are HRESULTs: 0x803B is the facility of HNS. What another try may mend is ``HnsUnavailable``; what the
same document will always meet is ``HnsRejected``.
"""

from __future__ import annotations

from swarmpy.errors import SwarmError, TaskRejected, Unavailable

NETWORK_NOT_FOUND = 0x803B0001
ENDPOINT_NOT_FOUND = 0x803B0002
SUBNET_NOT_FOUND = 0x803B0005
ADAPTER_NOT_FOUND = 0x803B0006
BAD_POLICY = 0x803B000D
NETWORK_EXISTS = 0x803B0010
PORT_EXISTS = 0x803B0013
BAD_JSON = 0x803B001B
BAD_ADDRESS = 0x803B001E
ENDPOINT_IN_NAMESPACE = 0x803B002B
STILL_REFERENCED = 0x803B002C
ZERO_PORT = 0x803B002D
RESERVED_ADDRESS = 0x803B002F
VFP_MISSING = 0x803B0037
ACCESS_DENIED = 0x80070005
NOT_FOUND = 0x80070490
"""The system's own word for what is not there: balancers and namespaces have no code of HNS's."""

_GONE = frozenset({NETWORK_NOT_FOUND, ENDPOINT_NOT_FOUND, NOT_FOUND})

_RETRIED = {
    NETWORK_NOT_FOUND: "HNS does not know the network: it is made anew",
    ENDPOINT_NOT_FOUND: "HNS does not know an endpoint that is needed: it is made, then this is tried again",
    NOT_FOUND: "HNS does not know the object: it is made anew",
    NETWORK_EXISTS: "another network of this node has the same name or VNI: find it with Get-HnsNetwork and "
    "remove it",
    PORT_EXISTS: "the port is in use on this node: choose another, or free it",
    ENDPOINT_IN_NAMESPACE: "the endpoint belongs to another namespace: end the container that holds it",
    STILL_REFERENCED: "something still refers to the object: it is removed once that is gone",
    ACCESS_DENIED: "HNS answers administrators only: run the daemon as one",
}
_REFUSED = {
    SUBNET_NOT_FOUND: "the address is in none of the network's subnets",
    ADAPTER_NOT_FOUND: "this node has no such network adapter: name one in the network's options",
    BAD_POLICY: "this version of HNS does not take one of the policies",
    BAD_JSON: "HNS cannot read the request: please report it with the version of HNS",
    BAD_ADDRESS: "HNS takes the address for none",
    ZERO_PORT: "HNS wants a port here, not 0",
    RESERVED_ADDRESS: "HNS keeps the address for itself: ask for another, or leave the choice to the manager",
    VFP_MISSING: "the virtual filtering platform is not there: enable the Containers feature and reboot",
}


class HnsUnavailable(Unavailable):
    """Another try may help."""

    def __init__(self, message: str, *, code: int) -> None:
        super().__init__(message)
        self.code = code


class HnsRejected(TaskRejected):
    """The same again would be refused again."""

    def __init__(self, message: str, *, code: int) -> None:
        super().__init__(message)
        self.code = code


def failure(code: int, text: str, *, doing: str = "") -> HnsUnavailable | HnsRejected:
    """``code`` as HNS gives it, signed or not; ``text`` is HNS's own, ``doing`` names the call."""
    code &= 0xFFFFFFFF
    advice = _RETRIED.get(code) or _REFUSED.get(code) or "look into the event log Host-Network-Service"
    said = f" ({text.strip()})" if text.strip() else ""
    message = f"HNS refused{f' {doing}' if doing else ''} with {code:#010x}{said}: {advice}"
    if code in _REFUSED:
        return HnsRejected(message, code=code)
    return HnsUnavailable(message, code=code)


def is_gone(error: SwarmError) -> bool:
    """Whether what was to be removed is not there: as good as removed."""
    return isinstance(error, HnsUnavailable) and error.code in _GONE
