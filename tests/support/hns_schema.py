"""Requests to HNS as JSON Schema: the published tables and Docker's recorded calls, typed in anew.

Objects are closed, so a misspelt or misplaced field fails. Enumerations take the published words or the
numbers that Microsoft's own tools send. This catches spelling, not behaviour.
"""

from __future__ import annotations

from typing import Any

from jsonschema import Draft202012Validator

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
WORD: Schema = {"type": "string", "minLength": 1}
FLAG: Schema = {"type": "boolean"}
GUID: Schema = {"type": "string", "pattern": "^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$"}
IPV4: Schema = {"type": "string", "pattern": r"^(\d{1,3}\.){3}\d{1,3}$"}
CIDR: Schema = {"type": "string", "pattern": r"^(\d{1,3}\.){3}\d{1,3}/\d{1,2}$"}
MAC: Schema = {"type": "string", "pattern": "^[0-9A-Fa-f]{2}([:-][0-9A-Fa-f]{2}){5}$"}
DASHED: Schema = {"type": "string", "pattern": "^[0-9A-F]{2}(-[0-9A-F]{2}){5}$"}
PORTS: Schema = {"type": "string", "pattern": r"^\d+(-\d+)?(,\d+(-\d+)?)*$"}


def number(low: int, high: int) -> Schema:
    return {"type": "integer", "minimum": low, "maximum": high}


PORT, ANY_PORT, PROTOCOL = number(1, 65535), number(0, 65535), number(0, 256)
VNI = number(4096, (1 << 24) - 1)


def one_of(*words: str, numbers: tuple[int, ...] = ()) -> Schema:
    return {"enum": [*words, *numbers]}


def many(items: Schema, *, at_least: int = 0) -> Schema:
    return {"type": "array", "items": items, "minItems": at_least}


def closed(*required: str, **fields: Schema) -> Schema:
    return {
        "type": "object",
        "properties": fields,
        "required": list(required),
        "additionalProperties": False,
    }


def either(*schemas: Schema) -> Schema:
    return {"oneOf": list(schemas)}


def typed(type_: str, *required: str, **fields: Schema) -> Schema:
    """A policy of V1: its settings beside its type."""
    return closed("Type", *required, Type={"const": type_}, **fields)


def set_(type_: str, *required: str, **fields: Schema) -> Schema:
    """A policy of V2: its settings below."""
    return closed("Type", "Settings", Type={"const": type_}, Settings=closed(*required, **fields))


# --- V1

