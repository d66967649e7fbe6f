"""``swarmpy network …``"""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Final
from urllib.parse import quote

from swarmpy.cli import values
from swarmpy.cli.flags import Command, Options, UsageError, listed, switch, text
from swarmpy.cli.network_text import described
from swarmpy.cli.output import FORMAT, LIST_FLAGS, NO_TRUNC, Listing, parse_filters, show_items, show_list
from swarmpy.cli.render import short_id
from swarmpy.cli.session import Session, each, tell
from swarmpy.client import ErrorAnswer, Json, filters

_COLUMNS: Final = {"ID": "NETWORK ID", "Name": "NAME", "Driver": "DRIVER", "Scope": "SCOPE"}
_INGRESS_WARNING: Final = (
    "WARNING! Before removing the routing-mesh network, make sure that no service publishes a port: "
    "nothing answers on published ports until there is another one."
)
_PRUNE_WARNING: Final = "WARNING! This will remove all custom networks not used by at least one service."
NOT_FOUND: Final = 404


# --- create


def create(session: Session, arguments: list[str], options: Options) -> int:
    answer = session.client.post("/networks/create", new_network(arguments[0], options))
    if answer.get("Warning"):
        tell(f"WARNING: {answer['Warning']}")
    print(answer["Id"])
    return 0


def new_network(name: str, options: Options) -> Json:
    """The body that ``network create`` sends. Pure."""
    body: Json = {
        "Name": name,
        "Driver": "" if options.on("config-only") else options.text("driver"),
        "Scope": options.text("scope"),
        "EnableIPv6": options.on("ipv6"),
        "Internal": options.on("internal"),
        "Attachable": options.on("attachable"),
        "Ingress": options.on("ingress"),
        "ConfigOnly": options.on("config-only"),
        "Options": dict(values.pair(entry, what="option") for entry in options.many("opt")),
        "Labels": dict(values.pair(entry, what="label") for entry in options.many("label")),
    }
    if options.is_set("ipv4"):
        body["EnableIPv4"] = options.on("ipv4")
    if options.is_set("config-from"):
        body["ConfigFrom"] = {"Network": options.text("config-from")}
    pools = _pools(options)
    plugin = dict(values.pair(entry, what="option") for entry in options.many("ipam-opt"))
    driver = options.text("ipam-driver")
    if pools or plugin or driver != "default":
        body["IPAM"] = {"Driver": driver, "Options": plugin, "Config": pools}
    return body


def _pools(options: Options) -> list[Json]:
    """Ranges, gateways and reserved addresses find their subnets by what they lie in."""
    subnets = _split(options, "subnet")
    ranges, gateways = _split(options, "ip-range"), _split(options, "gateway")
    if len(subnets) < len(ranges) or len(subnets) < len(gateways):
        raise UsageError("every ip-range or gateway must have a corresponding subnet")
    pools: dict[str, Json] = {}
    for number, subnet in enumerate(subnets):
        for other in subnets[:number]:
            if _overlap(subnet, other):
                raise UsageError("multiple overlapping subnet configuration is not supported")
        pools[subnet] = {"Subnet": subnet}
    for range_ in ranges:
        _place(pools, range_, what="range", field="IPRange")
    for gateway in gateways:
        _place(pools, gateway, what="gateway", field="Gateway")
    for entry in options.many("aux-address"):
        name, address = values.pair(entry, what="aux-address")
        pool = _home(pools, address)
        if pool is None:
            raise UsageError(f"no matching subnet for aux-address {address}")
        pool.setdefault("AuxiliaryAddresses", {})[name] = address
    return list(pools.values())


def _split(options: Options, name: str) -> list[str]:
    return [part.strip() for entry in options.many(name) for part in entry.split(",")]


def _place(pools: dict[str, Json], value: str, *, what: str, field: str) -> None:
    pool = _home(pools, value)
    if pool is None:
        raise UsageError(f"no matching subnet for {what} {value}")
    if field in pool:
        raise UsageError(
            f"cannot configure multiple {what}s ({value}, {pool[field]}) on the same subnet "
            f"({pool['Subnet']})"
        )
    pool[field] = value


def _home(pools: dict[str, Json], value: str) -> Json | None:
    """The pool whose subnet the address, or the block's first address, lies in."""
    try:
        address = ip_address(value.partition("/")[0])
    except ValueError:
        return None
    for subnet, pool in pools.items():
        network = _network(subnet)
        if network is not None and address in network:
            return pool
    return None


def _network(text_: str) -> IPv4Network | IPv6Network | None:
    """None for what is no subnet: the daemon says so."""
    try:
        return ip_network(text_, strict=False)
    except ValueError:
        return None


def _overlap(one: str, other: str) -> bool:
    first, second = _network(one), _network(other)
    return first is not None and second is not None and first.overlaps(second)


# --- ls and inspect


def ls(session: Session, arguments: list[str], options: Options) -> int:
    found = session.client.get("/networks", filters(parse_filters(options.many("filter"))))
    found.sort(key=lambda network: (network["Name"], network["Id"]))
    is_whole = options.on("no-trunc")
    rows = [
        {
            "ID": short_id(network["Id"], is_whole=is_whole),
            "Name": network["Name"],
            "Driver": network["Driver"],
            "Scope": network["Scope"],
            "IPv4": str(network.get("EnableIPv4", True)).lower(),
            "IPv6": str(network["EnableIPv6"]).lower(),
            "Internal": str(network["Internal"]).lower(),
            "CreatedAt": network["Created"],
            "Labels": ",".join(
                f"{name}={value}" for name, value in sorted((network["Labels"] or {}).items())
            ),
        }
        for network in found
    ]
    show_list(Listing(_COLUMNS, rows), options)
    return 0


