"""Lists and details on standard output: tables, ids only, JSON, or a template of the user's."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from swarmpy.cli.flags import Flag, Options, UsageError, switch, text
from swarmpy.cli.gotemplate import TemplateError, compile_template, fields
from swarmpy.cli.render import table
from swarmpy.client import Json

LIST_FLAGS = (
    switch("quiet", "Only show IDs", short="q"),
    text("format", 'Show each item by a template: "table", "table TEMPLATE", "json" or a Go template'),
)
NO_TRUNC = switch("no-trunc", "Don't truncate output")
FORMAT = Flag("format", LIST_FLAGS[1].takes, "Show the item by a Go template, or as JSON", "f")


@dataclass(frozen=True)
class Listing:
    """A table to be: column headers, and per row the value under each field name."""

    columns: Mapping[str, str]
    rows: Sequence[Mapping[str, str]]
    id_field: str = "ID"


def show_list(listing: Listing, options: Options) -> None:
    chosen = options.text("format")
    if options.on("quiet"):
        for row in listing.rows:
            print(row[listing.id_field])
        return
    if chosen in ("", "table"):
        heads = tuple(listing.columns.values())
        print(table([heads, *([row[name] for name in listing.columns] for row in listing.rows)]))
        return
    if chosen == "json":
        for row in listing.rows:
            print(json.dumps(row, ensure_ascii=False))
        return
    _show_template(listing, chosen)


def _show_template(listing: Listing, chosen: str) -> None:
    is_table = chosen.startswith("table ")
    source = chosen.removeprefix("table ")
    line = template(source)
    if not is_table:
        for row in listing.rows:
            print(line(row))
        return
    heads = [listing.columns.get(name, name.upper()) for name in fields(source)]
    body = [line(row).split("\t") for row in listing.rows]
    print(table([heads, *body]))


def show_items(items: Sequence[Json], options: Options) -> None:
    """Whole objects: a JSON array, or each by a template."""
    chosen = options.text("format")
    if chosen in ("", "json"):
        print(json.dumps(list(items), indent=4, ensure_ascii=False))
        return
    line = template(chosen)
    for item in items:
        print(line(item))


def template(source: str) -> Callable[[object], str]:
    try:
        return compile_template(source)
    except TemplateError as error:
        raise UsageError(str(error)) from None


def parse_filters(given: Sequence[str]) -> dict[str, list[str]]:
    """``--filter name=web``; one name several times means any of them."""
    wanted: dict[str, list[str]] = {}
    for entry in given:
        name, has_value, value = entry.partition("=")
        if not has_value:
            raise UsageError(f'invalid argument "{entry}" for "--filter" flag: give name=value')
        wanted.setdefault(name.strip().lower(), []).append(value.strip())
    return wanted
