"""Where SwarmPy answers otherwise than dockerd 20.10, and why. ``docs/compatibility.md`` is made of it:

    python tests/support/oracle_differences.py docs/compatibility.md

One part per file of ``tests/contract/docker``; "everywhere" is for all of them. A part whose entry covered
nothing in a whole run of its file fails: the list holds what is true.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

EVERYWHERE: Final = "everywhere"


@dataclass(frozen=True)
class Difference:
    """``request``: method and path as the test writes them (``GET /services/$web``), ``field``: the path of a
    field of the answer, of all items of a list ``[]``; or ``status``, ``body``, ``header NAME``. ``*`` in
    either stands for anything."""

    request: str
    field: str
    reason: str

    def covers(self, request: str, where: str) -> bool:
        return bool(self._patterns[0].fullmatch(request) and self._patterns[1].fullmatch(where))

    @cached_property
    def _patterns(self) -> tuple[re.Pattern[str], ...]:
        return tuple(re.compile(re.escape(text).replace(r"\*", ".*")) for text in (self.request, self.field))


_LOWER: Final = "dockerd says this with a capital, until 23.0."
_BAD: Final = "A bad request is one; so says dockerd since 23.0."
_NUMBER: Final = "Networks are numbered by each cluster."
_CONFIG_ID: Final = "A configuration is the swarm's, not one node's."
_NAMES: Final = "`^` and `$` hold a name to its ends, as of other objects."

DIFFERENCES: Final[dict[str, tuple[Difference, ...]]] = {
    EVERYWHERE: (
        Difference("*", "header server", "It names the program that answers, and its version."),
        Difference("*", "header api-version", "SwarmPy speaks 1.47, dockerd 20.10 1.41."),
    ),
    "images": (
        Difference("GET /images/*/json", "message", "dockerd says it twice, until 23.0."),
        Difference("GET /images/json", "message", "dockerd says this with a capital, until 23.0."),
        Difference("POST /images/prune", "message", "dockerd says this with a capital, until 23.0."),
        Difference(
            "GET /images/*/json",
            "GraphDriver.Data.*",
            "Where layers lie is each one's own affair; none is mounted.",
        ),
        Difference("GET /images/web:1/json", "DockerVersion", "The version of what imported it."),
        Difference(
            "POST /images/web:1/tag", "status", "A bad name is a bad request; so says dockerd since 23.0."
        ),
    ),
    "networks": (
        Difference("GET /networks/net", "Dataplane", "What it is called on the nodes, in a verbose look."),
        Difference("GET /networks/net", "Services", "Told by any manager, also of a network without tasks."),
        Difference(
            "GET /networks", "[]", _NAMES + " Who uses a network: also services, not containers alone."
        ),
        Difference("GET /networks", "message", _LOWER),
        Difference("POST /networks/prune", "message", _LOWER),
        Difference("GET /networks", "status", _BAD),
        Difference("POST /networks/prune", "status", _BAD),
        Difference("POST /networks/create", "status", _BAD + " Of a configuration that is not there too."),
        Difference("POST /networks/create", "message", "Subnets are judged in the words of dockerd 25.0."),
        Difference("GET /networks*", "*Options.com.docker.network.driver.overlay.vxlanid_list", _NUMBER),
        Difference(
            "GET /networks*", "*IPAM.Options.com.docker.network.ipam.serial", "A mark of dockerd's own."
        ),
        Difference("POST /networks/create", "Id", _CONFIG_ID),
        Difference(
            "GET /networks*", "*Id", _CONFIG_ID + " `bridge` and `host` have their names as the swarm's."
        ),
        Difference("GET /networks*", "*Created", "Predefined networks are not made by anybody."),
        Difference("GET /networks*", "*IPAM.Config[]", "There is no docker0 for tasks to be on."),
        Difference(
            "GET /networks*", "*Options.com.docker.network.*", "There is no docker0 for tasks to be on."
        ),
        Difference("GET /networks/ingress", "Containers", "The mesh is no container here."),
        Difference("GET /networks/ingress", "Peers[].Name", "The node's name, not a hash of it."),
    ),
    "files": (
        Difference("GET *", "*DataVersion", "Which version of its data is the newest."),
        Difference("GET *", "message", _LOWER),
        Difference("GET /configs", "status", "Configs are found by the filter names, as secrets are."),
        Difference("POST */create", "status", "A templating driver that is none is refused at once."),
        Difference("DELETE *", "message", "The services that use it are in the order of their names."),
    ),
    "volumes": (
        Difference("* /volumes*", "*Mountpoint", "Where volumes lie is each one's own affair."),
        Difference("GET /volumes", "Volumes[]", "A name is a part of a name, not an expression."),
        Difference("GET /volumes", "message", _LOWER),
        Difference("POST /volumes/prune", "message", _LOWER),
        Difference("* /volumes*", "Labels", "dockerd marks nameless volumes since 23.0."),
    ),
    "containers": (
        Difference("POST /containers/create", "status", _BAD),
        Difference("POST /containers/bogus/attach", "header *", "Every answer has the same headers."),
        Difference("GET /containers/json", "message", _LOWER),
        Difference("GET /containers/json", "[].ImageID", "Which image it was goes with a run's files."),
    ),
    "plugins": (
        Difference("GET /plugins", "message", _LOWER),
        Difference("POST /plugins/*", "status", "There are no plugins, so parameters are not looked at."),
    ),
    "events": (Difference("GET /events", "status", _BAD + " Times may also be written as in RFC 3339."),),
    "system": (
        Difference(
            "* /_ping",
            "header swarm",
            "dockerd sends it since 23.0; clients hide commands by it.",
        ),
        Difference(
            "GET /version",
            "ApiVersion",
            "What answers names itself and its parts.",
        ),
        Difference(
            "GET /version",
            "MinAPIVersion",
            "What answers names itself and its parts.",
        ),
        Difference(
            "GET /version",
            "Components[]",
            "What answers names itself and its parts.",
        ),
        Difference(
            "GET /version",
            "BuildTime",
            "What answers names itself and its parts.",
        ),
        Difference(
            "GET /version",
            "GitCommit",
            "What answers names itself and its parts.",
        ),
        Difference(
            "GET /version",
            "GoVersion",
            "What answers names itself and its parts.",
        ),
        Difference(
            "GET /version",
            "Platform.Name",
            "What answers names itself and its parts.",
        ),
        Difference(
            "GET /version",
            "Version",
            "What answers names itself and its parts.",
        ),
        Difference(
            "GET /info",
            "ContainerdCommit.*",
            "What answers names itself and its parts.",
        ),
        Difference(
            "GET /info",
            "RuncCommit.*",
            "What answers names itself and its parts.",
        ),
        Difference(
            "GET /info",
            "Runtimes.*",
            "What answers names itself and its parts.",
        ),
        Difference(
            "GET /info",
            "DefaultRuntime",
            "What answers names itself and its parts.",
        ),
        Difference(
            "GET /info",
            "InitBinary",
            "What answers names itself and its parts.",
        ),
        Difference(
            "GET /info",
            "DriverStatus[]",
            "What answers names itself and its parts.",
        ),
        Difference(
            "GET /info",
            "DockerRootDir",
            "What answers names itself and its parts.",
        ),
        Difference(
            "GET /info",
            "ServerVersion",
            "What answers names itself and its parts.",
        ),
        Difference(
            "GET /info",
            "OperatingSystem",
            "What answers names itself and its parts.",
        ),
        Difference(
            "GET /info",
            "Plugins.*",
            "What answers names itself and its parts.",
        ),
        Difference(
            "GET /info",
            "ID",
            "The node's id; dockerd makes one of a key that nothing else uses.",
        ),
        Difference(
            "GET /info",
            "LiveRestoreEnabled",
            "Tasks do outlive the daemon here.",
        ),
        Difference(
            "GET /info",
            "OomKillDisable",
            "It cannot be asked for.",
        ),
        Difference(
            "GET /info",
            "SecurityOptions[]",
            "The profile's name is builtin since 23.0.",
        ),
        Difference(
            "GET /info",
            "Swarm.Cluster.DefaultAddrPool",
            "dockerd tells of a pool only if one was given; here it is told which holds.",
        ),
    ),
    "swarm": (
        Difference(
            "GET /swarm",
            "DefaultAddrPool",
            "dockerd tells of a pool only if one was given; here it is told which holds.",
        ),
        Difference(
            "GET /nodes*",
            "*Description.Engine.*",
            "What answers names itself and its parts.",
        ),
        Difference(
            "GET /nodes",
            "status",
            "A bad filter is a bad request; so says dockerd since 23.0.",
        ),
        Difference(
            "GET /nodes",
            "message",
            "dockerd says this with a capital, until 23.0.",
        ),
    ),
    "services": (
        Difference(
            "POST /services/create",
            "Warnings",
            "Always there, as it is since 25.0.",
        ),
        Difference(
            "POST /services/create",
            "status",
            "What no task could run with is refused at once; a bad request is none of the server's errors.",
        ),
        Difference(
            "POST /services/$web/update",
            "status",
            "A bad query is a bad request; dockerd calls it an error of its own.",
        ),
        Difference(
            "GET /services",
            "message",
            "dockerd says this with a capital, until 23.0.",
        ),
        Difference(
            "GET /tasks",
            "message",
            "dockerd says this with a capital, until 23.0.",
        ),
        Difference(
            "GET /tasks",
            "status",
            "A bad filter is a bad request; so says dockerd since 23.0.",
        ),
        Difference(
            "GET /tasks",
            "[].Status.Addresses",
            "Ours: where the task answers.",
        ),
        Difference(
            "GET /tasks",
            "[].Slot",
            "The first slot of a job is 0, and told; dockerd leaves it out.",
        ),
    ),
}

_HEAD: Final = """# Where SwarmPy is not like dockerd

The same requests go to dockerd 20.10 and to SwarmPy (`tests/contract/docker`), and what a client sees is
compared: status, headers, which fields an answer has and what is in them, texts of errors. Ids, times,
addresses and version numbers are each cluster's own. All else that differs is below, with its reason; `*`
stands for anything, `[]` for every item of a list. This page is made of
`tests/support/oracle_differences.py`, and a test fails if a line of it is no longer true.
"""


def page() -> str:
    parts = [_HEAD]
    for name, entries in DIFFERENCES.items():
        title = name.replace("_", " ").capitalize()
        parts.append(f"\n## {title}\n\n| Request | Field | Why |\n|---|---|---|\n")
        parts += [f"| `{each.request}` | `{each.field}` | {each.reason} |\n" for each in entries]
    return "".join(parts)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page())