def _labels(labels: dict[str, str]) -> str:
    return ",".join(f"{name}={value}" for name, value in sorted(labels.items()))


def inspect(session: Session, arguments: list[str], options: Options) -> int:
    is_pretty = options.on("pretty")
    if is_pretty and options.text("format"):
        raise UsageError("--format is incompatible with human friendly format")
    query = {"verbose": True} if is_pretty or options.on("verbose") else {}
    items: list[Json] = []

    def one(name: str) -> None:
        items.append(session.client.get(_path(name), query))

    code = each(arguments, one)
    if is_pretty:
        print("\n\n".join(described(item) for item in items))
    else:
        show_items(items, options)
    return code


# --- rm and prune


def rm(session: Session, arguments: list[str], options: Options) -> int:
    is_forced = options.on("force")

    def one(name: str) -> None:
        try:
            is_ingress = session.client.get(_path(name))["Ingress"]
            if is_ingress and not is_forced and not _is_sure(_INGRESS_WARNING):
                return
            session.client.delete(_path(name))
        except ErrorAnswer as error:
            if is_forced and error.status == NOT_FOUND:
                return
            raise
        print(name)

    return each(arguments, one)


def prune(session: Session, arguments: list[str], options: Options) -> int:
    if not options.on("force") and not _is_sure(_PRUNE_WARNING):
        return 1
    chosen = filters(parse_filters(options.many("filter")))
    removed = session.client.post("/networks/prune", None, chosen)["NetworksDeleted"]
    if removed:
        print("\n".join(["Deleted Networks:", *removed, ""]))
    return 0


def _is_sure(warning: str) -> bool:
    tell(warning)
    try:
        answer = input("Are you sure you want to continue? [y/N] ")
    except EOFError:
        return False
    return answer.strip().lower() in ("y", "yes")


# --- running tasks


def connect(session: Session, arguments: list[str], options: Options) -> int:
    network, container = arguments
    config: Json = {}
    addresses = {
        field: options.text(name)
        for name, field in (("ip", "IPv4Address"), ("ip6", "IPv6Address"))
        if options.is_set(name)
    }
    if addresses:
        config["IPAMConfig"] = addresses
    if options.is_set("alias"):
        config["Aliases"] = options.many("alias")
    if options.is_set("driver-opt"):
        config["DriverOpts"] = dict(values.pair(e, what="driver-opt") for e in options.many("driver-opt"))
    session.client.post(f"{_path(network)}/connect", {"Container": container, "EndpointConfig": config})
    return 0


def disconnect(session: Session, arguments: list[str], options: Options) -> int:
    network, container = arguments
    body = {"Container": container, "Force": options.on("force")}
    session.client.post(f"{_path(network)}/disconnect", body)
    return 0


def _path(name: str) -> str:
    return f"/networks/{quote(name, safe='')}"


_FILTER: Final = listed("filter", "Filter output based on conditions provided", short="f")
_CREATE_FLAGS: Final = (
    text("driver", "Driver to manage the network", short="d", default="overlay"),
    listed("opt", "Set driver specific options, such as encrypted", short="o"),
    listed("label", "Set metadata on a network"),
    listed("subnet", "Subnet in CIDR format that represents a network segment"),
    listed("ip-range", "Allocate addresses from a sub-range"),
    listed("gateway", "IPv4 or IPv6 gateway of the subnet"),
    listed("aux-address", "Address that is not to be given to tasks (name=address)"),
    text("ipam-driver", "IP address management driver", default="default"),
    listed("ipam-opt", "Set IPAM driver specific options"),
    text("scope", "The network's scope: swarm for drivers other than overlay"),
    text("config-from", "The configuration-only network from which to copy the settings"),
    switch("config-only", "Create a configuration-only network"),
    switch("attachable", "Enable manual attachment"),
    switch("internal", "Restrict external access to the network"),
    switch("ingress", "Create the swarm's routing-mesh network"),
    switch("ipv4", "Enable IPv4 addresses (always on)"),
    switch("ipv6", "Enable IPv6 addresses"),
)

COMMANDS = {
    "create": Command(create, "Create a network", "NETWORK", 1, 1, _CREATE_FLAGS),
    "ls": Command(ls, "List networks", flags=(*LIST_FLAGS, NO_TRUNC, _FILTER)),
    "inspect": Command(
        inspect,
        "Display detailed information on one or more networks",
        "NETWORK [NETWORK...]",
        1,
        None,
        (
            FORMAT,
            switch("verbose", "Also show services, their tasks, and names of devices and tables", short="v"),
            switch("pretty", "Show what is where in words"),
        ),
    ),
    "rm": Command(
        rm,
        "Remove one or more networks",
        "NETWORK [NETWORK...]",
        1,
        None,
        (switch("force", "Do not error if the network does not exist, and ask nothing", short="f"),),
    ),
    "prune": Command(
        prune,
        "Remove all unused networks",
        flags=(
            switch("force", "Do not prompt for confirmation", short="f"),
            listed("filter", "Provide filter values (label=key=value, until=10m)"),
        ),
    ),
    "connect": Command(
        connect,
        "Connect a running task to a network",
        "NETWORK TASK",
        2,
        2,
        (
            listed("alias", "Add a name of the task in the network"),
            listed("driver-opt", "Driver options of the task's place in the network"),
            text("ip", "IPv4 address"),
            text("ip6", "IPv6 address"),
        ),
    ),
    "disconnect": Command(
        disconnect,
        "Disconnect a running task from a network",
        "NETWORK TASK",
        2,
        2,
        (switch("force", "Force the task to disconnect from the network", short="f"),),
    ),
}