_ACL_1: Schema = typed(
    *("ACL", "Action", "Direction", "RuleType", "Priority"),
    Protocol=PROTOCOL,
    Protocols=TEXT,
    Action=one_of("Allow", "Block"),
    Direction=one_of("In", "Out"),
    LocalAddresses=TEXT,
    RemoteAddresses=TEXT,
    LocalPorts=PORTS,
    RemotePorts=PORTS,
    RuleType=one_of("Host", "Switch"),
    Priority=number(1, 65535),
)
_ENDPOINT_POLICY_1 = either(
    typed("PA", "PA", PA=IPV4),
    typed("OutBoundNAT", PA=TEXT, VIP=IPV4, ExceptionList=many(CIDR), Destinations=many(TEXT)),
    typed(
        *("NAT", "Protocol", "InternalPort", "ExternalPort"),
        Protocol=one_of("tcp", "udp"),
        InternalPort=PORT,
        ExternalPort=PORT,
        ExternalPortReserved=FLAG,
    ),
    _ACL_1,
    typed("QOS", "MaximumOutgoingBandwidthInBytes", MaximumOutgoingBandwidthInBytes=number(1, 1 << 62)),
    typed("EncapOverhead", "EncapOverhead", EncapOverhead=number(0, 500)),
)
NETWORK_1 = closed(
    *("Name", "Type"),
    Name=WORD,
    Type=one_of("overlay", "nat", "transparent", "l2bridge", "l2tunnel"),
    Subnets=many(
        closed(
            "AddressPrefix",
            AddressPrefix=CIDR,
            GatewayAddress=IPV4,
            Policies=many(typed("VSID", "VSID", VSID=VNI)),
        ),
        at_least=1,
    ),
    NetworkAdapterName=WORD,
    Policies=many(
        either(typed("VLAN", "VLAN", VLAN=number(1, 4094)), typed("VxlanPort", "Port", Port=PORT)), at_least=1
    ),
    MacPools=many(
        closed("StartMacAddress", "EndMacAddress", StartMacAddress=DASHED, EndMacAddress=DASHED), at_least=1
    ),
    DNSServerList=TEXT,
    AutomaticDNS=FLAG,
)
ENDPOINT_1 = closed(
    *("Name", "VirtualNetwork"),
    ID=GUID,
    Name=WORD,
    VirtualNetwork=GUID,
    IPAddress=IPV4,
    MacAddress=MAC,
    GatewayAddress=IPV4,
    DNSServerList=TEXT,
    DNSSuffix=TEXT,
    EnableInternalDNS=FLAG,
    IsRemoteEndpoint=FLAG,
    Policies=many(_ENDPOINT_POLICY_1, at_least=1),
)
BALANCER_1 = closed(
    *("References", "Policies"),
    References=many({"type": "string", "pattern": "^/endpoints/[0-9a-f-]{36}$"}, at_least=1),
    Policies=many(
        typed(
            *("ELB", "InternalPort", "ExternalPort"),
            Protocol=PROTOCOL,
            InternalPort=ANY_PORT,
            ExternalPort=ANY_PORT,
            SourceVIP=IPV4,
            VIPs=many(IPV4, at_least=1),
            ILB=FLAG,
            IsDSR=FLAG,
        ),
        at_least=1,
    ),
)

# --- V2

