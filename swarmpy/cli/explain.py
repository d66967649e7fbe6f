"""``swarmpy explain TASK|SERVICE``: why it is as it is, in sentences, and which nodes would take it."""

from __future__ import annotations

from urllib.parse import quote

from swarmpy.cli.flags import Command, Options, switch
from swarmpy.cli.output import FORMAT, show_items
from swarmpy.cli.render import table
from swarmpy.cli.session import Session, each
from swarmpy.client import Json


def explain(session: Session, arguments: list[str], options: Options) -> int:
    found: list[Json] = []

    def one(name: str) -> None:
        found.append(session.client.get(f"/swarmpy/explain/{quote(name, safe='')}"))

    code = each(arguments, one)
    if options.is_set("format"):
        show_items(found, options)
        return code
    for number, each_ in enumerate(found):
        if number:
            print()
        print("\n".join(lines_of(each_, has_nodes=not options.on("quiet"))))
    return code


def lines_of(explanation: Json, *, has_nodes: bool = True) -> list[str]:
    lines = [explanation["Subject"]]
    reasons = explanation.get("Reasons") or []
    width = max((len(reason["About"]) for reason in reasons), default=0) + 1
    before = ""
    for reason in reasons:
        about = "" if reason["About"] == before else f"{reason['About']}:"
        lines.append(f"  {about:<{width}} {reason['Text']}")
        before = reason["About"]
    nodes = explanation.get("Nodes") or []
    if nodes and has_nodes:
        rows = [
            [
                node["Node"] + (" *" if node.get("IsChosen") else ""),
                "no" if node.get("Refusal") else "yes",
                node.get("Refusal") or node.get("Load", ""),
            ]
            for node in nodes
        ]
        lines += ["", table([["NODE", "FITS", "WHY"], *rows])]
    return lines


COMMANDS = {
    "explain": Command(
        explain,
        "Say why tasks and services are as they are: pending, here, restarted, updating",
        "SERVICE|SERVICE.SLOT|TASK [...]",
        1,
        None,
        (FORMAT, switch("quiet", "Without the list of nodes", short="q")),
    ),
}