_VERSION = closed("Major", "Minor", Major={"const": 2}, Minor=number(0, 99))
_ROUTES = many(
    closed("NextHop", "DestinationPrefix", NextHop=IPV4, DestinationPrefix=CIDR, Metric=number(0, 65535)),
    at_least=1,
)
_ACL_2 = set_(
    *("ACL", "Action", "Direction", "RuleType", "Priority"),
    Protocols=PORTS,
    Action=one_of("Allow", "Block", "Pass"),
    Direction=one_of("In", "Out"),
    LocalAddresses=TEXT,
    RemoteAddresses=TEXT,
    LocalPorts=PORTS,
    RemotePorts=PORTS,
    RuleType=one_of("Host", "Switch"),
    Priority=number(1, 65535),
)
_QOS_2 = set_("QOS", "MaximumOutgoingBandwidthInBytes", MaximumOutgoingBandwidthInBytes=number(1, 1 << 62))
_ENDPOINT_POLICY_2 = either(
    set_("ProviderAddress", "ProviderAddress", ProviderAddress=IPV4),
    set_("OutBoundNAT", VirtualIP=IPV4, Exceptions=many(CIDR), Destinations=many(TEXT), Flags=number(0, 255)),
    set_(
        *("PortMapping", "Protocol", "InternalPort", "ExternalPort"),
        Protocol=one_of(numbers=(6, 17)),
        InternalPort=PORT,
        ExternalPort=PORT,
        VIP=IPV4,
        Flags=number(0, 7),
    ),
    _ACL_2,
    _QOS_2,
)
NETWORK_2 = closed(
    *("Name", "Type", "SchemaVersion"),
    Name=WORD,
    Type=one_of("NAT", "ICS", "Transparent", "L2Bridge", "L2Tunnel", "Overlay", "Private", "Internal"),
    Policies=many(
        either(
            set_("NetAdapterName", "NetworkAdapterName", NetworkAdapterName=WORD),
            set_("VxlanPort", "Port", Port=PORT),
            set_("AutomaticDNS", "Enable", Enable=FLAG),
        ),
        at_least=1,
    ),
    MacPool=closed(
        "Ranges",
        Ranges=many(
            closed("StartMacAddress", "EndMacAddress", StartMacAddress=DASHED, EndMacAddress=DASHED),
            at_least=1,
        ),
    ),
    Dns=closed(Domain=TEXT, Search=many(TEXT), ServerList=many(IPV4), Options=many(TEXT)),
    Ipams=many(
        closed(
            *("Type", "Subnets"),
            Type=one_of("Static", "Dhcp"),
            Subnets=many(
                closed(
                    "IpAddressPrefix",
                    IpAddressPrefix=CIDR,
                    Routes=_ROUTES,
                    Policies=many(
                        either(
                            set_("VSID", "IsolationId", IsolationId=VNI),
                            set_("VLAN", "IsolationId", IsolationId=number(1, 4094)),
                        )
                    ),
                ),
                at_least=1,
            ),
        ),
        at_least=1,
    ),
    Flags=either(number(0, 15), TEXT),
    SchemaVersion=_VERSION,
)
ENDPOINT_2 = closed(
    *("Name", "HostComputeNetwork", "SchemaVersion"),
    Name=WORD,
    HostComputeNetwork=GUID,
    IpConfigurations=many(closed("IpAddress", IpAddress=IPV4, PrefixLength=number(1, 32)), at_least=1),
    MacAddress=DASHED,
    Routes=_ROUTES,
    Dns=closed(Domain=TEXT, Search=many(TEXT), ServerList=many(IPV4), Options=many(TEXT)),
    Flags=either(number(0, 63), TEXT),
    Policies=many(_ENDPOINT_POLICY_2, at_least=1),
    SchemaVersion=_VERSION,
)
BALANCER_2 = closed(
    *("HostComputeEndpoints", "SourceVIP", "FrontendVIPs", "PortMappings", "Flags", "SchemaVersion"),
    HostComputeEndpoints=many(GUID, at_least=1),
    SourceVIP=IPV4,
    FrontendVIPs=many(IPV4),
    PortMappings=many(
        closed(
            *("Protocol", "InternalPort", "ExternalPort", "Flags"),
            Protocol=PROTOCOL,
            InternalPort=ANY_PORT,
            ExternalPort=ANY_PORT,
            DistributionType=one_of(numbers=(0, 1, 2)),
            Flags=number(0, 15),
        ),
        at_least=1,
    ),
    Flags=number(0, 3),
    SchemaVersion=_VERSION,
)
NAMESPACE_2 = closed(
    *("Type", "SchemaVersion"),
    ID=GUID,
    Type=one_of("Host", "HostDefault", "Guest", "GuestDefault"),
    ReadyOnCreate=FLAG,
    SchemaVersion=_VERSION,
)
_REQUEST = one_of("Add", "Remove", "Update", "Refresh")
ENDPOINT_CHANGE_2 = closed(
    *("ResourceType", "RequestType", "Settings"),
    ResourceType=one_of("Policy", "Port"),
    RequestType=_REQUEST,
    Settings=closed("Policies", Policies=many(either(_ACL_2, _QOS_2), at_least=1)),
)
NAMESPACE_CHANGE_2 = closed(
    *("ResourceType", "RequestType", "Settings"),
    ResourceType=one_of("Endpoint", "Container"),
    RequestType=_REQUEST,
    Settings=closed("EndpointId", EndpointId=GUID),
)
QUERY_2 = closed("SchemaVersion", SchemaVersion=_VERSION, Flags=number(0, 1), Filter=TEXT)


_VALIDATORS: dict[int, Draft202012Validator] = {}
"""By the schema's identity: the schemas above live as long as the module."""


def faults(document: object, schema: Schema) -> list[str]:
    """What is wrong with it, in words; empty if nothing."""
    validator = _VALIDATORS.get(id(schema)) or _VALIDATORS.setdefault(
        id(schema), Draft202012Validator(schema)
    )
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(document)]
